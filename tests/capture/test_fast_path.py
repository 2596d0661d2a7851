"""Outputs that are taken without inspection are those that need none."""

import threading

import pytest
import torch
from support import zoo
from support.reference import compare
from torch import nn

from cka_notebook._capture.capture import Capture
from cka_notebook._grams import cpu_buffer, products
from cka_notebook._grams.buffer import GramBuffer
from cka_notebook._models.nodes import Layer, Output

ALL = {"model1_layers": "all", "model2_layers": "all"}

N = 16


def same(x):
    return x


def layer():
    """A layer that returns what it is given."""
    return zoo.Returning(same)


def x(width=10, n=N, offset=0.0):
    return torch.randn(n, width) + offset


class Captured:
    """Layers under capture, and which of them the fast path has taken."""

    def __init__(self, *layers, features=same, first=0):
        self.layers = [
            item if isinstance(item, Layer) else Layer(str(i), item, 0, Output(i), i)
            for i, item in enumerate(layers)
        ]
        count = len(self.layers)
        self.buffer = GramBuffer(count + first)
        self.capture = Capture(self.layers, [features] * count, self.buffer, first)
        self.taken = []
        take = self.buffer.add_unshifted

        def note(rows, number, part):
            self.taken.append(number - first)
            return take(rows, number, part)

        self.buffer.add_unshifted = note

    def __enter__(self):
        self.capture.__enter__()
        return self

    def __exit__(self, *error):
        self.capture.__exit__(*error)

    def begin(self, examples=N):
        self.taken.clear()
        self.buffer.begin(examples)
        self.capture.begin(examples)

    def batch(self, *outputs, run=None, examples=N):
        """Rows that were taken in a batch, and its Gram matrices.

        The layers return ``outputs``, in order, unless ``run`` calls them.
        """
        self.begin(examples)
        for item, output in zip(self.layers, outputs, strict=False):
            item.module(output)
        if run is not None:
            run()
        self.capture.finish()
        return [*self.taken], self.capture.grams(self.buffer.finish())


def norms(grams):
    """The length of each layer's Gram matrix."""
    found = (grams.packed.norm.sqrt() * grams.packed.scale).tolist()
    return pytest.approx([found[i] for i in grams.index], rel=1e-5)


def norm(features):
    with Captured(layer()) as captured:
        _, grams = captured.batch(features, examples=len(features))
    return (grams.packed.norm.sqrt() * grams.packed.scale).item()


def test_a_layer_is_learned_in_one_batch_and_taken_from_the_next_on():
    with Captured(layer(), layer()) as captured:
        for expected in ([], [0, 1], [0, 1]):
            outputs = x(), x(20)
            taken, grams = captured.batch(*outputs)
            assert taken == expected
            assert [norm(y) for y in outputs] == norms(grams)
            assert grams.problems == {}


def test_layers_of_a_second_model_are_taken_under_their_own_numbers():
    with Captured(layer(), first=5) as captured:
        captured.batch(x())
        assert captured.buffer.shifts == {5: "none"}
        taken, grams = captured.batch(x())
    assert taken == [0]
    assert grams.index == [0]


def test_of_a_module_called_three_times_the_first_call_is_taken():
    module = layer()
    with Captured(module) as captured:
        for expected in ([], [0]):
            outputs = x(), x(), x()
            taken, grams = captured.batch(run=lambda o=outputs: [*map(module, o)])
            assert taken == expected
            assert len(grams.packed) == 1
            assert [norm(outputs[0])] == norms(grams)


@pytest.mark.parametrize("calls", [[0, 1], [1], [0, 0]])
def test_a_module_of_two_layers_or_of_a_later_call_is_not_taken(calls):
    module = layer()
    layers = [Layer(str(i), module, call, Output(0), i) for i, call in enumerate(calls)]
    with Captured(*layers) as captured:
        for _ in range(3):
            outputs = x(), x()
            taken, grams = captured.batch(run=lambda o=outputs: [*map(module, o)])
            assert taken == []
            assert [norm(outputs[call]) for call in calls] == norms(grams)


def test_a_second_call_does_not_take_the_place_of_an_unexpected_first():
    module = layer()
    with Captured(module) as captured:
        captured.batch(x())
        first, second = x(7), x()
        taken, grams = captured.batch(run=lambda: [module(first), module(second)])
    assert taken == []
    assert [norm(first)] == norms(grams)


