"""Earlier maps of a run, from which the page draws the convergence of any cell.

They are kept on a clock of their own, so that a history does not depend on how fast a
page answers, and not even on whether there is one.
"""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .codes import Floats, Header, error_codes, value_codes

HISTORY_FRAMES = 64
"""Maximum number of maps: a smooth line, chosen rather than derived."""

HISTORY_BYTES = 4_000_000
"""Maximum size of a history, chosen for what a page and a file can hold.

Models of up to 144 layers each keep all 64 maps: 64 * 3 * 144**2 bytes are 3.98 MB.
"""

HISTORY_CELL_BYTES = 3
"""A cell of a map is sent as two bytes for its value and one for its error."""

HISTORY_SHARE = 0.005
"""Maximum share of a run's time for computing the maps of its history.

A quarter of the 2 % that live updates may cost in all.
"""


class Moment(NamedTuple):
    """The map after a batch."""

    batch: int
    matrix: Floats
    stderr: Floats


class History:
    """Maps of a run with their errors, evenly thinned to at most 64 maps and 4 MB.

    Args:
        cells: Number of cells of a map.
        clock: Returns seconds, as `time.monotonic` does.

    Example:
        >>> history, one = History(cells=1), np.float32([[1]])
        >>> for batch in range(1, 101):
        ...     history.add(Moment(batch, one, one), cost=0.0)
        >>> len(history.batches) <= 64, history.batches[:3], history.batches[-1]
        (True, [1, 3, 5], 99)
    """

    def __init__(
        self, cells: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._set_size(cells)
        self._clock = clock
        self._stride = 1
        self._not_before = float("-inf")
        self._lock = threading.Lock()
        self._moments: list[Moment] = []

    @property
    def batches(self) -> list[int]:
        """Batches after which a map was kept."""
        return [moment.batch for moment in self._moments]

    def wants(self, batch: int) -> bool:
        """Whether the map after this batch should be kept."""
        due = (batch - 1) % self._stride == 0
        return due and self._clock() >= self._not_before

    def add(self, moment: Moment, *, cost: float) -> None:
        """Keep one map, which took ``cost`` seconds to compute."""
        if (moment.batch - 1) % self._stride:
            return
        with self._lock:
            self._drop(moment.batch)
            self._moments.append(moment)
            self._fit()
        self._not_before = self._clock() + cost / HISTORY_SHARE

    def close(self, moment: Moment) -> None:
        """Add the last map of a run, which is kept in any case."""
        with self._lock:
            self._drop(moment.batch)
            if len(self._moments) >= self._limit:
                self._moments = self._moments[::2] if self._limit > 1 else []
            self._moments.append(moment)

    def resize(self, cells: int, resized: Callable[[Floats], Floats]) -> None:
        """Resize every stored map.

        Args:
            cells: Number of cells of a map from now on.
            resized: Returns a map of the new size, or its errors, given the old one.
        """
        with self._lock:
            self._set_size(cells)
            self._moments = [
                Moment(batch, resized(matrix), resized(stderr))
                for batch, matrix, stderr in self._moments
            ]
            self._fit()

    def take(
        self, limit: int | None = None, before: float = float("inf")
    ) -> tuple[Header, bytes]:
        """The history as it is sent.

        Args:
            limit: Maximum number of bytes. If not all maps fit, the selected ones are
                denser at first, where errors fall fastest.
            before: Leave out this batch and later ones.

        Returns:
            A header with ``batches`` and the scale of the codes, and the codes: the
            values of all maps, two bytes each, then their errors, one byte each.
        """
        with self._lock:
            moments = [moment for moment in self._moments if moment.batch < before]
        if limit is not None:
            moments = _denser_at_first(moments, limit // self._bytes)
        matrices = np.array([moment.matrix for moment in moments], np.float32)
        values, scale = value_codes(matrices, np.uint16)
        errors = [error_codes(moment.stderr) for moment in moments]
        data = values.astype("<u2").tobytes() + b"".join(e.tobytes() for e, _ in errors)
        batches = [moment.batch for moment in moments]
        return {"batches": batches, **scale, "most": [most for _, most in errors]}, data

    def _set_size(self, cells: int) -> None:
        self._bytes = HISTORY_CELL_BYTES * max(1, cells)
        self._limit = max(1, min(HISTORY_FRAMES, HISTORY_BYTES // self._bytes))

    def _drop(self, batch: int) -> None:
        """Remove the last map if it is of this batch, which has a newer one."""
        if self._moments and self._moments[-1].batch == batch:
            self._moments.pop()

    def _fit(self) -> None:
        """Keep every second, fourth, ... batch until the rest is within the limit."""
        while len(self._moments) > self._limit:
            self._stride *= 2
            self._moments = [
                item for item in self._moments if not (item.batch - 1) % self._stride
            ]


def _denser_at_first(moments: list[Moment], count: int) -> list[Moment]:
    """Select ``count`` moments: the last one, from two up also the first one."""
    if len(moments) <= count:
        return moments
    last, places = len(moments) - 1, [-1]
    for k in range(count):
        share = (k / (count - 1)) ** 2 if count > 1 else 1.0
        places.append(max(places[-1] + 1, round(last * share)))
    return [moments[place] for place in places[1:]]
