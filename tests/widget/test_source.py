"""The Python call that repeats a comparison."""

import ast

import pytest
import torch
from support.doubles import batches, net

from cka_notebook import CKA, CKAExplorer
from cka_notebook._widget.source import call_around_layers, with_layers


def test_the_code_repeats_exactly_this_comparison():
    model1, model2, loader = net(), net(), batches()
    explorer = CKAExplorer(model1, model2, loader, model1_name="left", max_batches=4)
    explorer.layers1 = ["0", "3"]
    result = explorer.wait(60)
    scope = {"CKA": CKA, "model1": model1, "model2": model2, "loader": loader}
    again = eval(explorer.code, scope)
    assert again.layers1 == result.layers1 == ("0", "3")
    assert torch.equal(again.matrix, result.matrix)


def test_the_code_has_every_option_that_is_not_the_default():
    model, loader = net(), batches()
    explorer = CKAExplorer(
        model, None, loader, pool="mean", stop_when_stable=0.5, max_batches=4,
        model1_layers=["0"], paired=True,
    )  # fmt: skip
    code = explorer.code
    assert code == with_layers(explorer._code, ["0"], ["0"])
    assert code.endswith(
        ").compare(loader, max_batches=4, paired=True, stop_when_stable=0.5)"
    )
    assert code.startswith("CKA(\n    model1,\n    model1_name='model',\n")
    assert "    pool='mean',\n" in code
    assert "metric" not in code
    explorer.stop_when_stable = None
    assert ").compare(loader, max_batches=4, paired=True)" in explorer.code


def test_options_that_have_their_defaults_and_layers_are_left_out():
    options = {"metric": "cka", "model1_layers": "all", "device": None}
    parts = call_around_layers(["a", "b"], options, ["x"], {"stop_when_stable": None})
    assert parts[0] == "CKA(\n    a,\n    b,\n    device=None,\n    model1_layers="
    assert parts[2] == ",\n).compare(x)"


def test_functions_and_classes_are_written_by_their_name():
    parts = call_around_layers(["a"], {"forward": batches, "pool": str}, [], {})
    assert "    forward=batches,\n    pool=str,\n" in parts[0]


@pytest.mark.parametrize(
    "names", [[], ["0"], ["a.b", 'quoted "x"', "tab\t", "\u00e9\u2028"]]
)
def test_lists_of_layers_are_python_source(names):
    call = with_layers(call_around_layers(["a"], {}, ["x"], {}), names, [])
    [expression] = ast.parse(call).body
    keywords = expression.value.func.value.keywords
    assert ast.literal_eval(keywords[0].value) == names
