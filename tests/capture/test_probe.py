"""Row i of every layer is example i, wherever the batch axis is."""

import pytest
import torch
from support import zoo
from support.reference import assert_right, compare
from torch import nn
from torch.utils.checkpoint import checkpoint

from cka_notebook._capture.probe import probe
from cka_notebook._models.layer_tree import LayerTree

ALL = {"model1_layers": "all", "model2_layers": "all"}


def sequences(count=3, size=16, tokens=7):
    return [torch.randn(size, tokens, 6) for _ in range(count)]


def both(make, **options):
    return make(**options), make(**options)


@pytest.mark.parametrize("tokens", [2, 3, 7, 16])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_with_time_first_compares_examples(kind, tokens):
    model1, model2 = both(zoo.Recurrent, kind=kind)
    batches = sequences(tokens=tokens)
    result = compare(model1, model2, batches, **ALL)
    assert result.layers1 == ("embed", "recurrent", "head")
    assert_right(result, model1, model2, batches, axis={"recurrent": 1})


@pytest.mark.parametrize("tokens", [2, 3, 7, 16])
@pytest.mark.parametrize("make", [zoo.Attention, zoo.SequenceFirst])
def test_attention_with_tokens_first_compares_examples(make, tokens):
    model1, model2 = both(make)
    batches = sequences(tokens=tokens)
    known = dict(model1.named_modules())
    names = [
        n for n in ("embed", "attend", "blocks.0", "blocks.1", "head") if n in known
    ]
    result = compare(model1, model2, batches, model1_layers=names, model2_layers=names)
    axis = {n: 1 for n in names if n.startswith(("attend", "blocks"))}
    assert_right(result, model1, model2, batches, axis=axis)


def test_a_recurrent_layer_itself_may_be_the_model():
    model1, model2 = nn.LSTM(6, 8), nn.LSTM(6, 9)
    batches = [torch.randn(5, 16, 6) for _ in range(3)]
    result = compare(model1, model2, batches)
    assert result.examples == 48
    assert_right(result, model1, model2, batches, axis=1)


def test_windows_laid_along_the_batch_axis_are_put_back_together():
    model1, model2 = both(zoo.Windows)
    batches = zoo.batches_of(features=20)
    result = compare(model1, model2, batches, **ALL)

    class Whole(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner
            self.local = zoo.Returning(
                lambda x: inner.local(x.reshape(-1, 5)).reshape(len(x), -1)
            )
            self.head = zoo.Returning(inner)

        def forward(self, x):
            self.local(x)
            return self.head(x)

    assert result.layers1 == ("local", "head")
    assert_right(result, Whole(model1), Whole(model2), batches)


def test_windows_of_all_examples_in_turn_are_put_back_together():
    model1, model2 = both(zoo.Interleaved)
    batches = zoo.batches_of(features=20)
    result = compare(model1, model2, batches, **ALL)
    assert result.layers1 == ("local", "head")
    # Window by window or example by example, the features of an example are the same.
    other1, other2 = zoo.Windows(), zoo.Windows()
    other1.load_state_dict(model1.state_dict())
    other2.load_state_dict(model2.state_dict())
    expected = compare(other1, other2, batches, **ALL)
    torch.testing.assert_close(result.matrix, expected.matrix, rtol=0, atol=1e-5)


class Picky(nn.Module):
    """Refuses batches of fewer than five, as some models do."""

    def __init__(self):
        super().__init__()
        self.inner = zoo.Recurrent()

    def forward(self, x):
        if len(x) < 5:
            raise RuntimeError
        return self.inner(x)


def test_a_model_that_refuses_small_batches_is_probed_with_a_whole_one():
    model = Picky()
    batches = sequences()
    names = ["inner.embed", "inner.recurrent", "inner.head"]
    result = compare(model, batches=batches, model1_layers=names)
    assert_right(result, model, model, batches, axis={"inner.recurrent": 1})


def outputs_of(model, batch):
    """What the probe learns of the first call of each module, by name."""

    def run(rows):
        cut = batch if rows is None else batch[rows]
        with torch.no_grad():
            model(cut)
        return len(cut)

    tree = LayerTree(model)
    probe(tree, run, len(batch))
    return {node.name: node.outputs for node in tree.nodes}


def test_the_probe_finds_order_axis_shape_and_size():
    found = outputs_of(nn.Sequential(nn.Linear(6, 4), nn.Tanh()), torch.randn(9, 6))
    (linear,), (tanh,) = found["0"], found["1"]
    assert (linear.order, tanh.order) == (0, 1)
    assert linear.axis == 0
    assert linear.shape == (None, 4)
    assert linear.nbytes == 4 * 4
    assert linear.kind == "float32 on cpu"


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: x.sum(), "scalar output"),
        (
            lambda _: torch.ones(4, 4),
            "shape of the output does not depend on the batch",
        ),
        (lambda x: x if len(x) == 9 else x[0], "number of output dimensions varies"),
        (
            lambda x: x[:, :1].repeat(len(x) + 1, 1),
            "no batch axis in output of shape (90, 1)",
        ),
    ],
)
def test_the_probe_says_why_an_output_has_no_batch_axis(function, reason):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.odd, self.plain = zoo.Returning(function), nn.Linear(6, 2)

        def forward(self, x):
            self.odd(x)
            return self.plain(x)

    (output,) = outputs_of(Model(), torch.randn(9, 6))["odd"]
    assert output.reason == reason
    assert output.nbytes == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_rows_of_one_example_may_differ_by_rounding_between_the_probes(dtype):
    def windows(x):
        rounding = torch.finfo(dtype).eps * len(x)
        return (x * (1 + rounding)).to(dtype).reshape(-1, 3)

    model = nn.Sequential(zoo.Returning(windows))
    (output,) = outputs_of(model, torch.randn(9, 6))["0"]
    assert (output.groups, output.reason) == (2, None)


