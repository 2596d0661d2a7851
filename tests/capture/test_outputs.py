"""Which tensor of an output is compared, and how it becomes rows."""

import pytest
import torch
from support import zoo
from support.reference import assert_right, compare
from torch import nn

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
