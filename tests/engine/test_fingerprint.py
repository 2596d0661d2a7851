"""Batches, functions and models are identified by their content, not their place."""

import subprocess
import sys
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from cka_notebook._engine.fingerprint import of_batch, of_function, of_model


@dataclass
class Item:
    """A batch that is an object."""

    x: torch.Tensor
    ids: list


class Loose:
    """A batch that is an object of an unknown class."""

    def __init__(self, text):
        self.text = text


def tensor(change=0.0):
    x = torch.arange(12.0).view(4, 3)
    x[2, 1] += change
    return x


CHANGED = {
    "a value in the middle": (tensor(), tensor(1)),
    "the smallest change": (tensor(), tensor(1e-6)),
    "integers": (torch.tensor([1, 2, 3]), torch.tensor([1, 4, 3])),
    "half precision": (tensor().half(), tensor(1).half()),
    "bfloat16": (tensor().bfloat16(), tensor(1).bfloat16()),
    "truth values": (tensor() > 3, tensor() > 4),
    "complex numbers": (tensor() * 1j, tensor(1) * 1j),
    "a number without axes": (torch.tensor(1.0), torch.tensor(2.0)),
    "a view that is not dense": (tensor()[:, ::2], tensor(1).flip(0)[:, ::2]),
    "channels last": tuple(
        torch.full((2, 3, 4, 4), x).to(memory_format=torch.channels_last)
        for x in (1.0, 2.0)
    ),
    "a sparse tensor": (tensor().to_sparse(), tensor(1).to_sparse()),
    "large": (
        torch.zeros(64, 40_000),
        torch.zeros(64, 40_000).index_fill_(0, torch.tensor(63), 1.0),
    ),
    "an array": (np.arange(5), np.array([0, 1, 7, 3, 4])),
    "an array of texts": (np.array(["a", "b"]), np.array(["a", "c"])),
    "an array of objects": (np.array(["a", None]), np.array(["b", None])),
    "texts": (["a", "b", "c"], ["a", "x", "c"]),
    "a number": ({"t": 0.5}, {"t": 0.25}),
    "a numpy number": (np.float32(1), np.float32(2)),
    "bytes": (b"a", b"b"),
    "none or zero": ([None], [0]),
    "a key": ({"a": 1}, {"b": 1}),
    "a dataclass": (Item(tensor(), [1]), Item(tensor(), [2])),
    "an object": (Loose("a"), Loose("b")),
    "a set": ({"a", "b"}, {"a", "c"}),
    "labels": ((tensor(), [1, 2]), (tensor(), [1, 3])),
}


@pytest.mark.parametrize(("one", "other"), CHANGED.values(), ids=CHANGED.keys())
def test_a_batch_with_other_values_has_another_fingerprint(one, other):
    assert of_batch(one) == of_batch(one)
    assert of_batch(one) != of_batch(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (tensor(), tensor().double()),
        (tensor(), tensor().view(3, 4)),
        (tensor(), tensor().numpy()),
        (["a"], ["a", "a"]),
        (["a"], ("a",)),
        ({"x": tensor()}, [tensor()]),
    ],
)
def test_another_layout_differs_from_other_values(one, other):
    assert of_batch(one).layout != of_batch(other).layout
    assert of_batch(tensor()).layout == of_batch(tensor(1)).layout


def test_a_copy_is_the_same_batch():
    batch = {"x": tensor(), "ids": ["a", "b"], "n": [1, 2.5, None]}
    copied = {"x": tensor().clone(), "ids": ["a", "b"], "n": [1, 2.5, None]}
    assert of_batch(batch) == of_batch(copied)


def test_a_batch_that_contains_itself_can_be_read():
    batch = [tensor()]
    batch.append(batch)
    assert of_batch(batch) == of_batch(batch)


SCRIPT = """
import torch
from cka_notebook._engine.fingerprint import of_batch, of_function
print(*of_batch({"x": torch.ones(3), "words": {"a", "b"}, "y": ["c"]}))
print(of_function(lambda model, batch: model(batch[0]) if batch in {"a", "b"} else 1))
"""


@pytest.mark.slow
def test_fingerprints_are_the_same_in_every_process():
    runs = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1]


SCALE = 2.0


def defined(source, **around):
    """What a notebook cell defines as ``f``, in a file and at lines of its own."""
    space = {"torch": torch, "nn": nn, "__name__": "__main__", **around}
    exec(compile(source, f"<cell {id(space)}>", "exec"), space)
    return space["f"]


