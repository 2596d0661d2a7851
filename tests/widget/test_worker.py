"""The worker that drives the engine: its requests, its thread, and its end."""

import contextlib
import contextvars
import gc
import subprocess
import sys
import threading
import weakref
from types import SimpleNamespace

import pytest
import torch
from support.doubles import CountingState, Gate, RecordingHost, batches, make, until
from torch import nn

from cka_notebook import CKAExplorer, CKAResult
from cka_notebook._undo import ATTEMPTS
from cka_notebook._widget import worker as worker_module
from cka_notebook._widget.caller import CallerContext
from cka_notebook._widget.worker import Phase, Worker

WHOLE = ["begins 1", "batch 1", "batch 2", "batch 3", "ends done"]


def worker_of(host, **options):
    options = {"epoch": 1, "context": CallerContext.current()} | options
    return Worker(host.steps, host, **options)


def run_here(on=None, **options):
    """A run in this thread, which reacts to events with requests."""
    host = RecordingHost(on=on)
    worker = worker_of(host, **options)
    worker.work()
    assert worker.phase is Phase.ENDED
    return worker, host.events


# Requests and phases


def test_a_run_reports_its_probe_its_batches_and_its_end():
    worker, events = run_here()
    assert events == WHOLE
    assert (worker.outcome, worker.result) == ("done", "after 3")


def test_a_watcher_can_end_a_run():
    worker, events = run_here({"batch 2": lambda _: False})
    assert events == ["begins 1", "batch 1", "batch 2", "ends done"]
    assert worker.result == "after 2"


def test_stop_ends_after_the_current_batch_and_closes_the_engine():
    host = RecordingHost(on={"batch 2": Worker.stop})
    worker = worker_of(host)
    worker.work()
    assert host.events == ["begins 1", "batch 1", "batch 2", "ends stopped"]
    assert worker.result == "after 2"
    assert host.closed == 1


def test_restart_starts_a_new_epoch_without_an_end():
    worker, events = run_here({"batch 2": Worker.restart})
    assert events == ["begins 1", "batch 1", "batch 2", "begins 2", *WHOLE[1:]]
    assert worker.epoch == 2


def test_restart_in_the_last_batch_is_not_too_late():
    _, events = run_here({"batch 3": Worker.restart})
    assert events == [*WHOLE[:-1], "begins 2", *WHOLE[1:]]


@pytest.mark.parametrize("second", [Worker.resume, Worker.restart])
def test_resuming_a_run_that_is_stopping_starts_a_new_epoch(second):
    def change_mind(worker):
        worker.stop()
        assert second(worker)

    _, events = run_here({"batch 1": change_mind})
    assert events == ["begins 1", "batch 1", "begins 2", *WHOLE[1:]]


def test_stop_cancels_a_restart():
    def change_mind(worker):
        worker.restart()
        worker.stop()

    _, events = run_here({"batch 1": change_mind})
    assert events == ["begins 1", "batch 1", "ends stopped"]


def test_a_pause_lasts_until_the_run_is_resumed():
    _, events = run_here({"batch 2": Worker.pause, "pauses at 2": Worker.resume})
    assert events == [*WHOLE[:3], "pauses at 2", "resumes", *WHOLE[3:]]


def test_resume_cancels_a_pause_that_has_not_begun():
    def change_mind(worker):
        worker.pause()
        assert worker.is_pausing
        worker.resume()
        assert not worker.is_pausing

    _, events = run_here({"batch 2": change_mind})
    assert events == WHOLE


@pytest.mark.parametrize(
    ("request_", "after"),
    [(Worker.stop, ["ends stopped"]), (Worker.restart, ["begins 2", *WHOLE[1:]])],
)
def test_a_pause_that_ends_otherwise_is_not_resumed(request_, after):
    _, events = run_here({"batch 1": Worker.pause, "pauses at 1": request_})
    assert events == ["begins 1", "batch 1", "pauses at 1", *after]


