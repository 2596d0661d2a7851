"""Errors of a forward pass say what to do about them."""

import re

import pytest
import torch
from support import zoo
from support.reference import compare
from torch import nn

from cka_notebook import CKA
from cka_notebook._inputs.remedies import check_device


def error_of(model, batch, **options):
    """The text of the error, with its notes."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 of any kind
        compare(model, batches=[batch], **options)
    return "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.uint8]
)
@pytest.mark.parametrize("make", [nn.Linear, lambda n, m: nn.Conv1d(n, m, 1)])
def test_types_of_inputs_and_weights_are_both_named(dtype, make):
    model = nn.Sequential(make(10, 4))
    shape = (8, 10) if make is nn.Linear else (8, 10, 3)
    name = str(dtype).removeprefix("torch.")
    text = error_of(model, torch.ones(shape).to(dtype))
    assert f"inputs are {name} and the weights of model1 (Sequential) are" in text
    assert "forward=lambda model, batch: model(batch.to(torch.float32))" in text
    assert "autocast=" in text


def test_the_model_that_was_called_is_the_one_that_is_blamed():
    half = zoo.mlp().half()
    with pytest.raises(RuntimeError) as caught:
        compare(zoo.mlp(), half, zoo.batches_of(1))
    assert "weights of model2 (Sequential) are float16" in caught.value.__notes__[-1]


class Energy(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = zoo.mlp()

    def forward(self, x):
        x = x.requires_grad_()
        return torch.autograd.grad(self.inner(x).square().sum(), x)[0]


def test_gradients_inside_of_a_forward_pass_have_a_remedy_that_works():
    assert "torch.enable_grad()" in error_of(Energy(), torch.randn(8, 10))

    def forward(model, batch):
        with torch.enable_grad():
            return model(batch)

    assert compare(Energy(), batches=zoo.batches_of(2), forward=forward).examples == 32


class Keywords(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(10, 4)

    def forward(self, *, x):
        return self.head(x)


class TwoKeywords(Keywords):
    def forward(self, x, *, scale):
        return self.head(x * scale)


class Nested(Keywords):
    def forward(self, inputs):
        return self.head(inputs["x"] + inputs["y"])


class Two(Keywords):
    def forward(self, x, t):
        return self.head(x + t[:, None])


X = torch.randn(8, 10)


def test_one_input_that_is_given_by_name_only_is_given_so():
    for batch in (X, (X, torch.arange(8)), {"x": X}):
        assert compare(Keywords(), batches=[batch]).examples == 8


def line_in(text):
    """The forward= that an error proposes."""
    return re.search(r"forward=(lambda model, batch: model\([^()]*\))", text)[1]


@pytest.mark.parametrize(
    ("model", "batch"),
    [
        (TwoKeywords(), (X, X)),
        (Nested(), {"x": X, "y": X}),
    ],
)
def test_other_arguments_have_a_line_that_works(model, batch):
    line = line_in(error_of(model, batch))
    assert compare(model, batches=[batch], forward=eval(line)).examples == 8


def test_an_input_that_is_missing_is_a_gap_in_the_line():
    text = error_of(Two(), X)
    assert "got a tensor of shape (8, 10) in batch 1; missing: 't'" in text
    assert "forward=lambda model, batch: model(batch[0], t=...)" in text


def test_a_list_that_goes_in_as_a_whole_has_a_remedy():
    class Pair(Keywords):
        def forward(self, pair):
            return self.head(pair[0] + pair.second)

    text = error_of(Pair(), [X, X])
    assert "forward=lambda model, batch: model(batch) for the whole batch" in text


def test_labels_in_the_place_of_another_argument_are_spoken_of():
    with pytest.warns(UserWarning, match=r"model1 \(Two\) gets the second .* as 't'"):
        result = compare(Two(), batches=[(X, torch.arange(8))] * 2)
    assert any("If that contains labels" in note for note in result.notes)
    assert not compare(Two(), batches=[(X, torch.rand(8))] * 2).notes


def test_a_decoder_without_inputs_is_told_of():
    class Speech(nn.Module):
        class config:  # noqa: N801 the name that Hugging Face gives it
            is_encoder_decoder = True

        def __init__(self):
            super().__init__()
            self.head = nn.Linear(10, 4)

        def forward(self, input_features, labels=None, decoder_input_ids=None):
            if decoder_input_ids is None and labels is None:
                raise ValueError("No inputs.")
            self.given = labels, decoder_input_ids
            return self.head(input_features)

    text = error_of(Speech(), {"input_features": X})
    assert "The decoder of model1 (Speech) has no inputs: add 'labels'" in text
    model, labels = Speech(), torch.ones(8, 3, dtype=torch.long)
    compare(model, batches=[{"input_features": X, "labels": labels}])
    assert torch.equal(model.given[0], labels)
    assert model.given[1] is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_an_error_with_the_remedy():
    with pytest.raises(ValueError, match="Leave `device` out to run the models where"):
        CKA(zoo.mlp(), device="cuda")
    with pytest.raises(ValueError, match=r"got 'cuda:3', and torch .* sees no d"):
        check_device(torch.device("cuda:3"))


def test_devices_that_are_always_there_are_taken():
    check_device(torch.device("cpu"))
    check_device(torch.device("meta"))
