"""Layers chosen from the rows of a tree whose model is gone."""

import re

import pytest
from torch import nn

from cka_notebook._widget.saved_tree import choose_rows, columns_of


def test_siblings_stay_together_however_their_layers_were_called():
    columns = columns_of("Net", ["a.x", "b", "a.y"])
    assert columns["name"] == ["", "a", "a.x", "a.y", "b"]
    assert choose_rows(columns, "*", "layers1") == ["a.x", "b", "a.y"]


def test_choosing_rows_offers_the_nearest_names():
    columns = columns_of("Net", ["layer1", "layer2", "head"])
    with pytest.raises(ValueError, match="Did you mean 'layer2' or 'layer1'"):
        choose_rows(columns, ["layer22"], "layers2")


def test_without_a_model_rows_are_chosen_by_all_that_needs_none():
    columns = columns_of("Net", ["layer1", "layer2", "head"])
    assert choose_rows(columns, None, "layers1") == ["layer1", "layer2", "head"]
    assert choose_rows(columns, [-1, 0], "layers1") == ["head", "layer1"]
    assert choose_rows(columns, re.compile("2$"), "layers1") == ["layer2"]
    with pytest.raises(ValueError, match="'3', which is none of the 3 layers"):
        choose_rows(columns, 3, "layers1")


@pytest.mark.parametrize("wrong", [1.5, nn.ReLU, nn.ReLU(), lambda *_: True, [True]])
def test_without_a_model_what_looks_at_modules_is_refused_in_words(wrong):
    columns = columns_of("Net", ["layer1"])
    with pytest.raises(TypeError, match="Expected `layers2` to hold names, globs"):
        choose_rows(columns, wrong, "layers2")
