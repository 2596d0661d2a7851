"""The tree of modules: order, names, columns, notes, and what a tree remembers."""

import pytest
import torch
from support import zoo
from support.trees import probed
from torch import nn

from cka_notebook._models.layer_tree import LayerTree


def mlp_tree():
    return probed(zoo.mlp(), torch.randn(8, 10))


def rows(tree):
    columns = tree.columns()
    presets, _ = columns.pop("presets"), columns.pop("facts")
    keys = list(columns)
    named = [
        dict(zip(keys, row, strict=True)) for row in zip(*columns.values(), strict=True)
    ]
    return {row["name"]: row for row in named}, presets


def test_before_a_probe_layers_are_in_order_of_definition():
    assert LayerTree(zoo.Reversed()).names == ["b", "a"]


def test_after_a_probe_layers_are_in_order_of_execution():
    assert probed(zoo.Reversed(), torch.randn(8, 10)).names == ["a", "b"]


def test_a_model_without_children_is_its_own_layer():
    assert probed(nn.Linear(10, 3), torch.randn(8, 10)).names == ["Linear"]


def test_the_root_is_a_layer_where_none_of_its_children_is():
    model = nn.utils.parametrizations.weight_norm(nn.Linear(10, 3))
    tree = probed(model, torch.randn(8, 10))
    assert tree.names == ["ParametrizedLinear"]
    assert rows(tree)[0]["ParametrizedLinear"]["reason"] is None


def test_the_root_of_a_larger_model_is_not_offered():
    tree = mlp_tree()
    assert "Sequential" not in tree.names
    assert rows(tree)[0]["Sequential"]["reason"] == "the model itself"
    assert rows(tree)[0]["Sequential"]["code"] == "model"


def test_a_module_called_several_times_is_a_layer_a_call():
    tree = probed(zoo.SharedActivation(), torch.randn(8, 10))
    assert tree.names == ["first", "act#0", "second", "act#1", "third", "act#2"]


def test_modules_that_never_run_are_listed_with_the_reason_and_not_offered():
    tree = probed(zoo.Unused(), torch.randn(8, 10))
    assert tree.names == ["parts.0", "parts.1", "named.head"]
    found, _ = rows(tree)
    never = [name for name, row in found.items() if row["reason"] == "never called"]
    assert never == ["unused", "parts", "named", "named.idle"]
    assert {found[name]["code"] for name in never} == {"not_called"}


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ("integers", "integer output"),
        ("flags", "integer output"),
        ("scalar", "scalar output"),
        ("nothing", "no output"),
        ("words", "output of type str"),
        ("empty", "empty output"),
        ("complex", "complex output"),
        ("sparse", "sparse or nested output"),
        ("fixed", "shape of the output does not depend on the batch"),
        ("pooled", "shape of the output does not depend on the batch"),
    ],
)
def test_an_output_that_cannot_be_compared_has_its_reason(layer, reason):
    tree = probed(zoo.Incomparable(), torch.randn(8, 10))
    assert tree.names == ["linear"]
    row = rows(tree)[0][layer]
    code = "no_batch_axis" if "batch" in reason else "no_tensor"
    assert (row["reason"], row["code"]) == (reason, code)
    with pytest.raises(ValueError, match=f"contains {layer!r}, .* cannot be compared"):
        tree.choose([layer])


def test_tied_modules_appear_under_both_names_and_count_once():
    tree = probed(zoo.Tied(), torch.randn(8, 8))
    found, _ = rows(tree)
    assert tree.names == ["encode#0", "encode#1", "head"]
    assert found["decode"]["reason"] == "the same module as 'encode'"
    assert found["decode"]["code"] == "alias"
    assert found["Tied"]["params"] == 8 * 8 + 8 + 8 * 3 + 3
    assert found["decode"]["params"] == found["encode"]["params"] == 72


def test_columns_contain_shapes_types_depths_and_parameters():
    found, _ = rows(probed(zoo.ResNet(width=2), torch.randn(4, 3, 32, 32)))
    row = found["layer2.0.conv1"]
    assert row["shape"] == [None, 4, 4, 4]
    assert row["type"] == "Conv2d"
    assert row["depth"] == 3
    assert row["params"] == 2 * 4 * 9
    model = zoo.ResNet(width=2)
    assert found["ResNet"]["params"] == sum(p.numel() for p in model.parameters())
    below = sum(p.numel() for p in model.layer3.parameters())
    assert found["layer3"]["params"] == below


def test_columns_before_the_probe_have_no_shape_reason_or_order():
    columns = LayerTree(zoo.ResNet(width=2)).columns()
    assert set(columns["shape"]) == {None}
    assert set(columns["reason"][1:]) == {None}
    assert columns["name"][0] == "ResNet"
    assert len(columns["name"]) == 68


def test_calls_are_rows_below_their_module():
    tree = probed(zoo.SharedActivation(), torch.randn(8, 10))
    names = tree.columns()["name"]
    start = names.index("act")
    assert names[start : start + 4] == ["act", "act#0", "act#1", "act#2"]
    found, _ = rows(tree)
    assert found["act"]["reason"] == "called 3 times"
    assert found["act"]["code"] == "called_repeatedly"
    assert found["act#1"]["code"] is None
    assert found["act#1"]["type"] == "call"
    assert found["act#1"]["depth"] == found["act"]["depth"] + 1
    assert found["act#1"]["shape"] == [None, 8]


def test_presets_are_row_numbers_of_the_chosen_layers():
    tree = probed(zoo.ResNet(width=2), torch.randn(4, 3, 32, 32))
    columns = tree.columns()
    for preset, indices in columns["presets"].items():
        assert [columns["name"][i] for i in indices] == tree.choose(preset)


class TokensFirst(nn.Module):
    """A language model whose own input has tokens first, as torch's examples do."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 6)
        self.rnn = nn.LSTM(6, 8)
        self.head = nn.Linear(8, 50)

    def forward(self, words):
        return self.head(self.rnn(self.embed(words))[0])


def test_a_note_reports_tokens_that_may_be_taken_for_examples():
    words = torch.randint(50, (8, 12))
    note = probed(TokensFirst(), words).axis_note()
    assert note.startswith("TokensFirst: 'rnn' (LSTM) has batch_first=False")
    assert "forward=lambda model, batch: model(batch.transpose(0, 1))" in note


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_model_that_transposes_its_input_itself_is_not_suspected(kind):
    assert probed(zoo.Recurrent(kind), torch.randn(8, 7, 6)).axis_note() is None
    assert probed(zoo.Attention(), torch.randn(8, 7, 6)).axis_note() is None
    assert probed(zoo.SequenceFirst(), torch.randn(8, 7, 6)).axis_note() is None
    assert probed(zoo.mlp(), torch.randn(8, 10)).axis_note() is None


def test_a_tree_recalls_an_earlier_probe_of_the_same_model():
    model = zoo.SharedActivation()
    seen = probed(model, torch.randn(8, 10))
    tree = LayerTree(model)
    tree.recall(seen.outputs)
    assert tree.probed
    assert tree.names == seen.names
    assert tree.columns() == seen.columns()


def test_a_tree_recalls_nothing_of_a_model_that_has_changed_or_was_not_probed():
    model = zoo.SharedActivation()
    seen = probed(model, torch.randn(8, 10))
    model.add_module("added", nn.Linear(3, 3))
    tree = LayerTree(model)
    tree.recall(seen.outputs)
    assert not tree.probed
    tree.recall(LayerTree(model).outputs)
    assert not tree.probed
    assert "added" in tree.names