def test_a_pause_requested_with_a_restart_is_one_of_the_new_epoch():
    def both(worker):
        worker.restart()
        worker.pause()

    _, events = run_here({"batch 2": both, "pauses at 0": Worker.resume})
    assert events == [*WHOLE[:3], "begins 2", "pauses at 0", "resumes", *WHOLE[1:]]


def test_a_pause_requested_in_the_last_batch_does_not_keep_the_run_alive():
    _, events = run_here({"batch 3": Worker.pause, "pauses at 3": Worker.resume})
    assert events[-1] == "ends done"


@pytest.mark.parametrize("when", ["ends done", None])
def test_requests_at_the_end_are_too_late(when):
    def ask(worker):
        answers.extend([worker.resume(), worker.restart()])
        worker.pause()
        worker.stop()

    answers = []
    worker, events = run_here({when: ask})
    ask(worker)
    assert set(answers) == {False}
    assert events == WHOLE
    assert not worker.is_pausing


def test_a_probe_ends_by_itself_unless_a_run_is_requested():
    worker, events = run_here(only_probe=True)
    assert events == ["begins 1", "ends done"]
    assert worker.result is None
    assert run_here({"begins 1": Worker.resume}, only_probe=True)[1] == WHOLE


def test_a_run_stopped_before_its_probe_reports_only_the_end():
    host = RecordingHost()
    worker = worker_of(host)
    worker.stop()
    worker.work()
    assert host.events == ["ends stopped"]


def test_pauses_do_not_count_as_time_worked(monkeypatch):
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(worker_module, "time", clock)

    def spend(seconds, then=lambda _: None):
        def react(worker):
            now[0] += seconds
            then(worker)

        return react

    reactions = {
        "batch 1": spend(1.0),
        "batch 2": spend(2.0, Worker.pause),
        "pauses at 2": spend(100.0, Worker.resume),
        "batch 3": spend(4.0),
    }
    worker, _ = run_here(reactions)
    assert worker.seconds == 7.0


# The result so far


def started(gate):
    """A worker in a thread of its own, after its second batch."""
    host = RecordingHost(gate=gate)
    worker = worker_of(host)
    worker.start()
    gate.let(2)
    until(lambda: "batch 2" in host.events)
    return worker, host


def test_the_result_so_far_is_made_between_two_batches_for_all_who_ask():
    gate = Gate(range(4))
    worker, _ = started(gate)
    found = []
    ask = lambda: found.append(worker.latest())  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    until(lambda: worker._is_asked)
    until(lambda: gate.let(1) or not any(t.is_alive() for t in threads))
    assert worker.wait(60)
    assert set(found) <= {"after 3", "after 4"}
    assert worker.latest() == "after 4"


def test_in_a_pause_the_result_is_there_at_once():
    gate = Gate(range(4))
    worker, host = started(gate)
    worker.pause()
    gate.let(1)
    until(lambda: "pauses at 3" in host.events)
    assert worker.phase is Phase.PAUSED
    assert worker.latest() == "after 3"
    assert not worker.wait(0.01)
    worker.stop()
    assert worker.wait(60)
    assert host.events[-1] == "ends stopped"


def test_before_the_first_batch_there_is_no_result_to_wait_for():
    gate = Gate(range(4))
    host = RecordingHost(gate=gate)
    worker = worker_of(host)
    worker.start()
    until(lambda: host.events)
    assert worker.latest() is None
    worker.stop()
    gate.let(1)
    assert worker.wait(60)


def test_a_watcher_gets_the_result_without_waiting():
    seen = []
    run_here({"batch 2": lambda worker: seen.append(worker.latest())})
    assert seen == ["after 2"]


# The thread


