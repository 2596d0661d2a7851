"""Rows that are not the examples are never compared as if they were."""

import pytest
import torch
from support import zoo
from support.reference import assert_right, compare
from support.trees import probed
from torch import nn

from cka_notebook._capture.rows import Reading, equal, follow, orders, prints

ALL = {"model1_layers": "all", "model2_layers": "all"}


def reasons(model, batch):
    """Why layers cannot be compared, by name."""
    tree = probed(model, batch)
    outputs = {node.name: node.outputs for node in tree.nodes if node.name}
    return {k: v[0].reason for k, v in outputs.items() if v and v[0].reason}


def by_length(x):
    return x[x[:, 0].argsort()]


def drawn(x):
    return x[torch.randperm(len(x))]


ARRANGEMENTS = {
    "sorted": by_length,
    "reversed": lambda x: x.flip(0),
    "rolled": lambda x: x.roll(1, 0),
    "repeated": lambda x: x[torch.arange(len(x)) // 2],
    "first for all": lambda x: x[torch.arange(len(x)) // 4],
    "drawn": drawn,
    "running": lambda x: x.cumsum(0),
    "halves": lambda x: torch.cat([x[len(x) // 2 :], x[: len(x) // 2]]),
    "best tokens": lambda x: x.reshape(-1, 4)[
        x.reshape(-1, 4)[:, 0].topk(len(x)).indices
    ].repeat(1, 2),
}


@pytest.mark.parametrize("how", ARRANGEMENTS)
@pytest.mark.parametrize("size", [6, 8, 9, 32])
def test_rows_in_another_order_are_refused_with_the_reason(how, size):
    torch.manual_seed(1)
    found = reasons(zoo.Around(ARRANGEMENTS[how]), torch.randn(size, 6))
    assert set(found) == {"inside"}
    assert found["inside"].startswith("rows are not the examples")
    assert found["inside"].code == "no_batch_axis"


def test_a_refused_layer_leaves_the_numbers_of_the_others():
    model1, model2 = zoo.Around(by_length), zoo.Around(drawn)
    batches = zoo.batches_of(features=6)
    result = compare(model1, model2, batches, **ALL)
    assert result.layers1 == result.layers2 == ("before", "head")
    assert_right(result, model1, model2, batches)


def test_a_refused_layer_is_named_with_its_reason_when_it_is_chosen():
    with pytest.raises(ValueError, match=r"'inside'.*rows are not the examples"):
        compare(
            zoo.Around(by_length),
            batches=zoo.batches_of(features=6),
            model1_layers=["inside"],
        )


class OverBatch(nn.Module):
    """Attention over the batch, similarities of all pairs, statistics of the batch."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.attend = nn.MultiheadAttention(6, 2)
        self.pairs = zoo.Returning(lambda x: x @ x.T)
        self.norm = zoo.Returning(lambda x: (x - x.mean(0)) / x.std(0))
        self.triples = zoo.Returning(lambda x: (x[:, None] - x[None]).abs())

    def forward(self, x):
        x, _ = self.attend(x[:, None], x[:, None], x[:, None])
        x = self.norm(x[:, 0])
        self.triples(x)
        return self.pairs(x)


@pytest.mark.parametrize("size", [5, 8, 20])
def test_layers_that_mix_examples_on_purpose_are_compared(size):
    torch.manual_seed(1)
    assert reasons(OverBatch(), torch.randn(size, 6)) == {}


class Capped(nn.Module):
    """An expert that takes the first few tokens, and leaves out the rest."""

    def __init__(self):
        super().__init__()
        self.expert = nn.Linear(6, 6)

    def forward(self, x):
        tokens = x.reshape(-1, 6)
        taken = torch.arange(len(tokens)) < len(tokens) * 0.9
        mixed = torch.where(taken[:, None], tokens + self.expert(tokens), tokens)
        return mixed.reshape(x.shape)


def test_an_example_that_lost_a_token_to_its_place_is_still_an_example():
    torch.manual_seed(1)
    model = nn.Sequential(Capped(), nn.Linear(6, 3))
    assert reasons(model, torch.randn(16, 12, 6)) == {}


def test_random_layers_are_compared():
    class Noisy(nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x)

    class Cutting(nn.Module):
        def forward(self, x):
            return nn.functional.dropout(x, 0.5, training=True)

    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), Noisy(), Cutting(), nn.Linear(8, 2))
    assert reasons(model, torch.randn(16, 6)) == {}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e4])
def test_orders_are_seen_in_every_type_and_scale(dtype, scale):
    class Scaled(nn.Module):
        def forward(self, x):
            return (scale * x)[x[:, 0].argsort()]

    torch.manual_seed(1)
    batch = torch.randn(16, 6).to(dtype)
    model = nn.Sequential(nn.Linear(6, 8).to(dtype), Scaled())
    assert set(reasons(model, batch)) == {"1"}


def test_orders_are_seen_behind_a_large_offset():
    model = zoo.Around(lambda x: 1000 + x.flip(0))
    torch.manual_seed(1)
    assert set(reasons(model, torch.randn(16, 6))) == {"inside"}


class OneByOne(nn.Module):
    """Calls a layer for each example, whose sizes may coincide."""

    def __init__(self, width):
        super().__init__()
        self.inside, self.head = nn.Linear(6, width), nn.Linear(width, 3)

    def forward(self, bags):
        return self.head(torch.stack([self.inside(bag).mean(0) for bag in bags]))


@pytest.mark.parametrize(("size", "instances", "width"), [(16, 7, 16), (8, 8, 5)])
def test_a_loop_over_examples_is_refused_whatever_the_sizes(size, instances, width):
    torch.manual_seed(1)
    found = reasons(OneByOne(width), torch.randn(size, instances, 6))
    assert set(found) == {"inside"}
    assert "the number of its calls depends on the batch" in found["inside"]


class Trimmed(nn.Module):
    """A cell for each token, up to the longest example of the batch."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRUCell(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        state = x.new_zeros(len(x), 8)
        for step in range(int((x[..., 0] > -1e3).sum(1).max())):
            state = self.cell(x[:, step], state)
        return self.head(state)


def test_a_loop_over_tokens_is_compared_where_its_length_depends_on_the_batch():
    torch.manual_seed(1)
    batch = torch.randn(9, 9, 6)
    for i in range(9):  # example 0 is the longest, and not among the few
        batch[i, 9 - i :, 0] = -1e4
    tree = probed(Trimmed(), batch)
    assert [x for x in tree.names if x.startswith("cell")] == [
        f"cell#{i}" for i in range(9)
    ]


class Whole(nn.Module):
    """Runs on whole batches of a fixed size only."""

    def __init__(self, arrange=lambda x: x, size=16):
        super().__init__()
        self.inside, self.size = zoo.Around(arrange), size
        self.weights = nn.Linear(6, 16)

    def forward(self, x):
        assert len(x) == self.size
        self.weights(x.reshape(self.size, 6).T.reshape(16, 6))
        return self.inside(x)


def test_a_model_that_runs_on_one_size_only_is_tried_with_another_order():
    torch.manual_seed(1)
    found = reasons(Whole(), torch.randn(16, 6))
    assert set(found) == {"weights"}
    found = reasons(Whole(by_length), torch.randn(16, 6))
    assert set(found) == {"weights", "inside.inside"}


@pytest.mark.parametrize("few", [5, 9, 15])
def test_a_model_that_refuses_small_batches_is_tried_without_one_example(few):
    class Least(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = zoo.Around(by_length)
            self.square = zoo.Returning(lambda x: torch.eye(16) @ x.new_ones(16, 2))

        def forward(self, x):
            if len(x) < few:
                raise ValueError
            self.square(x)
            return self.inside(x)

    torch.manual_seed(1)
    found = reasons(Least(), torch.randn(16, 6))
    assert set(found) == {"inside.inside", "square"}


class Opaque:
    """A batch that cannot be cut."""

    def __init__(self, x):
        self.hidden = [x]

    def __len__(self):
        return len(self.hidden[0])


def test_a_batch_that_cannot_be_cut_is_compared_with_a_note():
    model = zoo.Around(lambda x: x)
    batches = zoo.batches_of(features=6)
    result = compare(
        model,
        batches=[Opaque(x) for x in batches],
        forward=lambda model, batch: model(batch.hidden[0]),
        **ALL,
    )
    assert any("could not be tried on a part of the batch" in x for x in result.notes)
    expected = compare(model, batches=batches, **ALL)
    assert torch.equal(result.matrix, expected.matrix)


def test_parametrizations_are_no_layers():
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(16, 16)),
        nn.utils.parametrizations.orthogonal(nn.Linear(16, 16)),
    )
    result = compare(model, batches=zoo.batches_of(features=16), **ALL)
    assert result.layers1 == ("0", "1")


@pytest.mark.parametrize("make", [nn.GRU, nn.LSTM])
@pytest.mark.parametrize("enforced", [True, False])
def test_packed_sequences_are_compared_in_the_order_of_the_batch(make, enforced):
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = make(6, 8, batch_first=True), nn.Linear(8, 3)

        def forward(self, x):
            lengths = 1 + (x[:, :, 0] > 0).sum(1)
            if enforced:
                lengths, order = lengths.sort(descending=True)
                x = x[order]
            packed = nn.utils.rnn.pack_padded_sequence(
                x, lengths, batch_first=True, enforce_sorted=enforced
            )
            out, _ = nn.utils.rnn.pad_packed_sequence(
                self.rnn(packed)[0], batch_first=True
            )
            return self.head(out[order.argsort()].sum(1) if enforced else out.sum(1))

    class Unpacked(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.rnn = zoo.Returning(lambda x: self.padded(inner, x))
            self.head = zoo.Returning(inner)

        def padded(self, inner, x):
            seen = []
            handle = inner.rnn.register_forward_hook(lambda *a: seen.append(a[2][0]))
            inner(x)
            handle.remove()
            return nn.utils.rnn.pad_packed_sequence(seen[0], batch_first=True)[0]

        def forward(self, x):
            self.rnn(x)
            return self.head(x)

    torch.manual_seed(1)
    model1, model2 = Packed(), Packed()
    batches = [torch.randn(16, 7, 6) for _ in range(3)]
    result = compare(model1, model2, batches, **ALL)
    assert result.layers1 == (("head",) if enforced else ("rnn", "head"))
    assert_right(result, Unpacked(model1), Unpacked(model2), batches)


def test_two_views_of_all_examples_are_features_of_each():
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(6, 8), nn.Tanh())

        def forward(self, x):
            first, second = self.body(torch.cat([x, x.roll(1, 1)])).chunk(2)
            return first * second

    class Beside(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = [inner]
            names = {"0": inner.body[0], "1": inner.body}
            self.body = nn.ModuleDict(
                {k: zoo.Returning(self.both(part)) for k, part in names.items()}
            )

        def both(self, part):
            return lambda x: torch.cat([part(x), part(x.roll(1, 1))], 1)

        def forward(self, x):
            return [part(x) for part in self.body.values()]

    torch.manual_seed(1)
    model1, model2 = Views(), Views()
    batches = zoo.batches_of(features=6)
    names = {"model1_layers": "leaves", "model2_layers": "leaves"}
    result = compare(model1, model2, batches, **names)
    assert result.layers1 == ("body.0", "body.1")
    assert_right(result, Beside(model1), Beside(model2), batches)


def test_the_orders_are_permutations_that_move_examples():
    for count in range(2, 40):
        part, every = orders(count, max(1, count - 1))
        assert sorted(every) == list(range(count)) != every
        assert len(set(part)) == len(part) == max(1, count - 1)


def patterns(n):
    """For each place, the row that a layer may put there in a batch of n."""
    every = list(range(n))
    rolled = [every[-k:] + every[:-k] for k in range(1, 4)]
    swapped = [[1, 0, *every[2:]], [*every[:-2], n - 1, n - 2]]
    moved = [[*every[1:], n - 1], [0, *every[:-1]], [i // 2 * 2 for i in every]]
    halves = [every[::-1], every[: n // 2] + every[n // 2 :][::-1]]
    return [*rolled, *swapped, *moved, *halves]


@pytest.mark.parametrize(
    ("count", "few"), [(9, 5), *((n, n - 1) for n in range(4, 40))]
)
def test_no_pattern_looks_as_if_rows_followed_the_orders(count, few):
    part, every = orders(count, few)
    small, large = patterns(few), patterns(count)
    for pattern in large:
        assert [pattern[i] for i in every] != [every[i] for i in pattern]
    for less, pattern in zip(small, large, strict=True):
        if less != list(range(few)):
            assert [pattern[i] for i in part] != [part[i] for i in less]


def turned(order, times):
    """What an order makes of all places when it is repeated."""
    places = list(range(len(order)))
    for _ in range(times):
        places = [order[i] for i in places]
    return places


@pytest.mark.parametrize("count", range(4, 9))
def test_rows_are_refused_that_follow_one_order_by_chance(count):
    order = orders(count, 0)[1]
    for times in range(1, count - 1):
        places = turned(order, times)

        def arrange(x, places=places):
            return x[places] if len(x) == count else x.flip(0)

        batch = torch.randn(count, 6)
        assert list(reasons(zoo.Around(arrange), batch)) == ["inside"], places


SWAPS = {
    "last": lambda x: torch.cat([x[:-2], x[-1:], x[-2:-1]]),
    "first": lambda x: torch.cat([x[1:2], x[:1], x[2:]]),
    "last twice": lambda x: torch.cat([x[:-1], x[-2:-1]]),
}


@pytest.mark.parametrize("how", SWAPS)
def test_a_swap_is_seen_where_the_two_examples_are_alike(how):
    part, _ = orders(9, 5)
    batch = torch.randn(17, 6)
    one, two = (0, 1) if how == "first" else (-2, -1)
    batch[range(17)[::2][one]] = batch[range(17)[::2][two]]
    batch[2 * part[one]] = batch[2 * part[two]]
    assert list(reasons(zoo.Around(SWAPS[how]), batch)) == ["inside"]


def test_a_few_examples_that_are_alike_leave_no_doubt():
    batch = torch.randn(17, 6)
    batch[2] = batch[4] = batch[10] = batch[0]
    tree = probed(zoo.Around(torch.tanh), batch)
    assert not any(x.doubts for node in tree.nodes for x in node.outputs)


def test_examples_that_are_alike_at_two_places_in_each_order_leave_a_doubt():
    batch = torch.zeros(17, 6)
    batch[:8] = torch.randn(8, 6)
    tree = probed(zoo.Around(torch.tanh), batch)
    doubts = [x.doubts for node in tree.nodes if node.name for x in node.outputs]
    assert doubts == [("alike",)] * 3


def test_readings_are_axes_of_the_right_size_and_groups_along_the_first():
    assert set(prints(torch.randn(4, 8, 4), 4)) == {Reading(0), Reading(2)}
    assert set(prints(torch.randn(8, 3), 4)) == {
        Reading(0, 2),
        Reading(0, 2, groups_first=True),
    }
    assert prints(torch.randn(7, 3), 4) == {}


def test_values_that_are_the_same_for_all_follow_any_order():
    (found,) = prints(torch.ones(4, 3), 4).values()
    assert found.varied == 0
    assert follow(found, found, [2, 1, 0, 3], mixed=False)
    assert equal(found, found)


def test_infinite_and_missing_numbers_follow_too():
    x = torch.randn(4, 3)
    x[0, 1], x[2, 2] = torch.nan, torch.inf
    (found,), (moved,) = (prints(y, 4).values() for y in (x, x[[2, 0, 3, 1]]))
    assert follow(found, moved, [2, 0, 3, 1], mixed=False)
    assert not follow(found, moved, [0, 2, 3, 1], mixed=True)
