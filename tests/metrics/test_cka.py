"""Sums over batches: what they give is the ratio, its weights and its error."""

import pytest
import torch
from support.reference import minibatch_cka, terms

from cka_notebook import hsic, metrics


def correlated(sizes, p=12, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(n):
        shared = torch.randn(n, 4, generator=generator, dtype=torch.float64)
        noise = torch.randn(2, n, p, generator=generator, dtype=torch.float64)
        mix = torch.linspace(-1, 1, 4 * p, dtype=torch.float64).reshape(4, p)
        return shared @ mix + noise[0], shared @ mix.flip(1) + noise[1]

    return [draw(n) for n in sizes]


def summed(pairs):
    sums = metrics.MinibatchCKA.empty(1, 1)
    for x, y in pairs:
        xy, xx, yy = terms(x, y)
        sums.update(xy.reshape(1, 1), xx.reshape(1), yy.reshape(1))
    return sums


def leave_one_out(pairs):
    """The batch jackknife, from the values without each batch."""
    parts = torch.stack([terms(x, y) for x, y in pairs])
    xy, xx, yy = (parts.sum(0) - parts).T
    values = xy / (xx * yy).sqrt()
    count = len(pairs)
    return ((values - values.mean()).square().sum() * (count - 1) / count).sqrt()


def test_known_metrics_include_cka():
    assert "cka" in metrics.names()


def test_one_batch_gives_the_full_batch_value():
    x, y = correlated([40])[0]
    value = summed([(x, y)]).compute().item()
    assert value == pytest.approx(hsic.cka(x, y).item(), abs=1e-12)


def test_batches_weigh_n_times_n_minus_three():
    pairs = correlated([32, 32, 5])
    h = [
        [hsic.hsic(a @ a.T, b @ b.T) for a, b in ((x, y), (x, x), (y, y))]
        for x, y in pairs
    ]
    weights = [len(x) * (len(x) - 3) for x, _ in pairs]
    xy, xx, yy = (
        sum(w * value[k] for w, value in zip(weights, h, strict=True)) for k in range(3)
    )
    expected = (xy / (xx * yy).sqrt()).item()
    assert summed(pairs).compute().item() == pytest.approx(expected, abs=1e-10)


def test_a_small_last_batch_does_not_dominate():
    pairs = correlated([256] * 7 + [5])
    without = summed(pairs[:-1]).compute().item()
    # It has 20 of 450 000 of the weight.
    assert summed(pairs).compute().item() == pytest.approx(without, abs=1e-3)


@pytest.mark.parametrize("size", [4, 8, 16, 32, 64])
def test_the_estimate_does_not_depend_on_the_batch_size(size):
    whole = correlated([1280])[0]
    exact = hsic.cka(*whole).item()
    pairs = list(zip(whole[0].split(size), whole[1].split(size), strict=True))
    error = leave_one_out(pairs).item()
    assert summed(pairs).compute().item() == pytest.approx(exact, abs=4 * error)
    assert error < 0.1


def test_standard_error_is_the_formula_over_batches():
    pairs = correlated([32] * 9)
    sums = summed(pairs)
    parts = torch.stack([terms(x, y) for x, y in pairs])
    xy, xx, yy = parts.T
    X, Y, B = xx.sum(), yy.sum(), len(pairs)
    theta, D = xy.sum() / (X * Y).sqrt(), (X * Y).sqrt()
    influence = xy / D - theta * (xx / (2 * X) + yy / (2 * Y))
    expected = (B / (B - 1) * influence.square().sum()).sqrt()
    # Both are float64; the streaming form cancels a little.
    assert sums.stderr().item() == pytest.approx(expected.item(), rel=1e-10)


def test_standard_error_is_that_of_the_jackknife():
    pairs = correlated([32] * 40)
    # Delta method and jackknife agree to first order in one over the batches.
    jackknife = leave_one_out(pairs).item()
    assert summed(pairs).stderr().item() == pytest.approx(jackknife, rel=0.03)


def test_standard_error_is_the_spread_over_data_sets():
    values, errors = [], []
    for seed in range(60):
        sums = summed(correlated([32] * 12, seed=seed))
        values.append(sums.compute().item())
        errors.append(sums.stderr().item())
    spread = torch.tensor(values).std().item()
    # The spread of 60 values is itself known to 9 %, the mean error to about 3 %.
    assert torch.tensor(errors).mean().item() == pytest.approx(spread, rel=0.3)


def test_standard_error_of_a_layer_with_itself_is_zero():
    pairs = [(x, x) for x, _ in correlated([16] * 5)]
    sums = summed(pairs)
    assert abs(sums.compute().item() - 1) <= 1e-12
    # The root of a rounding error of 1e-16.
    assert sums.stderr().item() < 1e-7


def test_standard_error_needs_two_batches():
    assert summed(correlated([16])).stderr().isnan().all()
    assert summed(correlated([16, 16])).stderr().isfinite().all()


def test_an_undefined_layer_is_nan_and_no_other():
    sums = metrics.MinibatchCKA.empty(2, 2)
    x, y = correlated([16])[0]
    xy, xx, yy = terms(x, y)
    sums.update(
        torch.stack([torch.stack([xy, xy]), torch.zeros(2)]),
        torch.stack([xx, 0 * xx]),
        torch.stack([yy, yy]),
    )
    assert sums.compute().isnan().tolist() == [[False, False], [True, True]]


def test_merged_sums_are_those_of_all_batches():
    pairs = correlated([16, 20, 24, 28])
    merged = summed(pairs[:1]).merge(summed(pairs[1:]))
    whole = summed(pairs)
    assert merged.batches == whole.batches == 4
    for name, value in whole.tensors().items():
        torch.testing.assert_close(merged.tensors()[name], value, rtol=1e-14, atol=0)


def test_minibatch_cka_is_the_ratio_of_sums_not_the_mean_of_ratios():
    pairs = correlated([8] * 200)
    xs, ys = zip(*pairs, strict=True)
    ratio = minibatch_cka(xs, ys).item()
    mean = torch.stack([hsic.cka(x, y) for x, y in pairs]).mean().item()
    assert summed(pairs).compute().item() == pytest.approx(ratio, abs=1e-12)
    assert abs(ratio - mean) > 1e-3


def test_sums_move_between_devices_with_their_count():
    sums = summed(correlated([16, 16])).to("cpu")
    assert sums.batches == 2
    assert all(value.device.type == "cpu" for value in sums.tensors().values())
