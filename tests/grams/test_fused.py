"""The kernels of the fused product, by Triton's interpreter."""

import math
import os
import subprocess
import sys

import pytest
import torch

from cka_notebook._grams import gpu_products
from cka_notebook._grams.gpu_products import FusedProduct, Scratch, has_fused

FLOAT32 = 5e-6
"""With few features, what halves of bfloat16 leave out shows."""


triton = pytest.importorskip("triton", reason="needs Triton")
from cka_notebook._grams import fused  # noqa: E402

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(
    not IS_INTERPRETED, reason="runs in a process of its own, which interprets kernels"
)


@pytest.mark.slow
@pytest.mark.skipif(IS_INTERPRETED, reason="this is that process")
def test_kernels_by_the_interpreter():
    """The tests below: whether Triton interprets is decided when it is imported."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        command,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def error(made, x, *, shifted=False):
    exact = x.double() - (x[0].double() if shifted else 0)
    exact = exact @ exact.T
    lengths = exact.diagonal().sqrt().clamp_min(1e-12)
    assert torch.equal(made, made.T), "exactly symmetric"
    return ((made - exact).abs() / (lengths[:, None] * lengths)).fill_diagonal_(0).max()


def product(x, *, pieces=1, **options):
    out = torch.full((len(x), len(x)), torch.nan)
    for number, piece in enumerate(x.tensor_split(pieces, dim=1)):
        spans, tiles, tile = fused.shape_of_sums(*piece.shape)
        sums = torch.full((spans * tiles * tile**2,), torch.nan)
        fused.fused_product(piece, out, sums, first=number == 0, **options)
    return out


@interpreted
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("n", "p"), [(4, 40), (17, 300), (40, 100), (150, 33)])
def test_the_product_is_nearly_as_exact_as_float32(n, p, shifted):
    x = torch.randn(n, p) + 0.5
    assert error(product(x, shifted=shifted), x, shifted=shifted) < FLOAT32


@interpreted
def test_pieces_add_up_and_half_precision_is_read_as_it_is():
    x = torch.randn(12, 200)
    assert error(product(x, pieces=2), x) < FLOAT32
    x = (x + 30).bfloat16()
    assert error(product(x, shifted=True), x, shifted=True) < FLOAT32


def test_programs_are_enough_for_a_gpu_and_their_sums_fit_into_little_memory():
    for n in (4, 100, 128, 129, 256, 512, 1000):
        for p in (1, 5000, 1_000_000):
            spans, tiles, tile = fused.shape_of_sums(n, p)
            assert spans * tiles <= max(fused.PROGRAMS, tiles)
            assert tiles == math.comb(-(-n // tile) + 1, 2)
            if p > 100_000 and n <= 1000:
                assert spans * tiles >= fused.PROGRAMS / 2


@interpreted
def test_a_product_of_the_engine_takes_its_sums_from_the_scratch():
    x, sums = torch.randn(20, 90), torch.zeros(40, 20)
    scratch = Scratch(x.device, 20, 1 << 20)
    FusedProduct(scratch)(x, sums, True)
    assert error(gpu_products.matrix_of(sums), x) < FLOAT32
    FusedProduct(scratch, shifted=True)(x, sums, True)
    assert error(gpu_products.matrix_of(sums), x, shifted=True) < FLOAT32


def test_the_product_is_not_tried_without_cuda():
    assert not has_fused(torch.device("cpu"))
    assert not has_fused(torch.device("mps"))


@interpreted
def test_features_that_are_not_adjacent_are_multiplied_too():
    x, sums = torch.randn(90, 20).T, torch.zeros(40, 20)
    FusedProduct(Scratch(x.device, 20, 1 << 20))(x, sums, True)
    assert error(gpu_products.matrix_of(sums), x) < FLOAT32
