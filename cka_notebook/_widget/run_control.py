"""The runs of one explorer: one after the other, never two at a time."""

import os
import threading
from collections.abc import Generator
from typing import TYPE_CHECKING, Protocol

from cka_notebook._undo import Undo

from .caller import CallerContext
from .worker import Watcher, Worker

if TYPE_CHECKING:
    from cka_notebook._engine.state import RunView


class Host(Watcher, Protocol):
    """What requests runs, and is told about them."""

    def prepare(self) -> None:
        """Raise RuntimeError if nothing can be computed."""

    def steps(self) -> Generator["RunView", None, None]:
        """The engine's running states, for the current choices."""

    def starts(self) -> None:
        """A run was requested and is about to start."""


class RunControl:
    """Creates workers, and passes requests to the one at work.

    Args:
        host: What the workers report to.

    Attributes:
        context: Torch's thread-local state that workers start with.
        cautious: Nobody has asked for the run, so it may pause itself if it is long.
        stale: Choices that the run does not compute yet.
    """

    def __init__(self, host: Host) -> None:
        self.context = CallerContext.current()
        self.cautious = False
        self.stale: set[str] = set()
        self._host = host
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._worker: Worker | None = None

    @property
    def live(self) -> Worker | None:
        """The worker of a run that has not ended."""
        worker = self._worker
        return None if worker is None or worker.has_ended else worker

    @property
    def untouched(self) -> bool:
        """Whether nothing has been started yet, except for a probe."""
        return self._worker is None or self._worker.only_probe

    def start(
        self, *, block: bool = False, cautious: bool = False, only_probe: bool = False
    ) -> None:
        """Resume the run, or start a new one if the last has ended.

        Args:
            block: Work in the calling thread, and return at the end.
            cautious: See above.
            only_probe: Run the models on a few examples, for shapes and layers.

        Raises:
            RuntimeError: If nothing can be computed, or if called in the thread of a
                run that is ending, or in another process.
        """
        self._check_process()
        undo = Undo()
        with undo, undo:
            with self._lock:
                new = None
                if not self.resume():
                    self._host.prepare()
                    undo.add(self._give_up)
                    new = self._new_worker(only_probe=only_probe)
                    self.cautious, self.stale = cautious, set()
            if new is not None:
                if not only_probe:
                    self._host.starts()
                new.work() if block else new.start()
        if new is None and block:
            self.wait(None)

    def _give_up(self) -> None:
        """Forget a run that an interrupt has kept from being begun."""
        if self._worker is not None:
            self._worker.give_up()

    def pause(self) -> None:
        """Pause the run, if there is one, after the current batch."""
        worker = self.live
        if worker is not None:
            worker.pause()

    def resume(self) -> bool:
        """Resume the run, with what was chosen since; False if there is none."""
        worker = self.live
        if worker is None:
            return False
        self.cautious = False
        only_probed = worker.only_probe
        if self._is_outdated(worker):
            self.stale = set()
            continues = worker.restart()
        else:
            continues = worker.resume()
        if continues and only_probed:
            self._host.starts()
        return continues

    def _is_outdated(self, worker: Worker) -> bool:
        """Whether a run that resumes should compute the new choices at once.

        A run under way first completes what it computes, except by another measure.
        """
        return "metric" in self.stale or bool(self.stale and worker.is_paused)

    def restart(self) -> None:
        """Start over, whether or not there is a run."""
        worker = self.live
        if worker is None or worker.only_probe or not worker.restart():
            self.start()

    def stop(self) -> None:
        """Stop the run, if there is one, after the current batch."""
        worker = self.live
        if worker is not None:
            worker.stop()

    def wait(self, timeout: float | None) -> Worker | None:
        """Wait until the run has ended; start one if there is none.

        An interrupt stops the run after the current batch.

        Returns:
            The worker, or None on timeout.

        Raises:
            RuntimeError: If called in the thread of the run, or in another process.
        """
        self._check_process()
        worker = self._worker
        paused_itself = worker is not None and self.cautious and worker.is_pausing
        if self.untouched or paused_itself:
            self.start()
        self.cautious = False
        worker = self._worker
        if worker is None:
            return None
        if worker.is_here and not worker.has_ended:
            msg = (
                "Cannot wait in the run's own thread: it would wait for itself. In a "
                "callback, use `result` for the values so far."
            )
            raise RuntimeError(msg)
        try:
            return worker if worker.wait(timeout) else None
        except KeyboardInterrupt:
            worker.stop()
            worker.wait(None)
            raise

    @property
    def is_forked(self) -> bool:
        """Whether this is a copy in a forked process, which has no thread of ours."""
        return os.getpid() != self._process

    def _check_process(self) -> None:
        if self.is_forked:
            msg = (
                "This explorer belongs to the process from which this one was forked. "
                "Create a new CKAExplorer here, or use CKA.compare."
            )
            raise RuntimeError(msg)

    def _new_worker(self, *, only_probe: bool) -> Worker:
        last = self._worker
        if last is not None:
            if last.is_here and not last.has_ended:
                msg = (
                    "Cannot start a run from the thread of the run that is ending. "
                    "Call run() from another thread."
                )
                raise RuntimeError(msg)
            last.wait(None)
        self._worker = Worker(
            self._host.steps,
            self._host,
            epoch=last.epoch + 1 if last is not None else 1,
            context=self.context,
            only_probe=only_probe,
        )
        return self._worker
