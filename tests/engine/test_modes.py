"""Two runs, or a run and the user's own code, on one model in training mode."""

import copy
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from support import zoo
from support.doubles import until
from support.reference import differences, snapshot
from torch import nn

from cka_notebook import CKA, CKAExplorer
from cka_notebook._engine import modes
from cka_notebook._engine.modes import LEASE, Evaluation, held

SHORT = 4
LONG = 200


def flags(model):
    return [module.training for module in model.modules()]


def normed(width=16):
    """A model whose buffers, and values, tell whether it ran in training mode."""
    return nn.Sequential(
        nn.Linear(10, width),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(width, 8),
        nn.BatchNorm1d(8),
    )


def elsewhere(call):
    """What `call` returns in another thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result(60)


# One forward pass


def test_each_module_is_in_evaluation_mode_and_its_own_flag_stays():
    model = zoo.ResNet(width=2).train()
    model.layer1.eval()
    model.bn1.eval()
    before = flags(model)
    with Evaluation(model.modules()):
        assert not any(flags(model))
        assert elsewhere(lambda: flags(model)) == before
    assert flags(model) == before
    with pytest.raises(KeyboardInterrupt), Evaluation(model.modules()):
        raise KeyboardInterrupt
    assert flags(model) == before


def test_no_method_of_the_model_is_called():
    class Frozen(nn.Module):
        def train(self, mode=True):  # noqa: ARG002 torch's signature
            raise AssertionError

    with Evaluation([Frozen()]):
        pass


def test_torch_is_as_it_was_when_the_last_run_has_ended():
    with held(LEASE):
        model = normed()
        with Evaluation(model.modules()):
            pass
        assert "training" in vars(nn.Module)
        assert not hasattr(nn.Module, "training")
    assert "training" not in vars(nn.Module)
    assert not modes._passes
    assert model.training


@pytest.mark.parametrize("mode", [True, False])
def test_what_the_user_sets_during_a_pass_holds_after_it_but_not_in_it(mode):
    model = normed().train(not mode)
    with Evaluation(model.modules()):
        elsewhere(lambda: model.train(mode))
        assert not any(flags(model))
    assert all(flag is mode for flag in flags(model))


def test_a_module_that_sets_its_own_mode_in_its_forward_does_so_for_the_pass():
    model = normed().eval()
    with Evaluation(model.modules()):
        model[3].train()
        assert flags(model) == [False] * 4 + [True] + [False] * 2
    assert not any(flags(model))


def test_a_pass_within_a_pass_ends_alone():
    outer, inner = normed(), normed()
    with Evaluation(outer.modules()):
        with Evaluation(inner.modules()):
            assert not any(flags(outer) + flags(inner))
        assert not any(flags(outer))
        assert all(flags(inner))


def test_a_copy_made_during_a_pass_has_the_users_flags():
    model = normed()
    with Evaluation(model.modules()):
        copied = copy.deepcopy(model)
    assert all(flags(copied))


class OwnFlag(nn.Module):
    """Its class has an attribute of this name, which hides torch's."""

    training = True


def scripted_dropout():
    return torch.jit.script(nn.Dropout())


@pytest.mark.parametrize(
    "kind",
    [
        scripted_dropout,
        OwnFlag,
        lambda: nn.DataParallel(nn.Dropout(), device_ids=[]),
        lambda: torch.compile(nn.Dropout(), backend="eager"),
    ],
)
def test_modules_that_keep_their_flag_elsewhere_are_flipped_until_the_last_pass_ends(
    kind,
):
    model = nn.Sequential(kind())
    first, second = Evaluation(model.modules()), Evaluation(model.modules())
    with ThreadPoolExecutor(1) as other:
        with first:
            assert not any(flags(model))
            other.submit(second.__enter__).result(60)
        assert not any(other.submit(flags, model).result(60))
        other.submit(second.__exit__).result(60)
    assert all(flags(model))


def test_new_scripted_and_compiled_modules_can_be_made_during_a_run():
    with held(LEASE):
        model = normed()
        scripted = torch.jit.script(model)
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        x = torch.randn(8, 10)
        for training in (True, False):
            model.train(training)
            scripted.train(training)
            before = int(model[1].num_batches_tracked)
            compiled(x)
            scripted(x)
            assert int(model[1].num_batches_tracked) - before >= training
        tracked = int(model[1].num_batches_tracked)
        model.eval()
        compiled(x)
        assert int(model[1].num_batches_tracked) == tracked


