"""Layers whose activations are tiny, huge or far from zero, through the engine."""

import pytest
import torch
from support.reference import compare, minibatch_matrix
from torch import nn

SCALES = (1e-30, 1e-25, 1e-18, 1e15, 1e25)


class Scale(nn.Module):
    def __init__(self, factor, offset=0.0):
        super().__init__()
        self.factor, self.offset = factor, offset

    def forward(self, x):
        return x * self.factor + self.offset


class Branches(nn.Module):
    """A linear layer, the same at several scales, and one that is constant."""

    def __init__(self, *branches):
        super().__init__()
        self.linear = nn.Linear(10, 16)
        self.branches = nn.ModuleList(branches)
        self.constant = Scale(0.0)

    def forward(self, x):
        x = self.linear(x)
        for branch in self.branches:
            branch(x)
        return self.constant(x)


def expected(models, batches):
    """CKA of the linear layers in float64, which no scale or offset changes."""
    with torch.no_grad():
        acts = [{"linear": [m.linear(x).double() for x in batches]} for m in models]
    return float(minibatch_matrix(*acts)[0, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cka_does_not_depend_on_the_scale_of_activations(dtype):
    models = [Branches(*map(Scale, SCALES)).to(dtype) for _ in range(2)]
    batches = [torch.randn(32, 10, dtype=dtype) for _ in range(3)]
    result = compare(*models, batches, model1_layers="all", model2_layers="all")
    value = expected(models, batches)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert (result.matrix[:-1, :-1] - value).abs().max() < tolerance
    assert list(result.undefined1) == ["constant"]
    assert result.stderr[:-1, :-1].isfinite().all()


@pytest.mark.parametrize("offset", [1e5, 1e8])
def test_float64_layers_keep_their_offset(offset):
    models = [Branches(Scale(0.3, offset)).double() for _ in range(2)]
    batches = [torch.randn(64, 10, dtype=torch.float64) for _ in range(3)]
    result = compare(*models, batches, model1_layers="all", model2_layers="all")
    value = expected(models, batches)
    assert (result.matrix[:-1, :-1] - value).abs().max() < 1e-5
    assert list(result.undefined1) == ["constant"]


def test_an_offset_that_float32_does_not_carry_leaves_a_constant():
    model = Branches(Scale(1.0, 1e9))
    batches = [torch.randn(32, 10) for _ in range(2)]
    result = compare(model, batches=batches, model1_layers="all")
    assert list(result.undefined1) == ["branches.0", "constant"]


def test_a_run_of_tiny_layers_resumes_to_the_same_bits(tmp_path):
    models = [Branches(*map(Scale, SCALES)) for _ in range(2)]
    batches = [torch.randn(32, 10) for _ in range(6)]
    options = {"model1_layers": "all", "model2_layers": "all"}
    whole = compare(*models, batches, **options)
    path = tmp_path / "run"
    compare(*models, batches, max_batches=3, checkpoint=path, **options)
    resumed = compare(*models, batches, checkpoint=path, **options)
    assert resumed.batches == 6
    assert torch.equal(resumed.matrix.nan_to_num(), whole.matrix.nan_to_num())


@pytest.mark.parametrize("scale", [1e150, 1e-150])
def test_numbers_that_leave_float64_are_undefined_not_zero(scale):
    models = [Branches(Scale(scale)).double() for _ in range(2)]
    batches = [torch.randn(32, 10, dtype=torch.float64) for _ in range(3)]
    layers = {"model1_layers": ["branches.0"], "model2_layers": ["linear"]}
    result = compare(*models, batches, **layers)
    assert result.matrix.isnan().all()
    assert result.stderr.isnan().all()
    assert list(result.undefined1) == ["branches.0"]


@pytest.mark.parametrize("scale", [1e-77, 1e-81])
def test_numbers_that_have_lost_digits_are_undefined_with_their_size(scale):
    models = [Branches(Scale(scale)).double() for _ in range(2)]
    batches = [torch.randn(32, 10, dtype=torch.float64) for _ in range(3)]
    layers = {"model1_layers": ["branches.0", "linear"], "model2_layers": ["linear"]}
    result = compare(*models, batches, **layers)
    assert result.matrix[0].isnan().all()
    assert not result.matrix[1].isnan().any()
    assert list(result.undefined1) == ["branches.0"]
    assert "1e-" in result.undefined1["branches.0"]


def test_pairs_whose_product_leaves_float64_are_defined():
    models = [Branches(Scale(1e-60), Scale(1e60)).double() for _ in range(2)]
    batches = [torch.randn(32, 10, dtype=torch.float64) for _ in range(3)]
    layers = {"model1_layers": ["branches.*"], "model2_layers": ["branches.*"]}
    result = compare(*models, batches, **layers)
    assert (result.matrix - expected(models, batches)).abs().max() < 1e-9
