"""Nested values keep their kind, whatever is done to the tensors in them."""

from collections import namedtuple

import numpy as np
import pytest
import torch
from support import containers
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from cka_notebook._inputs.nested import (
    as_mapping,
    describe,
    list_length,
    mapped,
    move,
    tensors,
)

Pair = namedtuple("Pair", "left right")

X = torch.zeros(4, 2)


def double(value):
    return mapped(value, lambda tensor: tensor + 1)


@pytest.mark.parametrize(
    "value",
    [
        X,
        [X, "word"],
        (X, 3),
        {"a": X, "b": [X]},
        Pair(X, None),
        containers.Example(X, X),
        containers.Named(a=X),
    ],
    ids=lambda value: type(value).__name__,
)
def test_mapping_keeps_the_kind_and_leaves_the_original(value):
    changed = double(value)
    assert type(changed) is type(value)
    assert [t.sum().item() for t in tensors(changed)] == [8] * len(list(tensors(value)))
    assert all(t.sum() == 0 for t in tensors(value))


def test_a_dict_like_class_that_cannot_be_filled_becomes_a_dict():
    assert double(containers.DictLike(a=X)).keys() == {"a"}


def test_a_dict_like_class_with_a_dict_inside_keeps_its_items():
    class Settable(containers.DictLike):
        def __setitem__(self, key, item):
            self._items[key] = item

    value = Settable(a=X)
    changed = double(value)
    assert type(changed) is Settable
    assert changed["a"].sum() == 8
    assert value["a"] is X


def test_moving_to_where_all_tensors_are_gives_the_very_same_object():
    value = {"a": X, "words": ["one", "two"]}
    assert move(value, torch.device("cpu")) is value


def test_moving_changes_the_device_of_every_tensor():
    moved = move({"a": [X, (X, "word")]}, torch.device("meta"))
    assert [t.device.type for t in tensors(moved)] == ["meta", "meta"]


def test_dataclasses_and_dict_likes_are_read_as_mappings():
    assert as_mapping(containers.Example(1, 2)) == {"left": 1, "right": 2}
    assert as_mapping(containers.DictLike(a=1)) == {"a": 1}
    assert as_mapping([1]) == [1]


def test_a_class_is_no_mapping():
    assert as_mapping(containers.Example) is containers.Example


@pytest.mark.parametrize(
    ("value", "length"),
    [
        (["a", "b", "c"], 3),
        ({"text": ["a", "b"], "id": 7}, 2),
        ((["a", "b"], ["c", "d"]), 2),
        (np.zeros((5, 2)), 5),
        ([], None),
        (7, None),
        ("words", None),
        ({"n": 3}, None),
    ],
)
def test_the_length_of_the_first_list_of_examples_is_found(value, length):
    assert list_length(value) == length


def test_lists_are_changed_whole_or_gone_through():
    def cut(value):
        return value[:2] if len(value) > 2 else None

    value = {"text": ["a", "b", "c"], "pair": (X, "word"), "sizes": np.arange(3)}
    out = mapped(value, lambda x: x[:2], cut)
    assert out["text"] == ["a", "b"]
    assert out["pair"][0].shape == (2, 2)
    assert out["pair"][1] == "word"
    assert out["sizes"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (X, "a tensor of shape (4, 2)"),
        ({"a": 1}, "a dict with keys ['a']"),
        (["x", 1], "a list of 2 (str, int)"),
        (nn.ReLU(), "a ReLU"),
        (None, "a NoneType"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_is_described_in_a_few_words(value, words):
    assert describe(value) == words


def test_the_lengths_of_a_packed_sequence_stay_where_they_are():
    packed = pack_padded_sequence(torch.zeros(3, 4, 2), torch.full((4,), 3))
    moved = move({"a": packed}, torch.device("meta"))["a"]
    assert moved.data.device.type == "meta"
    assert moved.batch_sizes.device.type == "cpu"


def test_only_a_copy_to_a_gpu_is_not_waited_for(monkeypatch):
    seen = []

    def to(tensor, device, *, non_blocking):
        seen.append((device.type, non_blocking))
        return tensor

    monkeypatch.setattr(torch.Tensor, "to", to)
    for device in ("cpu", "cuda"):
        move([torch.empty(1, device="meta")], torch.device(device))
    assert seen == [("cpu", False), ("cuda", True)]
