"""What the page receives of a run."""

import json
import re

import torch
from support.doubles import Gate, batches, floats, make, until

from cka_notebook import CKA
from cka_notebook._page import frames

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


def test_batches_and_numbers_of_frames_only_grow():
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


def test_the_estimate_is_sent_before_the_first_frame():
    explorer, line = make()
    explorer.wait(60)
    assert re.fullmatch(r"0\.\d MB of Gram matrices", explorer._estimate)
    estimated = ["_estimate" in message.data.get("state", {}) for message in line.sent]
    framed = [message.content.get("kind") == "frame" for message in line.sent]
    assert estimated.index(True, 1) < framed.index(True)


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


# Pages that come and go


def test_a_page_that_loads_during_a_run_gets_history_and_the_latest_frame():
    loader = Gate(batches(6))
    explorer, line = make(loader, acknowledges=False)
    explorer.run()
    loader.let(4)
    until(lambda: explorer.progress.batches == 4 and line.frames)
    line.page({"kind": "ready", "page": "page-2", "views": 1})
    history = until(lambda: line.custom("history"))[-1]
    latest = until(lambda: line.frames[1:])[-1]
    assert history.content["batches"][0] == 1
    count = len(history.content["batches"])
    assert len(history.buffers[0]) == 3 * 16 * count
    assert latest.content["epoch"] == 1
    loader.let(20)
    explorer.wait(60)


def test_a_page_that_loads_after_the_end_has_everything_in_traits():
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


def test_traits_keep_part_of_the_history_and_the_kernel_sends_all_of_it(monkeypatch):
    monkeypatch.setattr(frames, "SAVED_HISTORY_BYTES", 2 * 48)
    explorer, line = make(Gate(batches(6), open_=True))
    explorer.wait(60)
    assert len(explorer._history) <= 2 * 48
    assert max(explorer._snapshot["history"]["batches"]) < 6
    line.page({"kind": "ready", "page": "page-2", "views": 1})
    history = until(lambda: line.custom("history"))[-1]
    assert history.content["batches"][-1] == 6
    assert len(history.buffers[0]) == 48 * len(history.content["batches"])
