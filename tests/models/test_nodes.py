"""Modules of a model: wrapped, shared, counted."""

import pytest
import torch
from support import zoo
from support.trees import probed
from torch import nn

from cka_notebook._models.layer_tree import LayerTree
from cka_notebook._models.nodes import expects_tokens_first, nodes_of, unwrap


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
    nodes = nodes_of(zoo.Tied())
    assert [node.name for node in nodes] == ["", "encode", "decode", "head"]
    assert [node.alias for node in nodes] == [None, None, "encode", None]
    assert [node.depth for node in nodes] == [0, 1, 1, 1]
    assert [node.position for node in nodes] == [0, 1, 2, 3]


def test_the_children_of_a_shared_module_are_listed_once():
    block = nn.Sequential(nn.Linear(3, 3))
    model = nn.ModuleDict({"one": block, "two": block})
    assert [node.name for node in nodes_of(model)] == ["", "one", "one.0", "two"]


def test_names_are_those_of_torch():
    model = zoo.ResNet(width=2)
    assert [n.name for n in nodes_of(model)] == [
        name for name, _ in model.named_modules()
    ]


def test_a_module_that_holds_itself_ends():
    model = nn.Module()
    model.add_module("inner", nn.Linear(2, 2))
    model.inner.add_module("outer", model)
    assert [node.name for node in nodes_of(model)] == ["", "inner", "inner.outer"]


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


class Twice(nn.Module):
    """Calls each of its modules twice, whose names have number signs."""

    def __init__(self, names):
        super().__init__()
        for name in names:
            self.add_module(name, nn.Linear(4, 4))

    def forward(self, x):
        for _ in range(2):
            for module in self.children():
                x = module(x)
        return x


@pytest.mark.parametrize(
    ("names", "first"),
    [
        (["a", "b"], "a#0"),
        (["a", "a#0"], "a##0"),
        (["a", "a#7"], "a##0"),
        (["a", "a#", "a#1"], "a##0"),
        (["#", "##"], "##0"),
    ],
)
def test_no_call_has_the_name_of_another_module_or_call(names, first):
    tree = probed(Twice(names), torch.randn(8, 4))
    every = [row.name for row in tree.rows().rows]
    assert tree.names[0] == first
    assert len(set(every)) == len(every) == 2 * len(names) + 1
    assert not set(tree.names) & set(names)
    assert [tree.choose(name) for name in tree.names] == [[n] for n in tree.names]
    assert sorted(tree.columns()["name"]) == sorted([*every, *names])
    LayerTree(Twice(names)).check([first])


def test_the_model_is_called_by_its_class():
    assert nodes_of(zoo.mlp())[0].title == "Sequential"
    taken = nn.ModuleDict({"ModuleDict": nn.Linear(2, 2)})
    assert nodes_of(taken)[0].title == "ModuleDict (model)"
    assert nodes_of(taken)[1].title == "ModuleDict"


@pytest.mark.parametrize("choice", ["", "Linear", [""], 0, "all", nn.Linear])
def test_a_model_without_children_is_chosen_by_its_class_or_an_empty_name(choice):
    tree = probed(nn.Linear(10, 3), torch.randn(8, 10))
    assert tree.choose(choice) == ["Linear"]
    assert [layer.module for layer in tree.find(["Linear"])] == [tree.model]


def test_the_root_of_a_larger_model_may_be_chosen_by_name():
    tree = probed(zoo.mlp(), torch.randn(8, 10))
    assert tree.choose([""]) == tree.choose("Sequential") == ["Sequential"]


def test_a_part_named_like_a_wrapper_is_a_part():
    model = nn.Module()
    model._orig_mod, model.head = nn.Linear(3, 4), nn.Linear(4, 2)
    assert unwrap(model) is model
