"""The widget without a browser: a recording comm plays the page."""

import base64
import contextlib
import contextvars
import gc
import json
import os
import re
import signal
import subprocess
import sys
import threading
import weakref
from dataclasses import replace

import comm
import numpy as np
import pytest
import torch
import traitlets
from support import ROOT, TESTS, wire_examples
from support.doubles import Gate, RecordingComm, until
from torch import nn

from cka_notebook import CKA, CKAExplorer, CKAResult, _figures
from cka_notebook._engine import state
from cka_notebook._figures.png import png
from cka_notebook._notebook import cell
from cka_notebook._page import frames
from cka_notebook._page.runtime import Runtime, page_code
from cka_notebook._widget import comparison, session
from cka_notebook._widget.explorer import PROTOCOL
from cka_notebook._widget.source import with_layers

WIRE = TESTS / "wire"


@pytest.fixture(autouse=True)
def comms(monkeypatch):
    """All comms that were opened; explorers that were not closed are, afterwards."""
    opened = []

    def create_comm(**options):
        opened.append(RecordingComm(**options))
        return opened[-1]

    monkeypatch.setattr(comm, "create_comm", create_comm)
    monkeypatch.setattr("cka_notebook._page.runtime._shared", [])
    made = []
    monkeypatch.setattr(cell, "supersede", made.append)
    yield opened
    for explorer in made:
        explorer.close()
        worker = explorer._session.runs._worker
        if worker is not None:
            assert worker.wait(60), "a worker outlived its explorer"
    threads = [
        t for t in threading.enumerate() if t.name in ("cka-engine", "cka-frames")
    ]
    for thread in threads:
        thread.join(60)


def net():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU())


def batches(count=6, n=12):
    return [torch.randn(n, 6) for _ in range(count)]


def make(loader=None, *, views=1, acknowledges=True, **options):
    """An explorer with a page, its comm, and its loader."""
    loader = batches() if loader is None else loader
    options = {"model1_layers": "all", "model2_layers": "all"} | options
    explorer = CKAExplorer(net(), net(), loader, **options)
    line = explorer.comm
    line.acknowledges, line.views = acknowledges, views
    return explorer, line


def floats(tensor):
    return tensor.numpy().astype("<f4")


# Wire files


