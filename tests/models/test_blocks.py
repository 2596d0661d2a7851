"""What is chosen without an argument: blocks, stems, heads, thinned out."""

from itertools import pairwise

import pytest
from support import zoo
from support.reference import compare
from torch import nn

from cka_notebook._models.auto import thinned
from cka_notebook._models.layer_tree import LayerTree
from cka_notebook._models.nodes import Output


@pytest.mark.parametrize(
    ("count", "kept", "step"),
    [(64, 64, 1), (65, 33, 2), (100, 51, 2), (128, 44, 3), (312, 64, 5)],
)
def test_more_than_64_layers_are_thinned_evenly_and_keep_the_last(count, kept, step):
    indices = thinned(count)
    assert len(indices) == kept <= 64
    assert indices[0] == 0
    assert indices[-1] == count - 1
    assert {b - a for a, b in pairwise(indices[:-1])} == {step}


def test_a_note_reports_thinning():
    tree = LayerTree(zoo.DeepLeaves(312))
    assert len(tree.choose()) == 64
    assert tree.auto_notes() == [
        "DeepLeaves: `auto` chose 64 of 312 layers: every 5th, plus the last."
    ]
    assert LayerTree(zoo.DeepLeaves(64)).auto_notes() == []


def test_thinning_names_the_step_in_english():
    notes = [LayerTree(zoo.DeepLeaves(n)).auto_notes()[0] for n in (65, 190, 1324)]
    assert [note.split("every ")[1].split()[0].rstrip(".,") for note in notes] == [
        "2nd",
        "3rd",
        "21st",
    ]


class Block(nn.Module):
    """A block with two convolutions of a class that a stem may share."""

    def __init__(self):
        super().__init__()
        self.one, self.two = zoo.ConvBlock(3, 3), zoo.ConvBlock(3, 3)

    def forward(self, x):
        return x + self.two(self.one(x))


class Stage(nn.Module):
    """Only holds a list of blocks."""

    def __init__(self, depth):
        super().__init__()
        self.downsample = nn.AvgPool2d(1)
        self.blocks = nn.Sequential(*[Block() for _ in range(depth)])

    def forward(self, x):
        return self.blocks(self.downsample(x))


def auto_of(*parts, **named):
    model = nn.Sequential(*parts)
    for name, part in named.items():
        model.add_module(name, part)
    return LayerTree(model).choose("auto")


def head():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))


def test_stages_count_as_the_blocks_they_hold():
    names = auto_of(Stage(2), Stage(3), Stage(2))
    blocks = [
        f"{i}.blocks.{j}" for i, depth in enumerate((2, 3, 2)) for j in range(depth)
    ]
    assert names == ["0.downsample", *blocks]


def test_a_stem_of_a_class_that_is_a_part_of_each_block_is_no_block():
    tree = LayerTree(nn.Sequential(zoo.ConvBlock(3, 3), Block(), Block(), Block()))
    assert tree.choose("auto") == ["0", "1", "2", "3"]
    assert tree.choose("blocks") == ["1", "2", "3"]


def test_two_of_a_class_are_blocks():
    assert auto_of(Block(), Block()) == ["0", "1"]


def test_of_several_outer_layers_before_the_blocks_the_last_is_the_stem():
    names = auto_of(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.MaxPool2d(1), *four())
    assert names == ["2", "3", "4", "5", "6"]


def four():
    return [Block() for _ in range(4)]


def test_behind_the_blocks_pools_and_layers_with_parameters_count():
    names = auto_of(
        *four(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(),
        nn.Linear(3, 2), nn.Softmax(1),
    )  # fmt: skip
    assert names == ["0", "1", "2", "3", "5", "8"]


def test_a_head_of_several_layers_is_one():
    assert auto_of(*four(), head=head()) == ["0", "1", "2", "3", "head"]


def test_between_blocks_only_layers_with_parameters_count():
    names = auto_of(*four()[:2], nn.MaxPool2d(1), nn.Conv2d(3, 3, 1), *four()[:2])
    assert names == ["0", "1", "3", "4", "5"]
    names = auto_of(*four()[:2], nn.MaxPool2d(1), *four()[:2])
    assert names == ["0", "1", "3", "4"]


def test_plain_containers_side_by_side_are_blocks_where_there_are_no_others():
    def part():
        return nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())

    assert auto_of(part(), part(), part(), head=nn.Flatten()) == ["0", "1", "2"]
    assert auto_of(part(), part(), head=nn.Linear(3, 2)) == ["0.0", "1.0", "head"]


def test_a_model_of_bare_functions_shows_all_of_them():
    assert auto_of(nn.Tanh(), nn.ReLU()) == ["0", "1"]


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm"])
def test_layers_whose_weights_are_computed_count_like_others(norm):
    model = zoo.mlp()
    for index in (0, 2):
        getattr(nn.utils.parametrizations, norm)(model[index])
    assert LayerTree(model).choose("auto") == ["0", "2", "4"]
    result = compare(model, batches=zoo.batches_of())
    assert result.layers1 == ("0", "2", "4")
    leaves = compare(model, batches=zoo.batches_of(), model1_layers="leaves")
    assert leaves.layers1 == ("0", "1", "2", "3", "4")


def test_blocks_fall_back_to_auto():
    tree = LayerTree(zoo.mlp())
    assert tree.choose("blocks") == tree.choose("auto") == ["0", "2", "4"]


def test_auto_never_chooses_a_layer_twice():
    for model in (zoo.ResNet(width=2), zoo.UNet(), zoo.Deep(5), zoo.Tied()):
        names = LayerTree(model).choose("auto")
        assert len(names) == len(set(names))


def test_a_block_called_several_times_is_a_block_a_call():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block()

        def forward(self, x):
            return self.block(self.block(self.block(x)))

    tree = LayerTree(Shared())
    outputs = [Output(order, (None, 3, 4, 4)) for order in range(3)]
    tree.learn({tree.model.block: outputs, tree.model.block.one: outputs})
    assert tree.choose("auto") == ["block#0", "block#1", "block#2"]
