"""Layers added after a run or in a pause: only what is missing is computed.

After a run the new layers of one model are computed over the loader, and shown as one
map with the cells that are known. In a pause they are computed over the batches already
done, with the random numbers the run began with; then their sums join those of the
paused run, which continues with all layers as if it had begun with them.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cka_notebook._grams.packing import on_device
from cka_notebook._messages import Note, counted
from cka_notebook._results.layers import shared
from cka_notebook._results.result import CKAResult
from cka_notebook._undo import Undo

from .state import RunState, RunView
from .totals import Axis

if TYPE_CHECKING:
    from .estimate import Estimate

SAME_NORM = 1e-3
"""Relative difference of a layer's norm. Recomputed batches differ by float32 rounding
(< 1e-5); other batches vary by 8 to 30 % (n = 32, 128) or 3 to 5 % (n = 512)."""

ROWS, COLUMNS = (0,), (1,)
CELLS = (0, 1)
AXES = {
    **dict.fromkeys(("xx", "xx_xx", "bad0"), ROWS),
    **dict.fromkeys(("yy", "yy_yy", "bad1"), COLUMNS),
}
"""Axes of the sums of a run by name; all others have both."""

Layers = tuple[Sequence[str], Sequence[str]]
"""Names of rows and columns."""


class OtherBatchesError(Exception):
    """The loader does not repeat the batches of a run."""


class AddedLayers:
    """The state of a run of new layers, with the known cells around them.

    Args:
        inner: The state of the new layers.
        known: The earlier result.
        layers: All rows and columns, in order.
        catching_up: Whether the new layers repeat the batches of a paused run.

    Attributes:
        inner: The state of the new layers.
        known: The earlier result.
        catching_up: See above.
    """

    def __init__(
        self,
        inner: RunView,
        known: CKAResult,
        layers: Layers,
        *,
        catching_up: bool = False,
    ) -> None:
        self.inner = inner
        self.known = known
        self.catching_up = catching_up
        self._layers = tuple(layers[0]), tuple(layers[1])
        self._maps: dict[tuple[int, torch.device], Tensor] = {}

    @property
    def layers1(self) -> tuple[str, ...]:
        """Names of the rows."""
        return self._layers[0]

    @property
    def layers2(self) -> tuple[str, ...]:
        """Names of the columns."""
        return self._layers[1]

    @property
    def names(self) -> tuple[str, str]:
        """Names of the two models."""
        return self.inner.names

    @property
    def metric(self) -> str:
        """Name of the measure."""
        return self.inner.metric

    @property
    def total(self) -> int | None:
        """Number of batches that the new layers see, or None if unknown."""
        return self.inner.total

    @property
    def batches(self) -> int:
        """Batches in the sums of the new layers."""
        return self.inner.batches

    @property
    def skipped(self) -> int:
        """Batches that were too small."""
        return self.inner.skipped

    @property
    def examples(self) -> int:
        """Examples in the sums of the new layers."""
        return self.inner.examples

    @property
    def done(self) -> int:
        """Batches taken from the loader for the new layers."""
        return self.inner.done

    @property
    def notes(self) -> list[str]:
        """Notes on the run of the new layers."""
        return self.inner.notes

    @property
    def estimate(self) -> "Estimate | None":
        """Expected memory and time; None if not estimated."""
        return self.inner.estimate

    @property
    def device(self) -> torch.device:
        """Where the sums of the new cells are."""
        return self.inner.device

    @property
    def undefined1(self) -> dict[str, str]:
        """Why rows are undefined, by layer."""
        known, new = self.known.undefined1, self.inner.undefined1
        return {k: v for k, v in {**known, **new}.items() if k in self.layers1}

    @property
    def undefined2(self) -> dict[str, str]:
        """Why columns are undefined, by layer."""
        known, new = self.known.undefined2, self.inner.undefined2
        return {k: v for k, v in {**known, **new}.items() if k in self.layers2}

    @property
    def activity(self) -> str:
        """What is being done while new layers catch up, else empty."""
        if not self.catching_up:
            return ""
        layers = counted(sum(len(new) for _, new in self._new()), "new layer")
        count = self.total
        batches = "the batch" if count == 1 else f"the {count} batches"
        return (
            f"Computing {layers} over {batches} already done; the run then continues."
        )

    def matrix(self) -> Tensor:
        """The known cells and the new ones, ``(L1, L2)`` float64 on their device."""
        return self._combined(self.inner.matrix(), self.known.matrix)

    def stderr(self) -> Tensor:
        """Their standard errors, in the same form."""
        return self._combined(self.inner.stderr(), self.known.stderr)

    def floor(self) -> Tensor:
        """What unrelated layers reach by chance, in the same form."""
        return self._combined(self.inner.floor(), self.known.floor)

    def result(self) -> CKAResult:
        """Both results as one. It has no running sums: its cells are from two runs."""
        added = [
            Note(
                f"{counted(len(new), 'layer')} of {name} were added in a second pass "
                "over the loader."
            )
            for name, new in self._new()
            if new
        ]
        inner = self.inner.result()
        return replace(
            inner,
            matrix=self.matrix().cpu(),
            stderr=self.stderr().cpu(),
            null_sd=self._combined(inner.null_sd, self.known.null_sd),
            layers1=self.layers1,
            layers2=self.layers2,
            notes=list(dict.fromkeys([*self.known.notes, *self.notes, *added])),
            undefined1=self.undefined1,
            undefined2=self.undefined2,
            sums=None,
        )

    def is_stable(self, tolerance: float) -> bool:
        """Whether the largest standard error of the new cells is below the tolerance.

        Never while they catch up: the run continues over other batches.
        """
        return not self.catching_up and self.inner.is_stable(tolerance)

    def note_stable(self, tolerance: float) -> None:
        """Note that the run ends because it is stable."""
        self.inner.note_stable(tolerance)

    def finish(self) -> None:
        """Note skipped batches, and batches that were not random; once."""
        self.inner.finish()

    def _combined(self, new: Tensor, known: Tensor) -> Tensor:
        """New cells in the place where the map of the known ones has none.

        All that has to be copied to a GPU is kept there, so that no frame waits.
        """
        key = id(known), new.device
        if key not in self._maps:
            parts = [(known, layers_of(self.known))]
            self._maps[key] = combined(self._layers, parts, CELLS).to(new.device)
        rows, columns = (
            on_device(tuple(map(mine.index, own)), new.device)
            for mine, own in zip(self._layers, layers_of(self.inner), strict=True)
        )
        values = self._maps[key].clone()
        values[rows[:, None], columns] = new
        return values

    def _new(self) -> list[tuple[str, set[str]]]:
        """Name and new layers of each model."""
        pairs = zip(self._layers, layers_of(self.known), strict=True)
        new = [set(mine) - set(known) for mine, known in pairs]
        return list(zip(self.names, new, strict=True))


def missing(known: CKAResult, layers: Layers) -> tuple[list[str], list[str]] | None:
    """Rows and columns of the block to compute for a map of these layers.

    None if both models have new layers, or neither: then a run of all layers costs the
    same, and all its cells are from one run.
    """
    rows, columns = layers
    new_rows = [layer for layer in rows if layer not in known.layers1]
    new_columns = [layer for layer in columns if layer not in known.layers2]
    if bool(new_rows) == bool(new_columns):
        return None
    return (new_rows, list(columns)) if new_rows else (list(rows), new_columns)


def extended(
    steps: Generator[RunView, None, None], known: CKAResult, layers: Layers
) -> Generator[RunView, None, None]:
    """The states of a missing block, as states of the whole map."""
    undo = Undo()
    with undo, undo:
        undo.add(steps.close)
        view: AddedLayers | None = None
        for inner in steps:
            if view is None or view.inner is not inner:
                view = AddedLayers(inner, known, layers)
            yield view


@dataclass(frozen=True)
class PausedRun:
    """What is kept of a paused run, in case it continues with other layers.

    Attributes:
        result: The result so far, with its running sums.
        tensors: What `RunState.save` gave.
        facts: The same.
        start: The random streams with which the run began.
        first: Of its first batch, the h of each row and column with itself.
    """

    result: CKAResult
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    start: dict[str, Tensor]
    first: tuple[Tensor | None, Tensor | None]

    @classmethod
    def of(cls, state: RunView, result: CKAResult) -> "PausedRun | None":
        """What is kept of a state; None of a map from two runs."""
        if not isinstance(state, RunState) or not state.start:
            return None
        first = state.rows.first, state.columns.first
        return cls(result, *state.save(), state.start, first)

    @property
    def done(self) -> int:
        """Batches to repeat."""
        return self.result.batches + self.result.skipped


class CatchUp:
    """New layers repeat the batches of a paused run, and then join it.

    Args:
        whole: The state of all layers, before any batch.
        paused: The paused run.

    Attributes:
        inner: The state of the new layers.
        view: The same with the known cells around them.
    """

    def __init__(self, whole: RunState, paused: PausedRun) -> None:
        self._whole, self._paused = whole, paused
        layers = layers_of(whole)
        block = missing(paused.result, layers) or (list(layers[0]), list(layers[1]))
        rows, columns = map(Axis, block, whole.names)
        self.inner = RunState(rows, columns, paused.done, whole.metric)
        self.inner.provenance = whole.provenance
        self.inner.notes = list(whole.notes)
        self.view = AddedLayers(self.inner, paused.result, layers, catching_up=True)

    @property
    def is_complete(self) -> bool:
        """Whether the new layers have seen all batches of the paused run."""
        return self.inner.done == self._paused.done

    def check(self) -> None:
        """Compare the batches so far with those of the paused run.

        Raises:
            OtherBatchesError: If they differ.
        """
        inner, paused, sums = self.inner, self._paused, self._paused.result.sums
        if inner.batches == 1:
            self._compare((inner.rows.first, inner.columns.first), paused.first)
        if self.is_complete and sums is not None:
            self._compare((inner.sums.xx, inner.sums.yy), (sums.xx, sums.yy))
            if inner.examples != paused.result.examples:
                raise OtherBatchesError

    def join(self) -> None:
        """Give the state of all layers the sums of both runs."""
        whole, inner, paused = self._whole, self.inner, self._paused
        tensors, facts = inner.save()
        joined = {
            name: self._joined(value, paused.tensors[name], AXES.get(name, CELLS))
            for name, value in tensors.items()
        }
        facts["problems"] = [
            self._problems(axis, facts["problems"][axis], known)
            for axis, known in enumerate(paused.facts["problems"])
        ]
        whole.load(joined, facts)
        for number, axis in enumerate(whole.axes):
            new, known = inner.axes[number].first, paused.first[number]
            if new is not None and known is not None:
                axis.first = self._joined(new, known, (number,))

    def _joined(self, new: Tensor, known: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Values of all layers; those of the paused run stay as they are."""
        own = new, layers_of(self.inner)
        earlier = known.to(new), layers_of(self._paused.result)
        return combined(layers_of(self._whole), (own, earlier), axes)

    def _problems(
        self, axis: int, new: Mapping[str, str], known: Mapping[str, str]
    ) -> dict[str, str]:
        """Problems of the layers of one axis, by their place among all layers."""
        found: dict[str, str] = {}
        for part, problems in ((self.inner, new), (self._paused.result, known)):
            mine, theirs = layers_of(self._whole)[axis], layers_of(part)[axis]
            places = zip(*(x.tolist() for x in shared(mine, theirs)), strict=True)
            found |= {
                str(here): problems[str(there)]
                for here, there in places
                if str(there) in problems
            }
        return found

    def _compare(
        self,
        new: tuple[Tensor | None, Tensor | None],
        known: tuple[Tensor | None, Tensor | None],
    ) -> None:
        """Raise unless layers computed twice have the same norms."""
        names = layers_of(self.inner), layers_of(self._paused.result)
        for own, earlier, layers, others in zip(new, known, *names, strict=True):
            if own is None or earlier is None:
                continue
            here, there = shared(layers, others)
            pair = own.cpu()[here], earlier.cpu()[there]
            if not torch.allclose(*pair, rtol=SAME_NORM, atol=0, equal_nan=True):
                raise OtherBatchesError


