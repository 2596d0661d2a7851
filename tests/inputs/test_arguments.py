"""From batches of all shapes to the arguments of a model."""

from collections import UserDict, namedtuple

import pytest
import torch
from support import containers, zoo
from support.callers import (
    Anything,
    EncoderDecoder,
    NeedsLabels,
    Shifting,
    Text,
    called,
    caller_of,
)

Point = namedtuple("Point", "left right label")

X, Y = torch.randn(8, 10), torch.arange(8)
LEFT, RIGHT = torch.randn(8, 6), torch.randn(8, 4)


@pytest.mark.parametrize("batch", [X, [X], (X,), (X, Y), [X, Y]])
def test_a_tensor_or_the_first_of_a_list_is_the_input(batch):
    call = caller_of(zoo.mlp()).prepare(batch, 1)
    assert len(call.args) == 1
    assert call.args[0] is X
    assert call.examples == 8


@pytest.mark.parametrize(
    "batch", [(LEFT, RIGHT), (LEFT, RIGHT, Y), Point(LEFT, RIGHT, Y)], ids=type
)
def test_a_model_of_two_inputs_gets_two(batch):
    call = caller_of(zoo.TwoInputs()).prepare(batch, 1)
    assert [tuple(arg.shape) for arg in call.args] == [(8, 6), (8, 4)]


@pytest.mark.parametrize(
    "batch",
    [
        {"right": RIGHT, "left": LEFT},
        {"right": RIGHT, "left": LEFT, "labels": Y, "idx": Y},
        containers.Example(LEFT, RIGHT),
        containers.DictLike(left=LEFT, right=RIGHT),
        UserDict(left=LEFT, right=RIGHT),
        ({"left": LEFT, "right": RIGHT}, Y),
    ],
    ids=lambda batch: type(batch).__name__,
)
def test_keys_become_arguments_of_the_same_name(batch):
    call = caller_of(zoo.TwoInputs()).prepare(batch, 1)
    assert set(call.kwargs) == {"left", "right"}
    assert call.examples == 8


def test_keys_that_the_model_does_not_know_are_left_out():
    ids = torch.ones(8, 5, dtype=torch.long)
    given, _ = called(Text(), {"input_ids": ids, "token_type_ids": ids, "idx": Y})
    assert set(given) == {"input_ids"}


@pytest.mark.parametrize("key", ["labels", "label", "target"])
def test_labels_are_left_out_even_where_the_model_takes_anything(key):
    given, _ = called(Anything(), {"x": X, key: Y})
    assert set(given) == {"x"}


def test_labels_that_the_model_requires_are_given():
    given, _ = called(NeedsLabels(), {"x": X, "labels": Y})
    assert set(given) == {"x", "labels"}


def test_a_dict_of_one_input_suits_a_model_of_one_argument_of_another_name():
    call = caller_of(zoo.mlp()).prepare({"pixels": X, "label": Y}, 1)
    assert list(call.kwargs) == ["input"]


def test_an_encoder_decoder_without_decoder_inputs_gets_those_of_the_encoder():
    ids, mask = torch.ones(8, 5, dtype=torch.long), torch.ones(8, 5)
    given, call = called(EncoderDecoder(), {"input_ids": ids, "attention_mask": mask})
    assert torch.equal(given["decoder_input_ids"], ids)
    assert call.kwargs["decoder_input_ids"] is ids
    assert call.kwargs["decoder_attention_mask"] is mask
    assert call.decoder_mask is mask


def test_decoder_inputs_are_made_of_labels_and_their_padding_is_masked():
    ids = torch.ones(8, 5, dtype=torch.long)
    labels = torch.full((8, 4), 3)
    labels[:, 2:] = -100
    given, call = called(Shifting(), {"input_ids": ids, "labels": labels})
    assert given["decoder_input_ids"].shape == (8, 4)
    assert call.decoder_mask.sum(1).tolist() == [2] * 8


def test_given_decoder_inputs_are_kept():
    ids = torch.ones(8, 5, dtype=torch.long)
    given, _ = called(
        EncoderDecoder(), {"input_ids": ids, "decoder_input_ids": ids + 1}
    )
    assert given["decoder_input_ids"].max() == 2
    assert "decoder_attention_mask" not in given


@pytest.mark.parametrize(
    "batch", ["words", [], ["a", "b"], 7, None, {}, {"labels": Y}, [None, X]]
)
def test_a_batch_without_a_tensor_is_an_error_that_names_model_and_batch(batch):
    with pytest.raises(
        (TypeError, ValueError), match=r"model1 \(Sequential\)"
    ) as caught:
        caller_of(zoo.mlp()).prepare(batch, 3)
    assert "batch 3" in str(caught.value)
    assert "forward=" in str(caught.value)


def test_examples_that_were_not_collated_are_refused():
    with pytest.raises(TypeError, match="got a list of 2 \\(dict, dict\\) in batch 1"):
        caller_of(zoo.mlp()).prepare([{"x": X}, {"x": X}], 1)


def test_a_missing_argument_is_named():
    with pytest.raises(ValueError, match="Expected batches with 'right' for model1"):
        caller_of(zoo.TwoInputs()).prepare({"left": LEFT, "idx": Y}, 2)
    with pytest.raises(ValueError, match=r"2 inputs .* in batch 2; missing: 'right'"):
        caller_of(zoo.TwoInputs()).prepare([LEFT], 2)


def test_keys_that_suit_nothing_are_listed():
    with pytest.raises(ValueError, match=r"got keys 'a', 'b' in batch 1\. Rename"):
        caller_of(zoo.mlp()).prepare({"a": X, "b": X}, 1)
