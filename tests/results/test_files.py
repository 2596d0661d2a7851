"""Files of results: whole or refused, and read without executing anything."""

import errno
import os
import pickle
import stat
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from soak import files as soak

from cka_notebook import CKAExplorer, CKAResult
from cka_notebook._results import files
from cka_notebook._results.result import FORMAT


def result_of(batches):
    values = torch.eye(2, dtype=torch.float64)
    return CKAResult(values, values, ("a", "b"), ("x", "y"), batches=batches)


def test_saving_replaces_an_old_file_and_leaves_no_other(tmp_path):
    result_of(2).save(tmp_path / "one.cka")
    result_of(4).save(str(tmp_path / "one.cka"))
    assert [path.name for path in tmp_path.iterdir()] == ["one.cka"]
    assert CKAResult.load(tmp_path / "one.cka").batches == 4


def test_a_missing_folder_is_an_error_with_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"x': folder .*missing' .*\. Create"):
        result_of(1).save(tmp_path / "missing" / "x")


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    result = result_of(2)
    result.save(tmp_path / "one.cka")
    result.provenance["bad"] = object()
    with pytest.raises(TypeError):
        result.save(tmp_path / "one.cka")
    assert [path.name for path in tmp_path.iterdir()] == ["one.cka"]
    assert CKAResult.load(tmp_path / "one.cka").batches == 2


def test_loading_a_missing_file_or_another_kind_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"file at .*none"):
        CKAResult.load(tmp_path / "none.cka")
    (tmp_path / "text.cka").write_text("words")
    with pytest.raises(ValueError, match=r"file of format .*text"):
        CKAResult.load(tmp_path / "text.cka")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.cka", {"format": "x/1"})
    with pytest.raises(
        ValueError, match=r"result/1', got .*other.cka': .*format is 'x/1'"
    ):
        CKAResult.load(tmp_path / "other.cka")


def test_loading_executes_nothing(tmp_path):
    class Trap:
        def __reduce__(self):
            return sys.exit, (3,)

    (tmp_path / "trap.cka").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="file of format"):
        CKAResult.load(tmp_path / "trap.cka")


def whole(tmp_path):
    return soak.bases(tmp_path)[0]["result"]


def refused(tmp_path, content, fault):
    path = tmp_path / "bad.cka"
    path.write_bytes(content)
    message = rf"^Expected a file of format '{FORMAT}', got '.*bad\.cka': .*{fault}"
    with pytest.raises(ValueError, match=message):
        CKAResult.load(path)


def is_refused(path, content):
    path.write_bytes(content)
    try:
        CKAResult.load(path)
    except ValueError as error:
        text = str(error)
        return text.startswith("Expected a file of format") and path.name in text
    return False


@pytest.mark.slow
@pytest.mark.parametrize("has_checksum", [True, False])
def test_a_file_cut_at_any_byte_is_refused(tmp_path, has_checksum):
    result_of(1).save(tmp_path / "one.cka")
    content = (tmp_path / "one.cka").read_bytes()
    if not has_checksum:
        content = soak.unsigned(content)
    cuts = (content[:size] for size in range(len(content)))
    assert all(is_refused(tmp_path / "cut", cut) for cut in cuts)


@pytest.mark.slow
def test_a_flipped_bit_in_any_byte_is_refused(tmp_path):
    result_of(1).save(tmp_path / "one.cka")
    content = (tmp_path / "one.cka").read_bytes()
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 1 << at % 8
        assert is_refused(tmp_path / "flipped", damaged), at


def test_files_without_a_checksum_are_still_read(tmp_path):
    result = result_of(3)
    tensors = {"matrix": result.matrix, "stderr": result.stderr}
    files.write(tmp_path / "new", FORMAT, tensors, result._facts())
    with safe_open(tmp_path / "new", framework="pt") as file:
        header = {k: v for k, v in file.metadata().items() if k != "sha256"}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, tmp_path / "old", header)  # As the first version wrote it.
    loaded = CKAResult.load(tmp_path / "old")
    assert torch.equal(loaded.matrix, result.matrix)
    assert (loaded.layers1, loaded.batches) == (("a", "b"), 3)


