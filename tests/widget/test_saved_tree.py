"""The layers of a saved result: a tree for the page, and rows to choose from."""

import re

import pytest

from cka_notebook._models.choice import choose
from cka_notebook._widget.saved_tree import columns_of, rows_of


def test_siblings_stay_together_however_their_layers_were_called():
    columns = columns_of("Net", ["a.x", "b", "a.y"])
    assert columns["name"] == ["", "a", "a.x", "a.y", "b"]
    assert columns["code"] == ["not_in_result", "not_in_result", None, None, None]
    assert choose(rows_of("Net", ["a.x", "b", "a.y"], "layers1"), "*") == [
        "a.x",
        "b",
        "a.y",
    ]


def test_of_a_saved_result_layers_are_chosen_by_all_that_needs_no_model():
    rows = rows_of("Net", ["layer1", "layer2", "head"], "layers1")
    assert choose(rows, None) == ["layer1", "layer2", "head"]
    assert choose(rows, [-1, 0]) == ["head", "layer1"]
    assert choose(rows, re.compile("2$")) == ["layer2"]
    with pytest.raises(ValueError, match="index 3 is out of range for Net"):
        choose(rows, 3)
