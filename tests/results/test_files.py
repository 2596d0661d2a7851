"""Files of results: written atomically, read without executing anything."""

import pickle
import sys

import pytest
import torch
from safetensors.torch import save_file

from cka_notebook import CKAResult


def result_of(batches):
    values = torch.eye(2, dtype=torch.float64)
    return CKAResult(values, values, ("a", "b"), ("x", "y"), batches=batches)


def test_saving_replaces_an_old_file_and_leaves_no_other(tmp_path):
    result_of(2).save(tmp_path / "one.cka")
    result_of(4).save(str(tmp_path / "one.cka"))
    assert [path.name for path in tmp_path.iterdir()] == ["one.cka"]
    assert CKAResult.load(tmp_path / "one.cka").batches == 4


def test_a_missing_folder_is_an_error_with_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'x': folder .*missing' .*\. Create"):
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
    with pytest.raises(ValueError, match=r"format 'cka_notebook.result/1', got 'x/1'"):
        CKAResult.load(tmp_path / "other.cka")


def test_loading_executes_nothing(tmp_path):
    class Trap:
        def __reduce__(self):
            return sys.exit, (3,)

    (tmp_path / "trap.cka").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="file of format"):
        CKAResult.load(tmp_path / "trap.cka")