def test_a_torch_that_cannot_run_compiled_parts_eagerly_flips_all(monkeypatch):
    model = normed()
    monkeypatch.setitem(sys.modules, "torch._dynamo", object())
    monkeypatch.delattr(torch.compiler, "set_stance")
    with Evaluation(model.modules()):
        assert not any(elsewhere(lambda: flags(model)))
    assert all(flags(model))


# Whole runs


def shared_model():
    model1, model2 = normed(), normed(12)
    model2[0] = nn.Sequential(model1[0], nn.Linear(16, 12))  # A part of both.
    return model1, model2


def explored(models, batches):
    explorer = CKAExplorer(*models, batches, model1_layers="all", model2_layers="all")
    explorer.run()
    return explorer


def compared(models, batches):
    cka = CKA(*models, model1_layers="all", model2_layers="all")
    return cka.compare(batches, progress=False)


def assert_undisturbed(rounds, beside):
    models = shared_model()
    batches = zoo.batches_of(12)
    expected = compared(models, batches).matrix
    before = [snapshot(model) for model in models]
    for _ in range(rounds):
        explorer = explored(models, batches)
        others = beside(models, batches)
        results = [explorer.wait(60), *others]
        explorer.close()
        for result in results:
            assert torch.equal(result.matrix, expected)
    for model, kept in zip(models, before, strict=True):
        changed = differences(kept, snapshot(model))
        assert [name for name in changed if name != "random"] == []


def by_compare(models, batches):
    return [compared(models, batches)]


def by_explorer(models, batches):
    explorer = explored(models[::-1], batches)
    explorer.close()
    second = explored(models, batches)
    result = second.wait(60)
    second.close()
    return [result]


BESIDE = pytest.mark.parametrize("beside", [by_compare, by_explorer])


@BESIDE
def test_two_runs_on_models_in_training_mode_do_not_disturb_each_other(beside):
    assert_undisturbed(SHORT, beside)


@pytest.mark.slow
@BESIDE
def test_two_runs_200_times(beside):
    assert_undisturbed(LONG, beside)


def assert_users_thread_is_undisturbed(rounds):
    """The user trains one model, and sets modes, while runs compare it."""
    model1, model2 = normed(), normed()
    batches = zoo.batches_of(6)
    expected = compared((model1, model2), batches).matrix
    frozen = copy.deepcopy(model1)
    stop, faults = threading.Event(), []
    own = nn.Sequential(model2[1])  # Shares a part with model 2.
    tracked = own[0].num_batches_tracked
    momentum, own[0].momentum = own[0].momentum, 0.0

    def use():
        x = torch.randn(5, 16)
        for number in range(10**9):
            if stop.is_set():
                return
            mode = bool(number % 2)
            own.train(mode)
            before = int(tracked)
            try:
                own(x)
            except Exception as error:
                faults.append(error)
                return
            if own[0].training is not mode or int(tracked) - before != mode:
                faults.append(number)

    user = threading.Thread(target=use)
    user.start()
    try:
        for _ in range(rounds):
            explorer = explored((model1, model2), batches)
            result = explorer.wait(60)
            explorer.close()
            assert torch.equal(result.matrix, expected)
    finally:
        stop.set()
        user.join(60)
        own[0].momentum = momentum
    assert faults == []
    assert flags(model1) == flags(frozen)
    assert torch.equal(model1[1].running_mean, frozen[1].running_mean)


def test_a_users_thread_sees_and_sets_its_own_modes_beside_a_run():
    assert_users_thread_is_undisturbed(SHORT)


@pytest.mark.slow
def test_a_users_thread_beside_200_runs():
    assert_users_thread_is_undisturbed(LONG)


def test_modes_set_beside_a_run_are_what_holds_after_it():
    for number in range(20):
        model = normed()
        explorer = explored((model, None), zoo.batches_of(6))
        until(lambda e=explorer: e.progress.batches or e.status == "done")
        mode = bool(number % 2)
        model.train(mode)
        explorer.wait(60)
        explorer.close()
        assert all(flag is mode for flag in flags(model))
