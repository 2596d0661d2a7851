"""A comm that plays the page, a loader that waits, and explorers to try them on.

`until` waits for a condition on what was sent, with a generous limit: tests wait for
events, never for time to pass.
"""

import threading
import time
from dataclasses import dataclass, field

import comm
import comm.base_comm
import numpy as np
import torch
from torch import nn

from cka_notebook import CKAExplorer

PATIENCE = 60.0


def until(condition, what="the condition", patience=PATIENCE):
    """Wait until `condition()` is true and return its value."""
    end = time.monotonic() + patience
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"waited {patience} s in vain for {what}")
        time.sleep(0.002)
    return value


@dataclass
class Sent:
    """One message to the page."""

    kind: str
    data: dict
    buffers: list = field(default_factory=list)
    thread: str = ""

    @property
    def content(self):
        """Content of a custom message."""
        return self.data.get("content", {}) if self.kind == "comm_msg" else {}

    def arrays(self):
        """Values and errors of a frame, in shape."""
        shape = self.content["rows"], self.content["cols"]
        return [np.frombuffer(b, "<f4").reshape(shape) for b in self.buffers[:2]]


class RecordingComm(comm.base_comm.BaseComm):
    """Records messages; with `acknowledges`, answers frames as a page does."""

    acknowledges = False
    page_name = "page-1"
    views = 1

    def __init__(self, *args, **kwargs):
        self.sent = []
        self._reply_subshell_id = "unset"
        super().__init__(*args, **kwargs)

    def publish_msg(self, msg_type, data=None, metadata=None, buffers=None, **keys):
        del metadata, keys
        thread = threading.current_thread().name
        message = Sent(msg_type, data or {}, [bytes(b) for b in buffers or []], thread)
        self._reply_subshell_id = "main"  # As ipykernel 7.4 does.
        self.sent.append(message)
        content = message.content
        if self.acknowledges and content.get("kind") == "frame":
            self.page(
                {
                    "kind": "ack",
                    "page": self.page_name,
                    "epoch": content["epoch"],
                    "seq": content["seq"],
                    "views": self.views,
                }
            )

    def page(self, content, buffers=()):
        """Deliver a custom message of the page."""
        data = {"method": "custom", "content": content}
        self.handle_msg({"content": {"data": data}, "buffers": list(buffers)})

    def custom(self, kind):
        """Custom messages of this kind, in order."""
        return [m for m in list(self.sent) if m.content.get("kind") == kind]

    @property
    def frames(self):
        return self.custom("frame")

    def values(self, trait):
        """Values of a synced trait in the order in which the page saw them."""
        found = []
        for message in list(self.sent):
            state = message.data.get("state")
            if state is None:
                continue
            if trait in state:
                found.append(state[trait])
            paths = message.data.get("buffer_paths", [])
            for path, buffer in zip(paths, message.buffers, strict=True):
                if path == [trait]:
                    found.append(buffer)
        return found


class Gate:
    """A loader that hands out a batch only when told to.

    The probe takes the first batch, so `let(1)` is what a first computed batch needs.
    """

    batch_size = None

    def __init__(self, batches, *, open_=False):
        self.dataset = list(batches)
        self._tickets = threading.Semaphore(len(self.dataset) * 50 if open_ else 0)
        self.iterations = 0

    def __len__(self):
        return len(self.dataset)

    def __iter__(self):
        self.iterations += 1
        for batch in self.dataset:
            if not self._tickets.acquire(timeout=PATIENCE):
                raise AssertionError("the gate was never opened")
            yield batch

    def let(self, count):
        """Let `count` more batches through."""
        self._tickets.release(count)


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


def pause_midway(explorer, loader):
    """Let three batches through, then pause the run after one more."""
    loader.let(3)
    until(lambda: explorer.progress.batches == 3)
    explorer.pause()
    loader.let(1)
    until(lambda: explorer.status == "paused")


@dataclass
class CountingState:
    """An engine's running state that only counts its batches."""

    batches: int

    def result(self):
        return f"after {self.batches}"


class RecordingHost:
    """Hosts runs of a few batches without models, and records what it is told.

    `on` maps an event to a function of the worker, called in the worker's thread.
    """

    def __init__(self, count=3, gate=None, on=None):
        self.gate = gate or Gate(range(count), open_=True)
        self.on = on or {}
        self.events = []
        self.closed = 0

    def prepare(self):
        self.events.append("prepare")

    def starts(self):
        self.events.append("starts")

    def steps(self):
        try:
            yield CountingState(0)
            for number, _ in enumerate(self.gate, 1):
                yield CountingState(number)
        finally:
            self.closed += 1

    def begins(self, worker, state):
        assert state.batches == 0
        self._tell(f"begins {worker.epoch}", worker)

    def batch(self, worker, state):
        return self._tell(f"batch {state.batches}", worker) is not False

    def pauses(self, worker, state):
        self._tell(f"pauses at {state.batches}", worker)

    def resumes(self, worker):
        self._tell("resumes", worker)

    def completes(self, worker):
        del worker
        return False

    def ends(self, worker, outcome):
        self._tell(f"ends {outcome}", worker)

    def _tell(self, event, worker):
        self.events.append(event)
        # Each reaction happens once, or restarting would never end.
        return self.on.pop(event, lambda _: None)(worker)