def test_other_programs_read_the_tensors(tmp_path):
    wide, narrow = torch.randn(3, 2).double(), torch.arange(3, dtype=torch.uint8)
    tensors = {"b": narrow, "a": wide, "none": torch.empty(0, 2), "one": torch.ones(())}
    tensors |= {"yes": narrow > 0, "half": wide.half(), "brain": wide.bfloat16()}
    files.write(tmp_path / "file", "kind/1", tensors, {"fact": [1, None]})
    with safe_open(tmp_path / "file", framework="pt") as file:
        assert {*file.keys()} == {*tensors}
        for name, value in tensors.items():
            assert torch.equal(file.get_tensor(name), value)
    read, facts = files.read(tmp_path / "file", "kind/1")
    assert facts == {"fact": [1, None]}
    assert all(torch.equal(read[name], value) for name, value in tensors.items())
    assert all(read[name].dtype == value.dtype for name, value in tensors.items())


def test_a_loaded_result_does_not_change_with_its_file(tmp_path):
    path = tmp_path / "one.cka"
    result = computed(tmp_path)
    result.save(path)
    loaded = CKAResult.load(path)
    path.write_bytes(bytes(path.stat().st_size))
    os.truncate(path, 0)  # Reading a map of this file would kill the process.
    assert torch.equal(loaded.matrix, result.matrix)
    assert torch.equal(loaded.sums.xy, result.sums.xy)
    loaded.matrix[0, 0] = 7
    assert path.read_bytes() == b""


def computed(tmp_path):
    """A result with sums."""
    whole(tmp_path)
    return CKAResult.load(tmp_path / "result")


def changed(tmp_path, change):
    """A file with a true checksum, after a change of its header and facts."""
    head, data = soak.split(whole(tmp_path))
    facts = soak.json.loads(head["__metadata__"]["json"])
    change(head, facts)
    head["__metadata__"]["json"] = soak.json.dumps(facts)
    return soak.joined(head, data)


