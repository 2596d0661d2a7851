"""What an explorer compares, mostly without the explorer."""

import gc
import re
import weakref

import pytest
import torch
from support.doubles import batches, make
from torch import nn

from cka_notebook import CKAExplorer, CKAResult
from cka_notebook._models.layer_tree import LayerTree
from cka_notebook._widget.comparison import Live, Saved, describe_loader, free_bytes
from cka_notebook._widget.source import with_layers


def net():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))


def live(*models, **options):
    return Live(*models, [torch.randn(12, 6)], None, options)


def finish(comparison, choices=None):
    comparison.prepare("cka")
    for state in comparison.steps(choices or {}):
        last = state
    result = last.result()
    del state, last
    comparison.release()
    return result


def test_after_a_run_layers_are_chosen_from_what_the_probe_saw():
    model = net()
    comparison = live(model, None, model1_layers="all")
    finish(comparison)
    for choices in ("all", ["0", "1", "2"], "?", "leaves"):
        assert comparison.choose("layers1", choices) == ["0", "1", "2"]
    assert comparison.choose("layers2", ["2", "0"]) == ["2", "0"]
    assert comparison.trees()["model1"]["shape"][1] == [None, 8]


class Twice(nn.Module):
    """A module `act` that is called twice, and one that is defined after its use."""

    def __init__(self):
        super().__init__()
        self.act, self.fc = nn.Tanh(), nn.Linear(6, 6)

    def forward(self, x):
        return self.act(self.fc(self.act(self.fc(x))))


CHOICES = (
    "act",
    ["act"],
    ["act#0", "act"],
    0,
    [-1, 0],
    "fc*",
    re.compile("#1$"),
    "all",
)


@pytest.mark.parametrize("choices", CHOICES, ids=str)
def test_a_choice_means_the_same_layers_during_and_after_a_run_and_in_its_result(
    choices,
):
    model = Twice()
    comparison = live(model, None, model1_layers="all")
    comparison.prepare("cka")
    for state in comparison.steps({}):
        during = comparison.choose("layers1", choices)
        result = state.result()
    del state
    comparison.release()
    after = comparison.choose("layers1", choices)
    comparison.prepare("cka")
    before_the_next = comparison.choose("layers1", choices)
    saved = Saved(result).choose("layers1", choices)
    assert during == after == before_the_next == saved
    assert live(model, None, model1_layers=choices).choose("layers1", "fc") == ["fc"]
    assert finish(comparison, {"layers1": choices}).layers1 == tuple(during)


@pytest.mark.parametrize("choices", ["act", ["act"], ["act#0", "act"]], ids=str)
def test_an_explorer_chooses_all_calls_by_a_bare_name_whenever_it_is_asked(
    choices, tmp_path
):
    path, loader = tmp_path / "result.safetensors", [torch.randn(16, 6)]
    before, after = (
        CKAExplorer(Twice(), None, loader, autostart=False, model1_layers="all")
        for _ in range(2)
    )
    after.wait(60)
    after.result.save(path)
    saved = CKAExplorer.from_result(CKAResult.load(path))
    for explorer in (before, after, saved):
        explorer.layers1 = choices
    before.wait(60)
    for explorer in (before, after, saved):
        assert explorer.layers1 == ["act#0", "act#1"]


def test_classes_choose_layers_of_the_next_run_before_its_probe():
    comparison = live(model := Twice(), None)
    finish(comparison)
    with pytest.raises(TypeError, match="predicates need the model"):
        comparison.choose("layers1", nn.Tanh)
    comparison.prepare("cka")
    assert comparison.choose("layers1", nn.Tanh) == ["act#0", "act#1"]
    del model


def test_no_layers_may_be_chosen_while_nothing_is_computed():
    comparison = live(model := net(), None)
    assert comparison.choose("layers1", []) == []
    result = finish(comparison)
    assert comparison.choose("layers1", []) == []
    assert Saved(result).choose("layers1", []) == []
    comparison.prepare("cka")
    with pytest.raises(ValueError, match="`layers1` matches no layer of Sequential"):
        comparison.choose("layers1", [])
    del model


def test_one_model_is_freed_while_the_other_is_in_use():
    model1, model2 = net(), net()
    comparison = live(model1, model2)
    finish(comparison)
    gone = weakref.ref(model1)
    del model1
    gc.collect()
    assert gone() is None
    with pytest.raises(RuntimeError, match=r"model1 .* was deleted after the last run"):
        comparison.prepare("cka")


