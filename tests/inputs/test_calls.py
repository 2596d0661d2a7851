"""From batches of all shapes to calls of the model."""

from collections import UserDict, namedtuple

import pytest
import torch
from support import zoo
from torch import nn

from cka_notebook._inputs.calls import Caller, model_device

Point = namedtuple("Point", "left right label")

X, Y = torch.randn(8, 10), torch.arange(8)
LEFT, RIGHT = torch.randn(8, 6), torch.randn(8, 4)


class Recording(nn.Module):
    """Keeps what it was called with. Subclasses set the signature."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def record(self, **given):
        self.given = {key: value for key, value in given.items() if value is not None}


class Text(Recording):
    def forward(self, input_ids=None, attention_mask=None, labels=None):
        self.record(input_ids=input_ids, attention_mask=attention_mask, labels=labels)


class Anything(Recording):
    def forward(self, **kwargs):
        self.record(**kwargs)


class NeedsLabels(Recording):
    def forward(self, x, labels):
        self.record(x=x, labels=labels)


class EncoderDecoder(Recording):
    class config:  # noqa: N801 the name that Hugging Face gives it
        is_encoder_decoder = True

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        decoder_input_ids=None,
        decoder_attention_mask=None,
    ):
        self.record(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
        )


class Shifting(EncoderDecoder):
    def prepare_decoder_input_ids_from_labels(self, labels):
        return labels.clamp_min(0).roll(1, 1)


def encoder():
    layer = nn.TransformerEncoderLayer(6, 2, 4)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def called(model, batch, forward=None):
    """What the model got, and the prepared call."""
    caller = Caller(model, "model1 (Test)", forward)
    call = caller.prepare(batch, 1)
    caller(call)
    return model.given, call


def caller_of(model, forward=None):
    return Caller(model, f"model1 ({type(model).__name__})", forward)


@pytest.mark.parametrize("batch", [X, [X], (X,), (X, Y), [X, Y]], ids=repr)
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
        zoo.Example(LEFT, RIGHT),
        zoo.DictLike(left=LEFT, right=RIGHT),
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


def test_the_attention_mask_reaches_the_model_and_the_pooling():
    ids, mask = torch.ones(8, 5, dtype=torch.long), torch.ones(8, 5)
    given, call = called(Text(), {"input_ids": ids, "attention_mask": mask})
    assert given["attention_mask"] is mask
    assert call.mask is mask


def test_a_mask_of_four_axes_is_none_for_the_pooling():
    ids, mask = torch.ones(8, 5, dtype=torch.long), torch.ones(8, 1, 5, 5)
    given, call = called(Text(), {"input_ids": ids, "attention_mask": mask})
    assert given["attention_mask"] is mask
    assert call.mask is None


def test_a_dict_of_one_input_suits_a_model_of_one_argument_of_another_name():
    call = caller_of(zoo.mlp()).prepare({"pixels": X, "label": Y}, 1)
    assert list(call.kwargs) == ["input"]


def test_an_encoder_decoder_without_decoder_inputs_gets_the_encoder_s():
    ids, mask = torch.ones(8, 5, dtype=torch.long), torch.ones(8, 5)
    given, call = called(EncoderDecoder(), {"input_ids": ids, "attention_mask": mask})
    assert given["decoder_input_ids"] is ids
    assert given["decoder_attention_mask"] is mask
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
    "batch",
    [
        zoo.Example(LEFT, RIGHT),
        {"left": LEFT},
        [LEFT, Y],
        UserDict(left=LEFT),
        zoo.DictLike(left=LEFT),
    ],
    ids=lambda batch: type(batch).__name__,
)
def test_forward_gets_the_batch_as_the_loader_gave_it(batch):
    seen = []
    caller = caller_of(zoo.mlp(), lambda _, given: seen.append(given))
    caller(caller.prepare(batch, 1))
    assert seen[0] is batch


@pytest.mark.parametrize(
    "batch", [["a", "b", "c", "d"], (["a", "b", "c", "d"], torch.arange(4))], ids=str
)
def test_forward_may_get_words(batch):
    caller = caller_of(zoo.mlp(), lambda _model, _batch: None)
    call = caller.prepare(batch, 1)
    assert call.examples == 4
    fewer = caller.take(call, 2).args[0]
    assert len(fewer if isinstance(fewer, list) else fewer[0]) == 2


@pytest.mark.parametrize("forward", [None, lambda model, batch: model(batch[0])])
def test_a_list_of_images_of_many_sizes_is_a_batch_of_so_many(forward):
    images = [torch.randn(3, 9 + i, 12) for i in range(8)]
    caller = caller_of(zoo.Returning(len), forward)
    call = caller.prepare((images, [{"boxes": torch.zeros(1, 4)}] * 8), 1)
    assert call.examples == 8
    assert caller(caller.take(call, 3)) == 3


def test_a_list_of_inputs_is_no_list_of_images():
    batch = ([LEFT, RIGHT], Y)
    caller = caller_of(zoo.TwoInputs(), lambda model, batch: model(*batch[0]))
    call = caller.prepare(batch, 1)
    assert call.examples == 8
    assert caller(caller.take(call, 3)).shape == (3, 5)


@pytest.mark.parametrize("positional", [True, False])
def test_masks_that_forward_makes_are_overheard(positional):
    ids, mask = torch.ones(4, 5, dtype=torch.long), torch.ones(4, 5)

    def forward(model, _words):
        if positional:
            return model(ids, mask)
        return model(input_ids=ids, attention_mask=mask)

    heard = []
    model = Text()
    caller = Caller(model, "model1", forward)
    call = caller.prepare(["a", "b", "c", "d"], 1)
    caller(call, lambda *masks: heard.append(masks))
    assert heard[0][0] is mask
    assert not model._forward_pre_hooks


def test_no_hook_is_left_when_forward_raises():
    def forward(_model, _batch):
        raise ZeroDivisionError

    model = zoo.mlp()
    caller = caller_of(model, forward)
    with pytest.raises(ZeroDivisionError):
        caller(caller.prepare(X, 1))
    assert not model._forward_pre_hooks


def test_fewer_examples_are_cut_from_everything_that_has_examples():
    ids, mask = torch.ones(8, 5, dtype=torch.long), torch.ones(8, 5)
    caller = Caller(Text(), "model1")
    call = caller.prepare({"input_ids": ids, "attention_mask": mask}, 1)
    fewer = caller.take(call, 3)
    assert fewer.examples == 3
    assert fewer.kwargs["input_ids"].shape == (3, 5)
    assert fewer.mask.shape == (3, 5)
    assert call.kwargs["input_ids"].shape == (8, 5)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.LSTM(6, 4), (7, 8, 6)),
        (nn.GRU(6, 4, batch_first=True), (8, 7, 6)),
        (nn.TransformerEncoderLayer(6, 2, 4), (7, 8, 6)),
        (nn.TransformerEncoderLayer(6, 2, 4, batch_first=True), (8, 7, 6)),
        (encoder(), (7, 8, 6)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_examples_are_counted_on_the_axis_that_torch_s_modules_say(model, shape):
    caller = caller_of(model)
    call = caller.prepare(torch.randn(shape), 1)
    assert call.examples == 8
    assert sorted(caller.take(call, 3).args[0].shape) == [3, 6, 7]


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_multihead_attention_and_transformer_count_on_their_second_axis():
    tokens = torch.randn(7, 8, 6)
    attention = caller_of(nn.MultiheadAttention(6, 2))
    assert attention.prepare((tokens, tokens, tokens), 1).examples == 8
    transformer = caller_of(nn.Transformer(6, 2, 1, 1, 4))
    assert transformer.prepare((tokens, tokens), 1).examples == 8


@pytest.mark.parametrize(
    "batch", ["words", [], ["a", "b"], 7, None, {}, {"labels": Y}, [None, X]], ids=str
)
def test_a_batch_without_a_tensor_is_an_error_that_names_model_and_batch(batch):
    with pytest.raises(
        (TypeError, ValueError), match=r"model1 \(Sequential\)"
    ) as caught:
        caller_of(zoo.mlp()).prepare(batch, 3)
    assert "batch 3" in str(caught.value)
    assert "forward=" in str(caught.value)


def test_examples_that_were_not_put_together_are_refused():
    with pytest.raises(TypeError, match="got a list of 2 \\(dict, dict\\) in batch 1"):
        caller_of(zoo.mlp()).prepare([{"x": X}, {"x": X}], 1)


def test_a_missing_argument_is_named():
    with pytest.raises(ValueError, match="Expected batches with 'right' for model1"):
        caller_of(zoo.TwoInputs()).prepare({"left": LEFT, "idx": Y}, 2)
    with pytest.raises(ValueError, match=r"2 inputs .* in batch 2: 'right' missing"):
        caller_of(zoo.TwoInputs()).prepare([LEFT], 2)


def test_keys_that_suit_nothing_are_listed():
    with pytest.raises(ValueError, match=r"got keys 'a', 'b' in batch 1\. Rename"):
        caller_of(zoo.mlp()).prepare({"a": X, "b": X}, 1)


def test_forward_of_a_batch_in_which_nothing_counts_is_an_error():
    caller = caller_of(zoo.mlp(), lambda *_: None)
    with pytest.raises(TypeError, match="a tensor of examples for model1"):
        caller.prepare({"count": 3}, 1)


def test_a_model_on_meta_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match="weights, got parameters on the 'meta'"):
        model_device(nn.Linear(3, 3, device="meta"), "model1")


def test_a_model_without_parameters_takes_inputs_on_the_default_device():
    assert model_device(nn.ReLU(), "model1").type == "cpu"
