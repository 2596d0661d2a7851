"""The tree of modules: order, names, all ways to choose, and the errors they give."""

import json
import re

import pytest
import torch
from support import TESTS, zoo
from torch import nn

from cka_notebook._capture.probe import probe
from cka_notebook._models.layer_tree import LayerTree
from cka_notebook._widget.saved_tree import choose_rows, columns_of

GLOBS = json.loads((TESTS / "globs.json").read_text("utf-8"))
"""What globs take and leave; the tests of the page read the same file."""


def probed(model, batch, argument="model1_layers"):
    tree = LayerTree(model, argument)

    def run(count):
        inputs = batch if count is None else batch[:count]
        with torch.no_grad():
            tree.model.eval()(inputs)
        return len(inputs)

    probe(tree, run)
    return tree


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
    assert probed(nn.Linear(10, 3), torch.randn(8, 10)).names == [""]


def test_the_root_is_a_layer_where_none_of_its_children_is():
    model = nn.utils.parametrizations.weight_norm(nn.Linear(10, 3))
    tree = probed(model, torch.randn(8, 10))
    assert tree.names == [""]
    assert rows(tree)[0][""]["reason"] is None


def test_the_root_of_a_larger_model_is_not_offered():
    tree = mlp_tree()
    assert "" not in tree.names
    assert rows(tree)[0][""]["reason"] == "the model itself"


def test_a_module_called_several_times_is_a_layer_a_call():
    tree = probed(zoo.SharedActivation(), torch.randn(8, 10))
    assert tree.names == ["first", "act#0", "second", "act#1", "third", "act#2"]


def test_the_bare_name_of_a_module_called_several_times_means_all_calls():
    tree = probed(zoo.SharedActivation(), torch.randn(8, 10))
    assert tree.choose(["act"]) == ["act#0", "act#1", "act#2"]
    assert tree.choose(["act#1"]) == ["act#1"]


def test_modules_that_never_run_are_listed_with_the_reason_and_not_offered():
    tree = probed(zoo.Unused(), torch.randn(8, 10))
    assert tree.names == ["parts.0", "parts.1", "named.head"]
    found, _ = rows(tree)
    never = [name for name, row in found.items() if row["reason"] == "never called"]
    assert never == ["unused", "parts", "named", "named.idle"]


def test_choosing_a_module_that_never_ran_says_so():
    tree = probed(zoo.Unused(), torch.randn(8, 10))
    with pytest.raises(ValueError, match="names 'unused' of Unused, which was never"):
        tree.choose(["unused"])


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
        ("fixed", "output does not depend on the batch"),
        ("pooled", "output does not depend on the batch"),
    ],
)
def test_an_output_that_cannot_be_compared_has_its_reason(layer, reason):
    tree = probed(zoo.Incomparable(), torch.randn(8, 10))
    assert tree.names == ["linear"]
    assert rows(tree)[0][layer]["reason"] == reason
    with pytest.raises(ValueError, match=f"{layer!r} of Incomparable, which cannot"):
        tree.choose([layer])


def test_tied_modules_appear_under_both_names_and_count_once():
    tree = probed(zoo.Tied(), torch.randn(8, 8))
    found, _ = rows(tree)
    assert tree.names == ["encode#0", "encode#1", "head"]
    assert found["decode"]["reason"] == "the same module as 'encode'"
    assert found[""]["params"] == 8 * 8 + 8 + 8 * 3 + 3
    assert found["decode"]["params"] == found["encode"]["params"] == 72


def test_the_second_name_of_a_tied_module_can_be_chosen():
    tree = probed(zoo.Tied(), torch.randn(8, 8))
    assert tree.choose(["decode"]) == ["decode#0", "decode#1"]
    assert [x.module for x in tree.find(["decode#1"])] == [tree.model.encode]