def catch_up_of(whole: RunState, paused: PausedRun | None) -> CatchUp | None:
    """How new layers catch up with a paused run; None if it has no cell of the map."""
    if paused is None:
        return None
    pairs = zip(layers_of(whole), layers_of(paused.result), strict=True)
    has_cells = all(set(mine) & set(known) for mine, known in pairs)
    return CatchUp(whole, paused) if has_cells else None


def layers_of(part: RunView | CKAResult) -> Layers:
    """Names of the rows and columns of a part of a map."""
    return part.layers1, part.layers2


def combined(
    layers: Layers, parts: Sequence[tuple[Tensor, Layers]], axes: tuple[int, ...]
) -> Tensor:
    """Values of parts of a map, put together; NaN where no part has any.

    Args:
        layers: Rows and columns of the map.
        parts: Values and layers of each part; later ones replace earlier ones.
        axes: Which axes the values have: rows, columns, or both.

    Example:
        >>> parts = [
        ...     (torch.tensor([1.0, 2.0]), (["b", "c"], [])),
        ...     (torch.tensor([3.0]), (["c"], [])),
        ... ]
        >>> combined((["a", "b", "c"], []), parts, ROWS)
        tensor([nan, 1., 3.])
    """
    shape = [len(layers[axis]) for axis in axes]
    values = parts[0][0].new_full(shape, torch.nan)
    for source, own in parts:
        pairs = [shared(layers[axis], own[axis]) for axis in axes]
        ours, theirs = zip(*pairs, strict=True)
        there = torch.meshgrid(*theirs, indexing="ij")
        values[torch.meshgrid(*ours, indexing="ij")] = source[there]
    return values
