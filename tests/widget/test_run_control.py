"""One run after the other: pause, resume, stop, restart, and other layers."""

import signal
import threading

import pytest
import torch
from support.doubles import Gate, batches, floats, make, pause_midway, until

from cka_notebook._widget.worker import Phase

# Pause, resume, stop


def test_pause_holds_with_all_in_traits_and_resume_goes_on():
    loader = Gate(batches(6))
    explorer, line = make(loader)
    explorer.run()
    loader.let(3)
    until(lambda: explorer.progress.batches == 3)
    line.page({"kind": "command", "name": "pause"})
    loader.let(1)
    until(lambda: explorer.status == "paused")
    held = explorer._snapshot["header"]
    assert held["batch"] == explorer.progress.batches
    assert held["final"] is False
    result = explorer.result
    assert explorer._matrix == floats(result.matrix).tobytes()
    loader.let(10)
    assert not explorer._session.runs.live.wait(0.3)
    assert explorer.progress.batches == held["batch"]
    line.page({"kind": "command", "name": "resume"})
    assert explorer.wait(60).batches == 6
    assert line.values("status") == ["idle", "running", "paused", "running", "done"]


def test_stop_keeps_the_result_so_far():
    loader = Gate(batches(6))
    explorer, line = make(loader)
    explorer.run()
    loader.let(3)
    until(lambda: explorer.progress.batches == 3)
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


def test_a_second_run_starts_again_from_zero():
    explorer, line = make()
    first = explorer.wait(60)
    explorer.run()
    second = explorer.wait(60)
    assert torch.equal(first.matrix, second.matrix)
    assert second.batches == 6
    assert [axes["epoch"] for axes in line.values("_axes") if axes][-1] == 2


def test_what_the_page_asks_after_the_end_runs_again():
    explorer, line = make()
    explorer.wait(60)
    line.page({"kind": "command", "name": "run"})
    until(lambda: explorer._axes["epoch"] == 2 and explorer.status == "done")


def test_an_interrupt_of_wait_stops_the_run_and_keeps_the_result():
    loader = Gate(batches(6))
    explorer, _ = make(loader)
    explorer.run()
    loader.let(3)
    until(lambda: explorer.progress.batches == 3)

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


def test_wait_says_where_the_run_is_when_time_is_up():
    loader = Gate(batches(6))
    explorer, _ = make(loader)
    with pytest.raises(
        TimeoutError, match=r"within 0.1 s, but it is running at batch 0"
    ):
        explorer.wait(0.1)
    loader.let(10)
    assert explorer.wait(60).batches == 6


# Other layers


def test_other_layers_during_a_run_begin_a_new_epoch():
    loader = Gate(batches(6))
    explorer, line = make(loader)
    explorer.run()
    loader.let(3)
    until(lambda: explorer.progress.batches == 3)
    line.page({"kind": "layers", "layers1": ["0", "2"]})
    until(lambda: explorer.layers1 == ["0", "2"])
    loader.let(20)
    result = explorer.wait(60)
    assert result.layers1 == ("0", "2")
    assert result.batches == 6
    assert loader.iterations == 2
    last = line.frames[-1].content
    assert last["epoch"] == 2
    assert (last["rows"], last["cols"]) == (2, 4)
    assert line.values("status") == ["idle", "running", "done"]


def test_layers_chosen_in_a_pause_are_computed_when_it_ends():
    loader = Gate(batches(6))
    explorer, _ = make(loader, model1_layers=["0", "1"])
    explorer.run()
    pause_midway(explorer, loader)
    explorer.layers1 = ["0"]
    assert not explorer._session.runs.stale, "part of what is computed"
    explorer.layers1 = ["0", "3"]
    loader.let(20)
    explorer.resume()
    result = explorer.wait(60)
    assert result.layers1 == ("0", "3")
    assert loader.iterations == 2


def test_layers_chosen_during_the_probe_are_computed():
    loader = Gate(batches(6))
    explorer, _ = make(loader)
    explorer.run()
    until(lambda: loader.iterations == 1)
    explorer.layers1 = ["0"]
    loader.let(20)
    assert explorer.wait(60).layers1 == ("0",)
    assert explorer.layers1 == ["0"]


def test_layers_chosen_while_only_the_probe_runs_start_nothing():
    loader = Gate(batches(6))
    explorer, _ = make(loader, autostart=False)
    explorer._repr_mimebundle_()
    until(lambda: loader.iterations == 1)
    explorer.layers1 = ["0"]
    loader.let(20)
    until(lambda: explorer._session.runs.live is None)
    assert explorer.status == "idle"
    assert explorer.layers1 == ["0"]
    assert explorer.wait(60).layers1 == ("0",)


def test_run_during_the_probe_goes_on_after_it():
    loader = Gate(batches(6))
    explorer, line = make(loader, autostart=False)
    explorer._repr_mimebundle_()
    until(lambda: loader.iterations == 1)
    explorer.run()
    loader.let(20)
    assert explorer.wait(60).batches == 6
    assert loader.iterations == 1
    assert line.values("status") == ["idle", "running", "done"]


def test_restart_begins_again_from_zero_even_in_a_pause():
    loader = Gate(batches(6))
    explorer, line = make(loader)
    explorer.run()
    pause_midway(explorer, loader)
    line.page({"kind": "command", "name": "restart"})
    loader.let(20)
    result = explorer.wait(60)
    assert result.batches == 6
    assert line.frames[-1].content["epoch"] == 2
    assert line.values("status") == ["idle", "running", "paused", "running", "done"]


def test_layers_chosen_after_the_end_compute_nothing_by_themselves():
    loader = Gate(batches(), open_=True)
    explorer, line = make(loader)
    explorer.wait(60)
    count = len(line.frames)
    explorer.layers1 = ["0"]
    assert explorer.status == "done"
    assert loader.iterations == 1
    assert explorer.result.layers1 == ("0", "1", "2", "3")
    assert len(line.frames) == count
    explorer.run()
    assert explorer.wait(60).layers1 == ("0",)
