"""Detects batches that are not random, such as examples sorted by class.

They distort CKA, and the standard error does not show it. The means of random batches
scatter as much as the spread within batches predicts: the ratio of both, rho, is 1 on
average. Sorting by class raises it to 20 or more.
"""

from collections.abc import Sequence
from math import cbrt, inf, nan, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from cka_notebook._grams.products import sums_dtype

MIN_BATCHES = 4
"""Minimum number of batches: the scatter of fewer means is too uncertain."""

TOO_LARGE = 2.0
"""Rho above which batches are not random. Shuffled digits reach at most 1.2, 1.3 and
1.7 (30 shuffles, batches of 32, 128 and 512); sorted by class they give 20 to 300, and
CKA is off by 0.1 to 0.2."""

SIGMAS = 3.7
"""Standard deviations that rho must also exceed: P(Z > 3.7) = 1.1e-4, one false alarm
in 10 000 for a layer with one dimension; with more dimensions rho scatters less. This
bound decides below about 40 batches, TOO_LARGE above."""

WATCHED = 4
"""Number of layers of a model that are sampled, including the first and the last."""

EVERY_BATCH, THEN_EVERY = 16, 4
"""The first 16 batches are all sampled, later only every fourth."""

FOLDED = 32
"""Number of batches whose sums are collected before they are added up."""

RUNS, RUN_LENGTH = 16, 32
"""Of a wide layer, RUNS runs of RUN_LENGTH consecutive features are sampled."""


class ScatterState(NamedTuple):
    """What a `Scatter` knows."""

    given: int
    batches: int = 0
    examples: int = 0
    totals: tuple[Tensor, ...] = ()
    sums: tuple[Tensor, ...] = ()
    norms: tuple[Tensor, ...] = ()
    counts: tuple[int, ...] = ()


class Scatter:
    """Scatter of one layer's batch means, relative to the scatter within batches.

    It keeps sums only, on the device of the features; only `rho` synchronises with it.

    Attributes:
        batches: Number of batches sampled.
        examples: Number of examples in them.
    """

    def __init__(self) -> None:
        self._given = 0
        self.batches = 0
        self.examples = 0
        self._origin: Tensor | None = None
        self._sums: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._counts: list[int] = []

    def save(self) -> "ScatterState":
        """What it knows; later batches do not change it."""
        if self._origin is None:
            return ScatterState(self._given)
        totals = self._origin, self._sum, self._of_sums, self._of_all
        counts = self._given, self.batches, self.examples
        new = tuple(self._sums), tuple(self._norms), tuple(self._counts)
        return ScatterState(*counts, totals, *new)

    def load(self, state: "ScatterState") -> None:
        """Continue from what `save` gave."""
        self._given, self.batches, self.examples = state[:3]
        if state.totals:
            self._origin, self._sum, self._of_sums, self._of_all = state.totals
        self._sums, self._norms = list(state.sums), list(state.norms)
        self._counts = list(state.counts)

    def add(self, rows: Tensor) -> None:
        """Sample the features of one batch, ``(n, p)``; late batches only in part."""
        self._given += 1
        if self._given > EVERY_BATCH and self._given % THEN_EVERY:
            return
        sample = _sample(rows)
        if self._origin is None:
            self._origin = sample.mean(0, dtype=torch.float32)
            self._sum = torch.zeros_like(self._origin, dtype=sums_dtype(rows.device))
            self._of_sums = self._of_all = self._sum.new_zeros(())
        origin = self._origin
        if sample.shape[1:] != origin.shape or sample.device != origin.device:
            return
        # As few operations as possible, since each is a launch; the rest is in `_fold`.
        centered = sample - origin
        self._sums.append(centered.sum(0))
        self._norms.append(torch.linalg.vector_norm(centered))
        self._counts.append(len(rows))
        self.batches += 1
        self.examples += len(rows)
        if len(self._counts) == FOLDED:
            self._fold()

    def rho(self) -> float:
        """Scatter between batches relative to that within, about 1; NaN if unknown.

        Synchronises with the device.
        """
        freedom = self.examples - self.batches
        if self.batches < MIN_BATCHES or freedom < 1:
            return nan
        self._fold()
        between = self._of_sums - self._sum.square().sum() / self.examples
        within = self._of_all - self._of_sums
        ratio = between / (self.batches - 1) / (within / freedom)
        return float(ratio)

    def _fold(self) -> None:
        """Add up the sums of the last batches."""
        if not self._counts:
            return
        dtype = self._sum.dtype
        sums = torch.stack(self._sums).to(dtype)
        counts = torch.tensor(self._counts, dtype=dtype, device="cpu")
        counts = counts.to(sums.device, non_blocking=True)
        self._sum = self._sum + sums.sum(0)  # It may be an inference tensor.
        self._of_sums = self._of_sums + (sums.square().sum(1) / counts).sum()
        self._of_all = self._of_all + torch.stack(self._norms).to(dtype).square().sum()
        self._sums, self._norms, self._counts = [], [], []

    def sigmas(self) -> float:
        """How unlikely `rho` is, in standard deviations of a normal variable.

        Paulson's approximation of the F distribution, for a layer with one dimension:
        the case in which rho scatters most.
        """
        rho = self.rho()
        if not 0 < rho < inf:
            return nan
        a = 2 / (9 * (self.batches - 1))
        b = 2 / (9 * (self.examples - self.batches))
        root = cbrt(rho)
        return ((1 - b) * root - (1 - a)) / sqrt(b * root * root + a)


def watched(count: int) -> list[int]:
    """Rows to sample among ``count`` layers: evenly spaced, with the first and last."""
    steps = min(WATCHED, count) - 1
    return sorted(
        {i * (count - 1) // steps for i in range(steps + 1)} if steps else {0}
    )


def note_on(scatters: Sequence[tuple[str, str, Scatter]]) -> str | None:
    """A note if the batches are not random at some layer, else None.

    Args:
        scatters: For each watched layer, model, name and scatter.
    """
    found = [
        (scatter.rho(), model, layer)
        for model, layer, scatter in scatters
        if scatter.rho() > TOO_LARGE and scatter.sigmas() > SIGMAS
    ]
    if not found:
        return None
    rho, model, layer = max(found)
    digits = 0 if rho >= 10 else 1
    return (
        f"The batches are not random: rho = {rho:.{digits}f} at {layer!r} of {model}; "
        "shuffled examples give about 1. Sorted examples can shift CKA by up to 0.2, "
        "which the standard error does not show. Pass shuffle=True to the loader."
    )


def _sample(rows: Tensor) -> Tensor:
    """At most 512 features per example, in contiguous runs to save memory traffic."""
    width = rows.shape[1]
    if width <= RUNS * RUN_LENGTH:
        return rows
    step = (width - RUN_LENGTH) // (RUNS - 1)
    return rows.unfold(1, RUN_LENGTH, step)[:, :RUNS].flatten(1)
