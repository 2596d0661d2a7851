"""How a model can be called on a batch, as Python."""

from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from cka_notebook._inputs.lines import Form, call_line, looks_like_labels

X, T = torch.randn(8, 10), torch.randn(8, 4)
LABELS = torch.arange(8)


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


@dataclass
class Item:
    image: Tensor
    cond: Tensor


@pytest.mark.parametrize(
    "batch",
    [
        X,
        (X, T),
        [X, {"a": [T]}],
        {"x": X, "nested": {"y": T}},
        Pair(X, T),
        Item(X, T),
        {"item": Item(X, T)},
        ({3: X}, T),
    ],
)
def test_expressions_are_python_that_finds_the_tensors(batch):
    found = [eval(name, {"batch": batch}) for name in Form(batch).inputs]
    wanted = [X] if batch is X else [X, T]
    assert len(found) == len(wanted)
    assert all(a is b for a, b in zip(found, wanted, strict=True))


def test_arguments_are_found_in_the_batch_and_others_are_gaps():
    form = Form({"x": X, "y": [T, LABELS]}, (X,), {"t": T, "made": torch.zeros(1)})
    assert form.given == ["batch['x']", "t=batch['y'][0]", "made=..."]
    assert form.unused == []
    assert Form((X, T, LABELS), (X,)).unused == ["batch[1]"]
    assert Form((X, (T, T)), ((T, T),)).unused == [
        "batch[0]",
        "batch[1][0]",
        "batch[1][1]",
    ]
    assert form.changed({0: ".long()"})[0] == "batch['x'].long()"
    assert call_line(form.given[:1]).endswith(": model(batch['x'])")


def test_lists_of_examples_and_labels_by_name_are_not_inputs():
    assert Form([T] * 9).inputs == []
    assert Form([torch.zeros(3, 4, 4)] * 4).inputs == []
    assert Form({"label": torch.randn(8), "x": X}).inputs == ["batch['x']"]


@pytest.mark.parametrize(
    "value",
    [
        LABELS,
        LABELS[:, None],
        LABELS.float(),
        LABELS > 3,
        torch.eye(8),
        (torch.rand(8, 3) > 0.5).long(),
    ],
)
def test_classes_look_like_labels(value):
    assert looks_like_labels(X, value)


@pytest.mark.parametrize(
    "value",
    [
        torch.rand(8),
        torch.rand(8, 1),
        T,
        torch.arange(9),
        torch.tensor(3),
        torch.ones(8, 10),  # a mask of the inputs
        torch.arange(32).view(8, 4),
        torch.ones(8, dtype=torch.complex64),
        torch.ones(8, device="meta"),
        torch.eye(8).to_sparse(),
        torch.ones(8, 1).to(torch.float8_e5m2),
        torch.nested.as_nested_tensor([torch.ones(2), torch.ones(3)]),
        "cat",
    ],
)
def test_other_inputs_do_not_look_like_labels(value):
    assert not looks_like_labels(X, value)
    Form((value, T, value), (value,))
