"""What the page needs to draw the convergence of any cell."""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .codes import Floats, Header, error_codes, value_codes

HISTORY_FRAMES = 64


HISTORY_BYTES = 4_000_000


HISTORY_CELL_BYTES = 3
"""On the wire a cell of a snapshot is two bytes of value and one of error."""


HISTORY_SHARE = 0.005
"""Snapshots for the convergence of a cell may take this share of a run's time."""


class Moment(NamedTuple):
    """The map after a batch."""

    batch: int
    matrix: Floats
    stderr: Floats


class History:
    """A run's maps with their errors, thinned out evenly: at most 64, at most 4 MB.

    Args:
        cells: Entries of one map.
        clock: Seconds, as `time.monotonic` gives them.

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
        self._resize(cells)
        self._clock = clock
        self._stride = 1
        self._not_before = float("-inf")
        self._lock = threading.Lock()
        self._kept: list[Moment] = []

    @property
    def batches(self) -> list[int]:
        """Batches after which a map was kept."""
        return [moment.batch for moment in self._kept]

    def wants(self, batch: int) -> bool:
        """Whether the map after this batch should be kept."""
        due = (batch - 1) % self._stride == 0
        return due and self._clock() >= self._not_before

    def add(self, moment: Moment, *, cost: float) -> None:
        """Keep one map, which took ``cost`` seconds to make."""
        if (moment.batch - 1) % self._stride:
            return
        with self._lock:
            self._drop(moment.batch)
            self._kept.append(moment)
            while len(self._kept) > self._limit:
                self._thin_out()
        self._not_before = self._clock() + cost / HISTORY_SHARE

    def close(self, moment: Moment) -> None:
        """Make this map the last one."""
        with self._lock:
            self._drop(moment.batch)
            if len(self._kept) >= self._limit:
                self._kept = self._kept[::2] if self._limit > 1 else []
            self._kept.append(moment)

    def move(self, cells: int, moved: Callable[[Floats], Floats]) -> None:
        """Make of each map one of so many cells."""
        with self._lock:
            self._resize(cells)
            self._kept = [
                Moment(batch, moved(matrix), moved(stderr))
                for batch, matrix, stderr in self._kept
            ]
            while len(self._kept) > self._limit:
                self._thin_out()

    def take(
        self, limit: int | None = None, before: float = float("inf")
    ) -> tuple[Header, bytes]:
        """What a page draws the convergence of any cell from.

        Args:
            limit: Bytes to take at most; of more maps some are left, the first ones
                closer to each other, where errors fall fastest.
            before: Leave out this batch and those after it.

        Returns:
            ``batches`` with the scale of the codes, and the codes: those of the values
            of all maps, two bytes each, then those of their errors, one byte each.
        """
        with self._lock:
            kept = [moment for moment in self._kept if moment.batch < before]
        if limit is not None:
            kept = _denser_at_first(kept, limit // self._bytes)
        matrices = np.array([moment.matrix for moment in kept], np.float32)
        values, scale = value_codes(matrices, np.uint16)
        errors = [error_codes(moment.stderr) for moment in kept]
        data = values.astype("<u2").tobytes() + b"".join(e.tobytes() for e, _ in errors)
        batches = [moment.batch for moment in kept]
        return {"batches": batches, **scale, "most": [most for _, most in errors]}, data

    def _resize(self, cells: int) -> None:
        self._bytes = HISTORY_CELL_BYTES * max(1, cells)
        self._limit = max(1, min(HISTORY_FRAMES, HISTORY_BYTES // self._bytes))

    def _drop(self, batch: int) -> None:
        """Another map of the last batch replaces the one that is there."""
        if self._kept and self._kept[-1].batch == batch:
            self._kept.pop()

    def _thin_out(self) -> None:
        self._stride *= 2
        self._kept = [
            item for item in self._kept if not (item.batch - 1) % self._stride
        ]


def _denser_at_first(kept: list[Moment], count: int) -> list[Moment]:
    """So many of them, the first and the last among them if there are two."""
    if len(kept) <= count:
        return kept
    last, places = len(kept) - 1, [-1]
    for k in range(count):
        share = (k / (count - 1)) ** 2 if count > 1 else 1.0
        places.append(max(places[-1] + 1, round(last * share)))
    return [kept[place] for place in places[1:]]
