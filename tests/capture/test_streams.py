"""Random numbers belong to everybody: none comes twice, and seeds hold."""

import dis
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache, partial
from itertools import pairwise
from threading import Event

import numpy as np
import pytest
import torch
from soak import streams as soak
from support import zoo
from torch import nn

from cka_notebook import CKA, CKAExplorer
from cka_notebook._capture import streams
from cka_notebook._capture.streams import RandomStreams, Rewinding, idle, lent

CPU = torch.device("cpu")


def draws():
    return torch.rand(()).item(), np.random.rand(), random.random()  # noqa: NPY002


def reset():
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002 the global stream is what is at stake
    random.seed(3)


def test_a_run_draws_from_its_own_streams_and_leaves_the_global_ones():
    reset()
    expected = [draws() for _ in range(2)]
    reset()
    own = RandomStreams([CPU])
    first = draws()
    with own:
        inside = draws()
    second = draws()
    assert [first, second] == expected
    # It starts where the global streams were.
    assert inside == expected[0]


def test_a_runs_own_streams_continue_where_they_were():
    reset()
    expected = [draws() for _ in range(3)]
    reset()
    own = RandomStreams([CPU])
    inside = []
    for _ in range(3):
        with own:
            inside.append(draws())
    assert inside == expected


def test_nested_use_does_not_swap_back_early():
    reset()
    own = RandomStreams([CPU])
    outside = torch.get_rng_state()
    with own:
        with own:
            draws()
        draws()
    assert torch.equal(torch.get_rng_state(), outside)


def test_lent_restores_the_users_streams_and_then_the_runs_own():
    reset()
    expected = [draws() for _ in range(2)]
    reset()
    own = RandomStreams([CPU])
    with own:
        inside = [draws()]
        with lent(), lent():
            outside = draws()
            with RandomStreams([CPU]), lent():
                draws()
        inside.append(draws())
    assert inside == expected
    assert outside == expected[0]
    with lent():
        assert draws() != expected[1]


def test_streams_that_are_saved_or_loaded_inside_are_those_in_place():
    reset()
    own = RandomStreams([CPU])
    with own:
        draws()
        saved = own.save()
        following = draws()
        own.load(saved)
        assert draws() == following


def test_the_global_streams_come_back_after_an_exception():
    own, before = RandomStreams([CPU]), torch.get_rng_state()

    def interrupted():
        draws()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), own:
        interrupted()
    assert torch.equal(torch.get_rng_state(), before)


