"""What a new epoch can reuse: a result that is complete, or a paused run's sums."""

from collections.abc import Callable, Generator, Mapping
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from cka_notebook._engine.added_layers import (
    OtherBatchesError,
    PausedRun,
    extended,
    missing,
)

from .comparison import Comparison
from .saved_tree import SIDES, Side

if TYPE_CHECKING:
    from cka_notebook._engine.state import RunView
    from cka_notebook._results.result import CKAResult

READ_ONCE = (
    "This loader can be iterated only once, so all layers are computed over the "
    "remaining batches."
)
OTHER_BATCHES = (
    "The loader yields different batches this time, so all layers are computed from "
    "the start."
)

States = Generator["RunView", None, None]
"""The engine's running states in one epoch."""


class Reuse:
    """Creates the generators of epochs, which compute only what is not known yet.

    Args:
        comparison: What is compared.
        note: Shows a text on the page.
        forget_frames: Called when an epoch starts over after its first frames.
    """

    def __init__(
        self,
        comparison: Comparison,
        note: Callable[[str], None],
        forget_frames: Callable[[], None],
    ) -> None:
        self._comparison = comparison
        self._note = note
        self._forget_frames = forget_frames
        self._complete: CKAResult | None = None
        self._paused: PausedRun | None = None

    def keep_complete(self, result: "CKAResult | None") -> None:
        """Remember the result of a run over the whole loader."""
        self._complete = result

    def keep_paused(self, state: "RunView", result: "CKAResult") -> None:
        """Remember a run, in case it resumes with other layers."""
        self._paused = PausedRun.of(state, result) or self._paused

    def forget_paused(self) -> None:
        """Forget the paused run: it continues as it was, or not at all."""
        self._paused = None

    def forget(self) -> None:
        """Forget everything, so that the next epoch computes all layers."""
        self._complete = self._paused = None

    def steps(self, metric: str, chosen: Mapping[Side, Any]) -> States:
        """The running states of an epoch.

        Args:
            metric: Name of the measure.
            chosen: The chosen layers by side; a missing side keeps its layers.

        Raises:
            RuntimeError: If the models are gone.
        """
        self._comparison.prepare(metric)
        if self._paused is not None:
            return self._resumed(chosen, self._paused)
        known = self._complete
        if known is None or known.metric != metric:
            return self._comparison.steps(chosen)
        wanted = {
            side: self._comparison.choose(side, chosen[side])
            if side in chosen
            else list(getattr(known, side))
            for side in SIDES
        }
        layers = wanted["layers1"], wanted["layers2"]
        block = missing(known, layers)
        if block is None:
            return self._comparison.steps(chosen)
        steps = self._comparison.steps(dict(zip(SIDES, block, strict=True)))
        return extended(steps, known, layers)

    def _resumed(self, chosen: Mapping[Side, Any], paused: PausedRun) -> States:
        """The states of a paused run that continues with other layers."""
        if self._comparison.one_shot:
            yield from self._from_scratch(chosen, READ_ONCE)
            return
        with suppress(OtherBatchesError):
            yield from self._comparison.steps(chosen, paused)
            return
        self._forget_frames()
        yield from self._from_scratch(chosen, OTHER_BATCHES)

    def _from_scratch(self, chosen: Mapping[Side, Any], reason: str) -> States:
        """The states of a run that reuses nothing, and a note with the reason."""
        self._paused = None
        with closing(self._comparison.steps(chosen)) as steps:
            state = next(steps)
            state.notes.append(reason)
            yield state
            self._note(reason)
            yield from steps