def test_a_second_call_does_not_take_the_place_of_a_first_that_was_shifted():
    module = layer()
    with Captured(module) as captured:
        captured.batch(x())
        captured.buffer.shifts[0] = "row"
        first, second = x(), x()

        def run():
            module(first)
            captured.buffer.shifts[0] = "none"
            module(second)

        taken, grams = captured.batch(run=run)
    assert taken == []
    assert [norm(first)] == norms(grams)


def test_a_layer_handed_on_by_an_identity_shares_its_gram_and_is_not_taken():
    one, identity, other = layer(), nn.Identity(), layer()

    def run():
        identity(one(x()))
        other(x())

    with Captured(one, identity, other) as captured:
        for expected in ([], [2], [2]):
            taken, grams = captured.batch(run=run)
            assert taken == expected
            assert grams.index == [0, 0, 1]


def test_a_layer_handed_on_by_what_is_not_compared_is_taken():
    one, identity = layer(), nn.Identity()
    with Captured(one) as captured:
        captured.batch(run=lambda: identity(one(x())))
        assert captured.batch(run=lambda: identity(one(x())))[0] == [0]


@pytest.mark.parametrize(
    "other",
    [
        x(20),
        x().double(),
        x().bfloat16(),
        x().unsqueeze(2),
        x().requires_grad_(),
        x()[:, 0],
    ],
    ids=["width", "float64", "bfloat16", "axes", "graph", "scalars"],
)
def test_an_output_of_another_kind_is_inspected(other):
    with Captured(layer()) as captured:
        captured.batch(x())
        taken, grams = captured.batch(other)
        assert taken == []
        assert [norm(other.detach())] == norms(grams)
        assert grams.problems == {}


def test_a_new_shape_is_learned_in_place_of_the_old_one():
    with Captured(layer()) as captured:
        widths = [10, 20, 20, 10, 10]
        taken = [captured.batch(x(width))[0] for width in widths]
    assert taken == [[], [], [0], [], [0]]


@pytest.mark.parametrize("other", [None, (), x().int(), x().to_sparse(), x(n=3)])
def test_an_output_that_cannot_be_compared_is_a_problem_for_one_batch(other):
    with Captured(layer()) as captured:
        captured.batch(x())
        taken, grams = captured.batch(other)
        assert taken == []
        assert grams.index == [-1]
        assert [*grams.problems] == [0]
        taken, grams = captured.batch(x())
        assert taken == [0]
        assert grams.problems == {}


def test_a_layer_that_is_not_called_is_a_problem_for_one_batch():
    with Captured(layer(), layer()) as captured:
        captured.batch(x(), x())
        taken, grams = captured.batch(x())
        assert taken == [0]
        assert grams.problems == {1: "not called"}
        assert captured.batch(x(), x())[0] == [0, 1]


def test_another_number_of_examples_is_learned_again():
    with Captured(layer()) as captured:
        sizes = [N, N, 9, 9, N, N]
        taken = [captured.batch(x(n=n), examples=n)[0] for n in sizes]
    assert taken == [[], [0], [], [0], [], [0]]


def test_features_that_need_a_shift_are_not_taken():
    with Captured(layer(), layer()) as captured:
        for expected in ([], [0], [0]):
            assert captured.batch(x(), x(offset=1000))[0] == expected
        assert captured.buffer.shifts == {0: "none", 1: "row"}
        captured.batch(x(offset=1000), x(offset=1000))
        assert captured.buffer.shifts[0] == "row"
        assert captured.batch(x(), x())[0] == []


def test_nothing_is_learned_under_autocast_and_what_is_taken_is_not_rounded():
    y = x(64)
    with Captured(layer()) as captured:
        with torch.autocast("cpu", torch.bfloat16):
            captured.batch(x(64))
        assert captured.batch(x(64))[0] == []
        with torch.autocast("cpu", torch.bfloat16):
            taken, grams = captured.batch(y)
    assert taken == [0]
    assert [norm(y)] == norms(grams)


def test_nothing_is_taken_or_learned_if_float32_products_are_reduced():
    with Captured(layer()) as captured:
        captured.batch(x())
        torch.set_float32_matmul_precision("medium")
        try:
            assert [captured.batch(x())[0] for _ in range(2)] == [[], []]
        finally:
            torch.set_float32_matmul_precision("highest")
        assert [captured.batch(x())[0] for _ in range(2)] == [[], [0]]


