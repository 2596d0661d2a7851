"""What goes on behind one explorer: its runs, what they tell, what its page is told.

The session turns what a worker reports into traits and frames. It works in whatever
thread the worker does, and writes traits only through the function it was given.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from cka_notebook._engine.added_layers import (
    OtherBatchesError,
    PausedRun,
    extended,
    missing,
)
from cka_notebook._engine.borrowed import lent
from cka_notebook._engine.estimate import about
from cka_notebook._messages import counted
from cka_notebook._page.frames import NO_SNAPSHOT, Frames, Progress, axes
from cka_notebook._page.publisher import Send

from .comparison import Comparison, Saved
from .run_control import RunControl
from .saved_tree import SIDES, Side
from .worker import Outcome, Worker

if TYPE_CHECKING:
    from cka_notebook._engine.state import RunView
    from cka_notebook._results.result import CKAResult

READ_ONCE = (
    "This loader can be read only once, so all layers are computed over the batches "
    "that are left."
)
OTHER_BATCHES = (
    "The loader gives other batches than before, so all layers are computed from the "
    "start."
)

LONG_RUN = 120.0
"""A run that nobody asked for holds when it would take more seconds than this."""

Put = Callable[[Mapping[str, Any]], None]


class Session:
    """The host of the workers of one explorer.

    Args:
        comparison: What is compared.
        put: Sets traits, in the order given.
        send: Sends a custom message with buffers to the page.

    Attributes:
        comparison: What is compared.
        runs: The workers, one after the other.
        frames: What of a run goes to the page.
        metric: Name of the measure that the next epoch computes.
        chosen: Choices of layers made since the explorer was, by side.
        computing: Layers of the current epoch's frames, by side.
        tolerance: End when no standard error is above it, or None.
    """

    def __init__(self, comparison: Comparison, put: Put, send: Send) -> None:
        self.comparison = comparison
        self.runs = RunControl(self)
        self.frames = Frames(send)
        self.metric = comparison.metric
        self.chosen: dict[Side, Any] = {}
        self.computing: dict[Side, list[str]] = {}
        self.tolerance = comparison.tolerance
        self._put = put
        self._asked_for: dict[Side, Any] = {}
        self._warm_at = 0.0
        self._catches_up = False
        self._callback_failed = False
        self._result: CKAResult | None = None
        self._complete: CKAResult | None = None
        self._kept: PausedRun | None = None
        self._progress = Progress()

    @property
    def is_saved(self) -> bool:
        """Whether there is a result only, and nothing to compute."""
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
        return worker.latest() if worker is not None and computes else self._result

    @property
    def progress(self) -> Progress:
        """How far the run has come, or the last one came."""
        worker = self.runs.live
        state = worker.state if worker is not None else None
        if worker is None or state is None:
            return self._progress
        return self.frames.progress(worker.seconds, state)

    def choose(self, side: Side, choices: Any) -> list[str]:
        """Names of the chosen layers, which the next epoch computes."""
        if choices == self.computing.get(side):
            return list(choices)
        names = self.comparison.choose(side, choices)
        self.chosen[side] = choices
        return names

    def layers_changed(self, side: Side, layers: list[str]) -> None:
        """Begin again with other layers; in a pause, when it ends."""
        computed = self.computing.get(side)
        if layers != computed:
            self._begin_again(side, stale=not set(layers) <= set(computed or ()))

    def metric_changed(self, metric: str) -> None:
        """Begin again with another measure; in a pause, when it ends."""
        self.metric = metric
        self._kept = None
        self._begin_again("metric", stale=True)

    def say(self, kind: str, text: str) -> None:
        """Show words in the cell: an ``"error"``, a ``"note"``, or nothing."""
        self._put({"_message": {"kind": kind, "text": text}})

    def show_saved(self, result: "CKAResult") -> None:
        """Show a result that was not computed here."""
        self._result = result
        self._set_computing(result.layers1, result.layers2)
        shown = self.frames.show_saved(result)
        self._progress = self.frames.progress_of(result)
        self._put({"_axes": axes(1, result), **shown, "status": "done"})

    def still(self) -> dict[str, Any]:
        """Traits that show a run that goes on as it is at this moment."""
        result, worker = self.result, self.runs.live
        if worker is None or result is None:
            return {}
        shown = self.frames.snapshot(self.progress, result)
        return {"_axes": axes(worker.epoch, result), **shown, "status": "stopped"}

    # What a worker asks and tells

    def prepare(self) -> None:
        """Raise RuntimeError if nothing can be computed."""
        self.comparison.prepare(self.metric)

    def steps(self) -> Generator["RunView", None, None]:
        """The engine's running states, for what is chosen now."""
        self.comparison.prepare(self.metric)
        self._asked_for = dict(self.chosen)
        if self._kept is not None:
            return self._goes_on_from(self._kept)
        known = self._complete
        if known is None or known.metric != self.metric:
            return self.comparison.steps(self.chosen)
        wanted = {
            side: self.comparison.choose(side, self.chosen[side])
            if side in self.chosen
            else list(getattr(known, side))
            for side in SIDES
        }
        layers = wanted["layers1"], wanted["layers2"]
        block = missing(known, layers)
        if block is None:
            return self.comparison.steps(self.chosen)
        steps = self.comparison.steps(dict(zip(SIDES, block, strict=True)))
        return extended(steps, known, layers)

    def _goes_on_from(self, kept: PausedRun) -> Generator["RunView", None, None]:
        """The states of a run that goes on with other layers than before its pause."""
        if self.comparison.one_shot:
            yield from self._anew(READ_ONCE)
            return
        with suppress(OtherBatchesError):
            yield from self.comparison.steps(self.chosen, kept)
            return
        self.frames.restart()
        yield from self._anew(OTHER_BATCHES)

    def _anew(self, why: str) -> Generator["RunView", None, None]:
        """The states of a run from zero, and words that say why."""
        self._kept = None
        with closing(self.comparison.steps(self.chosen)) as steps:
            state = next(steps)
            state.notes.append(why)
            yield state
            self.say("note", why)
            yield from steps

    def restart(self) -> None:
        """Compute everything from zero, not only what is missing."""
        self._complete = self._kept = None
        self.runs.restart()

    def starts(self) -> None:
        """A run was ordered."""
        self._kept = None
        self.say("", "")
        self._put({"status": "running"})
        self.frames.publisher.start()

    def begins(self, worker: Worker, state: "RunView") -> None:
        """A probe is done: shapes, order and layers are known."""
        self._callback_failed = False
        self.frames.begin(worker.epoch, state)
        self._set_computing(state.layers1, state.layers2)
        self._put({**NO_SNAPSHOT, "_trees": self.comparison.trees()})
        for side in SIDES:
            # What was chosen during the probe is of the next epoch.
            if self.chosen.get(side) is self._asked_for.get(side):
                self._put({side: self.computing[side]})
        self._put({"_axes": axes(worker.epoch, state), "_estimate": estimated(state)})
        if not worker.only_probe:
            self._say_what_is_done(state)
            self._put({"status": "running"})
        self._hold_if_large(worker, state)

    def batch(self, worker: Worker, state: "RunView") -> bool:
        """A batch has been added."""
        if self._catches_up and not state.catching_up:
            self._say_what_is_done(state)
        self.frames.take(worker.seconds, state)
        self._hold_if_long(worker, state)
        return self._call_back(state) and not self._is_stable(state)

    def pauses(self, worker: Worker, state: "RunView") -> None:
        """The run holds; the page gets all that it needs to draw by itself."""
        if worker.result is not None:
            self._kept = PausedRun.of(state, worker.result) or self._kept
            self._show(worker, state, worker.result, final=False)
        self._put({"status": "paused"})

    def resumes(self, worker: Worker) -> None:
        """The run goes on."""
        state = worker.state
        if state is not None:
            self._say_what_is_done(state)
        self._put({"status": "running"})

    def ends(self, worker: Worker, outcome: Outcome) -> None:
        """The run is over: the last frame, the words, the status."""
        state, result = worker.state, worker.result
        if not worker.only_probe:
            self._result = result
            self._complete = result if outcome == "done" else self._complete
        if result is not None and state is not None:
            self._show(worker, state, result, final=True)
            self._progress = self.frames.progress(worker.seconds, state)
        self.frames.publisher.finish()
        worker.state = state = self._kept = None
        self.comparison.release()
        if outcome == "error" and worker.error is not None:
            self.say("error", words(worker.error))
        if outcome == "error" or not worker.only_probe:
            self._put({"status": outcome})

    def _call_back(self, state: "RunView") -> bool:
        """Whether the user's own callback lets the run go on; it may not break it."""
        callback = self.comparison.callback
        if callback is None or state.catching_up:
            return True
        try:
            with lent():
                callback(state.done, state.total, state.matrix())
        except StopIteration:
            state.finish()
            done = counted(state.done, "batch")
            self.say("note", f"Ended by its callback after {done}.")
            return False
        except Exception as error:
            self._say_once_that_it_failed(error, state.done)
        return True

    def _say_once_that_it_failed(self, error: Exception, batch: int) -> None:
        if not self._callback_failed:
            self._callback_failed = True
            what = f"{type(error).__name__}: {words(error)}".rstrip(".")
            self.say(
                "error",
                f"The callback failed at batch {batch} ({what}). The run goes on.",
            )

    def _say_what_is_done(self, state: "RunView") -> None:
        """Words while new layers catch up with the others, and none afterwards."""
        self._catches_up = state.catching_up
        if state.catching_up:
            self.say("note", state.activity)
        else:
            self.say("", "")
            self._kept = None

    def _begin_again(self, what: str, *, stale: bool) -> None:
        """Begin a new epoch; in a pause when it ends, and only if it must."""
        worker = self.runs.live
        if worker is None or worker.only_probe:
            return
        if worker.paused:
            (self.runs.stale.add if stale else self.runs.stale.discard)(what)
        else:
            worker.restart()

    def _set_computing(self, *layers: tuple[str, ...]) -> None:
        for side, names in zip(SIDES, layers, strict=True):
            self.computing[side] = list(names)

    def _show(
        self, worker: Worker, state: "RunView", result: "CKAResult", *, final: bool
    ) -> None:
        """Send a frame that must arrive, and keep all of it in traits."""
        self._put({"_axes": axes(worker.epoch, result)})
        progress = self.frames.progress(worker.seconds, state)
        traits = self.frames.publish(
            progress, result, final=final, catching_up=state.catching_up
        )
        self._put(traits)

    def _hold_if_long(self, worker: Worker, state: "RunView") -> None:
        """Pause a run that nobody asked for and that would take long.

        The first batch warms up; the second tells what one costs.
        """
        if state.done == 1:
            self._warm_at = worker.seconds
        elif state.done == 2 and self.runs.cautious and state.total is not None:
            left = state.total - 2
            seconds = (worker.seconds - self._warm_at) * left
            if seconds > LONG_RUN:
                worker.pause()
                text = f"The other {left} batches would take {about(seconds)}."
                self.say("note", f"{text} Resume computes them.")

    def _hold_if_large(self, worker: Worker, state: "RunView") -> None:
        """Hold a run that nobody asked for and that may not fit into memory."""
        if not self.runs.cautious or state.estimate is None:
            return
        text = self.comparison.too_large(state.estimate)
        if text is not None:
            worker.pause()
            self.say("note", text)

    def _is_stable(self, state: "RunView") -> bool:
        """Whether no standard error is above what was asked for."""
        if self.tolerance is None or not state.is_stable(self.tolerance):
            return False
        state.note_stable(self.tolerance)
        state.finish()
        text = f"Stable: no standard error above {self.tolerance:g}"
        self.say("note", f"{text} after {state.done} batches.")
        return True


def estimated(state: "RunView") -> str:
    """What the run will take, in words; empty if that is not known."""
    return "" if state.estimate is None else str(state.estimate)


def words(error: BaseException) -> str:
    """What an error says, or at least its name, and what was noted on it."""
    said = str(error) or type(error).__name__
    notes = getattr(error, "__notes__", ())
    return " ".join([f"{said.rstrip('.')}.", *notes]) if notes else said
