"""Frames: the part of a run's state that the page draws."""

import base64
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from support.wire_examples import running

from cka_notebook import CKAResult
from cka_notebook._grams.readback import Readback
from cka_notebook._messages import Note
from cka_notebook._page import frames as frames_module
from cka_notebook._page.codes import floats
from cka_notebook._page.frames import Frames, Progress

LAYERS = tuple(f"layer{k}" for k in range(501))
NAN = float("nan")


def large():
    """The state of a run with 501 x 501 layers."""
    torch.manual_seed(0)
    state = running(3)
    matrix = torch.rand(501, 501, dtype=torch.float64) * 0.8 + 0.2
    matrix[0, 0] = NAN
    state.layers1 = state.layers2 = LAYERS
    state.matrix = lambda: matrix
    state.stderr = lambda: matrix / 50
    state.floor = lambda: matrix / 20
    return state


def begun(state):
    """Frames of the epoch of this state, and the messages that they send."""
    sent = []
    frames = Frames(lambda *given: sent.append(given), print)
    frames.begin(1, state)
    return frames, sent


def test_notes_say_whether_they_are_grave_and_plain_ones_are_not():
    state = running(1)
    state.notes = ["plain", Note("not random", grave=True)]
    assert frames_module.axes(1, state)["notes"] == [
        {"text": "plain", "grave": False},
        {"text": "not random", "grave": True},
    ]


def test_a_large_map_is_sent_in_bytes_and_its_last_frame_bit_for_bit():
    state = large()
    frames, sent = begun(state)
    frames.take(1.0, state)
    (header, (values, errors, floor)) = sent[0]
    assert len(values) == len(errors) == len(floor) == 501 * 501
    codes, scale = np.frombuffer(values, "u1"), header["codes"]
    assert codes[0] == 255
    read = scale["low"] + codes[1:] * scale["step"]
    wanted = floats(state.matrix()).ravel()
    np.testing.assert_allclose(read, wanted[1:], atol=0.51 * scale["step"])

    result = CKAResult(
        state.matrix(), state.stderr(), LAYERS, LAYERS, "A", "B", examples=1, batches=1
    )
    traits = frames.publish(Progress(batches=4), result, final=True)
    last, buffers = sent[-1]
    assert "codes" not in last
    assert buffers[0] == traits["_matrix"] == floats(result.matrix).tobytes()


def test_a_smaller_map_is_sent_as_float32():
    state = running(3)
    frames, sent = begun(state)
    frames.take(1.0, state)
    assert "codes" not in sent[0][0]
    assert sent[0][1][0] == floats(state.matrix()).tobytes()


class SlowReadback(Readback):
    """A copy that takes as long as the test wants, like one from a GPU."""

    made: ClassVar[list["SlowReadback"]] = []

    def __init__(self, *tensors):
        super().__init__(*tensors)
        self.has_arrived = False
        self.made.append(self)

    @property
    def is_ready(self):
        return self.has_arrived


@pytest.fixture
def slow(monkeypatch):
    """All copies that were started, in order."""
    monkeypatch.setattr(frames_module, "Readback", SlowReadback)
    monkeypatch.setattr(SlowReadback, "made", [])
    return SlowReadback.made


def test_a_pending_frame_is_sent_when_its_values_have_arrived(slow):
    state = running(3)
    frames, sent = begun(state)
    first = floats(state.matrix())
    frames.take(1.0, state)
    state.batches += 1
    frames.take(2.0, state)
    assert not sent
    assert len(slow) == 1  # One at a time.
    slow[0].has_arrived = True
    frames.take(3.0, state)
    header, buffers = sent[0]
    assert header["batch"] == 3
    assert header["seconds"] == 1.0
    assert buffers[0] == first.tobytes()


def test_the_cost_of_a_kept_map_is_its_computation_without_the_wait(monkeypatch, slow):
    now, costs = [0.0], []
    clock = SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr(frames_module, "time", clock)
    add = lambda *_, cost: costs.append(cost)  # noqa: E731
    monkeypatch.setattr(frames_module.History, "add", add)
    state = running(3)
    matrix = state.matrix()

    def computed():
        now[0] += 3.0
        return matrix

    state.matrix = computed
    frames, _ = begun(state)
    frames.take(1.0, state)
    now[0] += 100.0
    slow[0].has_arrived = True
    frames.take(2.0, state)
    assert costs == [3.0]


def test_a_frame_whose_values_arrive_after_the_last_frame_is_dropped(slow):
    state = running(3)
    frames, sent = begun(state)
    frames.take(1.0, state)
    numbers, names = (state.matrix(), state.stderr()), (state.layers1, state.layers2)
    result = CKAResult(*numbers, *names, "A", "B", examples=1, batches=1)
    frames.publish(Progress(batches=3), result, final=True)
    slow[0].has_arrived = True
    frames.begin(2, state)
    frames.take(2.0, state)
    assert [header["final"] for header, _ in sent] == [True]


def decoded(header, floor):
    """The level of chance that crossed: to half of 1 in 254 of a square root."""
    codes = np.frombuffer(floor, "u1").astype(float)
    return np.where(codes == 255, NAN, header["floor"] * (codes / 254) ** 2)


@pytest.mark.parametrize("make", [lambda: running(3), large])
def test_every_frame_carries_the_level_of_chance(make):
    state = make()
    frames, sent = begun(state)
    frames.take(1.0, state)
    names, floor = (state.layers1, state.layers2), state.floor()
    maps = {"null_sd": floor / 3, "batches": 5}
    result = CKAResult(state.matrix(), state.stderr(), *names, **maps)
    traits = frames.publish(Progress(batches=5), result, final=True)
    saved = traits["_snapshot"]
    assert saved == frames.show_saved(result)["_snapshot"] | {
        "header": saved["header"],
        "history": saved["history"],
    }
    crossed = [(header, buffers[2]) for header, buffers in sent]
    crossed.append((saved["header"], base64.b64decode(saved["floor"])))
    assert len(crossed) == 3
    for header, buffer in crossed:
        found = decoded(header, buffer).reshape(floor.shape)
        np.testing.assert_allclose(found, floor.numpy(), atol=0.005 * header["floor"])


def test_a_frame_of_a_result_without_a_level_of_chance_says_so_in_each_cell():
    state = running(3)
    frames, _ = begun(state)
    matrix, names = state.matrix(), (state.layers1, state.layers2)
    saved = frames.show_saved(CKAResult(matrix, matrix.abs(), *names))["_snapshot"]
    assert base64.b64decode(saved["floor"]) == b"\xff" * matrix.numel()
    assert saved["header"]["floor"] == 0
