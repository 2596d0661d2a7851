"""Sorted batches are told from random ones; random ones are never accused."""

import pytest
import torch
from sklearn.datasets import load_digits
from support import zoo
from support.reference import compare
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cka_notebook import CKA
from cka_notebook._capture.shuffling import SIGMAS, TOO_LARGE, Scatter, note_on, watched


def scatter_of(batches):
    scatter = Scatter()
    for x in batches:
        scatter.add(x)
    return scatter


def by_definition(batches):
    whole = torch.cat(batches).double()
    mean = whole.mean(0)
    between = sum(len(x) * (x.double().mean(0) - mean).square().sum() for x in batches)
    within = sum(
        (x.double() - x.double().mean(0)).square().sum().item() for x in batches
    )
    count = len(batches)
    return (between / (count - 1) / (within / (len(whole) - count))).item()


def digits():
    images, classes = load_digits(return_X_y=True)
    return torch.tensor(images / 16, dtype=torch.float32), torch.tensor(classes)


def network():
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(16 * 64, 10),
    )


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_rho_is_scatter_between_over_scatter_within(offset):
    batches = [x + offset for x in zoo.batches_of(6, 20)]
    batches[3] = batches[3][:7] + 0.3
    # Sums of float32 features are float64; the means themselves are float32.
    assert scatter_of(batches).rho() == pytest.approx(by_definition(batches), rel=1e-3)


def test_of_late_batches_every_fourth_counts():
    batches = zoo.batches_of(30, 20)
    taken = [*batches[:16], batches[19], batches[23], batches[27]]
    assert scatter_of(batches).rho() == pytest.approx(by_definition(taken), rel=1e-3)


def test_rho_of_random_batches_is_one_on_average():
    rhos = [scatter_of(zoo.batches_of(8, 16, seed=seed)).rho() for seed in range(40)]
    assert sum(rhos) / 40 == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("count", [4, 6, 12, 50])
@pytest.mark.parametrize("size", [4, 32])
def test_random_batches_are_not_accused_even_of_one_dimension(count, size):
    accused = 0
    for seed in range(150):
        batches = zoo.batches_of(count, size, 1, seed=seed)
        scatter = scatter_of(batches)
        accused += scatter.rho() > TOO_LARGE and scatter.sigmas() > SIGMAS
    # One in ten thousand is expected at most, that is 0.12 in all eight cases.
    assert accused <= 1


def test_wide_layers_are_looked_at_in_part():
    batches = zoo.batches_of(6, 16, 100_000)
    scatter = scatter_of(batches)
    assert scatter._origin.shape == (512,)
    assert scatter.rho() == pytest.approx(1, abs=0.3)
    for x in batches[:3]:
        x[:, 10_000:] += 1
    assert scatter_of(batches).rho() > 3


def test_fewer_than_four_batches_say_nothing():
    assert scatter_of(zoo.batches_of(3)).rho() != scatter_of(zoo.batches_of(3)).rho()
    assert note_on([("Net", "fc", scatter_of(zoo.batches_of(3)))]) is None


def test_layers_without_spread_or_with_changing_width_say_nothing():
    constant = scatter_of([torch.ones(8, 3)] * 5)
    changing = scatter_of([torch.randn(8, p) for p in (3, 4, 5, 6, 7)])
    poisoned = scatter_of([torch.full((8, 3), torch.nan)] * 5)
    empty = Scatter()
    for scatter in (constant, changing, poisoned, empty):
        assert note_on([("Net", "fc", scatter)]) is None


def test_integers_and_halves_are_counted_in_float32():
    batches = [(x * 10).to(torch.float16) for x in zoo.batches_of(6)]
    assert scatter_of(batches).rho() == pytest.approx(by_definition(batches), rel=1e-3)


@pytest.mark.parametrize(
    ("count", "rows"),
    [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (4, [0, 1, 2, 3]), (31, [0, 10, 20, 30])],
)
def test_first_and_last_layer_are_among_the_watched(count, rows):
    assert watched(count) == rows


@pytest.mark.parametrize("size", [32, 128])
def test_digits_sorted_by_class_are_said_not_to_be_random(size):
    images, classes = digits()
    order = classes.argsort(stable=True)
    loader = DataLoader(TensorDataset(images[order]), batch_size=size)
    with pytest.warns(UserWarning, match="batches are not random: rho = ") as caught:
        result = compare(network(), network(), loader)
    note = next(text for text in result.notes if "not random" in text)
    assert str(caught[0].message) == note
    assert "of Sequential" in note
    assert "shuffle=True" in note
    rho = float(note.split("rho = ")[1].split(" at ")[0])
    assert rho > 10
    assert "e+" not in note


@pytest.mark.parametrize("size", [32, 128, 512])
def test_shuffled_digits_are_not(size):
    images, _ = digits()
    loader = DataLoader(TensorDataset(images), batch_size=size, shuffle=True)
    for seed in range(5):
        torch.manual_seed(seed)
        assert compare(network(), network(), loader).notes == []


def test_what_sorting_does_to_the_numbers_is_no_standard_error():
    images, classes = digits()
    order = classes.argsort(stable=True)
    model1, model2 = network(), network()
    layers = {"model1_layers": ["6"], "model2_layers": ["6"]}
    with pytest.warns(UserWarning, match="not random"):
        wrong = compare(model1, model2, images[order].split(128), **layers)
    right = compare(model1, model2, images[torch.randperm(1797)].split(128), **layers)
    assert (wrong.matrix - right.matrix).abs() > 3 * right.stderr


def test_the_second_loader_is_watched_too():
    model = zoo.mlp()
    plain = zoo.batches_of(6)
    drifting = [x + i for i, x in enumerate(zoo.batches_of(6, seed=1))]
    with pytest.warns(UserWarning, match="not random"):
        result = compare(model, batches=plain, loader2=drifting)
    assert len([note for note in result.notes if "not random" in note]) == 1


def test_a_partial_result_says_nothing_yet():
    drifting = [x + i for i, x in enumerate(zoo.batches_of(8))]
    steps = CKA(zoo.mlp())._steps(drifting)
    notes = [list(running.notes) for running in steps]
    assert notes[-2] == []


def test_what_a_stopped_run_has_seen_counts():
    def stop(batch, *_):
        if batch == 6:
            raise StopIteration

    drifting = [x + i for i, x in enumerate(zoo.batches_of(8))]
    with pytest.warns(UserWarning, match="not random"):
        compare(zoo.mlp(), batches=drifting, callback=stop)


@pytest.mark.parametrize("stop", [0, 1, 5, 40, 70])
def test_a_scatter_continues_where_it_was_saved(stop):
    batches = [torch.randn(8, 3) + i for i in range(90)]
    whole, first, second = scatter_of(batches), scatter_of(batches[:stop]), Scatter()
    saved = first.save()
    for x in batches[stop:]:
        first.add(x)  # What was saved stays as it is.
    second.load(saved)
    for x in batches[stop:]:
        second.add(x)
    assert second.rho() == first.rho() == whole.rho()
    assert (second.batches, second.examples) == (whole.batches, whole.examples)
