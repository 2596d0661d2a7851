"""All ways to choose layers, of a live model and without it, and their errors."""

import gc
import json
import re
import weakref

import numpy as np
import pytest
import torch
from support import TESTS, zoo
from support.trees import probed
from torch import nn

from cka_notebook._models.choice import check, choose
from cka_notebook._models.layer_tree import LayerTree
from cka_notebook._models.tree_rows import PRESETS
from cka_notebook._widget.saved_tree import rows_of

GLOBS = json.loads((TESTS / "globs.json").read_text("utf-8"))
"""What globs take and leave; the tests of the page read the same file."""


def mlp_tree():
    return probed(zoo.mlp(), torch.randn(8, 10))


def test_the_bare_name_of_a_module_called_several_times_means_all_calls():
    tree = probed(zoo.SharedActivation(), torch.randn(8, 10))
    assert tree.choose(["act"]) == ["act#0", "act#1", "act#2"]
    assert tree.choose(["act#1"]) == ["act#1"]


def test_choosing_a_module_that_never_ran_says_so():
    tree = probed(zoo.Unused(), torch.randn(8, 10))
    with pytest.raises(
        ValueError, match=r"contains 'unused', .* compared: never called"
    ):
        tree.choose(["unused"])


def test_the_second_name_of_a_tied_module_can_be_chosen():
    tree = probed(zoo.Tied(), torch.randn(8, 8))
    assert tree.choose(["decode"]) == ["decode#0", "decode#1"]
    assert [x.module for x in tree.find(["decode#1"])] == [tree.model.encode]


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
    rows = rows_of("Net", names, "layers1")
    assert choose(rows, example["glob"]) == example["takes"]


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
    with pytest.raises(ValueError, match="`model2_layers` contains") as caught:
        tree.choose([wrong])
    assert f"{wrong!r}, but ResNet has no such layer. Did you mean" in str(caught.value)
    assert near in str(caught.value)
    assert "lists all 67." in str(caught.value)


def test_an_unknown_name_like_no_other_gets_no_suggestion():
    with pytest.raises(ValueError, match="has no such layer") as caught:
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
        ([], "`model1_layers` matches no layer of Sequential"),
        (lambda *_: False, "`model1_layers` matches no layer of Sequential"),
        ("0#1", "contains '0#1'"),
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
def test_a_choice_of_no_known_kind_is_the_same_error_before_any_probe(wrong):
    for refuse in (mlp_tree().check, mlp_tree().choose):
        with pytest.raises(TypeError, match="names, indices, globs, compiled"):
            refuse(wrong)


def test_a_module_is_refused_with_the_name_to_pass_instead():
    model = zoo.ResNet(width=2)
    with pytest.raises(TypeError, match=r"got a Conv2d \(pass its name, 'conv1'\)"):
        LayerTree(model).check([model.conv1])
    with pytest.raises(TypeError, match="got a ReLU that is not part of ResNet"):
        LayerTree(model).check([nn.ReLU()])


def test_a_container_that_is_never_called_is_refused_with_what_it_contains():
    tree = probed(zoo.Unused(), torch.randn(8, 10))
    with pytest.raises(
        ValueError, match=r"It contains 2 layers: 'parts\.0', 'parts\.1'"
    ):
        tree.choose(["parts"])
    with pytest.raises(ValueError, match="It has 3 layers to choose from"):
        tree.choose(["unused"])


MODELS = {
    "calls": (zoo.SharedActivation, (8, 10)),
    "order": (zoo.Reversed, (8, 10)),
    "unused": (zoo.Unused, (8, 10)),
    "tied": (zoo.Tied, (8, 8)),
    "blocks": (lambda: zoo.ResNet(width=2), (4, 3, 32, 32)),
    "one layer": (lambda: nn.Linear(10, 3), (8, 10)),
}

WITHOUT_MODULES = (
    None, *PRESETS, "act", ["act#1", "act"], "act#?", ["*"], "first", ["head", 0],
    0, -1, [1, 0, -1], 99, [-99], "", "decode", "decode#0", "encode#1", "parts",
    "parts.1", "layer1.0", "layer1.*", ["layer2", "layer1.0.conv1"], "[lp]*",
    re.compile(r"[01]$"), [re.compile("act"), "second"], re.compile("nothing"),
    "firts", "act#7", "none*", [], 1.5, [True], [None], [("a", "b")],
)  # fmt: skip
"""Choices that need no module, right and wrong ones."""


def outcome(rows, choices):
    """The chosen layers, or the error."""
    try:
        return choose(rows, choices)
    except (TypeError, ValueError) as error:
        return type(error), str(error)


