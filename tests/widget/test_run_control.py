"""One run after the other: pause, resume, stop, restart, and other layers."""

import signal
import threading

import pytest
import torch
from support.doubles import (
    Gate,
    RecordingHost,
    batches,
    floats,
    make,
    pause_midway,
    until,
)

from cka_notebook._widget.run_control import RunControl
from cka_notebook._widget.worker import Phase, Worker

# Without an explorer


def hosted(**options):
    host = RecordingHost(**options)
    return RunControl(host), host.events


def test_one_run_follows_the_other():
    runs, events = hosted()
    assert runs.untouched
    for epoch in (1, 2):
        runs.start(block=True)
        assert events[-6:][:3] == ["starts", f"begins {epoch}", "batch 1"]
    assert not runs.untouched
    assert runs.live is None
    assert events.count("prepare") == 2


def test_requests_without_a_run_do_nothing():
    runs, events = hosted()
    runs.pause()
    runs.stop()
    assert not runs.resume()
    assert events == []


def test_restart_without_a_run_starts_one():
    runs, events = hosted()
    runs.restart()
    assert runs.wait(60).outcome == "done"
    assert events[:2] == ["prepare", "starts"]


def test_starting_a_run_under_way_changes_nothing_and_may_wait_for_it():
    gate = Gate(range(3))
    runs, events = hosted(gate=gate)
    runs.start()
    worker = runs.live
    runs.start()
    assert runs.live is worker
    gate.let(3)
    runs.start(block=True)
    assert worker.has_ended
    assert gate.iterations == 1
    assert events.count("starts") == 1


def test_nothing_is_started_when_nothing_can_be_computed(monkeypatch):
    def refuse(_):
        raise RuntimeError("no models")

    monkeypatch.setattr(RecordingHost, "prepare", refuse)
    runs, events = hosted()
    with pytest.raises(RuntimeError, match="no models"):
        runs.start()
    assert runs.untouched
    assert events == []


def test_a_stale_choice_makes_a_resumed_run_start_over():
    runs, events = hosted(on={"batch 1": lambda worker: worker.pause()})
    runs.start()
    until(lambda: "pauses at 1" in events)
    runs.stale.add("layers1")
    assert runs.resume()
    runs.wait(60)
    assert not runs.stale
    assert events[4:6] == ["pauses at 1", "begins 2"]


def test_a_probe_leaves_the_control_untouched_and_a_run_during_it_is_announced():
    runs, events = hosted()
    runs.start(only_probe=True, block=True)
    assert runs.untouched
    assert events == ["prepare", "begins 1", "ends done"]
    runs, events = hosted(on={"begins 1": lambda _: runs.start()})
    runs.start(only_probe=True, block=True)
    assert events[:3] == ["prepare", "begins 1", "starts"]
    assert events[-1] == "ends done"
    assert not runs.untouched


def test_waiting_resumes_a_run_that_has_paused_itself_and_no_other():
    gate = Gate(range(3), open_=True)
    runs, events = hosted(gate=gate, on={"batch 1": lambda worker: worker.pause()})
    runs.start(cautious=True)
    until(lambda: "pauses at 1" in events)
    assert runs.wait(60).outcome == "done"
    runs, events = hosted(gate=gate, on={"batch 1": lambda worker: worker.pause()})
    runs.start()
    until(lambda: "pauses at 1" in events)
    assert runs.wait(0.05) is None
    runs.stop()
    assert runs.wait(60).outcome == "stopped"


def test_a_run_can_neither_wait_for_itself_nor_start_the_next_one():
    messages = []

    def ask(_):
        for request in (lambda: runs.wait(None), runs.start):
            with pytest.raises(RuntimeError) as raised:
                request()
            messages.append(str(raised.value))

    runs, _ = hosted(on={"ends done": ask})
    runs.start(block=True)
    assert "it would wait for itself" in messages[0]
    assert "Call run() from another thread" in messages[1]


# Pause, resume, stop


def run_three(explorer, loader):
    """Start a run, and let three batches through."""
    explorer.run()
    loader.let(3)
    until(lambda: explorer.progress.batches == 3)