def test_rows_that_are_left_out_are_not_taken():
    with Captured(layer(), layer()) as captured:
        captured.batch(x(), x())
        captured.capture.only([1])
        for expected in ([], [1]):
            taken, grams = captured.batch(x(), x())
            assert taken == expected
            assert grams.index == [-1, 0]
            assert grams.problems == {}
        captured.capture.only([0, 1])
        assert [captured.batch(x(), x())[0] for _ in range(2)] == [[], [0, 1]]


def test_a_call_in_another_thread_is_neither_taken_nor_counted():
    module = layer()
    with Captured(module) as captured:
        captured.batch(x())
        y = x()

        def run():
            other = threading.Thread(target=module, args=[x()])
            other.start()
            other.join()
            module(y)

        taken, grams = captured.batch(run=run)
    assert taken == [0]
    assert [norm(y)] == norms(grams)


def test_a_call_between_two_batches_is_not_taken():
    module = layer()
    with Captured(module) as captured:
        captured.batch(x())
        module(x())
        assert captured.taken == []
        assert captured.batch(x())[0] == [0]


def test_a_batch_that_fails_teaches_nothing():
    module = layer()
    with Captured(module) as captured:
        captured.begin()
        module(x())  # and then the model raises
        assert [captured.batch(x())[0] for _ in range(2)] == [[], [0]]


def test_features_that_a_pool_makes_are_not_taken():
    with Captured(layer(), features=torch.clone) as captured:
        assert [captured.batch(x())[0] for _ in range(3)] == [[], [], []]


@pytest.mark.parametrize("output", [x().half(), x().unsqueeze(2)])
def test_outputs_that_are_no_matrix_in_our_dtype_are_not_taken(output):
    with Captured(layer()) as captured:
        assert [captured.batch(output)[0] for _ in range(3)] == [[], [], []]


def test_a_watched_layer_is_watched_in_every_batch():
    with Captured(layer()) as captured:
        for _ in range(5):
            captured.batch(x())
        (_, scatter), *_ = captured.capture.scatters
    assert scatter.batches == 5


def test_all_is_forgotten_with_the_hooks():
    captured = Captured(layer())
    for _ in range(2):
        with captured:
            assert [captured.batch(x())[0] for _ in range(2)] == [[], [0]]


@pytest.mark.parametrize(("size", "width"), [(32, 64), (64, 32), (64, 80)])
def test_autocast_that_begins_in_a_later_batch_rounds_no_gram(monkeypatch, size, width):
    monkeypatch.setattr(
        cpu_buffer, "GROUP_BYTES", 1
    )  # so that each is U-centered at once

    def forward(model, batch):
        nonlocal batches
        batches += len(batch) == size
        layers = list(model)
        hidden = layers[0](batch)
        with torch.autocast("cpu", torch.bfloat16, enabled=batches > 5):
            for layer in layers[1:]:
                hidden = layer(hidden)

    def run():
        torch.manual_seed(0)
        # Their outputs are float32 in autocast, too.
        layers = [nn.Linear(10, width), *[nn.Hardtanh() for _ in range(9)]]
        model = nn.Sequential(*layers)
        return compare(
            model, batches=zoo.batches_of(6, size), forward=forward, **ALL
        ).matrix

    batches = -1000
    expected, batches = run(), 0
    torch.testing.assert_close(run(), expected, rtol=0, atol=1e-6)


def test_a_pool_of_the_user_is_asked_about_each_batch():
    seen = []

    def pool(x):
        seen.append(len(x))
        return x

    compare(zoo.mlp(), batches=zoo.batches_of(6), pool=pool, **ALL)
    assert seen.count(16) == 6 * 5


def test_identical_outputs_share_one_gram_in_every_batch(monkeypatch):
    made = []
    lower = cpu_buffer.lower_product

    def counted(part, blocks, *, first):
        made.append(len(part))
        lower(part, blocks, first=first)

    monkeypatch.setattr(cpu_buffer, "lower_product", counted)
    monkeypatch.setattr(products, "lower_product", counted)
    layers = [nn.Linear(10, 10), nn.Dropout(), nn.Tanh(), nn.Identity()] * 3
    counts = []
    compare(
        nn.Sequential(*layers),
        batches=zoo.batches_of(5),
        callback=lambda *_: counts.append(len(made)),
        **ALL,
    )
    assert counts == [6, 12, 18, 24, 30]
