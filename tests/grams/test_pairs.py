"""Products of all pairs of layers, and which layer has which Gram matrix."""

import pytest
import torch
from support.reference import terms

from cka_notebook._grams import pairs
from cka_notebook._grams.buffer import GramBuffer
from cka_notebook._grams.pairs import LayerGrams

FLOAT32 = 3e-6
CPU = torch.device("cpu")


def packed(layers):
    buffer = GramBuffer(len(layers))
    buffer.begin(len(layers[0]))
    for row, x in enumerate(layers):
        buffer.add(x, row)
    return buffer.finish()


def grams(layers, index=None, problems=None):
    return LayerGrams(packed(layers), index or [*range(len(layers))], problems or {})


def layers_of(*widths, n=12, dtype=torch.float32):
    return [torch.randn(n, p, dtype=dtype) for p in widths]


def test_all_pairs_at_once_are_those_one_by_one():
    z = packed(layers_of(1, 3, 30))
    grid = pairs.pair_products(z.z, z.z)
    for i in range(3):
        for j in range(3):
            single = pairs.pair_products(z.z[i : i + 1], z.z[j : j + 1])
            assert grid[i, j].item() == pytest.approx(single.item(), rel=FLOAT32)
    torch.testing.assert_close(z.norm, grid.diagonal(), rtol=FLOAT32, atol=0)


@pytest.mark.parametrize("count", [1, pairs.SELF_BLOCK + 3])
def test_a_model_with_itself_is_a_model_with_its_copy(count):
    z = torch.randn(count, pairs.PAIR_BLOCK + 7)
    own = pairs.pair_products(z, z)
    other = pairs.pair_products(z, z.clone())
    assert (own - other).abs().max() < FLOAT32 * own.max()
    assert torch.equal(own, own.T)


@pytest.mark.parametrize("scale", [1, 1e-9, 1e9])
def test_a_batch_gives_the_h_of_all_pairs(scale):
    first = [x * scale for x in layers_of(3, 30, dtype=torch.float64)]
    second = layers_of(5, 7, 2, dtype=torch.float64)
    xy, xx, yy = pairs.batch_products(grams(first), grams(second), CPU)
    for i, x in enumerate(first):
        for j, y in enumerate(second):
            expected = terms(x, y)
            made = torch.stack([xy[i, j], xx[i], yy[j]])
            torch.testing.assert_close(made, expected, rtol=1e-9, atol=0)


def test_identical_layers_of_two_models_have_a_cka_of_exactly_one():
    first = layers_of(3, 30)
    second = [*layers_of(5), first[1].clone()]
    xy, xx, yy = pairs.batch_products(grams(first), grams(second), CPU)
    assert xy[1, 1] == xx[1] == yy[1]
    assert xy[0, 1] != xx[0]


def test_identical_layers_of_one_model_have_a_cka_of_exactly_one():
    both = grams(layers_of(3, 30, 30))
    xy, xx, yy = pairs.batch_products(both.subset([2, 0]), both.subset([0, 2]), CPU)
    assert xy.flip(0).diagonal().tolist() == [xx[1], xx[0]] == yy.tolist()


def test_a_layer_without_a_gram_matrix_is_nan_and_layers_may_share_one():
    some = grams(layers_of(3, 30), [1, -1, 0, 1], {1: "no output"})
    xy, xx, yy = pairs.batch_products(some, grams(layers_of(4)), CPU)
    assert (
        xx.isnan().tolist() == xy[:, 0].isnan().tolist() == [False, True, False, False]
    )
    assert xx[0] == xx[3] != xx[2]
    assert yy.isfinite().all()


def test_a_model_without_any_gram_matrix_is_nan():
    nothing = LayerGrams(packed([torch.randn(12, 3)])[0:0], [-1, -1], {})
    xy, xx, _ = pairs.batch_products(nothing, grams(layers_of(4)), CPU)
    assert xy.shape == (2, 1)
    assert xy.isnan().all()
    assert xx.isnan().all()


def test_a_subset_takes_index_and_problems_along():
    some = grams(layers_of(3, 30), [1, -1, 0], {1: "no output"})
    part = some.subset([2, 1])
    assert part.index == [0, -1]
    assert part.problems == {1: "no output"}
    assert part.packed is some.packed


def test_flags_of_gram_matrices_are_spread_over_the_layers():
    flags = torch.tensor([True, False])
    assert pairs.spread(flags, [1, 0, 1]).tolist() == [False, True, False]
    assert pairs.spread(flags[:0], [-1, -1]).tolist() == [False, False]


@pytest.mark.parametrize("width", [10, 64, 300])
@pytest.mark.parametrize("copied", [1, 1 << 30])
def test_blocks_multiplied_at_once_give_the_products_of_all_pairs(
    width, copied, monkeypatch
):
    monkeypatch.setattr(pairs, "PAIR_BLOCK", 64)
    monkeypatch.setattr(pairs, "COPY_BYTES", copied)
    z1, z2 = torch.randn(3, width), torch.randn(5, width)
    for other in (z2, z1):
        made = pairs._products_of_blocks(z1, other)
        torch.testing.assert_close(made, z1.double() @ other.double().T)
