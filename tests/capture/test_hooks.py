"""Hooks exist only during a run, and no copy of the model takes them along."""

import copy
import pickle

import torch
from support import zoo
from support.reference import compare, hooks_on

from cka_notebook import CKA
from cka_notebook._capture.hooks import hooked
from cka_notebook._models.layer_tree import LayerTree

ALL = {"model1_layers": "all", "model2_layers": "all"}


def test_hooks_are_there_only_during_a_run():
    model, counts = zoo.mlp(), []
    cka = CKA(model, **ALL)
    assert hooks_on(model) == 0
    cka.compare(
        zoo.batches_of(),
        progress=False,
        callback=lambda *_: counts.append(hooks_on(model)),
    )
    assert counts == [5] * 4
    assert hooks_on(model) == 0


def test_the_user_s_own_hooks_stay_and_go_first():
    model, seen = zoo.mlp(), []
    model[0].register_forward_hook(lambda _m, _a, out: seen.append(1) or out * 0 + 7)
    result = compare(model, batches=zoo.batches_of(), **ALL)
    # The user's hook made the output a constant: that is what the next layer gets.
    assert "0" in result.undefined1
    assert seen
    assert hooks_on(model) == 1


def test_a_copy_or_pickle_made_during_a_run_carries_no_hook_of_ours():
    model, copies = zoo.mlp(), []

    def duplicate(*_):
        copies.append(copy.deepcopy(model))
        copies.append(pickle.loads(pickle.dumps(model)))

    compare(model, batches=zoo.batches_of(2), callback=duplicate)
    x = torch.randn(3, 10)
    for other in copies:
        assert torch.equal(other(x), model(x))


def test_another_thread_may_see_a_hook_without_its_wish_for_keywords():
    """Torch notes the two one after the other, and forgets them so, too."""
    model, seen = torch.nn.Sequential(torch.nn.ReLU()), []

    def before(module, _args, keywords):
        seen.append((module, keywords))

    with hooked(LayerTree(model), lambda *_: None, before):
        model(torch.randn(3, 10))
        assert seen == [(model, {}), (model[0], {})]
        for module in model.modules():
            module._forward_pre_hooks_with_kwargs.clear()
        model(torch.randn(3, 10))
    assert len(seen) == 2
