"""Modules of a model: wrapped, shared, counted."""

import pytest
import torch
from support import zoo
from torch import nn

from cka_notebook._models.layer_tree import LayerTree
from cka_notebook._models.nodes import bare_name, expects_tokens_first, unwrap, walk


def test_wrappers_are_unwrapped():
    inner = zoo.mlp()
    compiled = torch.compile(inner, backend="eager")
    assert unwrap(compiled) is inner
    assert unwrap(nn.DataParallel(inner)) is inner
    assert unwrap(nn.DataParallel(compiled)) is inner
    assert LayerTree(compiled).names == ["0", "1", "2", "3", "4"]


def test_a_distributed_model_is_unwrapped():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        inner = zoo.mlp()
        wrapped = nn.parallel.DistributedDataParallel(inner)
        assert unwrap(wrapped) is inner
        assert LayerTree(wrapped).names == ["0", "1", "2", "3", "4"]
    finally:
        torch.distributed.destroy_process_group()


def test_a_compiled_part_keeps_its_name():
    model = zoo.mlp()
    model[2] = torch.compile(model[2], backend="eager")
    assert LayerTree(model).names == ["0", "1", "2", "3", "4"]


def test_modules_come_before_their_children_and_shared_ones_under_each_name():
    nodes = list(walk(zoo.Tied()))
    assert [node.name for node in nodes] == ["", "encode", "decode", "head"]
    assert [node.alias for node in nodes] == [None, None, "encode", None]
    assert [node.depth for node in nodes] == [0, 1, 1, 1]
    assert [node.position for node in nodes] == [0, 1, 2, 3]


def test_the_children_of_a_shared_module_are_listed_once():
    block = nn.Sequential(nn.Linear(3, 3))
    model = nn.ModuleDict({"one": block, "two": block})
    assert [node.name for node in walk(model)] == ["", "one", "one.0", "two"]


def test_names_are_those_of_torch():
    model = zoo.ResNet(width=2)
    assert [n.name for n in walk(model)] == [name for name, _ in model.named_modules()]


def test_a_module_that_holds_itself_ends():
    model = nn.Module()
    model.add_module("inner", nn.Linear(2, 2))
    model.inner.add_module("outer", model)
    assert [node.name for node in walk(model)] == ["", "inner", "inner.outer"]


def test_a_name_without_the_number_of_its_call():
    assert bare_name("block.1.act#12") == "block.1.act"
    assert bare_name("block.1") == "block.1"


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.LSTM(2, 2), True),
        (nn.LSTM(2, 2, batch_first=True), False),
        (nn.MultiheadAttention(2, 1), True),
        (nn.TransformerDecoderLayer(2, 1, 2), True),
        (nn.TransformerEncoderLayer(2, 1, 2, batch_first=True), False),
        (nn.Linear(2, 2), False),
    ],
)
def test_modules_that_torch_documents_with_tokens_first_are_known(module, expected):
    assert expects_tokens_first(module) is expected
