"""How many examples a batch has, and how fewer of them are taken."""

import pytest
import torch
from support import zoo
from support.callers import Text, caller_of
from torch import nn

from cka_notebook._inputs.calls import Caller
from cka_notebook._inputs.examples import count_items, sizes_of

Y = torch.arange(8)
LEFT, RIGHT = torch.randn(8, 6), torch.randn(8, 4)


def encoder():
    layer = nn.TransformerEncoderLayer(6, 2, 4)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


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


@pytest.mark.parametrize("forward", [None, lambda model, batch: model(batch[0])])
def test_a_list_of_images_of_many_sizes_is_a_batch_of_that_length(forward):
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


@pytest.mark.parametrize(
    "batch", [["a", "b", "c", "d"], (["a", "b", "c", "d"], torch.arange(4))]
)
def test_forward_may_get_words(batch):
    caller = caller_of(zoo.mlp(), lambda _model, _batch: None)
    call = caller.prepare(batch, 1)
    assert call.examples == 4
    fewer = caller.take(call, 2).args[0]
    assert len(fewer if isinstance(fewer, list) else fewer[0]) == 2


@pytest.mark.parametrize(
    ("batch", "count"),
    [
        ([Y, LEFT], 8),
        ([torch.tensor(3), LEFT], 8),
        ({"images": [torch.zeros(3, 9, 9)] * 5}, 5),
        (["a", "b"], None),
        ({}, None),
    ],
)
def test_tensors_or_a_list_of_images_give_the_number_of_examples(batch, count):
    assert set(sizes_of(batch, axis=0).values()) == ({count} if count else set())


class Sized:
    def __len__(self):
        return 4


@pytest.mark.parametrize(
    ("batch", "count"),
    [(["a", "b"], 2), (Sized(), 4), ("words", None), ({}, None), (7, None), ([], None)],
)
def test_a_batch_without_tensors_is_counted_by_its_length(batch, count):
    assert count_items(batch) == count
