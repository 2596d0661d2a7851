"""Packed Gram matrices multiply as the U-centered ones that they stand for."""

import pytest
import torch
from support.reference import hsic1, minibatch_cka

from cka_notebook._grams import pairs, products
from cka_notebook._grams.packing import PackedGrams, packing

FLOAT32 = 3e-6
"""The bar for float32 activations: a few hundred roundings of 6e-8."""


def pair(n=20, p=7, q=5):
    x = torch.randn(n, p, dtype=torch.float64)
    return x, x[:, :q] + torch.randn(n, q, dtype=torch.float64)


def packed(x):
    n, dtype = len(x), products.working_dtype(x.dtype)
    places = packing(n, x.device, dtype)
    z, scratch = torch.zeros(1, places.length, dtype=dtype), x.new_empty(n, 16)
    blocks = places.blocks(z[0])
    moment = products.lower_gram(x.flatten(1), blocks, scratch.to(dtype), "mean")
    grams, _ = places.center(z, moment[None])
    return grams[0]


def one(x):
    return PackedGrams(*(tensor[None] for tensor in packed(x).tensors()))


def product(a, b):
    """<U(K), U(L)> from two packed Gram matrices."""
    return pairs.pair_products(a.z[None], b.z[None])[0, 0] * a.scale * b.scale


@pytest.mark.parametrize("n", [4, 5, 6, 9, 32, 33, 70, 95, 128, 130, 257])
def test_packed_grams_multiply_like_u_centered_ones(n):
    x, y = pair(n)
    K, L = x @ x.T, y @ y.T
    textbook = n * (n - 3) * hsic1(K, L)
    ours = product(packed(x), packed(y))
    scale = (hsic1(K, K) * hsic1(L, L)).sqrt().item() * n * (n - 3)
    assert ours.item() == pytest.approx(textbook.item(), abs=1e-12 * scale)


@pytest.mark.parametrize("p", [1, 5, 300, 5000])
@pytest.mark.parametrize("mean", [0, 10, 1000])
def test_packed_float32_grams_agree_with_float64_whatever_the_mean(p, mean):
    x = torch.randn(32, p) + mean
    y = torch.cat([x, torch.randn(32, max(1, p // 2))], 1)
    ours = (
        product(packed(x), packed(y))
        / (product(packed(x), packed(x)) * product(packed(y), packed(y))).sqrt()
    )
    # Each float32 input was rounded before any of this; float64 sees the same input.
    exact = minibatch_cka([x.double()], [y.double()])
    assert ours.item() == pytest.approx(exact.item(), abs=FLOAT32)


@pytest.mark.parametrize("exponent", [-15, -12, 0, 12, 15])
def test_packed_grams_neither_overflow_nor_vanish(exponent):
    x = torch.randn(16, 30)
    big = packed(x * 10.0**exponent)
    assert big.z.isfinite().all()
    own, norm = packed(x), (big.norm.sqrt() * big.scale).item()
    assert norm == pytest.approx(own.norm.sqrt().item() * 100.0**exponent, rel=1e-4)
    aligned = pairs.pair_products(big.z[None], own.z[None])[0, 0]
    assert (aligned / (big.norm * own.norm).sqrt()).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e3, 1e-20, 3.14159e7])
def test_a_constant_layer_has_no_trace_and_no_product(value):
    gram = packed(torch.full((16, 30), value) + torch.arange(30) * value)
    assert gram.trace == 0
    assert gram.z.abs().max() == 0


def test_a_layer_that_hardly_varies_is_not_taken_for_a_constant():
    x = torch.full((16, 30), 1.0)
    x[:, 0] += torch.arange(16) * 1e-3
    assert packed(x).trace > 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_value_that_is_not_finite_shows_in_the_trace(value):
    x = torch.randn(16, 30)
    x[3, 4] = value
    assert not packed(x).trace.isfinite()


@pytest.mark.parametrize("n", [4, 5, 37, 48, 49, 64, 65, 100, 130])
def test_taking_whole_matrices_is_as_good_as_making_blocks(n):
    layers = [torch.randn(n, 30) + 1, torch.randn(n, 50)]
    places = packing(n, torch.device("cpu"), torch.float32)
    z = torch.full((2, places.length), torch.nan)
    grams = torch.stack([x @ x.T for x in layers])
    taken, moments = places.take(grams.clone(), z, torch.zeros(2))
    made = PackedGrams.concatenate([one(x) for x in layers])
    torch.testing.assert_close(moments, grams.diagonal(dim1=1, dim2=2).sum(1))
    for name in ("z", "scale", "trace", "norm"):
        ours, theirs = getattr(taken, name), getattr(made, name)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n", [37, 130])
def test_a_bad_batch_leaves_nothing_behind_in_what_lies_outside_of_the_matrix(n):
    x = torch.randn(n, 30)
    places = packing(n, x.device, x.dtype)
    z, scratch = torch.zeros(1, places.length), torch.empty(n, 30)

    def norm(x):
        products.lower_gram(x, places.blocks(z[0]), scratch, "none")
        return places.center(z, torch.zeros(1))[0].norm[0]

    first = norm(x)
    assert norm(x * torch.nan).isnan()
    assert torch.equal(norm(x), first)


@pytest.mark.parametrize("n", [*range(4, 40), 63, 64, 65, 128, 500, 1000])
def test_a_packed_matrix_takes_little_more_than_its_triangle(n):
    length = packing(n, torch.device("cpu"), torch.float32).length
    assert n * (n - 1) / 2 <= length <= (1.04 * n + 4) * (1.04 * n + 40) / 2


def test_parts_of_several_dtypes_join_in_the_widest_and_are_cut_again():
    parts = [one(x) for x in (torch.randn(8, 3), pair(8)[0], pair(8)[1])]
    together = PackedGrams.concatenate(parts)
    assert len(together) == 3
    assert together.z.dtype == torch.float64
    for part, same in zip(parts, (together[i : i + 1] for i in range(3)), strict=True):
        assert all(map(torch.equal, same.tensors(), widened(part)))
    turned = together[torch.tensor([2, 0])]
    assert torch.equal(turned.norm, together.norm[[2, 0]])


def widened(part):
    return (tensor.double() for tensor in part.tensors())


def test_no_gram_matrix_is_a_record_too():
    empty = PackedGrams.empty()
    assert len(empty) == len(empty[0:0]) == len(empty.to(torch.device("cpu"))) == 0