def test_the_same_model_twice_is_one_comparison():
    model = net()
    comparison = live(model, model)
    assert comparison.same
    code = with_layers(comparison.code("cka", None), ["0"], ["1"])
    assert code.startswith("CKA(\n    model1,\n    model1_name=")
    finish(comparison)
    assert finish(comparison).batches == 1


def test_calls_of_a_module_may_be_chosen_before_they_are_known():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.fc = nn.ReLU(), nn.Linear(6, 6)

        def forward(self, x):
            return self.act(self.fc(self.act(x)))

    model = Twice()
    comparison = live(model, None)
    assert comparison.choose("layers1", ["act#1", "fc"]) == ["act#1", "fc"]
    assert comparison.choose("layers1", "act#0") == ["act#0"]
    result = finish(comparison, {"layers1": ["act#1", "fc"]})
    assert result.layers1 == ("act#1", "fc")


def test_a_saved_result_has_a_tree_of_its_layers():
    layers = ("stem", "block.0.conv", "block.1", "head")
    matrix = torch.zeros(4, 1)
    saved = Saved(CKAResult(matrix, matrix, layers, ("x",), "Left", "Right"))
    columns = saved.trees()["model1"]
    names = ["", "stem", "block", "block.0", "block.0.conv", "block.1", "head"]
    assert columns["name"] == names
    assert columns["depth"] == [0, 1, 1, 2, 3, 2, 1]
    assert columns["type"][0] == "Left"
    chosen = [r is None for r in columns["reason"]]
    assert [n for n, c in zip(names, chosen, strict=True) if c] == list(layers)
    assert saved.choose("layers1", "auto") == list(layers)


def test_loaders_are_described_without_addresses():
    data = torch.utils.data.TensorDataset(torch.zeros(10, 2))
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    assert describe_loader(loader) == "TensorDataset, 3 batches, batch size 4"
    assert describe_loader(x for x in ()) == "generator"


def test_unknown_options_are_refused_with_the_allowed_ones():
    with pytest.raises(
        TypeError, match=r"'layers1'.*takes autocast, autostart, .*model1_layers.*theme"
    ):
        make(layers1=["0"])
    with pytest.raises(TypeError, match="Did you mean 'max_batches'"):
        make(max_batch=3)
    with pytest.raises(TypeError, match=r"function of \(batch, total, matrix\).*got 3"):
        make(callback=3)


def test_the_free_memory_of_this_machine_is_known_or_none():
    free = free_bytes(None)
    assert free is None or free > 1_000_000


def test_models_are_freed_after_a_run_although_the_explorer_lives():
    model1, model2 = net(), net()
    explorer = CKAExplorer(model1, model2, batches())
    explorer.wait(60)
    alive = weakref.ref(model1)
    explorer.run()
    explorer.wait(60)
    del model1
    gc.collect()
    assert alive() is None
    with pytest.raises(RuntimeError, match="model1 \\(Sequential\\) to be alive"):
        explorer.run()
    assert explorer.result.batches == 6
    assert explorer.layers1
    assert explorer.status == "done"


def test_models_without_other_references_are_kept_for_another_run():
    explorer, _ = make()
    explorer.wait(60)
    gc.collect()
    explorer.run()
    assert explorer.wait(60).batches == 6


def test_the_model_is_left_without_hooks_after_every_exit():
    model = net()
    explorer = CKAExplorer(model, None, batches())
    explorer.wait(60)
    explorer.run()
    explorer.stop()
    explorer.wait(60)
    assert all(not module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("loader", "options", "words"),
    [
        (torch.randn(8, 6), {}, "`loader` to yield batches, got a Tensor"),
        (None, {"max_batches": "3"}, "`max_batches` to be an integer or None, got '3'"),
    ],
)
def test_unusable_options_are_refused_at_once(loader, options, words):
    with pytest.raises(TypeError, match=words):
        CKAExplorer(net(), net(), batches() if loader is None else loader, **options)


def test_a_model_compared_with_itself_has_its_tree_made_once(monkeypatch):
    made = []
    columns = LayerTree.columns
    monkeypatch.setattr(
        LayerTree, "columns", lambda tree: made.append(tree) or columns(tree)
    )
    model = net()
    for other, count in ((None, 1), (model, 1), (net(), 2)):
        made.clear()
        trees = Live(model, other, batches(), None, {}).trees()
        assert len(made) == count
        assert trees["model1"] == trees["model2"] == columns(made[0])
