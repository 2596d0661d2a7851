"""One run of the engine, batch by batch, in a thread of its own or in the caller's.

Orders (pause, go, stop, restart) may come from any thread and are obeyed between two
batches. The worker knows nothing of widgets: what happens it tells a `Watcher`.
"""

import atexit
import contextlib
import contextvars
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch

from cka_notebook._engine.borrowed import lent

if TYPE_CHECKING:
    from cka_notebook._engine.state import RunView
    from cka_notebook._results.result import CKAResult

Outcome = Literal["done", "stopped", "error"]
POLL = 0.5
"""Seconds between looks up from a wait, so that interrupts get through on Windows.

Each look takes the interpreter from the thread that computes, and cools its caches.
"""

EXIT_PATIENCE = 5.0
"""Seconds that the end of the process waits for the batches at work."""

_at_work: weakref.WeakSet["Worker"] = weakref.WeakSet()


class Watcher(Protocol):
    """What is told about a run; called in the thread that works."""

    def begins(self, worker: "Worker", state: "RunView") -> None:
        """The probe is done: layers and shapes are known."""

    def batch(self, worker: "Worker", state: "RunView") -> bool:
        """A batch has been added. Return False to end here."""

    def pauses(self, worker: "Worker", state: "RunView") -> None:
        """The run holds between two batches."""

    def resumes(self, worker: "Worker") -> None:
        """The run goes on."""

    def ends(self, worker: "Worker", outcome: Outcome) -> None:
        """Nothing more will come; ``worker.result`` is final."""


