"""State behind one explorer: it forwards run events to the page.

A session works in whatever thread the worker does, and sets traits only through the
function that it was given.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any

from cka_notebook._messages import error_text
from cka_notebook._page.frames import NO_SNAPSHOT, Frames, Progress, axes
from cka_notebook._page.publisher import Send
from cka_notebook._page.runtime import BOKEH_VERSION

from .checks import Checks
from .comparison import Comparison, Saved
from .reuse import Reuse
from .run_control import RunControl
from .saved_tree import SIDES, Side
from .worker import Outcome, Worker

if TYPE_CHECKING:
    from cka_notebook._engine.state import RunView
    from cka_notebook._results.result import CKAResult

log = logging.getLogger(__name__)

Put = Callable[[Mapping[str, Any]], None]


class Session:
    """The host of one explorer's runs.

    Args:
        comparison: What is compared.
        put: Sets traits, in the order given.
        send: Sends a custom message with buffers to the page.

    Attributes:
        comparison: What is compared.
        runs: The runs, one after the other.
        frames: The part of a run's state that the page draws.
        metric: Name of the measure that the next epoch computes.
        chosen: Choices of layers made in the explorer's lifetime, by side.
        computing: Layers of the current epoch's frames, by side.
        tolerance: Standard error below which a run ends, or None.
    """

    def __init__(self, comparison: Comparison, put: Put, send: Send) -> None:
        self.comparison = comparison
        self.runs = RunControl(self)
        self.frames = Frames(send, self.failed)
        self.metric = comparison.metric
        self.chosen: dict[Side, Any] = {}
        self.computing: dict[Side, list[str]] = {}
        self.tolerance = comparison.tolerance
        self._put = put
        self._checks = Checks(comparison, self.say)
        self._reuse = Reuse(
            comparison, lambda text: self.say("note", text), self.frames.restart
        )
        self._epoch_choices: dict[Side, Any] = {}
        self._last_choice: dict[Side, Any] = {}
        self._catches_up = False
        self._was_shown = False
        self._result: CKAResult | None = None
        self._completed: CKAResult | None = None
        self._failure = ""
        self._progress = Progress()
        self._lock = threading.Lock()
        self._uses_models = self._is_closed = False

    def first_traits(self) -> dict[str, Any]:
        """Traits of an explorer that has not run yet."""
        comparison = self.comparison
        name1, name2 = comparison.names
        return {
            "_trees": comparison.trees(),
            "_meta": {
                "name1": name1,
                "name2": name2,
                "bokeh": BOKEH_VERSION,
                "loader": comparison.loader_text,
                "self": comparison.same,
                "computes": not self.is_saved,
                "read_once": comparison.one_shot,
                "is_difference": comparison.is_difference,
            },
            "_code": comparison.code(self.metric, self.tolerance),
            "metric": self.metric,
            "stop_when_stable": self.tolerance,
            "layers1": comparison.initial("layers1"),
            "layers2": comparison.initial("layers2"),
        }

    @property
    def is_saved(self) -> bool:
        """Whether there is only a result, and nothing to compute."""
        return isinstance(self.comparison, Saved)

    @property
    def ended_result(self) -> "CKAResult | None":
        """The result of the last run that has ended."""
        return self._result

    @property
    def result(self) -> "CKAResult | None":
        """The latest result: partial during a run, None before its first batch."""
        worker = self.runs.live
        computes = worker is not None and not worker.only_probe
        if worker is None or not computes:
            return self._result
        latest = worker.latest()
        return latest if latest is not None else self._completed

    @property
    def progress(self) -> Progress:
        """How far the current or the last run has come."""
        worker = self.runs.live
        state = worker.state if worker is not None else None
        if worker is None or state is None:
            return self._progress
        return self.frames.progress(worker.seconds, state)

    def choose(self, side: Side, choices: Any) -> list[str]:
        """Names of the chosen layers, which the next epoch computes."""
        if choices == self.computing.get(side):
            self._take_back(side)
            return list(choices)
        names = self.comparison.choose(side, choices)
        self.chosen[side] = self._last_choice[side] = choices
        return names

    def layers_changed(self, side: Side, layers: list[str]) -> None:
        """Queue other layers: for the end of the run or of a pause.

        Layers that are already computed need no epoch of their own.
        """
        worker = self.runs.live
        if worker is None or worker.only_probe or worker.state is None:
            return  # The next epoch, or the one that has not begun, looks itself.
        if set(layers) <= set(self.computing.get(side, ())):
            self.runs.stale.discard(side)
        else:
            self.runs.stale.add(side)
        self._put_queued()

    def metric_changed(self, metric: str) -> None:
        """Start a new epoch with another measure; in a pause, when it ends."""
        self.metric, self._completed = metric, None
        self._reuse.forget_paused()
        worker = self.runs.live
        if worker is not None and not worker.only_probe:
            if worker.is_pausing:
                self.runs.stale.add("metric")
            else:
                worker.restart()
        self._put_code()

    def tolerance_changed(self, tolerance: float | None) -> None:
        """End the run at another standard error; it may be under way."""
        self.tolerance = tolerance
        self._put_code()

    def restart(self) -> None:
        """Compute everything from scratch, not only what is missing."""
        self._reuse.forget()
        self.runs.restart()

    def shown(self, *, autostart: bool) -> None:
        """The explorer is displayed: start the first time, or only probe."""
        is_first, self._was_shown = not self._was_shown, True
        if not is_first or self.is_saved or not self.runs.untouched:
            return
        if autostart or not self.comparison.one_shot:
            with contextlib.suppress(RuntimeError):  # The page shows its message.
                self.runs.start(cautious=autostart, only_probe=not autostart)

    def close(self) -> None:
        """Stop the run, and release the models as soon as it has stopped."""
        self.runs.stop()
        self.frames.publisher.finish(timeout=0.0)
        with self._lock:
            self._is_closed = True
            if not self._uses_models:
                self.comparison.close()

    def say(self, kind: str, text: str) -> None:
        """Show a text on the page: an ``"error"``, a ``"note"``, or nothing."""
        if not text and self._failure:
            kind, text = "error", self._failure
        self._put({"_message": {"kind": kind, "text": text}})

    def failed(self, error: BaseException) -> None:
        """Show an error that reaches no caller until the next run, and log it.

        It comes from one of our threads, or from an observer of a trait. The run
        continues: its numbers do not depend on what is shown.
        """
        log.error("An error beside the run", exc_info=error)
        text = f"Error beside the run: {type(error).__name__}: {error_text(error)}"
        if text != self._failure:  # Or showing it has failed, too.
            self._failure = text
            self.say("error", text)

    def show_saved(self, result: "CKAResult") -> None:
        """Show a result that was not computed here."""
        self._result = result
        self._set_computing(result.layers1, result.layers2)
        snapshot = self.frames.show_saved(result)
        self._progress = self.frames.progress_of(result)
        self._put({"_axes": axes(1, result), **snapshot, "status": "done"})

    def snapshot(self) -> dict[str, Any]:
        """Traits that show a run under way as it is now; none if there is no run."""
        result, worker = self.result, self.runs.live
        if worker is None or result is None:
            return {}
        snapshot = self.frames.snapshot(self.progress, result)
        return {"_axes": axes(worker.epoch, result), **snapshot, "status": "stopped"}

    # Called by the run control and its workers

    def prepare(self) -> None:
        """Raise RuntimeError if nothing can be computed."""
        if self._is_closed:
            msg = "This explorer is closed. Create a new CKAExplorer."
            raise RuntimeError(msg)
        self.comparison.prepare(self.metric)

    def steps(self) -> Generator["RunView", None, None]:
        """The engine's running states, for the current choices."""
        with self._lock:
            if self._is_closed:
                return no_states()
            self._uses_models = True
        self.runs.stale.clear()
        self._put_queued()
        self.computing = {}  # Until the probe is done.
        self._epoch_choices = dict(self.chosen)
        return self._reuse.steps(self.metric, self.chosen)

    def starts(self) -> None:
        """A run was requested."""
        self._completed = None
        self._reuse.forget_paused()
        self._failure = ""
        self.say("", "")
        self._put({"status": "running"})
        self.frames.publisher.start()

    def begins(self, worker: Worker, state: "RunView") -> None:
        """The probe is done: shapes, order and layers are known."""
        self._checks.begin()
        self.frames.begin(worker.epoch, state)
        self._set_computing(state.layers1, state.layers2)
        self._put({**NO_SNAPSHOT, "_trees": self.comparison.trees()})
        for side in SIDES:
            self._settle(worker, side)
        estimate = "" if state.estimate is None else str(state.estimate)
        self._put({"_axes": axes(worker.epoch, state), "_estimate": estimate})
        if not worker.only_probe:
            self._say_if_catching_up(state)
            self._put({"status": "running"})
        if self.runs.cautious:
            self._checks.pause_if_large(worker, state)

    def batch(self, worker: Worker, state: "RunView") -> bool:
        """A batch has been added."""
        if self._catches_up and not state.catching_up:
            self._say_if_catching_up(state)
        self.frames.take(worker.seconds, state)
        if self.runs.cautious:
            self._checks.pause_if_long(worker, state)
        return self._checks.continues(state, self.tolerance)

    def pauses(self, worker: Worker, state: "RunView") -> None:
        """The run pauses; the page gets all that it needs to draw without a kernel."""
        if worker.result is not None:
            self._reuse.keep_paused(state, worker.result)
            self._show(worker, state, worker.result, final=False)
        self._put({"status": "paused"})

    def completes(self, worker: Worker) -> bool:
        """All batches are done; another epoch computes layers chosen since."""
        state, is_wanted = worker.state, bool(self.runs.stale)
        if state is None or not is_wanted or self.comparison.one_shot:
            return False
        self._completed = state.result()
        self._reuse.keep_complete(self._completed)
        return True

    def resumes(self, worker: Worker) -> None:
        """The run continues after a pause."""
        if worker.state is not None:
            self._say_if_catching_up(worker.state)
        self._put({"status": "running"})

    def ends(self, worker: Worker, outcome: Outcome) -> None:
        """The run is over: send the last frame, the message and the status."""
        if not worker.only_probe:
            result = worker.result
            self._result = result if result is not None else self._completed
            if outcome == "done":
                self._reuse.keep_complete(result)
        for step in (self._show_end, self._finish, self._release):
            try:
                step(worker)
            except Exception as error:  # The other steps must still run.
                self.failed(error)
        if outcome == "error" and worker.error is not None:
            self.say("error", error_text(worker.error))
        if outcome == "error" or not worker.only_probe:
            self._put({"status": outcome})

    def _show_end(self, worker: Worker) -> None:
        """Send the last frame."""
        state, result = worker.state, worker.result
        if result is not None and state is not None:
            self._show(worker, state, result, final=True)
            self._progress = self.frames.progress(worker.seconds, state)

    def _finish(self, worker: Worker) -> None:
        """Release the run."""
        self.frames.publisher.finish()
        worker.state = None
        self._reuse.forget_paused()
        self.runs.stale.clear()
        self._put_queued()

    def _release(self, _: Worker) -> None:
        """Release the models, permanently if the explorer has been closed."""
        with self._lock:
            self._uses_models = False
            if self._is_closed:
                self.comparison.close()
            else:
                self.comparison.release()

    def _say_if_catching_up(self, state: "RunView") -> None:
        """Show a note while new layers catch up with the others, none otherwise."""
        self._catches_up = state.catching_up
        if state.catching_up:
            self.say("note", state.activity)
        else:
            self.say("", "")
            self._reuse.forget_paused()

    def _settle(self, worker: Worker, side: Side) -> None:
        """Show the layers of the epoch that begins, unless others are chosen by now."""
        last = self._last_choice.get(side)
        if self._is_current(side):
            self._put({side: self.computing[side]})
        elif not worker.only_probe:
            worker.restart()  # Chosen during the probe, so nothing is lost.
        now = self._last_choice.get(side)
        if now is not last:  # Chosen in this moment, and perhaps overwritten.
            self._put({side: self.comparison.choose(side, now)})

    def _put_queued(self) -> None:
        """Tell the page whether layers are chosen that this epoch does not compute."""
        self._put({"_queued": not self.runs.stale.isdisjoint(SIDES)})

    def _take_back(self, side: Side) -> None:
        """Choose again what the current epoch computes."""
        if side in self._epoch_choices:
            self.chosen[side] = self._epoch_choices[side]
        else:
            self.chosen.pop(side, None)

    def _is_current(self, side: Side) -> bool:
        """Whether the epoch that begins computes what is chosen now."""
        chosen = self.chosen.get(side)
        if chosen is self._epoch_choices.get(side):
            return True
        return self.comparison.choose(side, chosen) == self.computing[side]

    def _put_code(self) -> None:
        if not self._is_closed:
            self._put({"_code": self.comparison.code(self.metric, self.tolerance)})

    def _set_computing(self, *layers: tuple[str, ...]) -> None:
        for side, names in zip(SIDES, layers, strict=True):
            self.computing[side] = list(names)

    def _show(
        self, worker: Worker, state: "RunView", result: "CKAResult", *, final: bool
    ) -> None:
        """Send a frame that must arrive, and put all of it into traits."""
        self._put({"_axes": axes(worker.epoch, result)})
        progress = self.frames.progress(worker.seconds, state)
        traits = self.frames.publish(
            progress, result, final=final, catching_up=state.catching_up
        )
        self._put(traits)


def no_states() -> Generator["RunView", None, None]:
    """The states of a run that was closed before it began."""
    yield from ()
