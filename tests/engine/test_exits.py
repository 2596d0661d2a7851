"""However a run ends, the model is as it was found, and can be copied and pickled."""

import copy
import gc
import multiprocessing
import pickle
import threading

import pytest
import torch
from support import zoo
from support.reference import compare, differences, hooks_on, snapshot
from torch.utils.data import DataLoader, TensorDataset

from cka_notebook import CKA


class EndedError(Exception):
    """What the tests raise."""


def used_model():
    """A model in the state that users' models are in: half frozen, half training."""
    model = zoo.ResNet(width=2).train()
    model(torch.randn(4, 3, 16, 16)).sum().backward()
    model.bn1.eval()
    model.layer2.eval()
    model.layer3[0].bn1.train()
    model.conv1.weight.requires_grad_(False)
    model.layer1.register_forward_hook(lambda *_: None)
    model.layer1.register_forward_pre_hook(lambda *_: None)
    return model


def images():
    return zoo.images_of(3)


def raising(error, at):
    """A forward pre-hook that raises from the call of this number on."""
    calls = []

    def hook(*_):
        calls.append(1)
        if len(calls) >= at:
            raise error

    return hook


def to_the_end(cka):
    cka.compare(images(), progress=False)


def stopped_by_the_callback(cka):
    def stop(*_):
        raise StopIteration

    cka.compare(images(), progress=False, callback=stop)


def failing(error, at):
    """A run in which the model's own code raises from the call of this number on."""

    def run(cka):
        handle = cka.model1.layer3.register_forward_pre_hook(raising(error, at))
        try:
            with pytest.raises(BaseException) as caught:  # noqa: PT011 interrupts, too
                cka.compare(images(), progress=False)
        finally:
            handle.remove()
        cause = caught.value.__cause__ or caught.value
        assert isinstance(cause, type(error))

    return run


def failing_in_the_callback(error):
    def fail(batch, *_):
        if batch == 2:
            raise error

    def run(cka):
        with pytest.raises(type(error)):
            cka.compare(images(), progress=False, callback=fail)
        assert cka.result.batches == 2

    return run


def failing_in_the_loader(cka):
    def loader():
        yield from images()
        raise EndedError

    with pytest.raises(EndedError):
        cka.compare(loader(), progress=False)
    assert cka.result.batches == 3


def failing_in_a_pool(cka):
    def pool(_):
        raise EndedError

    with pytest.raises(EndedError):
        CKA(cka.model1, pool=pool).compare(images(), progress=False)


def failing_by_a_wrong_layer(cka):
    with pytest.raises(ValueError, match="matches no layer"):
        CKA(cka.model1, model1_layers="none*").compare(images(), progress=False)


def failing_by_a_wrong_batch(cka):
    with pytest.raises(TypeError, match="in batch 2"):
        cka.compare([*images()[:1], ["words"]], progress=False)


def closed_after(count):
    def run(cka):
        steps = cka._steps(images())
        for _ in range(count):
            next(steps)
        steps.close()

    return run


def forgotten(cka):
    steps = cka._steps(images())
    next(steps)
    next(steps)
    del steps
    gc.collect()


def closed_by_another_thread(cka):
    steps = cka._steps(images())
    next(steps)
    next(steps)
    thread = threading.Thread(target=steps.close)
    thread.start()
    thread.join()


EXITS = {
    "end": to_the_end,
    "stop iteration": stopped_by_the_callback,
    "exception in the probe": failing(EndedError(), 1),
    "exception in the model": failing(EndedError(), 4),
    "interrupt in the model": failing(KeyboardInterrupt(), 4),
    "out of memory in the model": failing(torch.OutOfMemoryError("full"), 4),
    "exception in the callback": failing_in_the_callback(EndedError()),
    "interrupt in the callback": failing_in_the_callback(KeyboardInterrupt()),
    "exception in the loader": failing_in_the_loader,
    "exception in a pool": failing_in_a_pool,
    "wrong layer": failing_by_a_wrong_layer,
    "wrong batch": failing_by_a_wrong_batch,
    "closed before the first batch": closed_after(1),
    "closed after a batch": closed_after(2),
    "closed by another thread": closed_by_another_thread,
    "forgotten": forgotten,
}


