"""What a comparison says of modules with weights that it does not see."""

import pytest
import torch
from support import zoo
from support.reference import compare
from support.trees import probed
from torch import nn


class Chain(nn.Module):
    """Calls its blocks as a subclass says."""

    def __init__(self, blocks):
        super().__init__()
        self.blocks = blocks
        self.head = nn.Linear(10, 3)

    def forward(self, x):
        for block in self.blocks:
            x = torch.relu(self.call(block, x))
        return self.head(x)

    def call(self, block, x):
        return block(x)


class ByForward(Chain):
    def call(self, block, x):
        return block.forward(x)


class Headless(Chain):
    """Only the model itself can be compared."""

    def __init__(self, blocks):
        super().__init__(blocks)
        del self.head

    def head(self, x):
        return x.tanh()


def linear(count=4):
    return [nn.Linear(10, 10) for _ in range(count)]


def notes(model):
    return probed(model, torch.randn(8, 10)).auto_notes()


def test_blocks_in_a_plain_list_are_named_with_the_remedy():
    text = (
        "4 modules with weights are not compared: 'blocks' is a plain list, so they "
        "are no part of the model, for its optimizer, too. Put them into an "
        "nn.ModuleList."
    )
    assert notes(Chain(linear())) == [f"Chain: {text}"]
    assert notes(Headless(linear())) == [f"Headless: {text}"]
    result = compare(Headless(linear()), batches=zoo.batches_of())
    assert result.layers1 == ("Headless",)
    assert any("nn.ModuleList" in note for note in result.notes)


def test_a_plain_dict_inside_a_module_is_named_with_its_path():
    inner = nn.Module()
    inner.parts = {"one": nn.Linear(10, 10), "none": nn.ReLU()}
    inner.forward = lambda x: inner.parts["one"](x) + 1
    (note,) = notes(nn.Sequential(inner, nn.Linear(10, 3)))
    assert "1 module with weights is not compared: '0.parts' is a plain dict" in note
    assert "nn.ModuleDict" in note


def test_modules_whose_forward_is_called_directly_are_named():
    (note,) = notes(ByForward(nn.ModuleList(linear())))
    assert note.startswith("ByForward: 4 modules with weights are not compared, ")
    assert "'blocks.0', 'blocks.1', 'blocks.2', ..." in note
    assert "block.forward(x)" in note


def test_blocks_of_which_only_the_parts_are_called_are_named():
    class Block(nn.Sequential):
        pass

    blocks = [Block(*linear(2)) for _ in range(3)]
    (note,) = notes(ByForward(nn.ModuleList(blocks)))
    assert "3 blocks cannot be compared as a whole" in note
    assert "'blocks.0', 'blocks.1', 'blocks.2'." in note


def test_modules_that_are_never_called_are_named_by_what_contains_them():
    model = zoo.Unused()
    (note,) = notes(model)
    assert "2 modules" in note
    assert "'unused', 'named.idle'" in note


def test_modules_without_a_comparable_output_are_named_with_the_reason():
    model = zoo.mlp()
    model[2].register_forward_hook(lambda *call: call[-1].sum(0))
    model[4] = nn.Identity()
    model[3] = nn.Identity()
    (note,) = notes(model)
    assert note == (
        "Sequential: 1 module with weights is not compared (shape of the output does "
        "not depend on the batch): '2'."
    )


@pytest.mark.parametrize(
    ("make", "batch"),
    [
        (zoo.mlp, torch.randn(8, 10)),
        (zoo.ResNet, torch.randn(8, 3, 32, 32)),
        (zoo.UNet, torch.randn(8, 3, 16, 16)),
        (zoo.Tied, torch.randn(8, 8)),
        (zoo.Attention, torch.randn(8, 7, 6)),
        (zoo.SequenceFirst, torch.randn(8, 7, 6)),
        (lambda: zoo.Deep(5), torch.randn(8, 4)),
        (
            lambda: nn.utils.parametrizations.weight_norm(nn.Linear(10, 3)),
            torch.randn(8, 10),
        ),
    ],
)
def test_usual_models_give_no_note(make, batch):
    assert probed(make(), batch).auto_notes() == []


