"""Checks that pause or end a run early: length, memory, callback, stable values."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from cka_notebook._capture.streams import lent
from cka_notebook._engine.estimate import about
from cka_notebook._messages import counted, error_text

from .comparison import Comparison
from .worker import Worker

if TYPE_CHECKING:
    from cka_notebook._engine.state import RunView

LONG_RUN = 120.0
"""Seconds; a run that nobody has asked for pauses itself if it would take longer."""


class Checks:
    """The checks after each batch.

    Args:
        comparison: What is compared.
        say: Shows a text of the kind ``"error"`` or ``"note"`` on the page.
    """

    def __init__(self, comparison: Comparison, say: Callable[[str, str], None]) -> None:
        self._comparison = comparison
        self._say = say
        self._first_batch_seconds = 0.0
        self._callback_failed = False

    def begin(self) -> None:
        """A new epoch: an error of the callback is shown again."""
        self._callback_failed = False

    def pause_if_large(self, worker: Worker, state: "RunView") -> None:
        """Pause a run that may not fit into memory."""
        if state.estimate is None:
            return
        text = self._comparison.too_large(state.estimate)
        if text is not None:
            worker.pause()
            self._say("note", text)

    def pause_if_long(self, worker: Worker, state: "RunView") -> None:
        """Pause a run that would take long.

        The first batch is slower than the others, so the second one is timed.
        """
        if state.done == 1:
            self._first_batch_seconds = worker.seconds
        elif state.done == 2 and state.total is not None:
            left = state.total - 2
            seconds = (worker.seconds - self._first_batch_seconds) * left
            if seconds > LONG_RUN:
                worker.pause()
                text = f"The remaining {left} batches would take {about(seconds)}."
                self._say("note", f"{text} Press Resume to compute them.")

    def continues(self, state: "RunView", tolerance: float | None) -> bool:
        """Whether callback and tolerance let the run continue."""
        return self._call_back(state) and not self._is_stable(state, tolerance)

    def _call_back(self, state: "RunView") -> bool:
        """Call the user's callback, whose errors do not end the run."""
        callback = self._comparison.callback
        if callback is None or state.catching_up:
            return True
        try:
            with lent():
                callback(state.done, state.total, state.matrix())
        except StopIteration:
            state.finish()
            done = counted(state.done, "batch")
            self._say("note", f"Ended by the callback after {done}.")
            return False
        except Exception as error:
            if not self._callback_failed:
                self._callback_failed = True
                self._say("error", _failure(error, state.done))
        return True

    def _is_stable(self, state: "RunView", tolerance: float | None) -> bool:
        """Whether no standard error is above the tolerance."""
        if tolerance is None or not state.is_stable(tolerance):
            return False
        state.note_stable(tolerance)
        state.finish()
        text = f"Stable after {state.done} batches: all standard errors are below"
        self._say("note", f"{text} {tolerance:g}.")
        return True


def _failure(error: Exception, batch: int) -> str:
    what = f"{type(error).__name__}: {error_text(error)}".rstrip(".")
    return f"The callback failed at batch {batch} ({what}). The run continues."
