"""How much of a layer is text length."""

import pytest
import torch
from support.reference import minibatch_cka

from cka_notebook._engine.lengths import TextLengths
from cka_notebook._grams.buffer import GramBuffer
from cka_notebook._grams.pairs import LayerGrams
from cka_notebook._messages import Reason, is_grave

N = 40


def masks_of(count):
    made = torch.Generator().manual_seed(0)
    lengths = torch.randint(4, 31, (count, N, 1), generator=made)
    return [torch.arange(30) < length for length in lengths]


def grams(*features, index=None):
    buffer = GramBuffer(len(features))
    buffer.begin(N)
    for number, x in enumerate(features):
        buffer.add(x, number)
    rows = list(range(len(features))) if index is None else index
    return LayerGrams(buffer.finish(), rows, {})


def mostly(x, masks, share):
    """Features with a share of 1 / T."""
    lengths = 1 / masks.sum(1, keepdim=True)
    return x + share * lengths * torch.ones(x.shape[1], dtype=x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layers_that_are_mostly_length_are_named_with_their_cka(dtype):
    lengths, layers = TextLengths(["a", "b"]), []
    masks = masks_of(3)
    for mask in masks:
        x = torch.randn(N, 8, dtype=dtype)
        pair = x, mostly(x, mask, 50)
        layers.append(pair[1])
        lengths.add(grams(*pair), [mask])
    exact = minibatch_cka(
        [x.double() for x in layers],
        [1 / m.sum(1, keepdim=True).double() for m in masks],
    )
    note = lengths.note("Net")
    assert note.startswith("Net: 'b' is mostly text length")
    assert f"up to {float(exact):.2f}" in note
    assert is_grave(note)


def test_nothing_is_said_of_other_layers_of_equal_lengths_or_of_no_batch():
    assert TextLengths(["a"]).note("Net") is None
    lengths, equal = TextLengths(["a"]), TextLengths(["a"])
    for mask in masks_of(3):
        lengths.add(grams(torch.randn(N, 8)), [mask])
        equal.add(grams(torch.randn(N, 8)), [torch.ones(N, 9)])
    assert lengths.note("Net") is None
    assert equal.note("Net") is None


def test_few_examples_need_more_than_chance():
    lengths = TextLengths(["a"])
    mask = torch.arange(9) < torch.tensor([[9], [3], [5], [4]])
    buffer = GramBuffer(1)
    buffer.begin(4)
    buffer.add(mostly(torch.randn(4, 2), mask, 50), 0)
    lengths.add(LayerGrams(buffer.finish(), [0], {}), [mask])
    assert lengths.note("Net") is None


def test_layers_without_numbers_skip_a_batch():
    lengths, reason = TextLengths(["a", "b", "c"]), Reason("not called", "not_called")
    for number, mask in enumerate(masks_of(3)):
        x = mostly(torch.randn(N, 8), mask, 100)
        broken = torch.full((N, 8), torch.nan) if number == 1 else x
        given = grams(x, broken, index=[0, 1, -1 if number else 0])
        problems = {2: reason} if number else {}
        lengths.add(LayerGrams(given.packed, given.index, problems), [mask])
    assert "'a', 'b', 'c' (3 layers) are mostly text length" in lengths.note("Net")


def test_sums_continue_where_they_were_saved():
    whole, first, second = TextLengths(["a"]), TextLengths(["a"]), TextLengths(["a"])
    for number, mask in enumerate(masks_of(4)):
        given = grams(mostly(torch.randn(N, 8), mask, 100))
        whole.add(given, [mask])
        if number == 2:
            second.load(*first.save())
        (first if number < 2 else second).add(given, [mask])
    assert second.note("Net") == whole.note("Net") is not None
    sums = [lengths.save()[0] for lengths in (second, whole)]
    torch.testing.assert_close(*sums, rtol=1e-6, atol=0)
    TextLengths(["a"]).load(*TextLengths(["a"]).save())