def test_nothing_is_said_of_layers_that_were_chosen_by_name():
    with_note = compare(Chain(linear()), batches=zoo.batches_of())
    assert with_note.notes != []
    chosen = compare(Chain(linear()), batches=zoo.batches_of(), model1_layers="all")
    assert chosen.notes == []


def test_modules_in_nested_lists_are_counted_too():
    inner = nn.Module()
    inner.steps = [[nn.Linear(10, 10)], {"a": (nn.Linear(10, 10),)}, "text"]
    inner.steps.append(inner.steps)
    inner.forward = lambda x: inner.steps[1]["a"][0](inner.steps[0][0](x))
    (note,) = notes(nn.Sequential(inner, nn.Linear(10, 3)))
    assert "modules with weights are not compared: '0.steps' is a plain list" in note


class OwnWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 10))
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(x @ self.weight)


class WeightsOfOthers(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.act = nn.Linear(10, 10), nn.ReLU()

    def forward(self, x):
        return self.act(nn.functional.linear(x, self.linear.weight))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.own = nn.MultiheadAttention(10, 2, batch_first=True)

    def forward(self, x):
        x = x[:, None]
        return self.own(x, x, x)[0].squeeze(1)


def exported():
    batch = {0: torch.export.Dim("batch", min=2)}
    inner = nn.Sequential(nn.Linear(10, 10), nn.ReLU())
    given = torch.randn(4, 10)
    return torch.export.export(inner, (given,), dynamic_shapes=(batch,)).module()


INNERMOST = {
    "own weights": (OwnWeights, "1"),
    "weights of others": (WeightsOfOthers, "1"),
    "attention": (Attention, "1.own"),
    "exported": (exported, "1"),
}


@pytest.mark.parametrize("kind", INNERMOST)
@pytest.mark.parametrize("choice", ["auto", "leaves"])
def test_what_uses_the_weights_inside_it_by_itself_is_a_layer(kind, choice):
    make, name = INNERMOST[kind]
    model = nn.Sequential(nn.Linear(10, 10), make(), nn.Linear(10, 3))
    result = compare(model, batches=zoo.batches_of(2), model1_layers=choice)
    assert {"0", name, "2"} <= set(result.layers1)


def test_a_module_that_only_calls_its_parts_is_not_a_leaf():
    model = nn.Sequential(nn.Linear(10, 10), nn.Sequential(nn.ReLU(), nn.Linear(10, 3)))
    tree = probed(model, torch.randn(8, 10))
    assert tree.choose("leaves") == ["0", "1.0", "1.1"]
    assert tree.choose("auto") == ["0", "1.1"]


class Sorting(nn.Module):
    """Its rows are not the examples; those of its part are."""

    def __init__(self, *, has_weights=True):
        super().__init__()
        self.part = nn.Linear(10, 10) if has_weights else nn.Tanh()

    def forward(self, x):
        x = self.part(x)
        return x[x[:, 0].argsort()]


def test_blocks_are_named_whose_parts_alone_can_be_compared():
    model = Chain([])
    model.blocks = nn.ModuleList(Sorting() for _ in range(3))
    every = notes(model)
    assert any("rows are not the examples" in x and "'blocks.0'" in x for x in every)
    for choice in ("all", "leaves", "blocks"):
        result = compare(model, batches=zoo.batches_of(), model1_layers=choice)
        assert "'blocks.0'" in " ".join(result.notes)


@pytest.mark.parametrize(("choice", "is_named"), [("all", True), ("leaves", False)])
def test_all_names_what_has_no_weights_too(choice, is_named):
    model = nn.Sequential(
        nn.Linear(10, 10), Sorting(has_weights=False), nn.Linear(10, 3)
    )
    result = compare(model, batches=zoo.batches_of(), model1_layers=choice)
    (note,) = result.notes
    assert "not compared (rows are not the examples" in note
    assert ("'1'" in note) is is_named


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (zoo.mlp, (10,)),
        (zoo.ResNet, (3, 32, 32)),
        (zoo.UNet, (3, 16, 16)),
        (
            lambda: nn.Sequential(
                nn.utils.parametrizations.weight_norm(nn.Linear(10, 8)), nn.Tanh()
            ),
            (10,),
        ),
    ],
)
def test_all_layers_of_usual_models_give_no_note(make, shape):
    batches = [torch.randn(8, *shape) for _ in range(2)]
    assert compare(make(), batches=batches, model1_layers="all").notes == []