FAULTS = {
    "layers1 is missing": (lambda _, f: f.pop("layers1"), "it has no .'layers1'"),
    "a number as a layer": (
        lambda _, f: f["layers1"].__setitem__(0, 5),
        "an item of `layers1` of type str, got 5",
    ),
    "one layer more": (
        lambda _, f: f["layers2"].append("x"),
        r"'matrix' to be of shape \(3, 4\), got \(3, 3\)",
    ),
    "a count in words": (lambda _, f: f.update(batches="4"), "`batches` of type int"),
    "a truth as a count": (lambda _, f: f.update(batches=True), "`batches` of type"),
    "a negative count": (lambda _, f: f.update(skipped=-1), "`skipped` from 0"),
    "an infinite count": (
        lambda _, f: f.update(examples=float("inf")),
        "`examples` of type int, got inf",
    ),
    "sums of other batches": (
        lambda _, f: f.update(batches=9),
        "sums are of 4 batches, not 9",
    ),
    "an unknown fact": (lambda _, f: f.update(more=1), "'more'.*: upgrade"),
    "a note that is none": (lambda _, f: f["notes"].append(None), "of `notes`"),
    "a reason that is none": (lambda _, f: f["undefined1"].update(b=1), "`undefined1`"),
    "a missing tensor": (lambda h, _: h.pop("sums.yy_yy"), "is at byte|have .* bytes"),
    "an unknown dtype": (lambda h, _: h["matrix"].update(dtype="F65"), "dtype 'F65'"),
    "integers": (lambda h, _: h["matrix"].update(dtype="I64"), "got torch.int64"),
    "a huge shape": (
        lambda h, _: h["matrix"].update(shape=[2**40, 2**40]),
        "its shape needs",
    ),
    "a negative shape": (lambda h, _: h["matrix"].update(shape=[-2, -2]), "from 0 to"),
    "overlapping tensors": (
        lambda h, _: h["stderr"].update(data_offsets=h["matrix"]["data_offsets"]),
        "is at byte",
    ),
    "a newer version": (
        lambda h, _: h["__metadata__"].update(format="cka_notebook.result/2"),
        "newer than this package: upgrade cka_notebook",
    ),
    "an older version": (
        lambda h, _: h["__metadata__"].update(format="cka_notebook.result/0"),
        "older version of cka_notebook",
    ),
    "another kind": (
        lambda h, _: h["__metadata__"].update(format="cka_notebook.checkpoint/2"),
        "its format is 'cka_notebook.checkpoint/2'",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(tmp_path, fault):
    change, words = FAULTS[fault]
    refused(tmp_path, changed(tmp_path, change), words)


def test_negative_sums_of_squares_are_refused(tmp_path):
    result = computed(tmp_path)
    tensors = {"matrix": result.matrix, "stderr": result.stderr}
    tensors |= {f"sums.{k}": v for k, v in result.sums.tensors().items()}
    for name in ("sums.xx", "sums.yy_yy", "sums.xx_yy", "stderr"):
        tensors[name] = -tensors[name] - 1
        files.write(tmp_path / "file", FORMAT, tensors, result._facts())
        refused(tmp_path, (tmp_path / "file").read_bytes(), f"{name}' has negative")
        tensors[name] = -tensors[name] - 1


def test_a_truth_is_zero_or_one(tmp_path):
    path = tmp_path / "file"
    files.write(path, "kind/1", {"yes": torch.tensor([True, False])}, {})
    head, data = soak.split(path.read_bytes())
    assert data == b"\1\0"
    path.write_bytes(soak.joined(head, b"\1\2"))
    with pytest.raises(
        ValueError, match=r"file': tensor 'yes' is neither true nor fal"
    ):
        files.read(path, "kind/1")


def test_what_cannot_be_loaded_is_not_saved(tmp_path):
    result = computed(tmp_path)
    for name, value in (
        ("batches", 9),
        ("layers1", ("a",)),
        ("layers2", ("a", 5)),
        ("matrix", result.matrix.long()),
        ("matrix", result.matrix.to(torch.complex64)),
        ("stderr", -result.stderr - 1),
        ("provenance", {"x": "y" * files.MAX_HEADER}),
        ("provenance", {1: 2, "1": 3}),
    ):
        old = getattr(result, name)
        setattr(result, name, value)
        with pytest.raises(ValueError, match=r"Cannot write '.*bad': .*Nothing is los"):
            result.save(tmp_path / "bad")
        setattr(result, name, old)
    assert not (tmp_path / "bad").exists()
    result.save(tmp_path / "good")


@pytest.mark.parametrize("size", [2**24 + 1, 2**40, 2**63, 2**64 - 1])
def test_an_impossible_header_is_not_read(tmp_path, size):
    content = size.to_bytes(8, "little") + bytes(100)
    refused(tmp_path, content, "ends within its header|it has no such header")


def test_other_kinds_of_files_are_recognized(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "torch")
    refused(tmp_path, (tmp_path / "torch").read_bytes(), "it is a zip archive, as tor")
    refused(tmp_path, pickle.dumps([1, 2, 3]), "it is a pickle")
    refused(tmp_path, b"\x93NUMPY" + bytes(99), "it is an array of numpy.save")
    for repeated in ('{"a": 1, "a": 2}', '{"a": ' + "[" * 9999):
        content = repeated.encode()
        content = len(content).to_bytes(8, "little") + content
        refused(tmp_path, content, "repeats a key|9999|levels deep")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_anything_but_a_file_is_refused_without_opening_it(tmp_path, make):
    make(tmp_path / "thing")  # A pipe would wait for a writer.
    with pytest.raises(ValueError, match=r"thing': it is a folder or a device"):
        CKAResult.load(tmp_path / "thing")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError, match="link"):
        CKAResult.load(tmp_path / "link")


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    result_of(1).save(tmp_path / "one.cka")

    def fail(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", fail)
    with pytest.raises(PermissionError, match=r"read '.*one.cka': Permission denied"):
        CKAResult.load(tmp_path / "one.cka")


def test_facts_of_any_text_and_number_come_back(tmp_path):
    result = result_of(1)
    names = ("\ud800", "0" * 64, '"\\\0\n{[,')
    result.layers1, result.notes = names[:2], [*names]
    result.provenance = {"nan": [float("inf")], names[2]: {"deep": [[[[]]]]}}
    result.save(tmp_path / "one.cka")
    loaded = CKAResult.load(tmp_path / "one.cka")
    assert (loaded.layers1, loaded.notes) == (names[:2], [*names])
    assert loaded.provenance == result.provenance


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_explained_and_costs_nothing(tmp_path, monkeypatch):
    result = result_of(2)
    explorer = CKAExplorer.from_result(result)
    for name, save in (("result", result.save), ("page", explorer.save_html)):
        path = tmp_path / name
        save(path)
        path.chmod(0o640)
        before = path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(OSError, match=rf"{name}': the disk is full.*is lost: "):
                save(path)
        assert path.read_bytes() == before
        save(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page", "result"]


def test_damaged_and_hostile_files_give_one_kind_of_error():
    assert soak.main(60, 0)["clear"] > 30
