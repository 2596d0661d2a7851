"""A run of layers that were added later, shown as one map with what was known."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

import torch
from torch import Tensor

from cka_notebook._messages import counted
from cka_notebook._results.result import CKAResult, shared

from .state import RunState


class Extension(RunState):
    """The state of a run of new layers, with the cells of an earlier result around it.

    Args:
        inner: The running state of the new layers of one model.
        known: The earlier result.
        layers1: All rows, in order.
        layers2: All columns.
    """

    def __init__(
        self,
        inner: RunState,
        known: CKAResult,
        layers1: Sequence[str],
        layers2: Sequence[str],
    ) -> None:
        super().__init__(list(layers1), list(layers2), inner.total)
        self.names, self.metric = inner.names, inner.metric
        self.provenance, self.estimate = inner.provenance, inner.estimate
        self.inner = inner
        self.known = known
        self.follow()

    def follow(self) -> None:
        """Take over how far the inner run has come."""
        inner = self.inner
        self.batches, self.skipped = inner.batches, inner.skipped
        self.examples, self.notes = inner.examples, inner.notes

    def matrix(self) -> Tensor:
        """The known cells and the new ones, ``(L1, L2)`` float64."""
        return self._together(self.known.matrix, self.inner.matrix())

    def stderr(self) -> Tensor:
        """Their standard errors, likewise."""
        return self._together(self.known.stderr, self.inner.stderr())

    @property
    def device(self) -> torch.device:
        """Where the sums of the new cells are."""
        return self.inner.device

    @property
    def undefined1(self) -> dict[str, str]:
        """Why rows are undefined, by layer."""
        return self._reasons_of(
            self.layers1, self.known.undefined1, self.inner.undefined1
        )

    @property
    def undefined2(self) -> dict[str, str]:
        """Why columns are undefined, by layer."""
        return self._reasons_of(
            self.layers2, self.known.undefined2, self.inner.undefined2
        )

    def result(self) -> CKAResult:
        """Both results as one. It has no running sums: its cells are of two runs."""
        added = [
            f"{counted(len(new), 'layer')} of {title} added in a later run of the "
            "loader."
            for title, mine, known in (
                (self.names[0], self.layers1, self.known.layers1),
                (self.names[1], self.layers2, self.known.layers2),
            )
            if (new := set(mine) - set(known))
        ]
        return replace(
            self.inner.result(),
            matrix=self.matrix().cpu(),
            stderr=self.stderr().cpu(),
            layers1=self.layers1,
            layers2=self.layers2,
            notes=list(dict.fromkeys([*self.known.notes, *self.notes, *added])),
            undefined1=self.undefined1,
            undefined2=self.undefined2,
            sums=None,
        )

    def is_stable(self, tolerance: float) -> bool:
        """Whether no standard error of the new cells is above the tolerance."""
        return self.inner.is_stable(tolerance)

    def _together(self, known: Tensor, new: Tensor) -> Tensor:
        values = torch.full((len(self.layers1), len(self.layers2)), torch.nan).double()
        for source, part in ((new.cpu(), self.inner), (known, self.known)):
            rows, theirs = shared(self.layers1, part.layers1)
            columns, others = shared(self.layers2, part.layers2)
            values[rows[:, None], columns] = source[theirs[:, None], others]
        return values

    @staticmethod
    def _reasons_of(
        layers: Sequence[str], known: Mapping[str, str], new: Mapping[str, str]
    ) -> dict[str, str]:
        return {k: v for k, v in {**known, **new}.items() if k in layers}


def missing(
    known: CKAResult, layers1: Sequence[str], layers2: Sequence[str]
) -> tuple[list[str], list[str]] | None:
    """What to run for a map of these layers: rows and columns of the missing block.

    None if both models have new layers, or neither: then the run of all layers is no
    more work, and gives cells of one run.
    """
    new1 = [layer for layer in layers1 if layer not in known.layers1]
    new2 = [layer for layer in layers2 if layer not in known.layers2]
    if bool(new1) == bool(new2):
        return None
    return (new1, list(layers2)) if new1 else (list(layers1), new2)


def extended(
    steps: Generator[RunState, None, None],
    known: CKAResult,
    layers1: Sequence[str],
    layers2: Sequence[str],
) -> Generator[RunState, None, None]:
    """The running states of a missing block, as states of the whole map."""
    state: Extension | None = None
    with closing(steps):
        for inner in steps:
            if state is None:
                state = Extension(inner, known, layers1, layers2)
            state.follow()
            yield state