@pytest.fixture(params=EXITS.values(), ids=EXITS.keys())
def leave(request):
    return request.param


@pytest.mark.parametrize("alone", [True, False], ids=["one model", "two models"])
def test_the_model_is_as_it_was_found(leave, alone):
    model = used_model()
    other = model if alone else used_model()
    cka = CKA(model, other)
    before = snapshot(model), snapshot(other)
    leave(cka)
    assert differences(before[0], snapshot(model)) == []
    assert differences(before[1], snapshot(other)) == []


def test_the_model_can_be_copied_and_pickled_and_works(leave):
    model = zoo.ResNet(width=2)
    leave(CKA(model))
    x = torch.randn(4, 3, 16, 16)
    expected = model.eval()(x)
    twins = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    for twin in twins:
        assert hooks_on(twin) == 0
        assert torch.equal(twin(x), expected)


def test_the_next_run_gives_what_a_first_one_would(leave):
    model, twin = used_model(), used_model()
    twin.load_state_dict(model.state_dict())
    leave(CKA(model))
    after = compare(model, batches=images())
    fresh = compare(twin, batches=images())
    assert torch.equal(after.matrix, fresh.matrix)


def test_the_model_is_as_the_user_left_it_between_two_batches():
    model = used_model()
    before, found = snapshot(model), []

    def look(*_):
        now = snapshot(model)
        now["hooks"] = before["hooks"]
        found.append(differences(before, now))

    compare(model, batches=images(), callback=look)
    assert found == [[], [], []]


def test_a_flag_that_the_user_sets_during_a_run_stays():
    model = used_model()
    compare(model, batches=images(), callback=lambda *_: model.eval())
    assert not any(module.training for module in model.modules())


def test_running_means_are_not_updated_even_in_training_mode():
    model = zoo.inplace_mlp().train()
    before = model[1].running_mean.clone()
    compare(model, batches=zoo.batches_of())
    assert torch.equal(model[1].running_mean, before)
    assert model[1].num_batches_tracked == 0


def test_dropout_is_off_during_a_run_in_training_mode():
    model = torch.nn.Sequential(torch.nn.Linear(10, 8), torch.nn.Dropout(0.9))
    model.train()
    result = compare(model, batches=zoo.batches_of(), model1_layers="all")
    assert result.matrix.min() > 1 - 1e-12


def test_random_layers_do_not_move_the_global_random_state():
    noise = zoo.Returning(lambda x: x + torch.randn_like(x))
    model = torch.nn.Sequential(torch.nn.Linear(10, 8), noise)
    before = torch.get_rng_state()
    first = compare(model, batches=zoo.batches_of(), model1_layers="all")
    assert torch.equal(torch.get_rng_state(), before)
    second = compare(model, batches=zoo.batches_of(), model1_layers="all")
    assert torch.equal(first.matrix, second.matrix)


def test_what_a_loader_draws_is_not_missing_from_the_global_random_state():
    model, data = zoo.mlp(), TensorDataset(torch.randn(32, 10))
    before = torch.get_rng_state()
    compare(model, batches=DataLoader(data, batch_size=8, shuffle=True))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_the_loaders_worker_processes_end_with_the_run():
    data = TensorDataset(torch.randn(64, 10))
    loader = DataLoader(data, batch_size=8, num_workers=1)
    steps = CKA(zoo.mlp())._steps(loader)
    next(steps)
    next(steps)
    workers = multiprocessing.active_children()
    assert workers
    steps.close()
    del steps
    gc.collect()
    for worker in workers:
        worker.join(60)
    assert not any(worker.is_alive() for worker in workers)


def test_the_batches_are_not_changed():
    batches = zoo.batches_of()
    before = [x.clone() for x in batches]
    compare(zoo.inplace_mlp(), batches=batches)
    assert all(torch.equal(x, y) for x, y in zip(batches, before, strict=True))