def test_a_pause_puts_everything_into_traits_and_resume_continues():
    loader = Gate(batches(6))
    explorer, line = make(loader)
    run_three(explorer, loader)
    line.page({"kind": "command", "name": "pause"})
    loader.let(1)
    until(lambda: explorer.status == "paused")
    header = explorer._snapshot["header"]
    assert header["batch"] == explorer.progress.batches
    assert header["final"] is False
    result = explorer.result
    assert explorer._matrix == floats(result.matrix).tobytes()
    loader.let(10)
    assert not explorer._session.runs.live.wait(0.3)
    assert explorer.progress.batches == header["batch"]
    line.page({"kind": "command", "name": "resume"})
    assert explorer.wait(60).batches == 6
    assert line.values("status") == ["idle", "running", "paused", "running", "done"]


def test_stop_keeps_the_result_so_far():
    loader = Gate(batches(6))
    explorer, line = make(loader)
    run_three(explorer, loader)
    line.page({"kind": "command", "name": "stop"})
    loader.let(1)
    result = explorer.wait(60)
    assert explorer.status == "stopped"
    assert 3 <= result.batches <= 4
    assert line.frames[-1].content["final"] is True
    assert line.frames[-1].arrays()[0].tobytes() == floats(result.matrix).tobytes()


def test_a_paused_run_can_be_stopped():
    loader = Gate(batches(6))
    explorer, _ = make(loader)
    explorer.run()
    pause_midway(explorer, loader)
    explorer.stop()
    assert explorer.wait(60).batches == explorer.progress.batches
    assert explorer.status == "stopped"


def test_a_second_run_starts_from_scratch():
    explorer, line = make()
    first = explorer.wait(60)
    explorer.run()
    second = explorer.wait(60)
    assert torch.equal(first.matrix, second.matrix)
    assert second.batches == 6
    assert [axes["epoch"] for axes in line.values("_axes") if axes][-1] == 2


def test_a_page_can_start_another_run_after_the_end():
    explorer, line = make()
    explorer.wait(60)
    line.page({"kind": "command", "name": "run"})
    until(lambda: explorer._axes["epoch"] == 2 and explorer.status == "done")


def test_an_interrupt_of_wait_stops_the_run_and_keeps_the_result():
    loader = Gate(batches(6))
    explorer, _ = make(loader)
    run_three(explorer, loader)

    def interrupt():
        signal.raise_signal(signal.SIGINT)
        worker = explorer._session.runs.live
        until(lambda: worker.phase is Phase.STOPPING)
        loader.let(1)

    timer = threading.Timer(0.2, interrupt)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        explorer.wait(60)
    timer.join()
    assert explorer.status == "stopped", explorer._message
    assert explorer.result.batches in (3, 4)
    loader.let(10)
    explorer.run()
    assert explorer.wait(60).batches == 6, "it stays usable"


def test_wait_reports_where_the_run_is_on_timeout():
    loader = Gate(batches(6))
    explorer, _ = make(loader)
    with pytest.raises(
        TimeoutError, match=r"within 0.1 s, but it is running at batch 0"
    ):
        explorer.wait(0.1)
    loader.let(10)
    assert explorer.wait(60).batches == 6


@pytest.mark.parametrize(
    ("place", "block"),
    [("starts", True), ("starts", False), ("work", True), ("start", False)],
)
def test_an_interrupt_before_a_run_begins_leaves_none_at_which_nobody_works(
    monkeypatch, place, block
):
    def strike(*_):
        patch.undo()
        raise KeyboardInterrupt

    runs, events = hosted()
    owner = RecordingHost if place == "starts" else Worker
    with monkeypatch.context() as patch:
        patch.setattr(owner, place, strike)
        with pytest.raises(KeyboardInterrupt):
            runs.start(block=block)
    assert events[-1] == "ends stopped"
    assert runs.live is None
    runs.start(block=block)
    assert runs.wait(60).outcome == "done"


def test_an_interrupt_of_the_start_of_a_thread_is_no_hindrance(monkeypatch):
    """It can come when the thread has begun but the caller does not know that yet."""

    def strike(thread):
        patch.undo()
        thread.start()
        raise KeyboardInterrupt

    runs, events = hosted()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", strike)
        with pytest.raises(KeyboardInterrupt):
            runs.start()
    assert runs.wait(60).outcome == "done"
    assert events.count("batch 3") == 1
