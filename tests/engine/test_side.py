"""One model of a comparison, and what sides share."""

from types import SimpleNamespace

import pytest
import torch
from support import zoo
from support.reference import compare
from torch import nn

from cka_notebook._engine.side import ModelSpec, make_sides
from cka_notebook._grams.buffer import GramBuffer
from cka_notebook._models.layer_tree import LayerTree

SETTINGS = SimpleNamespace(pool="auto", autocast=None)


def spec(model, name="Net", choices="all", forward=None):
    return ModelSpec(LayerTree(model), name, choices, forward)


def sides(*specs, same_inputs=True):
    return make_sides(specs, SETTINGS, same_inputs=same_inputs)


def probed(*specs):
    """Sides that know their layers, and the calls of one batch."""
    made = sides(*specs)
    models = list(dict.fromkeys(side.model for side in made))
    calls = [model.caller.prepare(zoo.batches_of(1)[0], 1) for model in models]
    for model, call in zip(models, calls, strict=True):
        model.probe(call)
    for side in made:
        side.learn()
        side.choose(None)
    return made, models, calls


def captured(model, call, layers):
    buffer = GramBuffer(len(layers))
    model.capture(layers, buffer, 0)
    with model.capturing():
        buffer.begin(call.examples)
        model.run(call)
        return {model: model.grams(buffer.finish())}


def test_one_model_with_the_same_inputs_runs_once_for_all_its_sides():
    model, other = zoo.mlp(), zoo.mlp()
    made = sides(spec(model), spec(other), spec(model))
    assert made[0].model is made[2].model
    assert made[0].model is not made[1].model
    labels = [side.model.caller.label for side in made]
    assert labels == ["model1 (Sequential)", "model2 (Sequential)", labels[0]]


@pytest.mark.parametrize(
    "options", [{"same_inputs": False}, {"forward": lambda model, x: model(x)}]
)
def test_one_model_runs_twice_on_other_inputs_or_by_another_forward(options):
    model = zoo.mlp()
    other = spec(model, forward=options.pop("forward", None))
    first, second = sides(spec(model), other, **options)
    assert first.model is not second.model


def test_a_side_that_shares_a_model_learns_what_its_probe_saw():
    model = zoo.mlp()
    made, models, _ = probed(spec(model), spec(model, choices=["2", "0"]))
    assert len(models) == 1
    assert made[1].tree is not made[0].tree
    assert made[1].tree.probed
    assert made[1].layers == ["2", "0"]


def test_sides_take_their_own_layers_from_the_gram_matrices_of_their_model():
    model = zoo.mlp()
    made, [live], [call] = probed(spec(model), spec(model, choices=["2", "0"]))
    given = captured(live, call, made[0].found())
    for side in made:
        side.restrict(side.layers)
    whole, part = (side.grams(given) for side in made)
    assert part.packed is whole.packed, "one copy"
    assert part.index == [whole.index[made[0].layers.index(x)] for x in ("2", "0")]


def test_only_wanted_layers_are_captured():
    (side,), [live], [call] = probed(spec(zoo.mlp()))
    buffer = GramBuffer(len(side.layers))
    live.capture(side.found(), buffer, 0)
    live.only(live.places(["2"]))
    with live.capturing():
        buffer.begin(call.examples)
        live.run(call)
        assert live.grams(buffer.finish()).packed.z.shape[0] == 1


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(10, 4)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("still", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.layer(x)


def test_buffers_that_the_probe_saw_changed_are_named():
    (_,), [live], _ = probed(spec(Counting()))
    assert live.changed == ["calls"]


def test_the_last_pass_of_the_probe_is_timed():
    (side,), [live], _ = probed(spec(zoo.mlp()))
    assert live.timing.examples == 5
    assert live.timing.calls == side.tree.calls
    assert live.timing.seconds > 0


def test_an_error_names_the_model_and_its_inputs():
    (_,), [live], [call] = probed(spec(zoo.mlp()))
    with pytest.raises(ValueError, match="mine") as caught, live.explaining(call):
        raise ValueError("mine")
    assert caught.value.__notes__ == [
        "Inputs of model1 (Sequential): a tensor of shape (16, 10)."
    ]
    expected = r"Out of memory in model1 .* 16 examples"
    with pytest.raises(RuntimeError, match=expected), live.explaining(call):
        raise MemoryError


def test_memory_for_the_gram_matrices_is_asked_of_no_model(monkeypatch):
    def finish(_):
        raise MemoryError

    monkeypatch.setattr(GramBuffer, "finish", finish)
    with pytest.raises(RuntimeError, match="Out of memory in the Gram matrices of b"):
        compare(zoo.mlp(), zoo.mlp(), zoo.batches_of(1))
