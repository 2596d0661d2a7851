"""What the page gets to know of a run, and what ends or pauses one."""

import json
import re
import threading

import pytest
import torch
from support.doubles import Gate, batches, floats, make, net, pause_midway, until

from cka_notebook import CKA, CKAExplorer
from cka_notebook._engine import state
from cka_notebook._page import frames
from cka_notebook._widget import checks, comparison

# Frames


def test_the_last_frame_is_the_result_bit_for_bit():
    explorer, line = make()
    result = explorer.wait(60)
    last = line.frames[-1]
    matrix, stderr = last.arrays()
    assert last.content["final"] is True
    assert matrix.tobytes() == floats(result.matrix).tobytes()
    assert stderr.tobytes() == floats(result.stderr).tobytes()
    assert explorer._matrix == matrix.tobytes()
    assert explorer._snapshot["header"] == last.content


def test_the_result_is_that_of_the_engine():
    explorer, _ = make()
    models = explorer._session.comparison._models._strong
    loader = explorer._session.comparison._loader
    result = explorer.wait(60)
    expected = CKA(*models, model1_layers="all", model2_layers="all").compare(
        loader, progress=False
    )
    assert torch.equal(result.matrix, expected.matrix)
    assert result.layers1 == expected.layers1


def test_batches_seen_by_a_page_grow_and_numbers_too():
    loader = Gate(batches(8))
    explorer, line = make(loader)
    line.page({"kind": "ready", "page": "page-1", "views": 1})
    loader.let(1)
    for shown in range(1, 9):
        loader.let(1)
        until(lambda shown=shown: explorer.progress.batches >= shown)
    explorer.wait(60)
    headers = [frame.content for frame in line.frames]
    assert headers[-1]["batch"] == headers[-1]["total"] == 8
    numbers = [(h["epoch"], h["seq"]) for h in headers]
    assert numbers == sorted(set(numbers))
    assert all(h["rows"] == h["cols"] == 4 for h in headers)


def test_without_acknowledgement_one_frame_is_in_flight_and_the_last_arrives():
    explorer, line = make(batches(200), acknowledges=False, autostart=False)
    explorer._messages.handle({"kind": "ready", "page": "page-1", "views": 1})
    until(lambda: explorer._session.runs.live is None)
    line.page({"kind": "ready", "page": "page-1", "views": 1})
    result = explorer.wait(60)
    assert len(line.frames) <= 3
    assert line.frames[-1].content["final"] is True
    assert line.frames[-1].content["batch"] == result.batches == 200


def test_what_the_run_will_take_is_said_before_its_first_frame():
    explorer, line = make()
    explorer.wait(60)
    assert re.fullmatch(r"0\.\d MB of Gram matrices", explorer._estimate)
    said = ["_estimate" in message.data.get("state", {}) for message in line.sent]
    framed = [message.content.get("kind") == "frame" for message in line.sent]
    assert said.index(True, 1) < framed.index(True)


def test_memory_of_a_gpu_is_in_every_frame_but_the_last(monkeypatch):
    asked = []

    def memory(device):
        asked.append(device.type)
        return [3 << 30, 80 << 30]

    monkeypatch.setattr(frames, "gpu_memory", memory)
    loader = Gate(batches(6))
    explorer, line = make(loader)
    explorer.run()
    loader.let(4)
    until(lambda: line.frames)
    loader.let(10)
    explorer.wait(60)
    first, *_, last = [frame.content["gpu"] for frame in line.frames]
    assert first == [3 << 30, 80 << 30]
    assert last is None
    assert set(asked) == {"cpu"}
    assert len(asked) < len(line.frames), "only when a frame goes out"


# The user's callback


def test_a_callback_is_called_as_that_of_the_engine_in_the_thread_of_the_run():
    seen, threads = [], set()

    def look(*given):
        seen.append(given)
        threads.add(threading.current_thread().name)

    explorer, _ = make(callback=look)
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

    def look(batch, *_):
        model(torch.randn(3, 6))
        results.append(explorer.result.batches == explorer.progress.batches == batch)
        with pytest.raises(RuntimeError, match="wait for itself"):
            explorer.wait()

    data = batches()
    options = {"model1_layers": "all", "callback": look}
    explorer = CKAExplorer(model, None, data, **options)
    result = explorer.wait(60)
    assert explorer._message["text"] == ""
    assert results == [True] * 6
    expected = CKA(model, model1_layers="all").compare(data, progress=False)
    assert torch.equal(result.matrix, expected.matrix)


