"""Sums over batches: the ratio, its weights, its error and its level of chance."""

from itertools import permutations, product

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
        sums.update(xy.reshape(1, 1), xx.reshape(1), yy.reshape(1), examples=len(x))
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


def values_of_all_pairings(pairs):
    """CKA of each way to pair the examples of x with those of y, in each batch."""
    parts = []
    for x, y in pairs:
        orders = permutations(range(len(x)))
        parts.append(torch.stack([terms(x, y[list(order)]) for order in orders]))
    sums = torch.stack([torch.stack(each).sum(0) for each in product(*parts)])
    xy, xx, yy = sums.T
    return xy / (xx * yy).sqrt()


@pytest.mark.parametrize("sizes", [[4], [5], [6], [4, 5], [5, 5]])
@pytest.mark.parametrize("p", [1, 12])
def test_the_deviation_by_chance_is_that_of_all_pairings(sizes, p):
    pairs = [(x[:, :p], y) for x, y in correlated(sizes)]
    values = values_of_all_pairings(pairs)
    sd = values.square().mean().sqrt().item()
    assert abs(values.mean().item()) < 1e-12
    assert summed(pairs).null_sd().item() == pytest.approx(sd, rel=1e-9)


@pytest.mark.parametrize("n", [4, 16, 100])
def test_the_deviation_by_chance_of_one_batch_needs_no_data(n):
    expected = (2 / (n * (n - 3))) ** 0.5
    assert summed(correlated([n])).null_sd().item() == pytest.approx(expected)


def test_the_deviation_by_chance_is_not_known_without_the_number_of_examples():
    sums = summed(correlated([16, 16]))
    known, value = sums.null_sd(), sums.compute()
    assert known.isfinite().all()
    x, y = correlated([16])[0]
    xy, xx, yy = terms(x, y)
    sums.update(xy.reshape(1, 1), xx.reshape(1), yy.reshape(1))
    assert sums.null_sd().isnan().all()
    assert summed(correlated([16])).merge(sums).null_sd().isnan().all()
    assert sums.compute().isfinite().all()
    assert not torch.equal(sums.compute(), value)


@pytest.mark.parametrize("factor", [1e-200, 1e-120, 1e120, 1e200])
def test_products_that_leave_float64_give_no_deviation_rather_than_a_wrong_one(factor):
    sums = summed(correlated([16, 16]))
    scaled = metrics.MinibatchCKA.empty(1, 1)
    for x, y in correlated([16, 16]):
        xy, xx, yy = (h * factor for h in terms(x, y))
        scaled.update(xy.reshape(1, 1), xx.reshape(1), yy.reshape(1), examples=16)
    torch.testing.assert_close(scaled.compute(), sums.compute())
    if 1e-150 < factor < 1e150:
        torch.testing.assert_close(scaled.null_sd(), sums.null_sd())
    else:
        assert scaled.null_sd().isnan().all()


def test_an_undefined_layer_has_no_deviation_by_chance():
    sums = metrics.MinibatchCKA.empty(2, 1)
    xy, xx, yy = terms(*correlated([16])[0])
    rows = torch.stack([xx, 0 * xx])
    sums.update(torch.stack([xy, 0 * xy])[:, None], rows, yy.reshape(1), examples=16)
    assert sums.null_sd().isnan().tolist() == [[False], [True]]


def test_sums_of_before_have_no_level_of_chance():
    sums = summed(correlated([16, 16]))
    tensors = sums.tensors()
    assert torch.equal(metrics.MinibatchCKA.from_tensors(tensors, 2).null, sums.null)
    del tensors["null"]
    old = metrics.MinibatchCKA.from_tensors(tensors, 2)
    assert old.null_sd().isnan().all()
    assert torch.equal(old.compute(), sums.compute())
    assert old.merge(sums).null_sd().isnan().all()
