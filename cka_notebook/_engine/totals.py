"""What a run has added up, and what is wrong with its layers."""

from collections.abc import Iterable, Mapping
from math import isfinite
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from cka_notebook import metrics
from cka_notebook._grams.pairs import LayerGrams, spread
from cka_notebook.metrics.cka import SMALLEST

from .facts import NO_VARIANCE, TOO_LARGE, TOO_SMALL, no_output, not_finite


class Faults(NamedTuple):
    """What is wrong with the layers of one axis so far. Replaced, never changed.

    Attributes:
        problems: Why layers have no Gram matrix, by row.
        bad: The first batch in which each layer was not finite, -1 for none; None
            before the first batch.
    """

    problems: Mapping[int, str] = MappingProxyType({})
    bad: Tensor | None = None

    def with_batch(self, grams: LayerGrams, batch: int) -> "Faults":
        """These and what is wrong with the Gram matrices of a batch."""
        problems, bad = self.problems, self.bad
        if grams.problems:
            new = {row: no_output(x, batch) for row, x in grams.problems.items()}
            problems = {**new, **problems}
        traces = grams.packed.trace
        if bad is None or not traces.is_cpu or not isfinite(traces.sum().item()):
            # Not the usual case; on a GPU, reading the value would synchronise.
            wrong = spread(~torch.isfinite(traces), grams.index)
            if bad is None:
                bad = torch.full(wrong.shape, -1.0, device="cpu")
            bad = bad.to(wrong.device)
            bad = torch.where(wrong & (bad < 0), float(batch), bad)
        return Faults(problems, bad)


class Axis:
    """The rows or the columns of a running matrix.

    Args:
        layers: Names of the layers.
        name: Name of their model.
        unchecked: Layers whose rows the probe could not check.

    Attributes:
        first: Of the first batch, the h of each layer with itself; None before it.
    """

    def __init__(
        self, layers: list[str], name: str, unchecked: Iterable[str] = ()
    ) -> None:
        self.layers = tuple(layers)
        self.name = name
        self.unchecked = list(unchecked)
        self.first: Tensor | None = None

    def undefined(self, faults: Faults, norms: Tensor) -> dict[str, str]:
        """Why layers are undefined, by name. Waits for the device.

        Args:
            faults: What is wrong with them.
            norms: The sum over batches of each layer's h with itself.
        """
        norms, bad = norms.cpu(), self.bad(faults).cpu().tolist()
        reasons: dict[str, str] = {}
        for row, name in enumerate(self.layers):
            if row in faults.problems:
                reasons[name] = faults.problems[row]
            elif bad[row] >= 0:
                reasons[name] = not_finite(int(bad[row]))
            elif norms[row] == 0:
                reasons[name] = NO_VARIANCE
            elif norms[row] < SMALLEST:
                reasons[name] = TOO_SMALL
            elif not isfinite(norms[row]):
                reasons[name] = TOO_LARGE
        return reasons

    def bad(self, faults: Faults) -> Tensor:
        """The first batch in which each layer was not finite; -1 for none."""
        if faults.bad is None:
            return torch.full((len(self.layers),), -1.0, device="cpu")
        return faults.bad


class Totals(NamedTuple):
    """What a run has added up; each batch replaces it as a whole.

    An interrupt can come between any two instructions, and must not leave half a batch.

    Attributes:
        batches: Batches in the sums.
        skipped: Batches that were too small.
        examples: Examples in the sums.
        sums: The running sums; None before the first batch.
        rows: What is wrong with rows.
        columns: What is wrong with columns.
        spare: Memory for the sums of the next batch; None before the second.
    """

    batches: int = 0
    skipped: int = 0
    examples: int = 0
    sums: metrics.MinibatchCKA | None = None
    rows: Faults = Faults()
    columns: Faults = Faults()
    spare: metrics.MinibatchCKA | None = None
