"""A killed run continues where it was, and gives the same bits."""

import errno
import os
import platform
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cka_notebook import CKA
from cka_notebook._engine import checkpoint
from cka_notebook._results import files

SCRIPT = """
    import sys, time
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset
    from cka_notebook import CKA
    from cka_notebook._engine import checkpoint

    checkpoint.SECONDS = 0.0
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model1 = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3))
    model2 = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3))
    data = TensorDataset(torch.randn(8 * 12, 6))
    loader = DataLoader(data, batch_size=8, shuffle=True)

    def pause(batch, total, matrix):
        if len(sys.argv) > 2 and batch == int(sys.argv[2]):
            print("here", flush=True)
            time.sleep(60)

    cka = CKA(model1, model2, model1_layers="all", model2_layers="all")
    result = cka.compare(
        loader, checkpoint=sys.argv[1], progress=False, callback=pause
    )
    print(result.matrix.numpy().tobytes().hex(), result.examples)
"""


def models():
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3))
    return first, nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3))


def loader(seed=1, shuffle=False):
    torch.manual_seed(seed)
    return DataLoader(TensorDataset(torch.randn(80, 6)), 8, shuffle=shuffle)


def script(tmp_path):
    path = tmp_path / "run.py"
    path.write_text(textwrap.dedent(SCRIPT))
    return [sys.executable, str(path)]