def test_columns_tell_shapes_types_depths_and_parameters():
    found, _ = rows(probed(zoo.ResNet(width=2), torch.randn(4, 3, 32, 32)))
    row = found["layer2.0.conv1"]
    assert row["shape"] == [None, 4, 4, 4]
    assert row["type"] == "Conv2d"
    assert row["depth"] == 3
    assert row["params"] == 2 * 4 * 9
    model = zoo.ResNet(width=2)
    assert found[""]["params"] == sum(p.numel() for p in model.parameters())
    below = sum(p.numel() for p in model.layer3.parameters())
    assert found["layer3"]["params"] == below


def test_columns_before_the_probe_have_no_shape_reason_or_order():
    columns = LayerTree(zoo.ResNet(width=2)).columns()
    assert set(columns["shape"]) == {None}
    assert set(columns["reason"][1:]) == {None}
    assert columns["name"][0] == ""
    assert len(columns["name"]) == 68


def test_calls_are_rows_below_their_module():
    tree = probed(zoo.SharedActivation(), torch.randn(8, 10))
    names = tree.columns()["name"]
    start = names.index("act")
    assert names[start : start + 4] == ["act", "act#0", "act#1", "act#2"]
    found, _ = rows(tree)
    assert found["act"]["reason"] == "called 3 times"
    assert found["act#1"]["type"] == "call"
    assert found["act#1"]["depth"] == found["act"]["depth"] + 1
    assert found["act#1"]["shape"] == [None, 8]


def test_presets_are_row_numbers_of_what_choose_gives():
    tree = probed(zoo.ResNet(width=2), torch.randn(4, 3, 32, 32))
    columns = tree.columns()
    for preset, indices in columns["presets"].items():
        assert [columns["name"][i] for i in indices] == tree.choose(preset)


def test_presets_all_and_leaves():
    tree = probed(zoo.Deep(3), torch.randn(8, 4))
    assert tree.choose("leaves") == [
        f"blocks.{i}.{j}" for i in range(3) for j in (0, 1)
    ]
    assert len(tree.choose("all")) == 9


def test_indices_count_in_execution_order_from_both_ends():
    tree = probed(zoo.Reversed(), torch.randn(8, 10))
    assert tree.choose([0]) == ["a"]
    assert tree.choose([-1, 0]) == ["b", "a"]
    assert tree.choose(1) == ["b"]


def test_globs_patterns_classes_and_predicates_choose():
    tree = mlp_tree()
    assert tree.choose("[02]") == ["0", "2"]
    assert tree.choose(["?"]) == ["0", "1", "2", "3", "4"]
    assert tree.choose(re.compile(r"^[13]$")) == ["1", "3"]
    assert tree.choose([nn.Linear]) == ["0", "2", "4"]
    assert tree.choose(nn.Tanh) == ["1", "3"]
    assert tree.choose(
        lambda name, module: isinstance(module, nn.Tanh) or name == "4"
    ) == [
        "1",
        "3",
        "4",
    ]


@pytest.mark.parametrize("example", GLOBS, ids=lambda example: example["glob"])
def test_globs_mean_what_they_mean_to_the_search_of_the_page(example):
    names = [*example["takes"], *example["leaves"]]
    columns = columns_of("Net", names)
    assert choose_rows(columns, example["glob"], "layers1") == example["takes"]


def test_a_star_of_a_glob_takes_dots_too():
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), nn.Linear(3, 2))
    tree = LayerTree(model)
    assert tree.choose("0*") == tree.choose("0**") == ["0", "0.0", "0.1"]


def test_a_list_keeps_its_order_and_names_nothing_twice():
    tree = mlp_tree()
    assert tree.choose(["4", 0, "4", nn.Linear]) == ["4", "0", "2"]


def test_a_name_with_brackets_is_not_taken_for_a_glob():
    model = nn.Module()
    model.add_module("odd[1]", nn.Linear(3, 3))
    assert LayerTree(model).choose(["odd[1]"]) == ["odd[1]"]


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("layer3.0.conv", "'layer3.0.conv2', 'layer3.0.conv1' or "),
        ("layer4.1.bn9", "'layer4.1.bn2'"),
    ],
)
def test_an_unknown_name_gets_the_nearest_ones(wrong, near):
    tree = LayerTree(zoo.ResNet(width=2), "model2_layers")
    with pytest.raises(ValueError, match="`model2_layers` names") as caught:
        tree.choose([wrong])
    assert f"{wrong!r}, which ResNet does not have. Did you mean" in str(caught.value)
    assert near in str(caught.value)
    assert "lists all 67." in str(caught.value)


