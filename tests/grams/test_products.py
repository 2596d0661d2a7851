"""Products that are tried out before they are used."""

import pytest
import torch

from cka_notebook import hsic
from cka_notebook._grams import products


def test_long_sums_are_float64_except_where_there_is_none():
    assert products.sums_dtype(torch.device("cuda")) == torch.float64
    assert products.sums_dtype(torch.device("mps")) == torch.float32


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
    assert error < 1e-6


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


@pytest.mark.parametrize("exponent", [-1070, -301, -1, 0, 1, 7, 500])
def test_a_scale_changes_no_digit(exponent):
    rows = torch.randn(5, 4, dtype=torch.float64).ldexp(torch.tensor(exponent))
    made = products.scaled(rows)
    assert 0.5 <= made.abs().max() < 1
    assert torch.equal(made.ldexp(torch.frexp(rows.abs().max()).exponent), rows)


def test_rows_without_a_scale_stay_as_they_are():
    for rows in (torch.zeros(4, 0), torch.zeros(4, 2), torch.full((4, 2), torch.inf)):
        assert torch.equal(products.scaled(rows), rows)