@dataclass(frozen=True, slots=True)
class CallerContext:
    """What torch keeps per thread and a new thread would not inherit."""

    device: torch.device
    cuda: int | None

    @classmethod
    def here(cls) -> "CallerContext":
        """Those of the calling thread."""
        started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        cuda = torch.cuda.current_device() if started else None
        return cls(torch.get_default_device(), cuda)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Make them those of the calling thread."""
        with contextlib.ExitStack() as stack:
            if self.device != torch.get_default_device():
                stack.enter_context(self.device)
            if self.cuda is not None:
                stack.enter_context(torch.cuda.device(self.cuda))
            yield


class Worker:
    """Drives the engine's generator, once per epoch.

    Args:
        steps: Makes the generator of a new epoch.
        watcher: Is told what happens.
        epoch: Number of the first epoch.
        surroundings: What torch keeps for the thread that has ordered the run.
        only_probe: End after the probe.

    Attributes:
        state: The engine's running state, or None before the probe.
        result: The latest result that was asked for or reached.
        error: What ended the run, if anything did.
        outcome: How the run ended, or None.
        ended: Set when it has.
    """

    def __init__(
        self,
        steps: Callable[[], Generator["RunView", None, None]],
        watcher: Watcher,
        *,
        epoch: int,
        surroundings: CallerContext,
        only_probe: bool = False,
    ) -> None:
        self.epoch = epoch
        self.only_probe = only_probe
        self.state: RunView | None = None
        self.result: CKAResult | None = None
        self.error: BaseException | None = None
        self.outcome: Outcome | None = None
        self.ended = threading.Event()
        self._steps = steps
        self._watcher = watcher
        self._surroundings = surroundings
        self._thread: threading.Thread | None = None
        self._threaded = False
        self._orders = threading.Lock()
        self._going = threading.Event()
        self._going.set()
        self._stopping = threading.Event()
        self._again = False
        self._closed = False
        self._holding = False
        self._asking = threading.Lock()
        self._asked = threading.Event()
        self._answered = threading.Event()
        self._seconds = 0.0
        self._since: float | None = None

    def start(self) -> None:
        """Work in a new thread, whose output belongs to the calling cell.

        Raises:
            RuntimeError: Where there are no threads.
        """
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=context.run, args=(self._work,), name="cka-engine", daemon=True
        )
        self._threaded = True
        _at_work.add(self)
        try:
            thread.start()
        except RuntimeError as error:
            self.error = RuntimeError(
                "Expected to work in a thread, and none can be started here. "
                "Call run(block=True)."
            )
            self._end("error")
            raise self.error from error

    def work(self) -> None:
        """Work in the calling thread; raises what ended the run."""
        self._work()
        if self.error is not None:
            raise self.error

    def pause(self) -> None:
        """Hold after the current batch."""
        self._going.clear()

    def go(self) -> bool:
        """Go on, whatever was ordered before; False if it is too late."""
        with self._orders:
            if self._closed:
                return False
            self.only_probe = False
            self._again = self._stopping.is_set()
        self._going.set()
        return True

    def stop(self) -> None:
        """End after the current batch."""
        with self._orders:
            self._again = False
            self._stopping.set()
        self._going.set()

    def restart(self) -> bool:
        """Begin a new epoch after the current batch; False if it is too late."""
        with self._orders:
            if self._closed:
                return False
            self.only_probe = False
            self._again = True
            self._stopping.set()
        self._going.set()
        return True

    @property
    def paused(self) -> bool:
        """Whether the run holds, or will after the current batch."""
        return not self._going.is_set()

    @property
    def seconds(self) -> float:
        """Time worked in this epoch, without pauses."""
        since = self._since
        return self._seconds + (time.monotonic() - since if since is not None else 0.0)

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is the one that works."""
        return self._thread is threading.current_thread()

    def latest(self) -> "CKAResult | None":
        """The result so far, made between two batches; None before the first."""
        if self.is_here and not self.ended.is_set():
            self._answer()
        elif not self.ended.is_set() and self.state is not None and self.state.batches:
            with self._asking:
                self._ask()
        return self.result

    def wait(self, timeout: float | None) -> bool:
        """Wait for the end, so that an interrupt gets through; False on timeout."""
        until = None if timeout is None else time.monotonic() + timeout
        while not self.ended.is_set():
            left = POLL if until is None else until - time.monotonic()
            if left <= 0:
                return False
            self.ended.wait(min(POLL, left))
        return True

    def _ask(self) -> None:
        self._answered.clear()
        self._asked.set()
        while not (self._holding or self.ended.is_set()):
            if self._answered.wait(POLL):
                break

    def _answer(self) -> None:
        if self.state is not None and self.state.batches:
            self.result = self.state.result()

    def _work(self) -> None:
        self._thread = threading.current_thread()
        outcome: Outcome = "error"
        try:
            with self._surroundings.applied():
                outcome = self._epochs()
        except KeyboardInterrupt as error:
            # Where it struck tells nothing, and IPython keeps it, models and all.
            self.error, outcome = error.with_traceback(None), "stopped"
        except BaseException as error:
            self.error = error
        finally:
            self._end(outcome)

    def _epochs(self) -> Outcome:
        while True:
            outcome = self._one_epoch()
            with self._orders:
                if not self._again:
                    self._closed = True
                    return outcome
                self._again = False
                self._stopping.clear()
            self.epoch += 1

    def _one_epoch(self) -> Outcome:
        self.state = self.result = None
        self._seconds, self._since = 0.0, time.monotonic()
        with contextlib.closing(self._steps()) as steps:
            for state in steps:
                first, self.state = self.state is None, state
                # Observers of traits run in this thread if it is the only one.
                with contextlib.nullcontext() if self._threaded else lent():
                    goes_on = self._goes_on(state, first=first)
                if not goes_on:
                    return "done"
                if self._stopping.is_set():
                    return "stopped"
        return "done"

    def _goes_on(self, state: "RunView", *, first: bool) -> bool:
        """Tell about a state and hold if ordered; False if that is enough."""
        if first:
            if not self._stopping.is_set():
                self._watcher.begins(self, state)
            if self._probe_is_all():
                return False
        elif not self._watcher.batch(self, state):
            return False
        if self._asked.is_set():
            self._asked.clear()
            self._answer()
            self._answered.set()
        if self.paused and not self._stopping.is_set():
            self._hold(state)
        return True

    def _probe_is_all(self) -> bool:
        with self._orders:
            self._closed = self._closed or self.only_probe
            return self.only_probe

    def _hold(self, state: "RunView") -> None:
        self._stop_clock()
        self._answer()
        self._holding = True
        self._answered.set()
        self._watcher.pauses(self, state)
        with lent():
            while not self._going.wait(POLL):
                pass
        self._holding = False
        self._since = time.monotonic()
        if not self._stopping.is_set():
            self._watcher.resumes(self)

    def _stop_clock(self) -> None:
        self._seconds, self._since = self.seconds, None

    def _end(self, outcome: Outcome) -> None:
        """Keep what was reached, free what was needed, tell the watcher."""
        self._stop_clock()
        self._closed = True
        try:
            self._answer()
        except Exception as error:
            self.error, outcome = self.error or error, "error"
        self.outcome = outcome
        if self.error is not None and self._threaded:
            traceback.clear_frames(self.error.__traceback__)  # They hold the models.
        try:
            self._watcher.ends(self, outcome)
        finally:
            self.ended.set()
            self._answered.set()


@atexit.register
def _stop_all() -> None:
    """End the threads at work: torch does not survive their being cut off."""
    workers = list(_at_work)
    for worker in workers:
        worker.stop()
    until = time.monotonic() + EXIT_PATIENCE
    for worker in workers:
        worker.wait(max(0.0, until - time.monotonic()))
