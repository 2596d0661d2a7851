"""A killed run continues where it was, and gives the same bits."""

import os
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
    with pytest.raises(FileNotFoundError, match=r"'run': folder .*missing' does not"):
        CKA(*models()).compare(never(), checkpoint=path, progress=False)


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
