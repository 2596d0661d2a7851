"""What `similarity` takes as activations, and what it refuses."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from cka_notebook import metrics

Y = torch.arange(80.0).reshape(8, 10).sin()


def rows():
    return torch.arange(32.0).reshape(8, 4).cos()


def test_what_numpy_makes_an_array_of_is_taken():
    x = rows()
    expected = metrics.similarity(x, Y, "cka")
    frame = pd.DataFrame(x.numpy(), index=list("abcdefgh"))
    for same in (frame, x.numpy(), x.tolist(), np.ma.array(x.numpy()), list(x)):
        assert metrics.similarity(same, Y, "cka") == pytest.approx(expected, abs=1e-6)


def test_types_that_torch_lacks_are_taken():
    x = (10 * rows()).round().numpy()
    expected = metrics.similarity(x, Y, "cka")
    for dtype in ("longdouble", ">f4", ">i8", "<f2", "i1"):
        assert metrics.similarity(x.astype(dtype), Y, "cka") == pytest.approx(expected)
    flags = x > 0
    found = metrics.similarity(flags, Y, "cka")
    assert found == pytest.approx(metrics.similarity(flags.astype(float), Y, "cka"))


def test_large_integers_keep_their_differences():
    x = (10 * rows()).long()
    expected = metrics.similarity(x, Y, "cka")
    assert metrics.similarity(x + 10**9, Y, "cka") == pytest.approx(expected)


def test_a_warning_points_at_the_caller():
    with pytest.warns(UserWarning, match="undefined") as caught:
        metrics.similarity(np.ones(8), Y, "cka")
    assert [warning.filename for warning in caught] == [__file__]


def test_a_memory_map_is_read(tmp_path):
    np.save(tmp_path / "x.npy", rows().numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = metrics.similarity(mapped, Y, "cka")
    assert found == metrics.similarity(rows(), Y, "cka")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.array([{}] * 8), "real numbers in `x`, got dtype object"),
        ([[object()]] * 8, "real numbers in `x`, got a list .dtype object"),
        (pd.DataFrame({"a": list("abcdefgh")}), "`x`, got a DataFrame .dtype object"),
        (np.array(["a"] * 8), "got dtype <U1"),
        (np.zeros(8, "M8[s]"), "got dtype datetime64"),
        (np.zeros(8, "f4,f4"), "got dtype .*f4"),
        (None, "got a NoneType .dtype object"),
        ([[1, 2], [3]] * 4, "`x` to be a tensor or an array, got a list: "),
        (np.zeros((8, 2), complex), "real numbers in `x`, got dtype complex128"),
        (torch.zeros(8, 2, dtype=torch.complex64), r"torch.view_as_real\(x\)"),
        (
            torch.eye(8).to_sparse(),
            "a dense tensor of numbers as `x`, got a sparse_coo",
        ),
        (torch.empty(8, 2, device="meta"), "got a meta one"),
        (np.ma.masked_greater(rows().numpy(), 0.5), "got a masked array. Fill"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_what_holds_no_real_numbers_is_refused(bad, message):
    with pytest.raises(TypeError, match=message):
        metrics.similarity(bad, Y, "cka")


def test_a_message_names_the_array():
    with pytest.raises(TypeError, match="in `y`, got dtype object"):
        metrics.similarity(Y, np.array([{}] * 8), "cka")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantized_tensors_are_refused():
    x = torch.quantize_per_tensor(rows(), 0.1, 0, torch.qint8)
    with pytest.raises(TypeError, match="a quantized one"):
        metrics.similarity(x, Y, "cka")
    assert metrics.similarity(x.dequantize(), Y, "cka") > 0


@pytest.mark.parametrize("shape", [(), (0, 3), (8, 0), (8, 0, 3)])
def test_arrays_without_examples_or_features_are_refused(shape):
    with pytest.raises(ValueError, match=r"`x` of shape \(n, \.\.\.\), got"):
        metrics.similarity(torch.zeros(shape), Y, "cka")


def test_one_axis_is_one_feature():
    x = rows()[:, 0]
    expected = np.corrcoef(x, Y[:, 0])[0, 1] ** 2
    found = metrics.similarity(x, Y[:, 0], "cka-biased")
    assert found == pytest.approx(expected, abs=1e-6)


def test_the_smallest_and_the_largest_numbers_keep_their_digits():
    x = rows().double()
    expected = metrics.similarity(x, Y, "cka")
    for scale in (2.0**-900, 2.0**1020):
        assert metrics.similarity(x * scale, Y * 1.0, "cka") == expected