def test_run_blocks_where_asked_and_works_in_the_calling_thread():
    seen = []

    class Noting(nn.Module):
        def forward(self, x):
            seen.append(threading.current_thread())
            return x * 2

    model = nn.Sequential(nn.Linear(6, 8), Noting())
    explorer = CKAExplorer(model, None, batches(), model1_layers="all")
    assert explorer.run(block=True) is None
    assert set(seen) == {threading.current_thread()}
    assert explorer.status == "done"


def test_the_worker_prints_nothing(capfd):
    explorer, _ = make()
    explorer.wait(60)
    assert capfd.readouterr() == ("", "")


def test_everything_is_sent_from_a_thread_that_belongs_to_the_cell():
    cell = contextvars.ContextVar("cell", default="none")
    seen = []
    cell.set("In[7]")
    explorer, line = make()
    publish = line.publish_msg

    def noting(*args, **options):
        seen.append(cell.get())
        return publish(*args, **options)

    line.publish_msg = noting
    explorer.wait(60)
    line.page({"kind": "view", "palette": "greys"})
    until(lambda: explorer.palette == "greys")
    assert set(seen) == {"In[7]"}


def test_the_worker_builds_no_graph_though_its_caller_would():
    seen = []

    class Noting(nn.Module):
        def forward(self, x):
            seen.append((threading.current_thread().name, x.requires_grad))
            return x

    model = nn.Sequential(nn.Linear(6, 8), Noting())
    with torch.enable_grad():
        explorer = CKAExplorer(model, None, batches(), model1_layers=["0"])
        explorer.wait(60)
    assert set(seen) == {("cka-engine", False)}


def test_the_worker_uses_the_default_device_of_the_caller():
    seen = []

    class Noting(nn.Module):
        def forward(self, x):
            seen.append(torch.get_default_device())
            return x

    model = nn.Sequential(nn.Linear(6, 8), Noting())
    data = batches()
    with torch.device("meta"):
        explorer = CKAExplorer(model, None, data, model1_layers=["0"])
        explorer.run()
    with contextlib.suppress(Exception):  # There are no numbers on that device.
        explorer.wait(60)
    assert {device.type for device in seen} == {"meta"}


def test_the_partial_result_can_be_read_during_a_run():
    loader = Gate(batches(6))
    explorer, _ = make(loader)
    explorer.run()
    assert explorer.result is None
    loader.let(3)
    until(lambda: explorer.progress.batches == 3)
    threading.Timer(0.05, loader.let, [10]).start()
    assert isinstance(explorer.result, CKAResult)
    explorer.wait(60)


EXIT = """
import torch
from torch import nn
from cka_notebook import CKAExplorer

model = nn.Sequential(nn.Linear(200, 200), nn.ReLU())
explorer = CKAExplorer(model, None, [torch.randn(300, 200)] * 100_000)
explorer.run()
while explorer.progress.batches < 2:
    pass
"""