class Noisy(nn.Module):
    """Draws a random number in every forward pass."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(10, 4)

    def forward(self, x):
        return self.body(x + torch.rand(1))


def by_compare(model, batches, callback):
    CKA(model, model1_layers="all").compare(batches, callback=callback, progress=False)


def by_blocked_explorer(model, batches, callback):
    explorer = CKAExplorer(model, model, batches, autostart=False, callback=callback)
    explorer.run(block=True)
    explorer.close()


@pytest.mark.parametrize("run", [by_compare, by_blocked_explorer])
def test_a_callback_draws_from_the_users_streams(run):
    model, batches = Noisy(), zoo.batches_of(5)
    reset()
    expected = [draws() for _ in range(6)]
    found = []
    reset()
    run(model, batches, lambda *_: found.append(draws()))
    assert [*found, draws()] == expected


@pytest.fixture
def thread():
    """Another thread, in which a run would work."""
    with ThreadPoolExecutor(1) as pool:
        yield lambda function, *given: pool.submit(function, *given).result(60)


def taken():
    own = RandomStreams([CPU])
    own.take()
    return own


def test_a_run_in_a_thread_never_replaces_the_global_streams(thread):
    reset()
    expected = [draws() for _ in range(2)]
    reset()
    own = thread(taken)
    assert own.is_shared
    found = [draws(), thread(draws)]
    thread(own.give_back)
    assert found == expected


def test_a_second_run_takes_the_streams_from_the_first(thread):
    reset()
    expected = [draws() for _ in range(3)]
    reset()
    first = RandomStreams([CPU])
    with first:
        assert draws() == expected[0]
        second = thread(taken)
        assert first.is_shared
        found = [draws(), thread(draws)]
        thread(second.give_back)
        with lent():
            found.append(draws())
    assert found == expected
    assert draws() != expected[0]


def test_idle_lends_the_streams_too():
    reset()
    expected = draws()
    reset()
    with idle(), RandomStreams([CPU]):
        draws()
        with idle():
            assert streams._at_work == []
            assert draws() == expected


def test_code_of_the_users_in_another_thread_counts_and_that_of_libraries_does_not():
    ended = Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(ended.wait, 60)
        assert not RandomStreams([CPU]).is_shared
        ended.set()
    begun, ended = Event(), Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: (begun.set(), ended.wait(60)))
        begun.wait(60)
        own = RandomStreams([CPU])
        ended.set()
    assert own.is_shared
    reset()
    expected = [draws() for _ in range(2)]
    reset()
    with own:
        found = [draws()]
    assert [*found, draws()] == expected


def test_passes_repeat_numbers_but_not_beside_others(thread):
    def repeats():
        passes = Rewinding([CPU])
        assert not passes.drew
        first = draws()
        assert passes.drew
        passes.rewind()
        second = draws()
        passes.skip()
        return [first == second, draws()[0] == first[0]]

    def repeats_in_a_run():
        with RandomStreams([CPU]):
            return repeats()

    assert repeats() == repeats_in_a_run() == [True, False]
    assert thread(repeats_in_a_run) == [False, False]


def test_own_streams_survive_a_save_and_have_the_generators_place_beside_others(thread):
    reset()
    own = thread(RandomStreams, [CPU])
    start = own.save()
    first = torch.rand(3, generator=own.generator)
    later = own.save()
    second = torch.rand(3, generator=own.generator)
    own.load(start)
    assert torch.equal(torch.rand(3, generator=own.generator), first)
    own.load(later)
    assert torch.equal(torch.rand(3, generator=own.generator), second)
    reset()
    assert torch.equal(torch.rand(3), first)  # It starts where the global stream is.


@pytest.mark.parametrize("first_in_thread", [True, False])
@pytest.mark.parametrize("then_in_thread", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_a_resumed_run_shuffles_as_the_first_did(
    thread, tmp_path, first_in_thread, then_in_thread
):
    def run(in_thread, **options):
        cka = CKA(soak.model(), model1_layers="all")
        loader = soak.shuffled()
        here = partial(cka.compare, loader, progress=False, **options)
        return (thread(here) if in_thread else here()).matrix

    reset()
    alone = run(first_in_thread)
    reset()
    run(first_in_thread, max_batches=2, checkpoint=tmp_path / "run")
    reset()
    draws()
    resumed = run(then_in_thread, checkpoint=tmp_path / "run")
    assert torch.equal(resumed, alone)


@cache
def interruptible(code):
    """Where Python looks for signals: after calls, and where a function begins."""
    pairs = pairwise(dis.get_instructions(code))
    return {y.offset for x, y in pairs if x.opname.startswith(("CALL", "RESUME"))}


def interrupted_at(event, function):
    """Whether the function ended before this event in the module: no interrupt."""
    left = event

    def trace(frame, kind, _):
        nonlocal left
        if frame.f_code.co_filename != streams.__file__:
            return None
        frame.f_trace_opcodes = True
        if kind == "opcode" and frame.f_lasti in interruptible(frame.f_code):
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        function()
    except KeyboardInterrupt:
        return False
    finally:
        sys.settrace(None)
    return True


def as_in_a_run():
    own = RandomStreams([CPU])
    with ExitStack() as stack:
        stack.callback(own.give_back)
        with own:
            draws()
        stack.enter_context(own)
        draws()
        with lent():
            pass
        draws()


def test_an_interrupt_anywhere_leaves_the_streams_where_they_were(thread):
    reset()
    draws()
    before, event = soak.state(), 0
    while not interrupted_at(event := event + 1, as_in_a_run):
        assert soak.state() == before, event
        assert streams._at_work == [], event
        assert thread(lambda: streams._lock.acquire(timeout=5))
        thread(streams._lock.release)
    assert event > 100


@pytest.mark.parametrize("scenario", soak.SCENARIOS, ids=lambda x: x.__name__)
@pytest.mark.filterwarnings("ignore")
def test_beside_a_live_run(scenario):
    assert all(scenario(number) for number in range(3))


@pytest.mark.slow
@pytest.mark.parametrize("scenario", soak.SCENARIOS, ids=lambda x: x.__name__)
@pytest.mark.filterwarnings("ignore")
def test_two_hundred_rounds_beside_a_live_run(scenario):
    assert all(scenario(number) for number in range(200))