def test_an_exception_of_the_callback_is_shown_once_and_the_run_goes_on():
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


def test_stop_iteration_from_the_callback_ends_the_run_and_is_said():
    def stop(batch, *_):
        if batch == 2:
            raise StopIteration

    explorer, _ = make([torch.randn(2, 6), *batches()], callback=stop)
    result = explorer.wait(60)
    assert (result.batches, result.skipped, explorer.status) == (1, 1, "done")
    assert explorer._message["text"] == "Ended by the callback after 2 batches."
    assert any("fewer than 4" in note for note in result.notes)


def test_layers_that_catch_up_are_no_batches_to_the_callback():
    loader, seen = Gate(batches(6)), []
    look = lambda batch, _, matrix: seen.append((batch, *matrix.shape))  # noqa: E731
    explorer, _ = make(loader, callback=look, model1_layers=["0"])
    explorer.run()
    pause_midway(explorer, loader)
    held = explorer.progress.batches
    explorer.layers1 = ["0", "2"]
    explorer.resume()
    loader.let(40)
    explorer.wait(60)
    before = [(batch, 1, 4) for batch in range(1, held + 1)]
    assert seen == [*before, *((batch, 2, 4) for batch in range(held, 7))]


# Stable values, long and large runs


def test_a_tolerance_of_the_constructor_can_be_lifted():
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


def test_a_run_nobody_asked_for_holds_when_it_would_take_long(monkeypatch):
    monkeypatch.setattr(checks, "LONG_RUN", 0.0)
    explorer, _ = make()
    explorer._repr_mimebundle_()
    until(lambda: explorer.status == "paused")
    assert explorer._message["kind"] == "note"
    assert "The remaining 4 batches would take about 1 s" in explorer._message["text"]
    assert explorer.result.batches == 2
    assert explorer.wait(60).batches == 6, "wait() asks for it"


def test_a_run_nobody_asked_for_holds_when_it_would_hardly_fit(monkeypatch):
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


def test_a_run_that_was_asked_for_never_holds(monkeypatch):
    monkeypatch.setattr(checks, "LONG_RUN", 0.0)
    monkeypatch.setattr(comparison, "free_bytes", lambda _: 0)
    explorer, line = make()
    explorer.run()
    explorer.wait(60)
    assert "paused" not in line.values("status")


# Pages that come and go


def test_a_page_that_comes_in_mid_run_gets_history_and_the_latest_frame():
    loader = Gate(batches(6))
    explorer, line = make(loader, acknowledges=False)
    explorer.run()
    loader.let(4)
    until(lambda: explorer.progress.batches == 4 and line.frames)
    line.page({"kind": "ready", "page": "page-2", "views": 1})
    history = until(lambda: line.custom("history"))[-1]
    again = until(lambda: line.frames[1:])[-1]
    assert history.content["batches"][0] == 1
    count = len(history.content["batches"])
    assert len(history.buffers[0]) == 3 * 16 * count
    assert again.content["epoch"] == 1
    loader.let(20)
    explorer.wait(60)


def test_a_page_that_comes_after_the_end_has_everything_in_traits():
    explorer, _ = make()
    result = explorer.wait(60)
    state = explorer.get_state()
    header, batches_kept = state["_snapshot"]["header"], state["_snapshot"]["history"]
    assert header["final"] is True
    assert state["_matrix"] == floats(result.matrix).tobytes()
    assert batches_kept["batches"][-1] < header["batch"], "the frame is the last one"
    assert len(state["_history"]) == 3 * 16 * len(batches_kept["batches"])
    assert state["_axes"]["epoch"] == header["epoch"]
    assert json.dumps([state[name] for name in ("_trees", "_figure", "_snapshot")])


def test_traits_keep_a_part_of_the_history_and_the_kernel_tells_all_of_it(monkeypatch):
    monkeypatch.setattr(frames, "SAVED_HISTORY_BYTES", 2 * 48)
    explorer, line = make(Gate(batches(6), open_=True))
    explorer.wait(60)
    assert len(explorer._history) <= 2 * 48
    assert max(explorer._snapshot["history"]["batches"]) < 6
    line.page({"kind": "ready", "page": "page-2", "views": 1})
    history = until(lambda: line.custom("history"))[-1]
    assert history.content["batches"][-1] == 6
    assert len(history.buffers[0]) == 48 * len(history.content["batches"])
