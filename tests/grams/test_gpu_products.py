"""Products of a GPU, with the roundings of one on a CPU."""

import pytest
import torch
from support.gpu import emulate_products

from cka_notebook._grams import gpu_products
from cka_notebook._grams.gpu_products import (
    Scratch,
    SplitProduct,
    double_product,
    fastest,
    half_product,
    matrix_of,
    multiplies_halves,
    plain_product,
)

FLOAT32 = 1e-6
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _emulated(monkeypatch):
    emulate_products(monkeypatch)


def made_by(product, x, pieces=1):
    sums = torch.zeros(2 * len(x), len(x))
    for number, piece in enumerate(x.tensor_split(pieces, dim=1)):
        product(piece, sums, number == 0)
    return matrix_of(sums)


def cosine_error(made, x):
    exact = x.double() @ x.double().T
    lengths = exact.diagonal().sqrt()
    return ((made - exact).abs() / (lengths[:, None] * lengths)).fill_diagonal_(0).max()


def split(n, limit=1 << 20):
    return SplitProduct(Scratch(CPU, n, limit))


@pytest.mark.parametrize("p", [64, 2048, 50000])
@pytest.mark.parametrize("kind", ["normal", "relu", "lengths"])
def test_a_split_product_is_as_exact_as_float32(p, kind):
    x = torch.randn(48, p)
    if kind == "relu":
        x = x.relu() - x.relu().mean(0)
    elif kind == "lengths":
        x *= torch.logspace(-6, 6, 48)[:, None]
    # A single bfloat16 product is wrong by a hundred times as much.
    assert cosine_error(made_by(split(48), x), x) < 4 * FLOAT32
    assert cosine_error(x.bfloat16().float() @ x.bfloat16().float().T, x) > 1e-5


@pytest.mark.parametrize("name", ["plain", "split", "double"])
def test_pieces_add_up(name):
    x = torch.randn(12, 1000)
    product = {"plain": plain_product, "double": double_product, "split": split(12)}
    assert cosine_error(made_by(product[name], x, pieces=3), x) < FLOAT32


@pytest.mark.parametrize("dtype", gpu_products.HALF_TYPES)
def test_half_precision_features_are_multiplied_as_they_are(dtype):
    x = torch.randn(12, 1000).to(dtype)
    assert cosine_error(made_by(half_product, x, pieces=2), x) < FLOAT32


def test_a_layer_that_exceeds_the_scratch_is_split_piece_by_piece():
    x = torch.randn(16, 3000)
    scratch = Scratch(CPU, 16, 16 * 4 * 1000)
    assert cosine_error(made_by(SplitProduct(scratch), x), x) < FLOAT32
    assert scratch.width(3000, 4) == 1000
    scratch.shrink()
    assert scratch.width(3000, 4) == 500
    assert cosine_error(made_by(SplitProduct(scratch), x), x) < FLOAT32


def test_a_scratch_shrinks_until_its_pieces_are_small():
    scratch, widths = Scratch(CPU, 16, 1 << 20), []
    while True:
        widths.append(scratch.width(1 << 20, 4))
        if not scratch.can_shrink:
            break
        scratch.shrink()
    assert widths[0] == (1 << 20) // (16 * 4)
    assert widths == sorted(widths, reverse=True)
    assert Scratch.MIN_WIDTH <= widths[-1] < 16 * Scratch.MIN_WIDTH


def test_rows_of_halves_are_aligned():
    part = Scratch(CPU, 4, 1 << 20)
    assert part.width(1001, 4) == 1001
    assert part.part(8, 1001, torch.bfloat16).stride() == (1008, 1)


def trial():
    return torch.randn(16, 500)


def rounded(x, sums, first):
    plain_product(x.bfloat16().float(), sums, first)


def absent(*_):
    raise RuntimeError("not implemented for this device")


def undefined(x, sums, _):
    sums.fill_(torch.nan)
    del x


def chosen(seconds, x=None):
    """Which candidate is taken, given how long each takes."""
    x = trial() if x is None else x
    sums = torch.zeros(2 * len(x), len(x))
    return fastest(list(seconds), x, sums, lambda product, *_: seconds[product])


def test_the_fastest_exact_product_is_taken():
    other = split(16)
    seconds = {plain_product: 3.0, rounded: 1.0, absent: 0.5, undefined: 0.1}
    assert chosen(seconds | {other: 2.0}) is other


def test_a_slower_product_is_never_taken():
    assert chosen({plain_product: 1.0, split(16): 2.0}) is plain_product


def test_a_layer_of_zeros_can_be_timed():
    other = split(16)
    assert chosen({plain_product: 2.0, other: 1.0}, torch.zeros(16, 9)) is other


def test_running_out_of_memory_is_no_reason_to_prefer_another_product():
    def greedy(*_):
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        chosen({plain_product: 1.0, greedy: 0.5})


def test_no_other_device_is_trusted_with_halves(monkeypatch):
    monkeypatch.undo()
    assert not multiplies_halves(CPU)
    assert not multiplies_halves(torch.device("mps"))
