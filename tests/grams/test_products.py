"""Products that are tried out before they are used."""

import pytest
import torch

from cka_notebook import hsic
from cka_notebook._grams import products

FLOAT32 = 1e-6


@pytest.fixture
def bfloat16(monkeypatch):
    """What a GPU does: products of two bfloat16 are exact, their sum is float32."""

    def product(left, right):
        assert left.dtype == right.dtype == torch.bfloat16
        return left.float() @ right.float()

    monkeypatch.setattr(products, "_bfloat16_product", product)


def cosine_error(made, x):
    exact = x.double() @ x.double().T
    lengths = exact.diagonal().sqrt()
    return ((made - exact).abs() / (lengths[:, None] * lengths)).fill_diagonal_(0).max()


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize("p", [64, 2048, 50000])
@pytest.mark.parametrize("kind", ["normal", "relu", "lengths"])
def test_a_split_product_is_as_exact_as_float32(p, kind):
    x = torch.randn(48, p)
    if kind == "relu":
        x = x.relu() - x.relu().mean(0)
    elif kind == "lengths":
        x *= torch.logspace(-6, 6, 48)[:, None]
    # A single bfloat16 product is wrong by a hundred times as much.
    assert cosine_error(products.split_product(x), x) < 4 * FLOAT32
    assert cosine_error(x.bfloat16().float() @ x.bfloat16().float().T, x) > 1e-5


def test_long_sums_are_float64_except_where_there_is_none():
    assert products.sums_dtype(torch.device("cuda")) == torch.float64
    assert products.sums_dtype(torch.device("mps")) == torch.float32


def trial():
    return torch.randn(16, 500)


def plain(x):
    return x @ x.T


def rounded(x):
    return plain(x.bfloat16().float())


def absent(_):
    raise RuntimeError("not implemented for this device")


def test_the_fastest_exact_product_is_taken():
    def other(x):
        return plain(x)

    seconds = {plain: 3.0, other: 2.0, rounded: 1.0, absent: 0.5}
    candidates = [plain, rounded, absent, other]
    choose = products.fastest(candidates, trial(), lambda f, _: seconds[f])
    assert choose is other


def test_a_slower_product_is_not_taken_however_exact():
    def slow(x):
        return plain(x)

    seconds = {plain: 1.0, slow: 2.0}
    assert products.fastest([plain, slow], trial(), lambda f, _: seconds[f]) is plain


def test_onednn_is_believed_only_if_it_multiplies(monkeypatch):
    class Wrong:
        def _linear_pointwise(self, x, y, *_):
            return 2 * x @ y.T

    products._onednn_product.cache_clear()
    monkeypatch.setattr(torch.ops, "mkldnn", Wrong())
    assert products._onednn_product() is None
    monkeypatch.setattr(torch.ops, "mkldnn", None)
    products._onednn_product.cache_clear()
    assert products._onednn_product() is None
    products._onednn_product.cache_clear()


@pytest.mark.parametrize("n", [20, 70, 300])
def test_wide_layers_are_multiplied_as_well_as_narrow_ones(n):
    x = torch.randn(n, products.ONEDNN_WIDTH)
    made = torch.full((n, n), torch.nan)
    blocks = [made[top:, top : top + 32] for top in range(0, n, 32)]
    products.lower_product(x, blocks, first=True)
    products.lower_product(x, blocks, first=False)
    expected = (2 * x.double() @ x.double().T).tril()
    error = (made.tril() - expected).abs().max() / expected.max()
    assert error < FLOAT32


@pytest.mark.parametrize("shift", ["mean", "row", "none"])
@pytest.mark.parametrize("n", [8, 70, 257])
def test_a_gram_made_in_pieces_is_that_of_the_whole_however_it_is_shifted(n, shift):
    x = torch.randn(n, 3000)
    out, scratch = torch.full((n, n), torch.nan), torch.empty(n, 300)
    blocks = [out[top:, top : top + 40] for top in range(0, n, 40)]
    products.lower_gram(x, blocks, scratch, shift)
    made = hsic.u_center(out.tril() + out.tril(-1).T)
    expected = hsic.u_center(hsic.gram(x))
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-2)
