"""Layers that were chosen in a pause catch up with those that a run has computed.

The batches done are taken from the loader again, with the random numbers with which the
run began, and the new layers alone are computed over them. Then their sums join those
that were kept, and the run goes on with all layers as if it had begun with them.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cka_notebook._messages import counted
from cka_notebook._results.result import CKAResult, shared

from .extension import Extension, missing
from .state import RunState

ALIKE = 1e-3
"""Norms of other batches differ by more, those of the same batches by rounding."""

ROWS = ("xx", "xx_xx", "bad0")
COLUMNS = ("yy", "yy_yy", "bad1")
"""Sums of one model's layers; all others are of pairs."""


class OtherBatchesError(Exception):
    """The loader does not give the batches again over which a run has gone."""


@dataclass(frozen=True)
class PausedRun:
    """What is kept of a run that holds, should it go on with other layers.

    Attributes:
        result: The result so far, with its running sums.
        tensors: What `RunState.save` gave.
        facts: Likewise.
        start: The random streams with which the run began.
        first: Of its first batch, the h of each layer with itself; None if unknown.
    """

    result: CKAResult
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    start: dict[str, Tensor]
    first: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, state: RunState, result: CKAResult) -> "PausedRun | None":
        """What is kept of this state; None of one that is itself of two runs."""
        if result.sums is None or not state.start:
            return None
        return cls(result, *state.save(), state.start, state.first)

    @property
    def done(self) -> int:
        """Batches to take again."""
        return self.result.batches + self.result.skipped


class CatchUp(Extension):
    """The state while new layers catch up, with the cells that were kept around them.

    Args:
        whole: The state of all layers, before any batch.
        kept: What is kept of the run.
    """

    catching_up = True

    def __init__(self, whole: RunState, kept: PausedRun) -> None:
        everything = list(whole.layers1), list(whole.layers2)
        block = missing(kept.result, *everything) or everything
        inner = RunState(*block, kept.done)
        inner.names, inner.metric = whole.names, whole.metric
        inner.provenance, inner.notes = whole.provenance, list(whole.notes)
        self.kept = kept
        super().__init__(inner, kept.result, *everything)

    def words(self) -> str:
        """What is being done, for the page."""
        count = sum(
            len(set(mine) - set(known))
            for mine, known in (
                (self.layers1, self.kept.result.layers1),
                (self.layers2, self.kept.result.layers2),
            )
        )
        layers = counted(count, "new layer")
        done = "the batch" if self.kept.done == 1 else f"the {self.kept.done} batches"
        return f"Computing {layers} over {done} done, then going on."

    def is_stable(self, tolerance: float) -> bool:
        """Never: the run goes on over other batches."""
        del tolerance
        return False

    def follow(self) -> None:
        """Take over how far the inner state has come.

        Raises:
            OtherBatchesError: If its batches are others than those of the run.
        """
        super().follow()
        inner, kept, sums = self.inner, self.kept, self.kept.result.sums
        if inner.batches == 1 and inner.first is not None and kept.first is not None:
            self._compare(inner.first, kept.first)
        if self.is_through and sums is not None:
            self._compare((inner.sums.xx, inner.sums.yy), (sums.xx, sums.yy))
            if inner.examples != kept.result.examples:
                raise OtherBatchesError

    @property
    def is_through(self) -> bool:
        """Whether the new layers have seen all batches that the others have."""
        return self.inner.done == self.kept.done

    def join(self, whole: RunState) -> None:
        """Give all layers' state the sums that were kept and those that are new."""
        tensors, facts = self.inner.save()
        known, problems = self.kept.tensors, self.kept.facts["problems"]
        joined = {
            name: self._joined(name, value, known[name].to(value))
            for name, value in tensors.items()
        }
        facts["problems"] = [
            self._by_row(side, facts["problems"][side], problems[side])
            for side in (0, 1)
        ]
        whole.load(joined, facts)
        if self.inner.first is not None and self.kept.first is not None:
            pairs = zip(("xx", "yy"), self.inner.first, self.kept.first, strict=True)
            xx, yy = (self._joined(name, new, old.to(new)) for name, new, old in pairs)
            whole.first = xx, yy

    def _joined(self, name: str, new: Tensor, known: Tensor) -> Tensor:
        """Values of all layers; those that were kept are the ones that stay."""
        shape = self._of_axes(name, len(self.layers1), len(self.layers2))
        values = new.new_zeros(shape)
        for source, part in ((new, self.inner), (known, self.kept.result)):
            rows, theirs = shared(self.layers1, part.layers1)
            columns, others = shared(self.layers2, part.layers2)
            place = self._of_axes(name, rows[:, None], columns)
            values[place] = source[self._of_axes(name, theirs[:, None], others)]
        return values

    @staticmethod
    def _of_axes(name: str, row: Any, column: Any) -> tuple[Any, ...]:
        """Of something for rows and something for columns, what these sums have."""
        if name in ROWS:
            return (row if isinstance(row, int) else row[:, 0],)
        return (column,) if name in COLUMNS else (row, column)

    def _by_row(
        self, side: int, new: dict[str, str], known: dict[str, str]
    ) -> dict[str, str]:
        """Problems of one model's layers, by their row among all."""
        mine = (self.layers1, self.layers2)[side]
        found: dict[str, str] = {}
        for part, problems in ((self.inner, new), (self.kept.result, known)):
            rows, theirs = shared(mine, (part.layers1, part.layers2)[side])
            places = zip(rows.tolist(), theirs.tolist(), strict=True)
            found |= {
                str(row): problems[str(there)]
                for row, there in places
                if str(there) in problems
            }
        return found

    def _compare(
        self, mine: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]
    ) -> None:
        """Raise unless layers computed twice have had the same norms."""
        inner, known = self.inner, self.kept.result
        for own, other, layers, kept in (
            (mine[0], theirs[0], inner.layers1, known.layers1),
            (mine[1], theirs[1], inner.layers2, known.layers2),
        ):
            rows, there = shared(layers, kept)
            again, before = own.cpu()[rows], other.cpu()[there]
            if not torch.allclose(again, before, rtol=ALIKE, atol=0, equal_nan=True):
                raise OtherBatchesError


def catch_up_of(whole: RunState, kept: PausedRun | None) -> CatchUp | None:
    """The state in which new layers catch up; None if no cell was kept for them."""
    if kept is None:
        return None
    sides = zip(
        (whole.layers1, whole.layers2),
        (kept.result.layers1, kept.result.layers2),
        strict=True,
    )
    return CatchUp(whole, kept) if all({*a} & {*b} for a, b in sides) else None