@pytest.mark.slow
def test_a_process_may_end_during_a_run():
    done = subprocess.run(
        [sys.executable, "-c", EXIT], capture_output=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


# Errors and interrupts


class Failing(nn.Module):
    def __init__(self, at):
        super().__init__()
        self.calls, self.at = 0, at

    def forward(self, x):
        self.calls += 1
        if self.calls >= self.at:
            raise ArithmeticError("the third wheel came off")
        return x


def test_an_error_of_the_worker_is_shown_and_raised_by_wait():
    model = nn.Sequential(nn.Linear(6, 8), Failing(at=6))
    explorer = CKAExplorer(model, None, batches(), model1_layers=["0"])
    explorer.run()
    with pytest.raises(ArithmeticError, match="third wheel"):
        explorer.wait(60)
    assert explorer.status == "error"
    given = "Inputs of model1 (Sequential): a tensor of shape (12, 6)."
    text = f"the third wheel came off. {given}"
    assert explorer._message == {"kind": "error", "text": text}
    assert 0 < explorer.result.batches < 6, "what was done until then is kept"
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None
    assert explorer.comm.values("status")[-1] == "error"


def test_an_error_of_a_blocking_run_is_raised_by_it():
    model = nn.Sequential(nn.Linear(6, 8), Failing(at=1))
    explorer = CKAExplorer(model, None, batches(), model1_layers=["0"])
    with pytest.raises(ArithmeticError, match="third wheel"):
        explorer.run(block=True)
    assert explorer.status == "error"
    assert explorer.result is None


def test_an_interrupt_of_a_blocking_run_is_raised_and_keeps_the_result():
    class Interrupting(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls == 6:
                raise KeyboardInterrupt
            return x

    model = nn.Sequential(nn.Linear(6, 8), Interrupting())
    explorer = CKAExplorer(model, None, batches(), model1_layers=["0"])
    with pytest.raises(KeyboardInterrupt) as raised:
        explorer.run(block=True)
    assert explorer.status == "stopped"
    assert explorer.result.batches > 0
    assert explorer.wait(60) is explorer.result, "the interrupt is over"
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None, f"held by {raised.value!r}, which IPython keeps"


def test_an_error_of_the_final_result_ends_the_run(monkeypatch):
    def fail(_):
        raise ArithmeticError("no sums")

    monkeypatch.setattr(CountingState, "result", fail)
    host = RecordingHost()
    worker = worker_of(host)
    with pytest.raises(ArithmeticError, match="no sums"):
        worker.work()
    assert worker.outcome == "error"
    assert host.events == [*WHOLE[:-1], "ends error"]


def test_an_error_of_the_watcher_at_the_end_keeps_nobody_waiting():
    def fail(_):
        raise ArithmeticError("no page")

    host = RecordingHost(on={"ends done": fail})
    worker = worker_of(host)
    with pytest.raises(ArithmeticError, match="no page"):
        worker.work()
    assert worker.wait(0)


def test_where_no_thread_can_be_started_the_message_says_what_to_do(monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    host = RecordingHost()
    worker = worker_of(host)
    with pytest.raises(RuntimeError, match=r"Cannot start a thread here.*block=True"):
        worker.start()
    assert host.events == ["ends error"]
    assert worker.wait(0)


def test_a_run_uses_the_stream_of_its_caller(monkeypatch):
    used = []

    @contextlib.contextmanager
    def stream(chosen):
        used.append(chosen)
        yield

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "the caller's")
    monkeypatch.setattr(torch.cuda, "stream", stream)
    context = CallerContext.current()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "the default one")
    with context.applied():
        assert used == ["the caller's"]


# Interrupts in the thread of the caller


class Strike:
    """Interrupts the first so many times that it is called."""

    def __init__(self, times):
        self.left = times

    def __call__(self, worker):
        del worker
        self.left -= 1
        if self.left >= 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("times", [1, 2, 3, 30])
def test_interrupts_at_the_end_of_a_run_do_not_keep_it_from_ending(times):
    class Host(RecordingHost):
        def ends(self, worker, outcome):
            strike(worker)
            super().ends(worker, outcome)

    strike, host = Strike(times), Host()
    worker = worker_of(host)
    with pytest.raises(KeyboardInterrupt):
        worker.work()
    assert worker.phase is Phase.ENDED
    assert (worker.outcome, worker.result) == ("done", "after 3")
    assert host.events[-1] == ("ends done" if times < ATTEMPTS else "batch 3")


def test_a_run_that_was_given_up_before_it_began_ends_and_never_begins():
    host = RecordingHost()
    worker = worker_of(host)
    worker.give_up()
    worker.give_up()
    assert host.events == ["ends stopped"]
    worker.work()
    assert host.events == ["ends stopped"]
    assert worker.phase is Phase.ENDED


def test_a_run_that_has_begun_cannot_be_given_up():
    gate = Gate(range(3))
    host = RecordingHost(gate=gate)
    worker = worker_of(host)
    worker.start()
    worker.give_up()
    gate.let(3)
    assert worker.wait(60)
    assert host.events == WHOLE
    worker.give_up()
    assert host.events == WHOLE
