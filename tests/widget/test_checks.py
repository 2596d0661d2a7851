"""Checks after each batch: a run's length, its memory, a callback, stable values."""

import threading
from types import SimpleNamespace

import pytest
import torch
from support.doubles import Gate, batches, make, net, pause_midway, until

from cka_notebook import CKA, CKAExplorer
from cka_notebook._engine import state
from cka_notebook._widget import checks, comparison
from cka_notebook._widget.checks import Checks


class Worker:
    """Counts pauses; each batch takes 100 seconds, the first one 50 more."""

    pauses = 0
    seconds = 0.0

    def pause(self):
        self.pauses += 1


def checked(total, callback=None, too_large=None):
    """The messages and pauses of a run of four batches."""
    messages, worker = [], Worker()
    compared = SimpleNamespace(callback=callback, too_large=lambda _: too_large)
    found = Checks(compared, lambda *message: messages.append(message))
    for done in range(1, 5):
        worker.seconds = 50 + 100.0 * done
        found.pause_if_long(worker, SimpleNamespace(done=done, total=total))
    return messages, worker.pauses


def test_a_long_run_pauses_once_after_its_second_batch():
    messages, pauses = checked(total=10)
    assert pauses == 1
    [(kind, text)] = messages
    assert kind == "note"
    assert text.startswith("The remaining 8 batches would take about 13 min")
    assert text.endswith("Press Resume to compute them.")


@pytest.mark.parametrize("total", [3, None])
def test_a_run_of_few_or_unknown_batches_does_not_pause(total):
    assert checked(total) == ([], 0)


def test_a_run_that_may_not_fit_pauses_unless_nothing_is_known_of_it():
    messages, worker = [], Worker()
    compared = SimpleNamespace(callback=None, too_large=lambda size: f"{size} GB")
    found = Checks(compared, lambda *message: messages.append(message))
    found.pause_if_large(worker, SimpleNamespace(estimate=None))
    assert worker.pauses == 0
    found.pause_if_large(worker, SimpleNamespace(estimate=7))
    assert (worker.pauses, messages) == (1, [("note", "7 GB")])


# The user's callback


def test_a_callback_is_called_in_the_run_s_thread_as_by_the_engine():
    seen, threads = [], set()

    def callback(*given):
        seen.append(given)
        threads.add(threading.current_thread().name)

    explorer, _ = make(callback=callback)
    explorer.wait(60)
    models = explorer._session.comparison._models._strong
    expected = []
    CKA(*models, model1_layers="all", model2_layers="all").compare(
        explorer._session.comparison._loader,
        progress=False,
        callback=lambda *given: expected.append(given),
    )
    assert threads == {"cka-engine"}
    assert [given[:2] for given in seen] == [(batch, 6) for batch in range(1, 7)]
    for (*_, matrix), (*_, other) in zip(seen, expected, strict=True):
        assert torch.equal(matrix, other)


def test_a_callback_may_call_the_models_and_ask_the_explorer():
    model, results = net(), []

    def callback(batch, *_):
        model(torch.randn(3, 6))
        results.append(explorer.result.batches == explorer.progress.batches == batch)
        with pytest.raises(RuntimeError, match="wait for itself"):
            explorer.wait()

    data = batches()
    options = {"model1_layers": "all", "callback": callback}
    explorer = CKAExplorer(model, None, data, **options)
    result = explorer.wait(60)
    assert explorer._message["text"] == ""
    assert results == [True] * 6
    expected = CKA(model, model1_layers="all").compare(data, progress=False)
    assert torch.equal(result.matrix, expected.matrix)


