"""One run of the engine, batch by batch, in a new thread or in the caller's.

Requests (pause, resume, stop, restart) may come from any thread and take effect between
two batches. The worker does not know about widgets: it reports to a `Watcher`.
"""

import atexit
import contextlib
import contextvars
import enum
import os
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Literal, Protocol

from cka_notebook._capture.streams import idle, lent
from cka_notebook._undo import Undo

from .caller import CallerContext

if TYPE_CHECKING:
    from cka_notebook._engine.state import RunView
    from cka_notebook._results.result import CKAResult

Outcome = Literal["done", "stopped", "error"]
POLL = 0.5
"""Seconds after which a wait wakes up, because Windows delivers no interrupt before.

Waking up more often would slow down the thread that computes.
"""

EXIT_PATIENCE = 5.0
"""Seconds that the exit of the process waits for the batches under way."""

_at_work: weakref.WeakSet["Worker"] = weakref.WeakSet()


class Phase(enum.IntEnum):
    """Where a worker is. Requests are accepted before `ENDING`.

    RUNNING → PAUSING → PAUSED, from both of which `resume` leads back to RUNNING. From
    all three, `stop` leads to STOPPING; then come ENDING and ENDED.
    """

    RUNNING = enum.auto()
    PAUSING = enum.auto()
    """Pauses after the current batch."""
    PAUSED = enum.auto()
    STOPPING = enum.auto()
    """Ends after the current batch, unless resumed before: then a new epoch starts."""
    ENDING = enum.auto()
    """The last batch is done, and the final result is being made."""
    ENDED = enum.auto()


RESTING = (Phase.PAUSED, Phase.ENDED)
"""Phases in which the result is up to date."""


class Watcher(Protocol):
    """What a worker reports to, always in the thread that works."""

    def begins(self, worker: "Worker", state: "RunView") -> None:
        """The probe is done: layers and shapes are known."""

    def batch(self, worker: "Worker", state: "RunView") -> bool:
        """A batch has been added. Return False to end the run."""

    def pauses(self, worker: "Worker", state: "RunView") -> None:
        """The run pauses between two batches."""

    def resumes(self, worker: "Worker") -> None:
        """The run continues after a pause."""

    def completes(self, worker: "Worker") -> bool:
        """An epoch has seen all batches. Return True to start another."""

    def ends(self, worker: "Worker", outcome: Outcome) -> None:
        """The run is over; ``worker.result`` is final."""


