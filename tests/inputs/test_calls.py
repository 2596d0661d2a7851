"""Calls of a model: devices, masks, and a user's own forward."""

from collections import UserDict

import pytest
import torch
from support import containers, zoo
from support.callers import Text, called, caller_of
from torch import nn

from cka_notebook._inputs.calls import Caller, model_device
from cka_notebook._inputs.nested import as_mapping

X, Y = torch.randn(8, 10), torch.arange(8)
LEFT, RIGHT = torch.randn(8, 6), torch.randn(8, 4)


def test_the_attention_mask_reaches_the_model_and_the_pooling():
    ids, mask = torch.ones(8, 5, dtype=torch.long), torch.ones(8, 5)
    given, call = called(Text(), {"input_ids": ids, "attention_mask": mask})
    assert torch.equal(given["attention_mask"], mask)
    assert call.mask is mask


def test_a_mask_of_four_axes_reaches_the_pooling_as_one_of_tokens():
    ids, mask = torch.ones(8, 5, dtype=torch.long), torch.ones(8, 1, 5, 5)
    mask[:, :, :, 3:] = 0
    given, call = called(Text(), {"input_ids": ids, "attention_mask": mask})
    assert torch.equal(given["attention_mask"], mask)
    assert call.mask.tolist() == [[True] * 3 + [False] * 2] * 8


@pytest.mark.parametrize(
    "batch",
    [
        containers.Example(LEFT, RIGHT),
        {"left": LEFT},
        [LEFT, Y],
        UserDict(left=LEFT),
        containers.DictLike(left=LEFT),
    ],
    ids=lambda batch: type(batch).__name__,
)
def test_forward_gets_the_batch_as_the_loader_gave_it(batch):
    seen = []
    caller = caller_of(zoo.mlp(), lambda _, given: seen.append(given))
    call = caller.prepare(batch, 1)
    caller(call)
    assert call.args[0] is batch
    assert type(seen[0]) is type(batch)
    assert str(as_mapping(seen[0])) == str(as_mapping(batch))


@pytest.mark.parametrize("positional", [True, False])
def test_masks_that_forward_makes_are_reported(positional):
    ids, mask = torch.ones(4, 5, dtype=torch.long), torch.ones(4, 5)

    def forward(model, _words):
        if positional:
            return model(ids, mask)
        return model(input_ids=ids, attention_mask=mask)

    reported = []
    model = Text()
    caller = Caller(model, "model1", forward)
    call = caller.prepare(["a", "b", "c", "d"], 1)
    caller(call, lambda *masks: reported.append(masks))
    assert reported[0][0] is mask
    assert not model._forward_pre_hooks


def test_no_hook_is_left_when_forward_raises():
    def forward(_model, _batch):
        raise ZeroDivisionError

    model = zoo.mlp()
    caller = caller_of(model, forward)
    with pytest.raises(ZeroDivisionError):
        caller(caller.prepare(X, 1))
    assert not model._forward_pre_hooks


def test_forward_of_a_batch_in_which_nothing_counts_is_an_error():
    caller = caller_of(zoo.mlp(), lambda *_: None)
    with pytest.raises(TypeError, match="a tensor of examples for model1"):
        caller.prepare({"count": 3}, 1)


def test_a_model_on_meta_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match="weights, got parameters on the 'meta'"):
        model_device(nn.Linear(3, 3, device="meta"), "model1")


def test_a_model_without_parameters_takes_inputs_on_the_default_device():
    assert model_device(nn.ReLU(), "model1").type == "cpu"
