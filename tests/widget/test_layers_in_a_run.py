"""Layers that are chosen, and taken back, before, during and after a run."""

import pytest
import torch
from support.doubles import (
    Gate,
    batches,
    make,
    pause_midway,
    until,
)

from cka_notebook import CKA


def three_batches_of(loader, **options):
    """An explorer in the middle of a run, and its page."""
    explorer, line = make(loader, **options)
    explorer.run()
    loader.let(3)
    until(lambda: explorer.progress.batches == 3)
    return explorer, line


def notes(line):
    """Messages that the page has shown, without those that cleared one."""
    return [m["text"] for m in line.values("_message") if m["text"]]


def test_layers_unchecked_during_a_run_start_nothing():
    loader = Gate(batches(6))
    explorer, line = three_batches_of(loader)
    line.page({"kind": "layers", "layers1": ["0", "2"]})
    until(lambda: explorer.layers1 == ["0", "2"])
    loader.let(20)
    result = explorer.wait(60)
    assert result.layers1 == ("0", "1", "2", "3"), "what was computed"
    assert explorer.layers1 == ["0", "2"], "what is shown"
    assert result.batches == 6
    assert loader.iterations == 1
    assert notes(line) == []
    assert line.values("status") == ["idle", "running", "done"]


@pytest.mark.parametrize("both", [False, True])
def test_new_layers_during_a_run_are_computed_after_it_and_no_batch_is_lost(both):
    loader = Gate(batches(6))
    chosen = {"model1_layers": ["0", "1"], "model2_layers": ["0"]}
    explorer, line = three_batches_of(loader, **chosen)
    done = []
    keep = explorer._session._reuse.keep_complete
    explorer._session._reuse.keep_complete = lambda x: (done.append(x), keep(x))
    explorer.layers1 = ["1", "3"]
    if both:
        explorer.layers2 = ["0", "2"]
    assert explorer._queued
    explorer.run()
    assert explorer._session.runs.live.epoch == 1, "asking for the run changes nothing"
    loader.let(20)
    result = explorer.wait(60)
    assert loader.iterations == 2
    first, last = done
    assert (first.layers1, first.batches) == (("0", "1"), 6)
    assert last is result
    assert result.layers1 == ("1", "3")
    assert result.layers2 == (("0", "2") if both else ("0",))
    models = explorer._session.comparison._models._strong
    expected = CKA(*models, None, None, list(result.layers1), list(result.layers2))
    torch.testing.assert_close(
        result.matrix,
        expected.compare(loader.dataset, progress=False).matrix,
        rtol=0,
        atol=1e-6,
    )
    assert line.values("_queued") == [False, True, False]
    assert line.values("status")[-1] == "done"
    assert line.frames[-1].content["epoch"] == 2


def test_a_choice_that_is_taken_back_during_a_run_computes_nothing():
    loader = Gate(batches(6))
    explorer, line = three_batches_of(loader, model1_layers=["0", "1"])
    explorer.layers1 = ["0", "1", "3"]
    explorer.layers1 = ["0", "1"]
    assert line.values("_queued") == [False, True, False]
    loader.let(20)
    assert explorer.wait(60).layers1 == ("0", "1")
    assert loader.iterations == 1
    explorer.run()
    assert explorer.wait(60).layers1 == ("0", "1")


def test_a_choice_that_is_taken_back_in_a_pause_or_the_probe_computes_nothing():
    loader = Gate(batches(6))
    explorer, _ = make(loader, model1_layers=["0", "1"])
    explorer.run()
    until(lambda: loader.iterations == 1)
    explorer.layers1 = ["0", "3"]
    explorer.layers1 = ["0", "1"]
    pause_midway(explorer, loader)
    explorer.layers1 = ["0", "3"]
    explorer.layers1 = ["0", "1"]
    loader.let(20)
    explorer.resume()
    assert explorer.wait(60).layers1 == ("0", "1")
    assert loader.iterations == 1


def test_layers_queued_in_a_run_that_pauses_are_computed_when_the_pause_ends():
    loader = Gate(batches(6))
    explorer, _ = three_batches_of(loader, model1_layers=["0", "1"])
    explorer.layers1 = ["0", "3"]
    explorer.pause()
    loader.let(1)
    until(lambda: explorer.status == "paused")
    explorer.resume()
    loader.let(20)
    result = explorer.wait(60)
    assert (result.layers1, result.batches) == (("0", "3"), 6)
    assert loader.iterations == 2


def test_a_run_that_is_stopped_forgets_its_queue_and_keeps_its_result():
    loader = Gate(batches(6))
    explorer, _ = three_batches_of(loader, model1_layers=["0", "1"])
    explorer.layers1 = ["0", "3"]
    explorer.stop()
    loader.let(1)
    assert explorer.wait(60).layers1 == ("0", "1")
    assert not explorer._queued
    assert loader.iterations == 1


def test_a_complete_result_outlives_a_stop_before_new_layers_have_a_batch():
    loader = Gate(batches(6))
    explorer, _ = three_batches_of(loader, model1_layers=["0", "1"])
    explorer.layers1 = ["0", "3"]
    loader.let(3)
    until(lambda: loader.iterations == 2)
    assert explorer.result.batches == 6
    explorer.stop()
    loader.let(1)
    result = explorer.wait(60)
    assert (result.layers1, result.batches) == (("0", "1"), 6)
    assert explorer.status == "stopped"


def test_a_loader_that_can_be_read_once_goes_on_without_new_layers():
    loader = iter(batches(60))
    explorer, line = make(loader, model1_layers=["0", "1"], autostart=False)

    def choose(*_):
        explorer.layers1 = ["0", "3"]

    explorer._session.comparison.callback = choose
    result = explorer.wait(60)
    assert (result.layers1, result.batches) == (("0", "1"), 60)
    assert line.values("_meta")[0]["read_once"]
    assert line.values("_queued") == [False, True, False]


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


@pytest.mark.parametrize("layers", [["0", "2"], ["1"]])
def test_layers_chosen_just_when_a_run_begins_are_kept(monkeypatch, layers):
    explorer, _ = make(Gate(batches(6), open_=True))
    is_current = explorer._session._is_current

    def choose_meanwhile(side):
        was = is_current(side)
        if side == "layers1":
            monkeypatch.undo()
            explorer.layers1 = layers
        return was

    monkeypatch.setattr(explorer._session, "_is_current", choose_meanwhile)
    explorer.run()
    explorer.wait(60)
    assert explorer.layers1 == layers


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


def test_a_run_requested_during_the_probe_continues_after_it():
    loader = Gate(batches(6))
    explorer, line = make(loader, autostart=False)
    explorer._repr_mimebundle_()
    until(lambda: loader.iterations == 1)
    explorer.run()
    loader.let(20)
    assert explorer.wait(60).batches == 6
    assert loader.iterations == 1
    assert line.values("status") == ["idle", "running", "done"]


def test_restart_starts_from_scratch_even_in_a_pause():
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