@pytest.mark.parametrize("choices", WITHOUT_MODULES, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_a_choice_means_the_same_with_and_without_the_model(name, choices):
    make, shape = MODELS[name]
    rows = probed(make(), torch.randn(shape)).rows("layers1")
    assert outcome(rows.without_modules(), choices) == outcome(rows, choices)


@pytest.mark.parametrize("choices", WITHOUT_MODULES, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_a_saved_tree_chooses_what_the_live_one_chooses_of_the_same_layers(
    name, choices
):
    make, shape = MODELS[name]
    live = probed(make(), torch.randn(shape)).rows("layers1")
    saved = rows_of(live.title, live.names, "layers1")
    found, got = outcome(live, choices), outcome(saved, choices)
    if choices in (None, *PRESETS):
        assert got == live.names
    elif isinstance(found, list) and set(found) <= set(live.names):
        assert got == found
    else:
        assert isinstance(got, tuple), "a layer that is not in the result"


def test_rows_without_modules_do_not_hold_the_model():
    model = zoo.ResNet(width=2)
    rows = probed(model, torch.randn(4, 3, 32, 32)).rows().without_modules()
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert choose(rows, "blocks")


@pytest.mark.parametrize("wrong", [nn.ReLU, [nn.ReLU], lambda *_: True])
def test_without_the_model_classes_and_predicates_are_refused(wrong):
    rows = rows_of("Net", ["layer1"], "layers2")
    match = "Expected `layers2` to contain names, .*predicates need the model: use them"
    with pytest.raises(TypeError, match=match):
        choose(rows, wrong)


@pytest.mark.parametrize("wrong", [1.5, nn.ReLU(), [True]])
def test_without_the_model_wrong_kinds_are_refused_as_with_it(wrong):
    rows = rows_of("Net", ["layer1"], "layers2")
    with pytest.raises(TypeError, match="Expected `layers2` to contain names, indices"):
        choose(rows, wrong)


def test_before_a_probe_calls_may_be_chosen_that_are_not_known_yet():
    tree = LayerTree(zoo.SharedActivation())
    assert tree.choose(["act#1", "act#?", 0]) == ["act#1", "act#?", "first"]
    assert tree.choose([re.compile("#1$"), 99]) == []
    for wrong in ("act#x", "acts#1"):
        with pytest.raises(ValueError, match="has no such layer"):
            tree.choose([wrong])


def test_a_saved_tree_offers_the_nearest_names_and_lists_the_others():
    rows = rows_of("Net", ["layer1", "layer2", "head"], "layers2")
    with pytest.raises(ValueError, match="Did you mean 'layer2' or 'layer1'") as caught:
        choose(rows, ["layer22"])
    assert str(caught.value).endswith("`result.layers2` lists all 3.")


def test_what_contains_layers_of_a_saved_tree_is_none_of_them():
    rows = rows_of("Net", ["block.0", "head"], "layers1")
    match = r"'block', .* not in the result\. It contains 1 layer: 'block\.0'"
    with pytest.raises(ValueError, match=match):
        choose(rows, "block")


@pytest.mark.parametrize(
    "names", [["a#1", "c"], ["a", "a#0", "a#1"], ["#", "##", "#1"]]
)
def test_a_number_sign_in_the_name_of_a_module_is_no_call(names):
    model = nn.Sequential()
    for name in names:
        model.add_module(name, nn.Linear(10, 10))
    tree = probed(model, torch.randn(8, 10))
    assert tree.names == names
    for name in names:
        assert tree.choose(name) == [name]
        assert [layer.name for layer in tree.find([name])] == [name]
        assert choose(rows_of("Net", names, "layers1"), name) == [name]


def rows(*names):
    return rows_of("Net", list(names), "layers1")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_torch_s_wrappers_are_accepted(prefix):
    given = rows("stem", "body.0", "head")
    assert choose(given, [f"{prefix}stem", f"{prefix}body.0"]) == ["stem", "body.0"]
    check(given, [f"{prefix}head"])


def test_a_module_that_is_called_module_keeps_its_name():
    given = rows("module.stem", "stem")
    assert choose(given, ["module.stem"]) == ["module.stem"]
    assert choose(given, ["module.module.stem"]) == ["module.stem"]


@pytest.mark.parametrize("use", [choose, check])
def test_all_unknown_names_are_in_one_error(use):
    with pytest.raises(ValueError, match="no such layers") as caught:
        use(rows("stem", "head"), ["stm", "stem", "hed"])
    text = str(caught.value)
    assert "contains 'stm', 'hed', but" in text
    assert "'stem'? (for 'stm')" in text
    assert "'head'? (for 'hed')" in text


def test_all_items_that_match_nothing_are_in_one_error():
    tree = probed(zoo.mlp(), torch.randn(4, 10))
    with pytest.raises(ValueError, match="matches no layer") as caught:
        tree.choose([9, "x*", re.compile("zz"), nn.Conv2d, 0])
    text = str(caught.value)
    assert all(word in text for word in ("index 9", "'x*'", "'zz'", "'Conv2d'"))
    assert text.count("layers to choose from") == 1


def test_errors_say_which_layer_a_parameter_belongs_to():
    with pytest.raises(ValueError, match="no such layers") as caught:
        check(rows("body.0", "head"), ["body.0.weight", "head.bias"])
    assert "'body.0.weight' is a parameter of layer 'body.0'." in str(caught.value)
    assert "'head.bias' is a parameter of layer 'head'." in str(caught.value)


def test_a_set_is_in_execution_order():
    names = [f"layer{i}" for i in range(20)]
    assert choose(rows(*names), set(names[::2])) == names[::2]


def test_integers_of_numpy_are_indices():
    found = rows("a", "b", "c")
    assert choose(found, [np.int64(2), np.uint8(0)]) == ["c", "a"]
    assert choose(found, np.arange(2)) == ["a", "b"]


def test_long_values_are_shortened():
    with pytest.raises(TypeError, match="to contain names") as caught:
        check(rows("a"), [["x" * 50] * 1000])
    assert len(str(caught.value)) < 500
