"""Text and picture of an explorer without its widget."""

from dataclasses import replace

import pytest
import torch
from support import wire_examples

from cka_notebook._notebook.preview import checked_color_range, preview, summary

RESULT = wire_examples.result()


def test_the_summary_has_the_range_of_values_once_there_is_a_result():
    assert summary("A x B, 1 x 1 layers", None) == "CKAExplorer(A x B, 1 x 1 layers)"
    text = "CKAExplorer(A x B, cka -0.06 to 1.00, 112 examples in 7 batches)"
    assert summary("A x B", RESULT) == text


def test_a_result_without_any_defined_value_has_a_summary():
    undefined = replace(RESULT, matrix=torch.full_like(RESULT.matrix, float("nan")))
    assert "cka 0.00 to 1.00" in summary("A x B", undefined)


def test_there_is_a_picture_once_there_is_a_result():
    assert preview("text", None, "magma", "fit") == ("text", None)
    pictures = {
        preview("text", RESULT, palette, limits).picture
        for palette, limits in (("magma", "fit"), ("magma", [0, 0.5]), ("greys", "fit"))
    }
    assert len(pictures) == 3
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)


@pytest.mark.parametrize("value", ["fit", [0.0, 1.0], (-1, 1)])
def test_a_color_range_is_fit_or_two_numbers_in_order(value):
    expected = value if value == "fit" else list(map(float, value))
    assert checked_color_range(value) == expected


@pytest.mark.parametrize(
    "value",
    ["auto", "01", None, 1, [0], [1, 0], [0, 0], [0, float("inf")], [0, 10**400]],
)
def test_any_other_color_range_is_refused(value):
    with pytest.raises(
        ValueError, match="'fit' or \\(low, high\\) with low < high, got"
    ):
        checked_color_range(value)