class Calling(nn.Module):
    """Calls its layer ``b`` on what ``a`` has made, in the way that a function says."""

    def __init__(self, call):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.call = call

    def forward(self, x):
        return self.head(self.call(self.b, torch.tanh(self.a(x))))


def sorted_and_back(b, x):
    order = x[:, 0].argsort()
    return b(x[order])[order.argsort()]


def routed(b, x):
    first = x[:, 0] > x[:, 0].median()
    made = torch.empty_like(x)
    made[first], made[~first] = b(x[first]), b(x[~first])
    return made


def expert_choice(b, x):
    """As many tokens of all examples as there are examples."""
    chosen = x[..., 0].flatten().topk(len(x)).indices
    made = x.flatten(0, 1)
    return made.index_add(0, chosen, b(made[chosen])).reshape(x.shape).mean(1)


def padded(b, x):
    kept = x[x[:, 0] > 0]
    b(torch.cat([kept, torch.zeros_like(x[len(kept) :])]))
    return x


def branches(b, x):
    """A pass of a teacher, and one of a student that sees another view."""
    b(x.roll(1, 1))
    return b(x)


def queue_in_front(b, x):
    return b(torch.cat([torch.ones(4, 8), x]))[4:]


WAYS = {
    "checkpointed": (lambda b, x: checkpoint(b, x, use_reentrant=False), ["b"]),
    "reentrant": (lambda b, x: checkpoint(b, x, use_reentrant=True), ["b"]),
    "teacher_and_student": (branches, ["b#0", "b#1"]),
    "chunks_of_4": (lambda b, x: torch.cat([b(y) for y in x.split(4)]), []),
    "scattered": (lambda b, x: torch.cat([b(y) for y in x.chunk(2)]), []),
    "one_by_one": (lambda b, x: torch.cat([b(y) for y in x.split(1)]), []),
    "one_by_one_bare": (lambda b, x: torch.stack([b(y) for y in x]), []),
    "routed": (routed, []),
    "sorted_and_back": (sorted_and_back, []),
    "two_orders": (lambda b, x: b(torch.cat([x, x.flip(0)]))[: len(x)], []),
    "queue_in_front": (queue_in_front, []),
    "dropped_and_padded": (padded, []),
    "cut_repeats": (lambda b, x: b(x.repeat_interleave(2, 0)[: len(x)]), []),
    "first_nine_times": (lambda b, x: torch.stack([b(x[0]) for _ in range(9)])[0], []),
}


@pytest.mark.parametrize("size", [6, 9, 16])
@pytest.mark.parametrize("way", WAYS)
def test_a_layer_is_compared_if_its_rows_are_the_examples_however_it_is_called(
    way, size
):
    call, layers = WAYS[way]
    model = Calling(call)
    batches = [torch.randn(size, 6) for _ in range(2)]
    result = compare(model, batches=batches, **ALL)
    assert [x for x in result.layers1 if x.startswith("b")] == layers
    assert result.undefined1 == {}
    assert result.provenance["doubts"]["model1"] == {}
    if layers:
        assert_right(result, model, model, batches)


@pytest.mark.parametrize("size", [6, 9, 16])
def test_tokens_that_an_expert_chooses_are_not_the_examples(size):
    model = Calling(expert_choice)
    result = compare(model, batches=sequences(size=size, tokens=5), **ALL)
    assert result.layers1 == ("a", "head")


@pytest.mark.parametrize("size", [6, 9, 16])
def test_bags_of_as_many_instances_as_there_are_examples_are_not_the_examples(size):
    model = Calling(lambda b, x: torch.stack([b(bag).mean(0) for bag in x]))
    result = compare(model, batches=sequences(size=size, tokens=size), **ALL)
    assert result.layers1 == ("a", "head")


def test_a_chunk_that_holds_a_whole_probe_is_undefined_in_larger_batches():
    model = Calling(lambda b, x: torch.cat([b(y) for y in x.split(16)]))
    batches = [torch.randn(32, 6) for _ in range(2)]
    result = compare(model, batches=batches, **ALL)
    assert result.undefined1 == {
        "b": "output of shape (16, 8) for 32 examples in batch 1"
    }


@pytest.mark.parametrize("least", [5, 6, 9, 16])
@pytest.mark.parametrize("whole", [False, True])
def test_rows_are_followed_in_models_that_refuse_small_batches(least, whole):
    def call(b, x):
        if len(x) < least or (whole and len(x) != 16):
            raise RuntimeError
        b(x.flip(0))
        return x

    result = compare(Calling(call), batches=[torch.randn(16, 6)] * 2, **ALL)
    assert result.layers1 == ("a", "head")