SAME = {
    "a lambda": ("f = lambda m, b: m(b[0])", "\n\nf = lambda m, b: m(b[0])"),
    "a function": (
        "def f(m, b):\n    return m(b)",
        "\n\ndef f(m, b):\n    return m(b)",
    ),
    "a closure": 2 * ("def g(k):\n    return lambda m, b: k * m(b)\nf = g(3)",),
    "a partial": 2 * ("from functools import partial\nf = partial(torch.mul, 2)",),
    "a log": (
        "seen = []\ndef f(m, b):\n    seen.append(1)\n    return m(b)",
        "seen = [1, 2]\ndef f(m, b):\n    seen.append(1)\n    return m(b)",
    ),
    "an object": 2 * ("class F:\n    def __call__(self, m, b): return m(b)\nf = F()",),
}


@pytest.mark.parametrize(("one", "other"), SAME.values(), ids=SAME.keys())
def test_a_cell_that_is_run_again_defines_the_same_function(one, other):
    assert of_function(defined(one)) == of_function(defined(other))


OTHER = {
    "code": ("f = lambda m, b: m(b[0])", "f = lambda m, b: m(b[1])"),
    "an attribute": ("f = lambda m, b: m(b.x)", "f = lambda m, b: m(b.y)"),
    "a default": ("f = lambda m, b, k=1: m(b)", "f = lambda m, b, k=2: m(b)"),
    "a captured number": (
        "def g(k):\n    return lambda m, b: k * m(b)\nf = g(3)",
        "def g(k):\n    return lambda m, b: k * m(b)\nf = g(4)",
    ),
    "a captured tensor": (
        "def g(k):\n    return lambda m, b: k * m(b)\nf = g(torch.ones(3))",
        "def g(k):\n    return lambda m, b: k * m(b)\nf = g(torch.zeros(3))",
    ),
    "a captured function": (
        "def g(k):\n    return lambda m, b: k(m(b))\nf = g(lambda x: x)",
        "def g(k):\n    return lambda m, b: k(m(b))\nf = g(lambda x: 2 * x)",
    ),
    "a global number": (
        "k = 1\ndef f(m, b):\n    return k * m(b)",
        "k = 2\ndef f(m, b):\n    return k * m(b)",
    ),
    "a function that it calls": (
        "def g(x): return x\ndef f(m, b): return g(m(b))",
        "def g(x): return 2 * x\ndef f(m, b): return g(m(b))",
    ),
    "an argument of a partial": (
        "from functools import partial\nf = partial(torch.mul, 2)",
        "from functools import partial\nf = partial(torch.mul, 3)",
    ),
    "an attribute of its object": (
        "class F:\n    def __call__(self, m, b): return m(b)\nf = F(); f.k = 1",
        "class F:\n    def __call__(self, m, b): return m(b)\nf = F(); f.k = 2",
    ),
    "a built-in function": ("f = torch.relu", "f = torch.tanh"),
    "a nested function": (
        "f = lambda m, b: [m(x) for x in b]",
        "f = lambda m, b: [m(x + 1) for x in b]",
    ),
    "weights that it captures": (
        "torch.manual_seed(0); h = nn.Linear(2, 2)\ndef f(m, b): return h(m(b))",
        "torch.manual_seed(1); h = nn.Linear(2, 2)\ndef f(m, b): return h(m(b))",
    ),
}


@pytest.mark.parametrize(("one", "other"), OTHER.values(), ids=OTHER.keys())
def test_a_function_that_does_something_else_has_another_fingerprint(one, other):
    assert of_function(defined(one)) != of_function(defined(other))


def test_functions_are_named():
    def pooled(x):
        return x

    assert of_function(None) is None
    assert of_function(pooled).startswith("pooled (")
    assert of_function(partial(pooled, 1)).startswith("partial (")


class Scaled(nn.Module):
    """A module whose code is what matters."""

    def forward(self, x):
        return 2 * x


def with_other_code():
    class Scaled(nn.Module):
        def forward(self, x):
            return 3 * x

    Scaled.__qualname__ = "Scaled"
    return Scaled()


def test_models_differ_by_weights_kinds_settings_and_code():
    def linear(seed=0):
        torch.manual_seed(seed)
        return nn.Linear(3, 3)

    models = {
        "plain": nn.Sequential(linear(), nn.ReLU()),
        "weights": nn.Sequential(linear(1), nn.ReLU()),
        "kind": nn.Sequential(linear(), nn.Tanh()),
        "setting": nn.Sequential(linear(), nn.LeakyReLU(0.1)),
        "other setting": nn.Sequential(linear(), nn.LeakyReLU(0.2)),
        "code": nn.Sequential(linear(), Scaled()),
        "other code": nn.Sequential(linear(), with_other_code()),
    }
    digests = {name: of_model(model) for name, model in models.items()}
    assert len(set(digests.values())) == len(models)
    assert of_model(nn.Sequential(linear(), nn.ReLU()).train()) == digests["plain"]