def test_an_unknown_name_like_no_other_gets_no_suggestion():
    with pytest.raises(ValueError, match="does not have") as caught:
        LayerTree(zoo.ResNet(width=2)).check(["xyzzy"])
    assert "Did you mean" not in str(caught.value)


def test_unknown_names_are_known_before_the_probe_and_patterns_wait_for_it():
    tree = LayerTree(zoo.ResNet(width=2))
    with pytest.raises(ValueError, match="layer5"):
        tree.check(["layer5.0"])
    tree.check(["layer9.*", -1, nn.Conv2d, re.compile("x")])
    tree.check("blocks")
    tree.check(lambda *_: True)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("none*", "`model1_layers` 'none\\*' matches no layer of Sequential. It has 5"),
        (re.compile("x+"), "'x\\+' matches no layer"),
        (nn.LSTM, "'LSTM' matches no layer"),
        (7, "index 7 is out of range for Sequential. It has 5 layers"),
        (-6, "index -6 is out of range"),
        ([], "chose no layer of Sequential"),
        (lambda *_: False, "chose no layer of Sequential"),
        ("0#1", "names '0#1'"),
    ],
)
def test_a_choice_of_nothing_is_an_error_that_helps(choice, message):
    with pytest.raises(ValueError, match=message):
        mlp_tree().choose(choice)


@pytest.mark.parametrize("wrong", [1.5, None, True, (1, 2), nn.Linear(1, 1)])
def test_a_choice_of_no_known_kind_is_a_type_error(wrong):
    with pytest.raises(TypeError, match="names, indices, globs, compiled"):
        mlp_tree().choose([wrong])


@pytest.mark.parametrize("wrong", [1.5, nn.Linear(1, 1), nn.Sequential(nn.ReLU())])
def test_what_is_no_list_of_choices_is_the_same_error_before_any_probe(wrong):
    for refuse in (mlp_tree().check, mlp_tree().choose):
        with pytest.raises(TypeError, match="names, indices, globs, compiled"):
            refuse(wrong)


def test_who_passes_a_module_is_told_its_name():
    model = zoo.ResNet(width=2)
    with pytest.raises(TypeError, match="got a Conv2d: pass its name, 'conv1'"):
        LayerTree(model).check([model.conv1])
    with pytest.raises(TypeError, match="got a ReLU that ResNet lacks"):
        LayerTree(model).check([nn.ReLU()])


def test_a_container_that_is_never_called_tells_what_it_holds():
    tree = probed(zoo.Unused(), torch.randn(8, 10))
    with pytest.raises(ValueError, match=r"It holds 2 layers: 'parts\.0', 'parts\.1'"):
        tree.choose(["parts"])
    with pytest.raises(ValueError, match="It has 3 layers to choose from"):
        tree.choose(["unused"])


class TokensFirst(nn.Module):
    """A language model whose own input has tokens first, as torch's examples do."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 6)
        self.rnn = nn.LSTM(6, 8)
        self.head = nn.Linear(8, 50)

    def forward(self, words):
        return self.head(self.rnn(self.embed(words))[0])


def test_tokens_that_may_be_taken_for_examples_are_said():
    words = torch.randint(50, (8, 12))
    note = probed(TokensFirst(), words).axis_note()
    assert note.startswith("TokensFirst: 'rnn' (LSTM) has batch_first=False")
    assert "forward=lambda model, batch: model(batch.transpose(0, 1))" in note


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_model_that_turns_its_input_itself_is_not_suspected(kind):
    assert probed(zoo.Recurrent(kind), torch.randn(8, 7, 6)).axis_note() is None
    assert probed(zoo.Attention(), torch.randn(8, 7, 6)).axis_note() is None
    assert probed(zoo.SequenceFirst(), torch.randn(8, 7, 6)).axis_note() is None
    assert probed(zoo.mlp(), torch.randn(8, 10)).axis_note() is None