class Worker:
    """Drives the engine's generator, once per epoch.

    All that other threads change is guarded by one condition: the phase, the epoch that
    is wanted, and whether someone waits for the result so far.

    Args:
        steps: Creates the generator of a new epoch.
        watcher: What to report to.
        epoch: Number of the first epoch.
        context: Torch's state of the thread that requested the run.
        only_probe: End after the probe.

    Attributes:
        epoch: Number of the current epoch.
        phase: Where the worker is.
        state: The engine's running state, or None before the probe.
        result: The latest result that was requested or reached.
        error: The exception that ended the run, if any.
        outcome: How the run ended, or None.
    """

    def __init__(
        self,
        steps: Callable[[], Generator["RunView", None, None]],
        watcher: Watcher,
        *,
        epoch: int,
        context: CallerContext,
        only_probe: bool = False,
    ) -> None:
        self.epoch = epoch
        self.phase = Phase.RUNNING
        self.only_probe = only_probe
        self.state: RunView | None = None
        self.result: CKAResult | None = None
        self.error: BaseException | None = None
        self.outcome: Outcome | None = None
        self._steps = steps
        self._watcher = watcher
        self._context = context
        self._make_lock()
        self._wanted_epoch = epoch
        self._is_asked = False
        self._thread: threading.Thread | None = None
        self._has_own_thread = False
        self._is_given_up = False
        self._seconds = 0.0
        self._since: float | None = None

    def _make_lock(self) -> None:
        # Entered by itself: an interrupt in the condition's own `__enter__`, which is
        # written in Python, would leave it locked.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)

    def start(self) -> None:
        """Work in a new thread, whose output belongs to the calling notebook cell.

        Raises:
            RuntimeError: If no thread can be started.
        """
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=context.run, args=(self._work,), name="cka-engine", daemon=True
        )
        self._has_own_thread = True
        self._thread = thread
        _at_work.add(self)
        try:
            thread.start()
        except RuntimeError as error:
            self.error = RuntimeError(
                "Cannot start a thread here. Call run(block=True)."
            )
            self.outcome = "error"
            self._finish()
            raise self.error from error

    def work(self) -> None:
        """Work in the calling thread; raise the error that ended the run, if any."""
        self._work()
        if self.error is not None:
            raise self.error

    def give_up(self) -> None:
        """End a run that an interrupt has kept from being begun, if that is so."""
        with self._lock:
            thread = self._thread
            is_begun = thread is not None and thread.ident is not None
            is_due = not (is_begun or self.has_ended)
            self._is_given_up |= is_due
        if is_due:
            self._finish()

    def pause(self) -> None:
        """Pause after the current batch."""
        with self._lock:
            if self.phase is Phase.RUNNING:
                self.phase = Phase.PAUSING

    def resume(self) -> bool:
        """Resume, cancelling earlier requests; False if the run has ended."""
        with self._lock:
            is_stopped = self.phase is Phase.STOPPING
            return self._run_on(self.epoch + 1 if is_stopped else self._wanted_epoch)

    def restart(self) -> bool:
        """Start a new epoch after the current batch; False if the run has ended."""
        with self._lock:
            return self._run_on(self.epoch + 1)

    def stop(self) -> None:
        """End after the current batch."""
        with self._lock:
            if self.phase < Phase.ENDING:
                self.phase, self._wanted_epoch = Phase.STOPPING, self.epoch
                self._changed.notify_all()

    @property
    def is_pausing(self) -> bool:
        """Whether the run is paused, or will be after the current batch."""
        return self.phase in (Phase.PAUSING, Phase.PAUSED)

    @property
    def is_paused(self) -> bool:
        """Whether the run is paused."""
        return self.phase is Phase.PAUSED

    @property
    def has_ended(self) -> bool:
        """Whether the run is over and the watcher knows."""
        return self.phase is Phase.ENDED

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
        state = self.state
        if self.is_here and not self.has_ended:
            self._answer()
        elif state is not None and state.batches:
            with self._lock:
                self._is_asked = self.phase not in RESTING
                self._wait_for(lambda: not self._is_asked or self.phase in RESTING)
        return self.result

    def wait(self, timeout: float | None) -> bool:
        """Wait for the end, open to interrupts; False on timeout."""
        with self._lock:
            return self._wait_for(lambda: self.has_ended, timeout)

    def _run_on(self, epoch: int) -> bool:
        """Accept a request to run, with the lock held; False if it is too late."""
        if self.phase >= Phase.ENDING:
            return False
        self.only_probe = False
        self.phase, self._wanted_epoch = Phase.RUNNING, epoch
        self._changed.notify_all()
        return True

    def _wait_for(
        self, condition: Callable[[], bool], timeout: float | None = None
    ) -> bool:
        """Release the lock until the condition holds; False on timeout."""
        end = None if timeout is None else time.monotonic() + timeout
        while not condition():
            left = POLL if end is None else end - time.monotonic()
            if left <= 0:
                return False
            self._changed.wait(min(POLL, left))
        return True

    def _work(self) -> None:
        with self._lock:
            if self._is_given_up:
                return
            self._thread = threading.current_thread()
        try:
            self._finish(self._run)
        except BaseException as error:
            self._fail(error)

    def _run(self) -> None:
        try:
            with self._context.applied():
                self.outcome = self._epochs()
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Note the first error; an interrupt is no failure."""
        if isinstance(error, KeyboardInterrupt):
            # IPython keeps the exception, whose traceback would keep the models.
            error = error.with_traceback(None)
        self.error = self.error or error
        is_stop = isinstance(error, KeyboardInterrupt)
        self.outcome = self.outcome or ("stopped" if is_stop else "error")

    def _epochs(self) -> Outcome:
        while True:
            outcome = self._one_epoch()
            if outcome == "done" and not self.only_probe:
                self._follow_up()
            with self._lock:
                if self._wanted_epoch == self.epoch:
                    self.phase = Phase.ENDING
                    return outcome
                self.epoch = self._wanted_epoch

    def _follow_up(self) -> None:
        """Start another epoch if the watcher wants one and there was no stop."""
        is_wanted = not self._is_epoch_over and self._watcher.completes(self)
        with self._lock:
            if is_wanted and not self._is_epoch_over:
                self._wanted_epoch += 1

    def _one_epoch(self) -> Outcome:
        self.state = self.result = None
        self._seconds, self._since = 0.0, time.monotonic()
        steps, undo = self._steps(), Undo()
        with undo, undo:
            undo.add(steps.close)
            for state in steps:
                is_first, self.state = self.state is None, state
                # In the caller's thread, observers of traits are the user's code.
                with contextlib.nullcontext() if self._has_own_thread else lent():
                    continues = self._report(state, is_first=is_first)
                if not continues:
                    return "done"
                if self._is_epoch_over:
                    return "stopped"
        return "done"

    @property
    def _is_epoch_over(self) -> bool:
        """Whether no further batch of this epoch is wanted."""
        return self.phase is Phase.STOPPING or self._wanted_epoch != self.epoch

    def _report(self, state: "RunView", *, is_first: bool) -> bool:
        """Report a state, and pause if requested; False if the epoch is complete."""
        if is_first:
            if not self._is_epoch_over:
                self._watcher.begins(self, state)
            if self._is_probe_enough():
                return False
        elif not self._watcher.batch(self, state):
            return False
        if self._is_asked:
            self._answer()
        if self.phase is Phase.PAUSING and not self._is_epoch_over:
            self._pause(state)
        return True

    def _is_probe_enough(self) -> bool:
        with self._lock:
            if self.only_probe:
                self.phase = Phase.ENDING
            return self.only_probe

    def _pause(self, state: "RunView") -> None:
        self._stop_clock()
        self._answer()
        with self._lock:
            is_paused = self.phase is Phase.PAUSING
            if is_paused:
                self.phase = Phase.PAUSED
                self._changed.notify_all()
        if is_paused:
            self._watcher.pauses(self, state)
            with idle(), self._lock:
                self._wait_for(lambda: self.phase is not Phase.PAUSED)
        self._since = time.monotonic()
        if is_paused and not self._is_epoch_over:
            self._watcher.resumes(self)

    def _answer(self) -> None:
        """Make the result so far, and wake up those who wait for it."""
        if self.state is not None and self.state.batches:
            self.result = self.state.result()
        with self._lock:
            self._is_asked = False
            self._changed.notify_all()

    def _stop_clock(self) -> None:
        self._seconds, self._since = self.seconds, None

    def _finish(self, run: Callable[[], None] = lambda: None) -> None:
        """Let the run end, whatever interrupts that."""
        undo = Undo()
        with undo, undo:
            undo.add(self._set_ended)
            undo.add(self._end)
            run()

    def _end(self) -> None:
        """Make the final result, release the models, and report the end."""
        self._stop_clock()
        with self._lock:
            self.phase = max(self.phase, Phase.ENDING)
        self.outcome = self.outcome or "stopped"
        try:
            self._answer()
        except Exception as error:
            self._fail_at_the_end(error)
        if self.error is not None and self._has_own_thread:
            traceback.clear_frames(self.error.__traceback__)  # They hold the models.
        try:
            self._watcher.ends(self, self.outcome)
        except KeyboardInterrupt:
            raise  # It will be tried again.
        except BaseException as error:
            self._fail_at_the_end(error)

    def _fail_at_the_end(self, error: BaseException) -> None:
        self.error, self.outcome = self.error or error, "error"

    def _set_ended(self) -> None:
        with self._lock:
            self.phase = Phase.ENDED
            self._changed.notify_all()

    def abandon(self) -> None:
        """End at once in a forked process, which does not have the run's thread."""
        self._make_lock()  # The old one may be locked for good.
        self.phase, self.outcome = Phase.ENDED, self.outcome or "stopped"


def _abandon_all() -> None:
    for worker in list(_at_work):
        worker.abandon()
    _at_work.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)


@atexit.register
def _stop_all() -> None:
    """Stop running threads at interpreter exit: torch crashes if they are killed."""
    workers = list(_at_work)
    for worker in workers:
        worker.stop()
    end = time.monotonic() + EXIT_PATIENCE
    for worker in workers:
        worker.wait(max(0.0, end - time.monotonic()))
