"""Gram matrices that gather in groups are those that are made one by one."""

import pytest
import torch
from support.reference import hsic1

from cka_notebook import hsic
from cka_notebook._grams import cpu_buffer, pairs
from cka_notebook._grams.buffer import GramBuffer
from cka_notebook._grams.products import lower_gram


def reduced(layers, capacity=None, batches=1):
    buffer = GramBuffer(capacity or len(layers))
    for _ in range(batches):
        buffer.begin(len(layers[0]))
        for row, x in enumerate(layers):
            assert buffer.add(x, row) == row
        packed = buffer.finish()
    return buffer, packed


def products(packed):
    scale = packed.scale.double()
    scales = scale[:, None] * scale
    return pairs.pair_products(packed.z, packed.z) * scales


def by_definition(layers):
    """Of all pairs, n (n - 3) HSIC_1 in float64."""
    n, exact = len(layers[0]), [x.double() for x in layers]
    return torch.tensor(
        [[hsic1(a @ a.T, b @ b.T) * n * (n - 3) for b in exact] for a in exact]
    )


def largest_error(made, expected):
    norm = expected.diagonal().sqrt()
    return ((made - expected).abs() / (norm[:, None] * norm)).max()


@pytest.mark.parametrize("n", [4, 5, 33])
def test_groups_of_any_size_give_the_hsic_of_all_pairs(n, monkeypatch):
    layers = [torch.randn(n, p) for p in (3, 50, 7, 11, 2)]
    expected = by_definition(layers)
    for size in (1, 2 * n * n * 4, 1 << 20):
        monkeypatch.setattr(cpu_buffer, "GROUP_BYTES", size)
        made = products(reduced(layers)[1])
        assert largest_error(made, expected) < 1e-5


@pytest.mark.parametrize("widths", [(3, 50, 70), (3, 50, 71)])
def test_row_sums_of_narrow_features_are_those_of_their_gram_matrices(widths):
    layers = [torch.randn(70, p) + 0.5 for p in widths]
    buffer, grams = reduced(layers, batches=2)
    assert set(buffer.shifts.values()) == {"none"}, "the features as they are"
    assert largest_error(products(grams), by_definition(layers)) < 1e-6


def test_dtypes_of_one_model_may_differ():
    layers = [torch.randn(8, 5), torch.randn(8, 5, dtype=torch.float64)]
    layers.append(layers[0].bfloat16())
    made = products(reduced(layers)[1])
    cka = made[0, 2] / (made[0, 0] * made[2, 2]).sqrt()
    assert cka.item() == pytest.approx(1, abs=1e-3)
    exact = [hsic.gram(x) for x in layers[:2]]
    ours = made[0, 1] / (8 * 5)
    assert ours.item() == pytest.approx(hsic.hsic(*exact).item(), rel=1e-4)


def test_features_far_from_zero_stay_shifted():
    near, far = torch.randn(32, 40), torch.randn(32, 40) + 1000
    buffer, _ = reduced([near, far], batches=3)
    assert buffer.shifts == {0: "none", 1: "row"}


def test_a_first_example_far_from_all_others_calls_for_the_exact_mean():
    x = torch.randn(32, 40)
    x[0] += 30
    x[1:] += 30
    x[0] *= 10
    buffer, _ = reduced([x], batches=2)
    assert buffer.shifts == {0: "mean"}


def test_features_that_drift_away_are_shifted_again():
    buffer = GramBuffer(1)
    for offset in (0, 0, 1e4, 1e4):
        buffer.begin(32)
        buffer.add(torch.randn(32, 40) + offset, 0)
        buffer.finish()
    assert buffer.shifts == {0: "row"}


def test_running_out_of_memory_once_halves_the_pieces(monkeypatch):
    x = torch.randn(8, 3000)
    expected = products(reduced([x])[1])
    lower, calls = lower_gram, []

    def fails_once(rows, out, scratch, shift):
        calls.append(scratch.shape[1])
        if len(calls) == 1:
            raise torch.OutOfMemoryError
        return lower(rows, out, scratch, shift)

    monkeypatch.setattr(cpu_buffer, "lower_gram", fails_once)
    monkeypatch.setattr(cpu_buffer, "SCRATCH_BYTES", 8 * 4 * 2000)
    made = products(reduced([x])[1])
    assert calls == [2000, 1000]
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-36, 1e-30, 1e-25, 1e-22, 1e-12, 1e12, 1e20, 1e29])
@pytest.mark.parametrize("n", [12, 70])
def test_activations_of_any_size_in_float32_are_exact(n, scale):
    x, y = torch.randn(n, 40), torch.randn(n, 30)
    packed = reduced([x, x * scale, y * scale], batches=3)[1]
    made = products(packed)
    norm = made.diagonal().sqrt()
    expected = by_definition([x, x, y])
    lengths = expected.diagonal().sqrt()
    cosines = expected / (lengths[:, None] * lengths)
    torch.testing.assert_close(
        made / (norm[:, None] * norm), cosines, atol=2e-6, rtol=0
    )


def test_a_tiny_constant_is_constant():
    tiny = torch.full((12, 6), 1e-25)
    uneven = torch.full((12, 6), 1e-25) * torch.arange(1.0, 7)
    packed = reduced([tiny, uneven, torch.zeros(12, 6), torch.randn(12, 6)])[1]
    assert (packed.trace > 0).tolist() == [False, False, False, True]


def test_a_layer_of_tiny_activations_stays_in_float64():
    x = torch.randn(12, 6) * 1e-25
    buffer, _ = reduced([x], batches=3)
    assert buffer.shifts == {0: "wide"}


@pytest.mark.parametrize("offset", [1e5, 1e6, 1e7])
def test_an_offset_that_float64_carries_is_not_a_constant(offset):
    x, y = torch.randn(2, 32, 10, dtype=torch.float64)
    for batches in (1, 3):
        made = products(reduced([x, x + offset, y], batches=batches)[1])
        assert largest_error(made, by_definition([x, x, y])) < 1e-7


def test_an_offset_that_swallows_the_spread_leaves_a_constant():
    x = torch.rand(32, 10)
    packed = reduced([x + 1e9, (x + 1e9).double(), x.double() + 1e18])[1]
    assert packed.trace.tolist() == [0, 0, 0]
