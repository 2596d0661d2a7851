"""Which tensor of an output is compared, and how it becomes rows."""

import pytest
import torch
from support import zoo
from support.reference import assert_right, compare
from torch import nn

from cka_notebook._capture.outputs import as_rows, batch_first, tensor_of
from cka_notebook._models.nodes import Output

ALL = {"model1_layers": "all", "model2_layers": "all"}


def both(make, **options):
    return make(**options), make(**options)


def test_tuples_dicts_and_lists_give_their_first_comparable_tensor():
    model1, model2 = both(zoo.OddOutputs)
    batches = zoo.batches_of()
    result = compare(model1, model2, batches, **ALL)
    assert result.layers1 == (
        "pair.linear",
        "pair",
        "dict.linear",
        "dict",
        "list",
        "head",
    )
    twins = [("pair.linear", "pair"), ("dict.linear", "dict")]
    for inner, outer in twins:
        assert torch.equal(result.row(inner), result.row(outer))
    plain = ["pair.linear", "dict.linear", "head"]
    rows = compare(model1, model2, batches, model1_layers=plain, model2_layers=plain)
    assert_right(rows, model1, model2, batches)


def test_incomparable_outputs_do_not_stop_the_rest():
    model = zoo.Incomparable()
    batches = zoo.batches_of()
    assert compare(model, batches=batches, **ALL).layers1 == ("linear",)


@pytest.mark.parametrize(
    "memory_format", [torch.channels_last, torch.contiguous_format]
)
def test_the_order_in_memory_does_not_matter(memory_format):
    model1, model2 = (m.to(memory_format=memory_format) for m in both(zoo.ResNet))
    batches = [x.to(memory_format=memory_format) for x in zoo.images_of(size=16)]
    result = compare(model1, model2, batches)
    assert_right(result, model1, model2, batches)


def test_activations_of_wide_maps_and_of_one_number_are_right():
    model = nn.Sequential(
        nn.Conv2d(3, 40, 3, padding=1), nn.Flatten(), nn.LazyLinear(1), nn.Flatten(0)
    )
    batches = zoo.images_of(size=12, side=24)
    model(batches[0])
    result = compare(model, batches=batches, **ALL)
    assert result.layers1 == ("0", "1", "2", "3")
    assert_right(result, model, model, batches)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (None, "no output"),
        ("text", "output of type str"),
        ([], "empty output"),
        ([None, "text"], "no output"),
        (torch.ones(3, dtype=torch.int64), "integer output"),
        (torch.ones(3, dtype=torch.complex64), "complex output"),
        (torch.ones(3, 2).to_sparse(), "sparse or nested output"),
        (torch.tensor(1.0), "scalar output"),
    ],
)
def test_an_output_without_a_tensor_to_compare_says_why(output, reason):
    assert tensor_of(output) == reason


def test_what_the_next_layer_receives_is_preferred():
    first, logits, hidden = (torch.randn(3, i) for i in (2, 3, 4))
    output = {"loss": first, "logits": logits, "last_hidden_state": hidden}
    assert tensor_of(output) is hidden
    assert tensor_of({**output, "last_hidden_state": None}) is logits
    assert tensor_of({"ids": torch.ones(3, dtype=torch.int64), "loss": first}) is first
    assert tensor_of([(None, [first])]) is first


@pytest.mark.parametrize(
    ("first", "later", "is_clear"),
    [
        (lambda _, y: y, lambda _, y: (y,), True),
        (lambda x, y: (x, y), lambda _, y: y, True),
        (lambda _, y: {"out": y}, lambda _, y: [None, y], True),
        (lambda _, y: y, lambda x, y: (x, y), False),
        (lambda x, y: {"x": x, "out": y}, lambda x, y: (x, y), False),
        (lambda x, y: (x, y), lambda x, y: {"x": x, "made": y}, False),
    ],
    ids=["wrapped", "bare", "list", "more", "tuple", "other_keys"],
)
def test_an_output_that_changes_its_form_is_read_only_if_it_is_clear(
    first, later, is_clear
):
    class Changing(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.inner = nn.Linear(10, 4)

        def forward(self, x):
            return (first if len(x) != 20 else later)(x, self.inner(x))

    model, batches = nn.Sequential(Changing()), [torch.randn(n, 10) for n in (16, 20)]
    model.append(zoo.Returning(lambda _: torch.ones(2)))
    result = compare(model, batches=batches, **ALL)
    if is_clear:
        assert torch.equal(result.row("0"), result.row("0.inner"))
    else:
        assert "several tensors, none of them where" in result.undefined1["0"]


def test_the_batch_axis_comes_first_and_groups_are_gathered():
    x = torch.randn(5, 4, 3)
    assert torch.equal(batch_first(x, Output(0, axis=1)), x.transpose(0, 1))
    grouped = batch_first(torch.arange(12.0).reshape(6, 2), Output(0, groups=3))
    assert grouped.tolist() == torch.arange(12.0).reshape(2, 3, 2).tolist()
    assert batch_first(torch.ones(5), Output(0)).shape == (5, 1)


def test_rows_of_a_channels_last_map_are_not_copied():
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    rows = as_rows(x)
    assert rows.data_ptr() == x.data_ptr()
    assert torch.equal(rows.sort(1).values, x.flatten(1).sort(1).values)
