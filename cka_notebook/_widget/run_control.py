"""The runs of one explorer: one after the other, never two at a time."""

import threading
from collections.abc import Generator
from typing import TYPE_CHECKING, Protocol

from .worker import CallerContext, Watcher, Worker

if TYPE_CHECKING:
    from cka_notebook._engine.state import RunView


class Host(Watcher, Protocol):
    """Who wants things computed, and is told about it."""

    def prepare(self) -> None:
        """Raise RuntimeError if nothing can be computed."""

    def steps(self) -> Generator["RunView", None, None]:
        """The engine's running states, for what is chosen now."""

    def starts(self) -> None:
        """A run was ordered; it is about to begin."""


class RunControl:
    """Starts workers, and passes orders to the one that is at work.

    Args:
        host: Is told what happens.

    Attributes:
        surroundings: Torch's thread-local state that workers begin with.
        cautious: Nobody has asked for the run, so it may hold when it takes long.
        stale: What was chosen in a pause that the run does not compute.
    """

    def __init__(self, host: Host) -> None:
        self.surroundings = CallerContext.here()
        self.cautious = False
        self.stale: set[str] = set()
        self._host = host
        self._guard = threading.RLock()
        self._worker: Worker | None = None

    @property
    def live(self) -> Worker | None:
        """The worker of a run that has not ended."""
        worker = self._worker
        return None if worker is None or worker.ended.is_set() else worker

    @property
    def untouched(self) -> bool:
        """Whether nothing was started yet but a probe."""
        return self._worker is None or self._worker.only_probe

    def start(
        self, *, block: bool = False, cautious: bool = False, only_probe: bool = False
    ) -> None:
        """Go on with the run, or start a new one when the last has ended.

        Args:
            block: Work in the calling thread, and return at the end.
            cautious: See above.
            only_probe: Run the models on a few examples, for shapes and layers.

        Raises:
            RuntimeError: If nothing can be computed, or if called by the very thread
                whose run is ending.
        """
        with self._guard:
            if self.go_on():
                worker, fresh = self._worker, False
            else:
                self._host.prepare()
                worker, fresh = self._new(only_probe=only_probe), True
                self.cautious, self.stale = cautious, set()
        if worker is None:
            return
        if not fresh:
            if block:
                self.wait(None)
            return
        if not only_probe:
            self._host.starts()
        if block:
            worker.work()
        else:
            worker.start()

    def go_on(self) -> bool:
        """Let the run go on, with what was chosen meanwhile; False if there is none."""
        worker = self.live
        if worker is None:
            return False
        stale, self.stale, self.cautious = self.stale, set(), False
        probing = worker.only_probe
        going = worker.restart() if stale else worker.go()
        if going and probing:
            self._host.starts()
        return going

    def restart(self) -> None:
        """Begin again from zero, whether or not a run goes on."""
        worker = self.live
        if worker is None or worker.only_probe or not worker.restart():
            self.start()

    def wait(self, timeout: float | None) -> Worker | None:
        """Wait for the end of the run, starting one if there was none.

        An interrupt stops the run after the current batch.

        Returns:
            The worker, or None on timeout.

        Raises:
            RuntimeError: If called in the thread of the run.
        """
        worker = self._worker
        held_back = worker is not None and self.cautious and worker.paused
        if self.untouched or held_back:
            self.start()
        self.cautious = False
        worker = self._worker
        if worker is not None and worker.is_here and not worker.ended.is_set():
            msg = (
                "Expected to wait in another thread than that of the run, which would "
                "wait for itself. In a callback, `result` is what there is so far."
            )
            raise RuntimeError(msg)
        try:
            ended = worker is not None and worker.wait(timeout)
        except KeyboardInterrupt:
            if worker is not None:
                worker.stop()
                worker.wait(None)
            raise
        return worker if ended else None

    def _new(self, *, only_probe: bool) -> Worker:
        last = self._worker
        if last is not None:
            if last.is_here and not last.ended.is_set():
                msg = (
                    "Expected the last run to have ended, and it is ending in this "
                    "very thread. Call run() from another one."
                )
                raise RuntimeError(msg)
            last.wait(None)
        self._worker = Worker(
            self._host.steps,
            self._host,
            epoch=last.epoch + 1 if last is not None else 1,
            surroundings=self.surroundings,
            only_probe=only_probe,
        )
        return self._worker