def test_an_exception_of_the_callback_is_shown_once_and_the_run_continues():
    seen = []

    def fail(batch, *_):
        seen.append(batch)
        if batch > 1:
            raise ValueError(f"no room for {batch}.")

    explorer, line = make(callback=fail)
    assert explorer.wait(60).batches == 6
    assert explorer.status == "done"
    assert seen == [1, 2, 3, 4, 5, 6]
    shown = [message["text"] for message in line.values("_message") if message["text"]]
    failed = "The callback failed at batch 2 (ValueError: no room for 2)."
    assert shown == [f"{failed} The run continues."]
    assert explorer._message["kind"] == "error"
    explorer.run()
    explorer.wait(60)
    texts = [message["text"] for message in line.values("_message")]
    assert texts.count(shown[0]) == 2, "once in each run"


def test_stop_iteration_from_the_callback_ends_the_run_and_is_reported():
    def stop(batch, *_):
        if batch == 2:
            raise StopIteration

    explorer, _ = make([torch.randn(2, 6), *batches()], callback=stop)
    result = explorer.wait(60)
    assert (result.batches, result.skipped, explorer.status) == (1, 1, "done")
    assert explorer._message["text"] == "Ended by the callback after 2 batches."
    assert any("fewer than 4" in note for note in result.notes)


def test_the_callback_is_not_called_while_new_layers_catch_up():
    loader, seen = Gate(batches(6)), []
    callback = lambda batch, _, matrix: seen.append((batch, *matrix.shape))  # noqa: E731
    explorer, _ = make(loader, callback=callback, model1_layers=["0"])
    explorer.run()
    pause_midway(explorer, loader)
    paused_at = explorer.progress.batches
    explorer.layers1 = ["0", "2"]
    explorer.resume()
    loader.let(40)
    explorer.wait(60)
    before = [(batch, 1, 4) for batch in range(1, paused_at + 1)]
    assert seen == [*before, *((batch, 2, 4) for batch in range(paused_at, 7))]


# Stable values, long and large runs


def test_a_tolerance_of_the_constructor_can_be_removed():
    explorer, _ = make(batches(1, n=64) * 12, stop_when_stable=0.5)
    explorer.stop_when_stable = None
    assert explorer.wait(60).batches == 12


def test_a_tolerance_ends_the_run_when_all_is_stable():
    data = batches(1, n=64)
    explorer, line = make(data * 400)
    explorer._messages.handle({"kind": "tolerance", "value": 0.5})
    result = explorer.wait(60)
    assert explorer.status == "done"
    assert result.batches == state.MIN_STABLE
    text = "Stable after 8 batches: all standard errors are below 0.5."
    assert explorer._message["text"] == text
    assert any("Stopped after 8 batches" in note for note in result.notes)
    assert line.frames[-1].content["batch"] == result.batches


def test_a_run_nobody_asked_for_pauses_if_it_would_take_long(monkeypatch):
    monkeypatch.setattr(checks, "LONG_RUN", 0.0)
    explorer, _ = make()
    explorer._repr_mimebundle_()
    until(lambda: explorer.status == "paused")
    assert explorer._message["kind"] == "note"
    assert "The remaining 4 batches would take about 1 s" in explorer._message["text"]
    assert explorer.result.batches == 2
    assert explorer.wait(60).batches == 6, "wait() asks for it"


def test_a_run_nobody_asked_for_pauses_if_it_may_not_fit(monkeypatch):
    monkeypatch.setattr(comparison, "free_bytes", lambda _: 1000)
    data = torch.utils.data.TensorDataset(torch.randn(40, 6))
    loader = torch.utils.data.DataLoader(data, batch_size=10)
    explorer, _ = make(loader)
    explorer._repr_mimebundle_()
    until(lambda: explorer.status == "paused")
    assert explorer._message["kind"] == "note"
    assert "8 layers and batches of 10 examples need" in explorer._message["text"]
    assert explorer.result is None
    assert explorer.wait(60).batches == 4, "wait() asks for it"


def test_a_requested_run_never_pauses_itself(monkeypatch):
    monkeypatch.setattr(checks, "LONG_RUN", 0.0)
    monkeypatch.setattr(comparison, "free_bytes", lambda _: 0)
    explorer, line = make()
    explorer.run()
    explorer.wait(60)
    assert "paused" not in line.values("status")
