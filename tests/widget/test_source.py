"""The Python call that repeats a comparison."""

import ast
import enum
import functools
import math
import re
from pathlib import Path

import numpy as np
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


def halved(x, factor=1):
    """A function to pool with."""
    return factor * x[:, : x.shape[1] // 2]


def evaluated(code, scope):
    """The value of the last expression of a piece of code."""
    *statements, last = ast.parse(code).body
    scope = {"CKA": CKA, "torch": torch, **scope}
    exec(compile(ast.Module(statements, []), "code", "exec"), scope)
    return eval(compile(ast.Expression(last.value), "code", "eval"), scope)


REPEATED = {
    "device": {"device": torch.device("cpu", 0)},
    "dtype": {"autocast": torch.bfloat16},
    "dict": {"pool": {"0": halved, "*": "flatten"}},
    "torch's": {"pool": torch.relu},
    "partial": {"pool": functools.partial(halved, factor=np.float32(2))},
    "numbers": {"max_batches": np.int64(4), "stop_when_stable": 1e-300},
}


@pytest.mark.parametrize("kind", REPEATED)
def test_objects_are_written_so_that_the_code_repeats_the_comparison(kind):
    model1, model2, loader = net(), net(), batches()
    explorer = CKAExplorer(model1, model2, loader, **REPEATED[kind])
    code = explorer.code
    assert "to fill in" not in code
    scope = {"halved": halved, "model1": model1, "model2": model2, "loader": loader}
    repeated = evaluated(code, scope)
    assert torch.equal(repeated.matrix, explorer.wait(60).matrix)
    explorer.close()


class Callable:
    def __call__(self, model, batch):
        return model(batch)

    def method(self, model, batch):
        return model(batch)


UNKNOWN = {
    "lambda": (lambda model, batch: model(batch), "forward"),
    "pair": ((lambda model, batch: model(batch), None), "(forward, None)"),
    "two": ((lambda m, x: m(x), Callable()), "(forward, forward2)"),
    "method": (Callable().method, "forward"),
    "partial": (functools.partial(Callable()), "partial(forward)"),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_what_has_no_source_is_a_name_to_fill_in(kind):
    value, text = UNKNOWN[kind]
    explorer = CKAExplorer(net(), net(), batches(), forward=value)
    code = explorer.code
    explorer.close()
    names = ", ".join(re.findall("forward2?(?!=)", text))
    assert f"    forward={text},  # to fill in: {names}\n" in code
    ast.parse(code)


def test_other_objects_are_named_too():
    options = {"a": torch.zeros(2), "b": [1, Path("x"), b"y"], "c": (None,)}
    [before, *_] = call_around_layers(["m"], options, [], {})
    assert (
        "    a=a,  # to fill in: a\n    b=[1, 'x', b'y'],\n    c=(None,),\n" in before
    )


class Kind(enum.Enum):
    FIRST = 1

    @staticmethod
    def pool(x):
        return x


def test_members_of_classes_are_written_with_their_class():
    def inner(x):
        return x

    options = {"a": Kind.FIRST, "b": Kind.pool, "c": torch.Tensor.sin, "d": inner}
    [before, *_] = call_around_layers(["m"], options, [], {})
    assert "    a=Kind.FIRST,\n    b=Kind.pool,\n    c=torch.Tensor.sin,\n" in before
    assert "    d=d,  # to fill in: d\n" in before


@pytest.mark.parametrize(
    "names", [[], ["0"], ["a.b", 'quoted "x"', "tab\t", "\u00e9\u2028"]]
)
def test_lists_of_layers_are_python_source(names):
    call = with_layers(call_around_layers(["a"], {}, ["x"], {}), names, [])
    [expression] = ast.parse(call).body
    keywords = expression.value.func.value.keywords
    assert ast.literal_eval(keywords[0].value) == names


def test_nonfinite_numbers_have_a_source():
    parts = call_around_layers(["m"], {"high": math.inf, "low": -math.inf}, ["x"], {})
    assert "high=float('inf')" in parts[0]
    assert "low=float('-inf')" in parts[0]