@pytest.mark.slow
def test_a_run_killed_without_warning_resumes_to_the_same_bits(tmp_path):
    command = script(tmp_path)
    whole = subprocess.run(
        [*command, str(tmp_path / "whole")], capture_output=True, text=True, check=True
    )
    killed = tmp_path / "killed"
    with subprocess.Popen(
        [*command, str(killed), "7"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "here\n"
        os.kill(process.pid, signal.SIGKILL)
    assert killed.exists()
    resumed = subprocess.run(
        [*command, str(killed)], capture_output=True, text=True, check=True
    )
    assert resumed.stdout == whole.stdout
    assert resumed.stdout.split()[1] == "96"


def test_an_interrupted_run_resumes_after_the_batches_it_has_done(tmp_path):
    path = tmp_path / "run"
    expected = CKA(*models()).compare(loader(), progress=False)
    seen = []

    def fail(batch, *_):
        if batch == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CKA(*models()).compare(loader(), checkpoint=path, progress=False, callback=fail)
    resumed = CKA(*models()).compare(
        loader(),
        checkpoint=path,
        progress=False,
        callback=lambda batch, *_: seen.append(batch),
    )
    assert seen == [5, 6, 7, 8, 9, 10]
    assert torch.equal(resumed.matrix, expected.matrix)
    assert torch.equal(resumed.stderr, expected.stderr)
    assert resumed.examples == 80


def test_a_finished_checkpoint_gives_its_result_without_a_batch(tmp_path):
    path = tmp_path / "run"
    first = CKA(*models()).compare(loader(), checkpoint=path, progress=False)
    seen = []
    again = CKA(*models()).compare(
        loader(),
        checkpoint=path,
        progress=False,
        callback=lambda *state: seen.append(state),
    )
    assert seen == []
    assert torch.equal(again.matrix, first.matrix)


def test_a_run_resumed_keeps_its_level_of_chance(tmp_path):
    path, options = tmp_path / "run", {"progress": False}
    CKA(*models()).compare(loader(), checkpoint=path, max_batches=4, **options)
    resumed = CKA(*models()).compare(loader(), checkpoint=path, **options)
    whole = CKA(*models()).compare(loader(), **options)
    assert torch.equal(resumed.null_sd, whole.null_sd)
    assert whole.null_sd.isfinite().all()


def test_a_checkpoint_of_before_continues_without_a_level_of_chance(tmp_path):
    path, options = tmp_path / "run", {"progress": False}
    CKA(*models()).compare(loader(), checkpoint=path, max_batches=4, **options)
    tensors, facts = files.read(path, checkpoint.FORMAT)
    del tensors["run.null"]
    files.write(path, checkpoint.FORMAT, tensors, facts)
    resumed = CKA(*models()).compare(loader(), checkpoint=path, **options)
    whole = CKA(*models()).compare(loader(), **options)
    assert torch.equal(resumed.matrix, whole.matrix)
    assert torch.equal(resumed.stderr, whole.stderr)
    assert resumed.null_sd.isnan().all()
    with pytest.raises(ValueError, match="checkpoint begun, by a version that did not"):
        resumed.p_values()


def test_a_checkpoint_of_another_comparison_is_refused(tmp_path):
    path = tmp_path / "run"
    first, second = models()
    CKA(first, second).compare(loader(), checkpoint=path, progress=False)
    with pytest.raises(
        ValueError, match=r"its layers1 is .*, and this one has .* Use another path"
    ):
        CKA(first, second, model1_layers=["0"]).compare(
            loader(), checkpoint=path, progress=False
        )
    with pytest.raises(ValueError, match="its fingerprint of the values of batch 1 is"):
        CKA(first, second).compare(loader(seed=2), checkpoint=path, progress=False)
    with torch.no_grad():
        second[0].weight.add_(1)
    with pytest.raises(ValueError, match="its model2 is"):
        CKA(first, second).compare(loader(), checkpoint=path, progress=False)


def test_a_file_that_is_not_a_checkpoint_is_refused_and_not_overwritten(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(ValueError, match="Expected a file of format"):
        CKA(*models()).compare(loader(), checkpoint=path, progress=False)
    assert path.read_text() == "mine"


def test_a_file_that_cannot_be_written_is_refused_before_any_batch(tmp_path):
    def never():
        raise AssertionError
        yield

    path = tmp_path / "missing" / "run"
    with pytest.raises(FileNotFoundError, match=r"run': folder .*missing' does not"):
        CKA(*models()).compare(never(), checkpoint=path, progress=False)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_anything_but_a_file_is_refused_before_any_batch(tmp_path, make):
    def never():
        raise AssertionError
        yield

    path = tmp_path / "run"
    make(path)
    with pytest.raises(OSError, match=r"run': it is a (folder|device, a pipe)"):
        CKA(*models()).compare(never(), checkpoint=path, progress=False)


def test_a_folder_that_is_read_only_is_an_error_before_any_batch(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.open", fail)
    seen = []
    with pytest.raises(OSError, match=r"run': its file system is read-only"):
        CKA(*models()).compare(
            loader(),
            checkpoint=tmp_path / "run",
            progress=False,
            callback=lambda *state: seen.append(state),
        )
    assert seen == []


@pytest.mark.parametrize("seconds", [0.0, 1e9], ids=["at a batch", "at the end"])
def test_a_checkpoint_that_cannot_be_written_leaves_the_result(
    tmp_path, monkeypatch, seconds
):
    monkeypatch.setattr(checkpoint, "SECONDS", seconds)
    monkeypatch.setattr(checkpoint.Checkpoint, "must_keep", lambda _: True)
    folder = tmp_path / "folder"
    folder.mkdir()

    def vanish(batch, *_):
        if batch == 4:
            shutil.rmtree(folder)

    cka = CKA(*models())
    with pytest.raises(FileNotFoundError, match=r"folder' does not .*`result` of this"):
        cka.compare(
            loader(), checkpoint=folder / "run", progress=False, callback=vanish
        )
    done = 10 if seconds else 5
    assert cka.result.batches == done
    expected = CKA(*models()).compare(loader(), max_batches=done, progress=False)
    assert torch.equal(cka.result.matrix, expected.matrix)
    cka.result.save(tmp_path / "elsewhere")


def test_random_streams_that_no_generator_takes_are_refused(tmp_path):
    path = tmp_path / "run"
    CKA(*models()).compare(loader(), checkpoint=path, progress=False)
    tensors, facts = files.read(path, checkpoint.FORMAT)
    for name, at, value in (
        ("random.numpy_rest", 0, 1e9),
        ("random.numpy_rest", 0, float("nan")),
        ("random.numpy", 3, -1),
        ("start.python", 624, 9999),
        ("start.python", 0, -1),
        ("start.torch0", slice(8, 16), 255),
        ("run.xx", 0, -1.0),
    ):
        broken = {**tensors, name: tensors[name].clone()}
        broken[name][at] = value
        files.write(path, checkpoint.FORMAT, broken, facts)
        with pytest.raises(ValueError, match=r"^Expected a file of format .*run'"):
            CKA(*models()).compare(loader(), checkpoint=path, progress=False)


def test_the_file_is_written_during_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    path = tmp_path / "run"
    there = []
    CKA(*models()).compare(
        loader(),
        checkpoint=path,
        progress=False,
        callback=lambda *_: there.append(path.exists()),
    )
    assert all(there)
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_writes_are_as_far_apart_as_documented(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    path = tmp_path / "run"
    there = []

    def tick(*_):
        there.append(path.exists())
        now[0] += 11.0

    CKA(*models()).compare(loader(), checkpoint=path, progress=False, callback=tick)
    assert there.index(True) == 3


# What it is of


def forward_by(factor):
    return lambda model, batch: model(factor * batch)


def batches(change=None):
    torch.manual_seed(1)
    made = [torch.randn(8, 6) for _ in range(5)]
    if change is not None:
        made[change][3, 2] += 1
    return made


def texts(change=None):
    made = [[f"text {i} {j}" for j in range(8)] for i in range(5)]
    if change is not None:
        made[change][3] = "other"
    return made


def embedded(model, batch):
    """Reads texts without a tensor in the batch."""
    rows = [[float(ord(x)) for x in text[-6:]] for text in batch]
    return model(torch.tensor(rows))


def mean(x):
    return x


def tenfold(x):
    return 10 * x


REFUSED = {
    "forward": (
        {"forward": forward_by(1)},
        {"forward": forward_by(2)},
        r"its forward of model1 is '<lambda> \(\w+\)', and this one has '<lambda>",
    ),
    "no forward": ({}, {"forward": forward_by(1)}, "its forward of model1 is None"),
    "pool": ({"pool": mean}, {"pool": tenfold}, r"its pool is \{'\*': 'mean'\}"),
    "autocast": ({}, {"autocast": torch.bfloat16}, "its autocast is 'None', and this"),
    "examples": ({}, {"examples": len}, "its examples of model1 is None, and"),
    "a later batch": ({}, {"batches": batches(2)}, "of the values of batch 3 is"),
    "fewer batches": ({}, {"batches": batches()[:3]}, "'batches': 3"),
    "a generator with fewer": (
        {"batches": iter(batches())},
        {"batches": iter(batches()[:3])},
        "one of 4 batches or more, and this one has one that yields 3 batches",
    ),
    "other shapes": (
        {},
        {"batches": [*batches()[:1], batches()[1][:7], *batches()[2:]]},
        "of the shapes or types of batch 2 is",
    ),
    "texts": (
        {"forward": embedded, "examples": len, "batches": texts()},
        {"forward": embedded, "examples": len, "batches": texts(1)},
        "of the values of batch 2 is",
    ),
    "max_batches": (
        {},
        {"max_batches": 3},
        "Expected `max_batches` to be at least 4, the batches already in checkpoint",
    ),
    "pairs": (
        {"loader2": batches()},
        {"loader2": batches(), "paired": False},
        "its paired is True, and this one has False",
    ),
}


def run(path, **options):
    """A comparison that ends after four batches, or continues from there."""
    later = ("max_batches", "paired", "loader2")
    given = {"max_batches": None, **{k: options.pop(k) for k in later if k in options}}
    loader = options.pop("batches", None)
    cka = CKA(*models(), **options)
    return cka.compare(
        batches() if loader is None else loader,
        given.pop("loader2", None),
        checkpoint=path,
        progress=False,
        **given,
    )


@pytest.mark.parametrize(
    ("first", "then", "message"), REFUSED.values(), ids=REFUSED.keys()
)
def test_another_comparison_is_refused_with_what_differs(
    tmp_path, first, then, message
):
    path = tmp_path / "run"
    run(path, **{"max_batches": 4, **first})
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message) as caught:
        run(path, **then)
    assert "Use another path, or delete the file" in str(caught.value)
    assert path.read_bytes() == before


ACCEPTED = {
    "the same": ({}, {}),
    "the same function, defined again": (
        {"forward": forward_by(2), "pool": lambda x: 2 * x},
        {"forward": forward_by(2), "pool": lambda x: 2 * x},
    ),
    "more batches": ({"max_batches": 2}, {"max_batches": 4}),
    "texts": (
        {"forward": embedded, "examples": len, "batches": texts()},
        {"forward": embedded, "examples": len, "batches": texts()},
    ),
}


@pytest.mark.parametrize(("first", "then"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_the_same_comparison_continues(tmp_path, first, then):
    run(tmp_path / "run", **{"max_batches": 3, **first})
    result = run(tmp_path / "run", **then)
    whole = run(None, **then)
    assert torch.equal(result.matrix, whole.matrix)
    assert torch.equal(result.stderr, whole.stderr)
    assert result.batches == then.get("max_batches", 5)


def test_another_version_or_kind_of_layer_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "run"
    first, second = models()
    CKA(first, second).compare(batches(), checkpoint=path, progress=False)
    second[1] = nn.ReLU()
    with pytest.raises(ValueError, match="its model2 is"):
        CKA(first, second).compare(batches(), checkpoint=path, progress=False)
    monkeypatch.setattr(platform, "python_version_tuple", lambda: ("2", "7", "0"))
    with pytest.raises(ValueError, match=r"its version of Python is .* has '2.7'"):
        run(path)


class Drawing(nn.Module):
    """Draws random numbers in evaluation mode too."""

    def forward(self, x):
        return x + torch.rand_like(x)


class Augmented(TensorDataset):
    """Examples with a random transform, in the process of the run."""

    def __getitem__(self, index):
        return super().__getitem__(index)[0] + torch.rand(6)


def test_transforms_and_models_that_draw_resume_to_the_same_bits(tmp_path):
    first, second = models()
    second.append(Drawing())
    torch.manual_seed(1)
    data = Augmented(torch.randn(40, 6))

    def compare(path=None, stop=None):
        torch.manual_seed(2)
        loader = DataLoader(data, 8, shuffle=True)
        cka = CKA(first, second)
        return cka.compare(loader, checkpoint=path, progress=False, max_batches=stop)

    whole = compare()
    compare(tmp_path / "run", 3)
    resumed = compare(tmp_path / "run")
    assert torch.equal(resumed.matrix, whole.matrix)
    assert resumed.examples == 40


def test_notes_on_what_all_batches_show_are_those_of_a_run_that_was_not_killed(
    tmp_path,
):
    torch.manual_seed(1)
    batches = [torch.randn(8, 6) + 5 * i for i in range(40)]  # Sorted.

    def compare(path=None, stop=None):
        cka = CKA(*models())
        return cka.compare(batches, checkpoint=path, progress=False, max_batches=stop)

    with pytest.warns(UserWarning, match="not random"):
        whole = compare()
    with pytest.warns(UserWarning, match="not random"):
        compare(tmp_path / "run", 35)
    with pytest.warns(UserWarning, match="not random"):
        resumed = compare(tmp_path / "run")
    assert resumed.notes == whole.notes


def test_an_error_in_the_middle_of_a_batch_keeps_the_batches_before(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)
    first, second = models()
    calls = []

    def fail(*_):
        calls.append(1)
        if len(calls) == 6:
            raise RuntimeError("in the middle")

    handle = second.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        CKA(first, second).compare(
            batches(), checkpoint=tmp_path / "run", progress=False
        )
    handle.remove()
    seen = []
    CKA(first, second).compare(
        batches(),
        checkpoint=tmp_path / "run",
        progress=False,
        callback=lambda batch, *_: seen.append(batch),
    )
    assert 1 not in seen
    assert seen[-1] == 5


def test_what_is_kept_between_writes_takes_a_small_share_of_the_time(
    tmp_path, monkeypatch
):
    now, kept = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    file = checkpoint.Checkpoint(tmp_path / "run")

    def make():
        kept.append(now[0])
        now[0] += 0.001

    for _ in range(500):
        if file.must_keep():
            file.keep(make)
        now[0] += 0.002
    assert 0.001 * len(kept) < 0.011 * now[0]
    assert len(kept) > 5