@pytest.mark.parametrize("name", sorted(path.stem for path in WIRE.glob("*.json")))
def test_the_golden_wire_files_are_what_the_kernel_sends(name):
    made = wire_examples.examples()[name]
    path = WIRE / f"{name}.json"
    if os.environ.get("CKA_NOTEBOOK_WRITE_WIRE"):
        text = json.dumps(made, indent=1, ensure_ascii=False)
        path.write_text(f"{text}\n", encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8")) == made


def test_both_halves_are_of_one_protocol():
    page = ROOT / "js" / "src" / "protocol.ts"
    assert f"PROTOCOL = {PROTOCOL};" in page.read_text(encoding="utf-8")


def test_the_kernel_understands_every_golden_message_of_the_page():
    torch.manual_seed(0)
    explorer = CKAExplorer(
        wire_examples.SmallNet(), wire_examples.OddNet(), [torch.randn(8, 3, 8, 8)],
        autostart=False,
    )  # fmt: skip
    explorer.run(block=True)
    for message in wire_examples.FROM_PAGE:
        if message["kind"] != "command":
            explorer._handle(message)
            assert explorer._message["kind"] != "error", explorer._message
    assert explorer.layers1 == list(wire_examples.LAYERS1)
    assert explorer.layers2 == list(wire_examples.LAYERS2)
    assert explorer.palette == "viridis"
    assert explorer.color_range == [0.25, 0.75]
    assert explorer.focus is None
    assert explorer.comm.custom("bokehjs")[0].buffers[0][:2] == b"\x1f\x8b"
    assert explorer.comm.custom("code")[0].content["code"] == page_code()


def test_every_name_of_a_synced_trait_is_known_to_the_page():
    source = ROOT / "js" / "src" / "protocol.ts"
    page = source.read_text(encoding="utf-8")
    explorer, _ = make()
    ours = {name for name in explorer.keys if name in CKAExplorer.__dict__}
    ours -= {"_esm", "_css"}
    missing = {name for name in ours if not re.search(rf"\b{name}\b", page)}
    assert missing == set()


# A run


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
    explorer._handle({"kind": "ready", "page": "page-1", "views": 1})
    until(lambda: explorer._session.runs.live is None)
    line.page({"kind": "ready", "page": "page-1", "views": 1})
    result = explorer.wait(60)
    assert len(line.frames) <= 3
    assert line.frames[-1].content["final"] is True
    assert line.frames[-1].content["batch"] == result.batches == 200


def test_status_goes_from_idle_over_running_to_done():
    explorer, line = make()
    assert explorer.status == "idle"
    explorer.wait(60)
    assert line.values("status") == ["idle", "running", "done"]


def test_constructing_touches_no_data_and_shows_the_trees_at_once():
    loader = Gate(batches())
    explorer, _ = make(loader)
    assert loader.iterations == 0
    assert explorer._trees["model1"]["name"] == ["", "0", "1", "2", "3"]
    assert explorer.layers1 == ["0", "1", "2", "3"]
    assert explorer.result is None
    assert explorer.progress.batches == 0


def test_it_starts_when_it_is_shown_and_only_then():
    explorer, _ = make()
    data, _ = explorer._repr_mimebundle_()
    assert (
        data["text/plain"] == "CKAExplorer(Sequential A x Sequential B, 4 x 4 layers)"
    )
    assert "image/png" not in data
    until(lambda: explorer.status == "done")
    epoch = explorer._axes["epoch"]
    explorer._repr_mimebundle_()
    explorer.wait(60)
    assert explorer._axes["epoch"] == epoch, "showing it again does not start again"


def test_it_starts_in_another_widget_with_the_first_view_of_the_page():
    explorer, line = make()
    line.page({"kind": "ready", "page": "page-1", "views": 0})
    line.page({"kind": "view", "palette": "viridis"})
    until(lambda: explorer.palette == "viridis")
    assert explorer.status == "idle"
    line.page({"kind": "ready", "page": "page-1", "views": 1})
    until(lambda: explorer.status == "done")


def test_without_autostart_only_the_probe_runs_so_that_shapes_are_known():
    explorer, line = make(autostart=False)
    assert explorer._trees["model1"]["shape"][1] is None
    explorer._repr_mimebundle_()
    until(lambda: explorer._session.runs.live is None)
    assert explorer.status == "idle"
    assert explorer._trees["model1"]["shape"][1] == [None, 8]
    assert line.frames == []
    assert explorer.result is None
    assert explorer.wait(60).batches == 6


def test_a_loader_that_can_be_read_once_is_not_spent_on_a_probe():
    explorer, _ = make(iter(batches()), autostart=False)
    explorer._repr_mimebundle_()
    assert explorer._session.runs.live is None
    assert explorer.wait(60).batches == 6


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


def test_the_default_device_of_the_caller_holds_in_the_worker():
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


def pause_midway(explorer, loader):
    """Let three batches through, and one more, after which the run holds."""
    loader.let(3)
    until(lambda: explorer.progress.batches == 3)
    explorer.pause()
    loader.let(1)
    until(lambda: explorer.status == "paused")


def test_a_paused_run_can_be_stopped():
    loader = Gate(batches(6))
    explorer, _ = make(loader)
    explorer.run()
    pause_midway(explorer, loader)
    explorer.stop()
    assert explorer.wait(60).batches == explorer.progress.batches
    assert explorer.status == "stopped"


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


def test_a_process_may_end_during_a_run():
    done = subprocess.run(
        [sys.executable, "-c", EXIT], capture_output=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


# Errors, interrupts


class Failing(nn.Module):
    def __init__(self, at):
        super().__init__()
        self.calls, self.at = 0, at

    def forward(self, x):
        self.calls += 1
        if self.calls >= self.at:
            raise ArithmeticError("the third wheel came off")
        return x


def test_an_error_of_the_worker_is_shown_in_words_and_raised_by_wait():
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


def test_an_interrupt_of_wait_stops_the_run_and_keeps_the_result():
    loader = Gate(batches(6))
    explorer, _ = make(loader)
    explorer.run()
    loader.let(3)
    until(lambda: explorer.progress.batches == 3)

    def interrupt():
        signal.raise_signal(signal.SIGINT)
        until(explorer._session.runs.live._stopping.is_set)
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


def test_wait_says_where_the_run_is_when_time_is_up():
    loader = Gate(batches(6))
    explorer, _ = make(loader)
    with pytest.raises(
        TimeoutError, match=r"within 0.1 s, and it is running at batch 0"
    ):
        explorer.wait(0.1)
    loader.let(10)
    assert explorer.wait(60).batches == 6


def test_unknown_options_are_refused_with_the_allowed_ones():
    with pytest.raises(
        TypeError, match=r"'layers1'.*takes autocast, autostart, .*model1_layers.*theme"
    ):
        make(layers1=["0"])
    with pytest.raises(TypeError, match="Did you mean 'max_batches'"):
        make(max_batch=3)
    with pytest.raises(TypeError, match=r"function of \(batch, total, matrix\).*got 3"):
        make(callback=3)


def test_unknown_layers_are_refused_with_the_nearest():
    explorer, _ = make(model1_layers=None)
    with pytest.raises(traitlets.TraitError, match="contains 'headd'"):
        explorer.layers1 = ["headd"]
    explorer.wait(60)
    with pytest.raises(traitlets.TraitError, match="contains 'headd'"):
        explorer.layers1 = ["headd"]
    with pytest.raises(traitlets.TraitError, match="`focus` contains 'x'"):
        explorer.focus = ("0", "x")
    with pytest.raises(traitlets.TraitError, match="lower first, got"):
        explorer.color_range = [1, 0]
    with pytest.raises(traitlets.TraitError, match="one of \\['cka'"):
        explorer.metric = "rank"
    with pytest.raises(traitlets.TraitError, match="read-only"):
        explorer.status = "done"


def test_what_a_page_asks_wrongly_is_answered_in_words():
    explorer, line = make()
    line.page({"kind": "layers", "layers1": ["nowhere"]})
    until(lambda: explorer._message["kind"] == "error")
    assert "'nowhere'" in explorer._message["text"]
    for nonsense in (
        "text",
        None,
        {"kind": "ack"},
        {"kind": 3},
        {"kind": "tolerance", "value": "x"},
    ):
        line.page(nonsense)
    assert explorer.wait(60).batches == 6


# A callback of the user's


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
    assert shown == [f"{failed} The run goes on."]
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
    assert explorer._message["text"] == "Ended by its callback after 2 batches."
    assert any("fewer than 4" in note for note in result.notes)


def test_a_slow_callback_does_not_deafen_the_explorer():
    inside, goes = threading.Event(), threading.Event()

    def wait(*_):
        inside.set()
        assert goes.wait(60)

    explorer, line = make(callback=wait)
    explorer.run()
    assert inside.wait(60)
    line.page({"kind": "view", "palette": "viridis"})
    until(lambda: explorer.palette == "viridis")
    line.page({"kind": "command", "name": "pause"})
    goes.set()
    until(lambda: explorer.status == "paused")
    assert explorer.progress.batches < 6
    line.page({"kind": "command", "name": "resume"})
    assert explorer.wait(60).batches == 6


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


# Choices, both ways


def test_layers_and_focus_go_both_ways():
    explorer, line = make()
    explorer.wait(60)
    explorer.focus = ("0", "2")
    assert line.values("focus")[-1] == ("0", "2")
    line.page({"kind": "focus", "focus": ["1", "3"]})
    until(lambda: explorer.focus == ("1", "3"))
    line.page({"kind": "layers", "layers1": ["0", "2"]})
    until(lambda: explorer.layers1 == ["0", "2"])
    explorer.layers2 = "leaves"
    assert line.values("layers2")[-1] == explorer.layers2


def test_whatever_chooses_layers_can_be_assigned():
    explorer, _ = make()
    explorer.layers1 = ["?"]
    assert explorer.layers1 == ["0", "1", "2", "3"]
    explorer.layers1 = nn.Linear
    assert explorer.layers1 == ["0", "2"]
    explorer.layers2 = re.compile("[01]")
    result = explorer.wait(60)
    assert result.layers1 == ("0", "2")
    assert result.layers2 == ("0", "1")


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


def test_the_code_repeats_exactly_this_comparison():
    model1, model2, loader = net(), net(), batches()
    explorer = CKAExplorer(model1, model2, loader, model1_name="left", max_batches=4)
    explorer.layers1 = ["0", "3"]
    result = explorer.wait(60)
    scope = {"CKA": CKA, "model1": model1, "model2": model2, "loader": loader}
    again = eval(explorer.code, scope)
    assert again.layers1 == result.layers1 == ("0", "3")
    assert torch.equal(again.matrix, result.matrix)


def test_the_code_has_every_option_that_is_not_the_default():
    model, loader = net(), batches()
    explorer = CKAExplorer(
        model, None, loader, pool="mean", stop_when_stable=0.5, max_batches=4,
        model1_layers=["0"], paired=True,
    )  # fmt: skip
    code = explorer.code
    assert code == with_layers(explorer._code, ["0"], ["0"])
    assert code.endswith(
        ").compare(loader, max_batches=4, paired=True, stop_when_stable=0.5)"
    )
    assert code.startswith("CKA(\n    model1,\n    model1_name='model',\n")
    assert "    pool='mean',\n" in code
    assert "metric" not in code
    explorer.stop_when_stable = None
    assert ").compare(loader, max_batches=4, paired=True)" in explorer.code


def test_a_tolerance_goes_both_ways():
    explorer, line = make(stop_when_stable=0.005)
    assert explorer.stop_when_stable == 0.005
    assert explorer.get_state()["stop_when_stable"] == 0.005
    explorer._handle({"kind": "tolerance", "value": 0.25})
    assert explorer.stop_when_stable == explorer._session.tolerance == 0.25
    assert line.values("stop_when_stable")[-1] == 0.25
    explorer._handle({"kind": "tolerance", "value": None})
    assert explorer.stop_when_stable is None
    with pytest.raises(traitlets.TraitError, match="a standard error above 0, got -1"):
        explorer.stop_when_stable = -1
    with pytest.raises(ValueError, match="a standard error above 0, got 0"):
        make(stop_when_stable=0)


def test_a_tolerance_of_the_constructor_can_be_lifted():
    explorer, _ = make(batches(1, n=64) * 12, stop_when_stable=0.5)
    explorer.stop_when_stable = None
    assert explorer.wait(60).batches == 12


def test_a_tolerance_ends_the_run_when_all_is_stable():
    data = batches(1, n=64)
    explorer, line = make(data * 400)
    explorer._handle({"kind": "tolerance", "value": 0.5})
    result = explorer.wait(60)
    assert explorer.status == "done"
    assert result.batches == state.MIN_STABLE
    text = "Stable: no standard error above 0.5 after 8 batches."
    assert explorer._message["text"] == text
    assert any("Stopped after 8 batches" in note for note in result.notes)
    assert line.frames[-1].content["batch"] == result.batches


def test_a_run_nobody_asked_for_holds_when_it_would_take_long(monkeypatch):
    monkeypatch.setattr(session, "LONG_RUN", 0.0)
    explorer, _ = make()
    explorer._repr_mimebundle_()
    until(lambda: explorer.status == "paused")
    assert explorer._message["kind"] == "note"
    assert "The other 4 batches would take about 1 s" in explorer._message["text"]
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
    assert "8 layers and batches of 10 examples take" in explorer._message["text"]
    assert explorer.result is None
    assert explorer.wait(60).batches == 4, "wait() asks for it"


def test_the_free_memory_of_this_machine_can_be_told():
    free = comparison.free_bytes(None)
    assert free is None or free > 1_000_000


def test_a_run_that_was_asked_for_never_holds(monkeypatch):
    monkeypatch.setattr(session, "LONG_RUN", 0.0)
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


def test_two_explorers_share_one_model_that_carries_code_and_bokehjs(comms):
    first, _ = make()
    second, _ = make()
    assert first._runtime is second._runtime
    assert isinstance(first._runtime, Runtime)
    reference = f"IPY_MODEL_{first._runtime.model_id}"
    assert first.get_state("_runtime") == {"_runtime": reference}
    assert [len(c.values("gz")) for c in comms if c.values("gz")] == [1]
    assert [c.values("code") for c in comms if c.values("code")] == [[page_code()]]
    assert first._key != second._key


def test_the_figures_of_the_page_are_made_once_for_all_explorers():
    (first, _), (second, _) = make(), make()
    assert first._figure is second._figure


def test_no_comm_remembers_which_shell_has_sent_last():
    explorer, line = make()
    assert "_reply_subshell_id" not in vars(line), "after opening"
    explorer.palette = "greys"
    assert "_reply_subshell_id" not in vars(line), "after a trait"
    explorer.wait(60)
    assert "_reply_subshell_id" not in vars(line), "after a run"


def test_closing_stops_the_run_and_leaves_no_comm_open(comms):
    make()[0].close()
    shared = [c for c in comms if not c._closed]
    loader = Gate(batches(6))
    explorer, _ = make(loader)
    explorer.run()
    loader.let(3)
    until(lambda: explorer.progress.batches == 3)
    explorer.close()
    loader.let(1)
    worker = explorer._session.runs._worker
    assert worker.wait(60)
    assert worker.outcome == "stopped"
    assert explorer.result.batches >= 3
    assert [c for c in comms if not c._closed] == shared


def test_running_a_cell_again_closes_what_it_had_made(monkeypatch):
    execution = cell.Execution("cell-1", "first")
    monkeypatch.setattr(cell, "current_execution", lambda: execution)
    monkeypatch.setattr(cell, "_made", {})

    class Thing:
        closed = False

        def close(self):
            self.closed = True

    supersede = _SUPERSEDE
    one, two, three, other = Thing(), Thing(), Thing(), Thing()
    supersede(one)
    supersede(two)
    assert not one.closed, "two explorers of one execution live side by side"
    execution = cell.Execution("cell-2", "second")
    supersede(other)
    execution = cell.Execution("cell-1", "third")
    supersede(three)
    assert one.closed
    assert two.closed
    assert not other.closed
    assert not three.closed


_SUPERSEDE = cell.supersede


# What stays behind


def test_models_are_freed_after_a_run_although_the_explorer_lives():
    model1, model2 = net(), net()
    explorer = CKAExplorer(model1, model2, batches())
    explorer.wait(60)
    alive = weakref.ref(model1)
    explorer.run()
    explorer.wait(60)
    del model1
    gc.collect()
    assert alive() is None
    with pytest.raises(RuntimeError, match="model1 \\(Sequential\\) to exist still"):
        explorer.run()
    assert explorer.result.batches == 6
    assert explorer.layers1
    assert explorer.status == "done"


def test_models_that_nobody_else_holds_are_kept_for_another_run():
    explorer, _ = make()
    explorer.wait(60)
    gc.collect()
    explorer.run()
    assert explorer.wait(60).batches == 6


def test_the_model_is_left_without_hooks_after_every_exit():
    model = net()
    explorer = CKAExplorer(model, None, batches())
    explorer.wait(60)
    explorer.run()
    explorer.stop()
    explorer.wait(60)
    assert all(not module._forward_hooks for module in model.modules())


# A result without models


@pytest.mark.usefixtures("comms")
def test_no_choice_of_layers_is_the_automatic_one():
    explorer, _ = make()
    explorer.layers1 = ["0"]
    explorer.layers1 = None
    assert explorer.layers1 == CKAExplorer(net(), net(), batches()).layers1


def test_a_path_is_no_result_and_the_message_says_how_to_make_one(tmp_path):
    with pytest.raises(TypeError, match=r"CKAResult, got .*CKAResult\.load\(path\)"):
        CKAExplorer.from_result(str(tmp_path / "run.safetensors"))


def test_a_saved_result_is_shown_without_models(tmp_path):
    explorer, _ = make()
    result = explorer.wait(60)
    result.save(tmp_path / "run.safetensors")
    shown = CKAExplorer.from_result(CKAResult.load(tmp_path / "run.safetensors"))
    assert shown.status == "done"
    assert shown._matrix == explorer._matrix
    assert shown.layers1 == list(result.layers1)
    assert shown._trees["model1"]["name"][1:] == list(result.layers1)
    assert shown._trees["model1"]["type"][0] == "Sequential A"
    assert [e._meta["computes"] for e in (explorer, shown)] == [True, False]
    assert shown.wait(1) is shown.result
    assert torch.equal(shown.result.matrix, result.matrix)
    shown.focus = ("0", "1")
    shown.layers2 = ["1", "3"]
    with pytest.raises(RuntimeError, match="got a saved result"):
        shown.run()
    assert shown._repr_mimebundle_()[0]["image/png"]


def test_a_difference_is_shown_in_two_colors_around_0_and_repeats_no_call():
    explorer, _ = make()
    result = explorer.wait(60)
    less = replace(result, matrix=result.matrix + 0.25)
    shown = CKAExplorer.from_result(result - less)
    assert (shown.palette, shown.color_range) == ("puor", "fit")
    assert shown.metric == "cka difference"
    assert shown.code == ""
    colors = _figures.PALETTES["puor"]
    difference = (result - less).matrix.numpy()
    expected = png(difference, colors, (-0.25, 0.25), is_fallback=True)
    assert shown._look().picture == expected
    exact = [replace(r, stderr=torch.zeros_like(r.stderr)) for r in (result, less)]
    look = CKAExplorer.from_result(exact[0] - exact[1])._look()
    greyed = np.full(difference.shape, fill_value=True)
    assert look.picture == png(
        difference, colors, (-0.25, 0.25), greyed=greyed, is_fallback=True
    )


def test_the_picture_of_the_map_is_small_and_has_the_colors_of_its_values():
    explorer, _ = make()
    explorer.wait(60)
    data, _ = explorer._repr_mimebundle_()
    picture = base64.b64decode(data["image/png"])
    assert picture.startswith(b"\x89PNG")
    assert len(picture) <= 60_000
    assert "0x" not in data["text/plain"]
    assert "72 examples in 6 batches" in data["text/plain"]


# One file


def scripts_of(page):
    pattern = r'<script type="[^"]+" id="(\w+)">(.*?)</script>'
    return dict(re.findall(pattern, page, re.DOTALL))


def test_the_saved_page_holds_everything_and_hostile_names_are_text(tmp_path):
    torch.manual_seed(0)
    explorer = CKAExplorer(
        wire_examples.SmallNet(), wire_examples.OddNet(), [torch.randn(8, 3, 8, 8)],
        model1_name=wire_examples.HOSTILE[1],
    )  # fmt: skip
    explorer.wait(60)
    path = tmp_path / "map.html"
    explorer.save_html(path)
    page = path.read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "<img" not in page
    assert len(page) < 2_000_000
    state = json.loads(scripts_of(page)["state"])
    assert wire_examples.HOSTILE[1] in state["_trees"]["model2"]["name"]
    matrix = np.frombuffer(base64.b64decode(state["_matrix"]["base64,"]), "<f4")
    assert matrix.tobytes() == floats(explorer.result.matrix).tobytes()
    module = base64.b64decode(scripts_of(page)["module"]).decode()
    assert module == page_code()
    assert base64.b64decode(scripts_of(page)["bokehjs"])[:2] == b"\x1f\x8b"
    assert re.findall(r"<[^>]*(?:src|href)=", page) == []


@pytest.mark.parametrize(
    ("theme", "saved"), [("auto", "light"), ("light", "light"), ("dark", "dark")]
)
def test_a_saved_page_is_light_unless_dark_was_asked_for(tmp_path, theme, saved):
    result = wire_examples.result()
    explorer = CKAExplorer.from_result(result, theme=theme)
    explorer.save_html(tmp_path / "map.html")
    page = (tmp_path / "map.html").read_text(encoding="utf-8")
    assert json.loads(scripts_of(page)["state"])["theme"] == saved
    assert f"color-scheme: {saved}; }}" in page
    assert explorer.theme == theme


def test_a_theme_reaches_the_page_and_a_wrong_one_names_those_there_are():
    explorer, line = make(autostart=False, theme="dark")
    explorer.theme = "auto"
    assert line.values("theme") == ["dark", "auto"]
    known = r"'theme'.*\['auto', 'light', 'dark'\].*'blue'"
    with pytest.raises(traitlets.TraitError, match=known):
        explorer.theme = "blue"
    assert explorer.theme == "auto"
    with pytest.raises(traitlets.TraitError, match=known):
        make(theme="blue")


class Scans(torch.utils.data.Dataset):
    """A data set as people have them: files in folders, examples with names."""

    def __init__(self, root):
        self.root = root
        self.files = [f"{root}/patient-{k}.dcm" for k in range(12)]

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return {"x": torch.full((6,), 0.123456 + index), "name": self.files[index]}


class OnScans(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = net()

    def forward(self, x):
        return self.body(x)


def test_what_is_handed_on_has_the_class_of_the_data_but_neither_paths_nor_samples(
    tmp_path,
):
    loader = torch.utils.data.DataLoader(Scans(tmp_path / "secret"), 6)
    explorer = CKAExplorer(
        OnScans(), None, loader, forward=lambda model, batch: model(batch["x"]),
        checkpoint=tmp_path / "secret.safetensors",
    )  # fmt: skip
    result = explorer.wait(60)
    assert result.provenance["loader1"]["dataset"] == "Scans"
    result.save(tmp_path / "result.safetensors")
    explorer.save_html(tmp_path / "page.html")
    saved = (tmp_path / "result.safetensors").read_bytes()
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    state = scripts_of(page)["state"].encode()
    held = (tmp_path / "secret.safetensors").read_bytes()
    for handed in (saved, state, held, explorer.code.encode()):
        assert b"secret" not in handed
        assert b"patient" not in handed
        assert np.float32(0.123456).tobytes() not in handed


def test_a_page_saved_during_a_run_shows_what_there_is(tmp_path):
    loader = Gate(batches(6))
    explorer, _ = make(loader)
    explorer.run()
    pause_midway(explorer, loader)
    explorer.save_html(tmp_path / "map.html")
    page = (tmp_path / "map.html").read_text(encoding="utf-8")
    state = json.loads(scripts_of(page)["state"])
    assert state["status"] == "stopped"
    assert state["_snapshot"]["header"]["batch"] == explorer.progress.batches
    loader.let(20)
    explorer.resume()
    explorer.wait(60)


def test_the_picture_beside_the_widget_has_the_colors_of_the_page():
    explorer = CKAExplorer.from_result(wire_examples.result())
    matrix = wire_examples.MATRIX.numpy()
    assert np.nanmin(matrix) < 0
    explorer.color_range = "fit"
    limits = _figures.fitted_range(matrix)
    assert limits[0] == 0
    colors = _figures.PALETTES["magma"]
    assert explorer._look().picture == png(matrix, colors, limits, is_fallback=True)
