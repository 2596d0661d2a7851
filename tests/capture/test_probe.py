"""Row i of every layer is example i, wherever the batch axis is."""

import pytest
import torch
from support import zoo
from support.reference import assert_right, compare
from torch import nn

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
        (lambda _: torch.ones(4, 4), "output does not depend on the batch"),
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
