"""Models of several dtypes, of few bits, and quantised ones."""

import pytest
import torch
from support import zoo
from support.reference import (
    EXACT,
    FLOAT32,
    activations,
    assert_right,
    compare,
    hooks_on,
    minibatch_matrix,
)
from torch import nn

from cka_notebook._engine.fingerprint import of_model

ALL = {"model1_layers": "all", "model2_layers": "all"}


class Mixed(nn.Module):
    """Layers of three dtypes in turn, one of them constant and one that is not finite.

    Args:
        scale: Of what the second layer returns, which is float64.
    """

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale
        self.narrow = nn.Linear(10, 12)
        self.wide = nn.Linear(12, 9, dtype=torch.float64)
        self.large = zoo.Returning(lambda x: x * self.scale)
        self.constant = nn.Linear(10, 6, dtype=torch.float64)
        nn.init.zeros_(self.constant.weight)
        self.infinite = zoo.Returning(lambda x: torch.where(x > 0, torch.inf, x))
        self.brain = nn.Linear(9, 7, dtype=torch.bfloat16)
        self.head = nn.Linear(7, 4, dtype=torch.float64)
        self.last = nn.Linear(4, 4)

    def forward(self, x):
        hidden = torch.tanh(self.narrow(x)).double()
        hidden = torch.tanh(self.wide(hidden))
        self.large(hidden)
        self.constant(x.double())
        self.infinite(x)
        return self.last(self.head(self.brain(hidden.bfloat16()).double()).float())


UNDEFINED = {"constant", "infinite"}
DEFINED = ["narrow", "wide", "large", "brain", "head", "last"]


def assert_defined_right(result, model1, model2, batches):
    """Right where a layer can be compared, and NaN where not."""
    expected = minibatch_matrix(
        activations(model1, batches, DEFINED), activations(model2, batches, DEFINED)
    )
    rows, columns = (
        [names.index(n) for n in DEFINED] for names in (result.layers1, result.layers2)
    )
    made = result.matrix[rows][:, columns]
    torch.testing.assert_close(made, expected, rtol=0, atol=FLOAT32)
    assert set(result.undefined1) == set(result.undefined2) == UNDEFINED
    assert int(result.matrix.isfinite().sum()) == len(DEFINED) ** 2


@pytest.mark.parametrize("scale", [1.0, 1e30])
@pytest.mark.filterwarnings("ignore:Mixed:UserWarning")
def test_dtypes_of_one_model_may_differ_next_to_undefined_layers(scale):
    model, other = Mixed(scale), Mixed(scale)
    batches = [*zoo.batches_of(3), *zoo.batches_of(1, 9, seed=7)]
    alone = compare(model, batches=batches, model1_layers="all")
    assert_defined_right(alone, model, model, batches)
    live = [alone.layers1.index(name) for name in DEFINED]
    assert (alone.diagonal()[live] - 1).abs().max() <= EXACT
    assert_defined_right(compare(model, other, batches, **ALL), model, other, batches)
    part = {"model1_layers": ["last", "wide"], "model2_layers": ["head", "narrow"]}
    crossed = compare(model, batches=batches, **part)
    assert_right(crossed, model, model, batches)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_of_half_precision_are_compared_as_exactly_as_others(dtype):
    model, other = zoo.mlp().to(dtype), zoo.mlp().to(dtype)
    batches = [batch.to(dtype) for batch in zoo.batches_of()]
    result = compare(model, other, batches, **ALL)
    assert_right(result, model, other, batches)
    assert result.provenance["model1"]["dtypes"] == [str(dtype).removeprefix("torch.")]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_t")
def test_a_quantised_model_is_compared_with_its_original():
    model = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 5))
    small = zoo.quantised(model)
    batches = zoo.batches_of()
    result = compare(model, small, batches)
    assert result.layers1 == result.layers2 == ("0", "2")
    assert_right(result, model, small, batches)
    assert result.diagonal().min() > 0.99
    assert result.diagonal().max() < 1 - FLOAT32
    assert compare(small, batches=batches, model1_layers="leaves").layers1 == (
        "0",
        "1",
        "2",
    )
    assert hooks_on(small) == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_t")
def test_quantised_models_with_other_packed_weights_have_other_digests():
    model = zoo.mlp()
    assert of_model(zoo.quantised(model)) == of_model(zoo.quantised(model))
    assert of_model(zoo.quantised(model)) != of_model(zoo.quantised(zoo.mlp()))
