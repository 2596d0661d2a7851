"""The best monotone path through a matrix.

It leads from the first pair of layers to the last one by steps down, right or both, as
in dynamic time warping, but has the highest mean instead of the smallest sum.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Step = tuple[int, int]
Values = NDArray[np.floating[Any]]


def best_path(matrix: ArrayLike) -> list[Step]:
    """Rows and columns of the path with the highest mean; none if all values are NaN.

    The path crosses NaN as rarely as possible, and the mean leaves it out. Dynamic
    programming maximizes sums, not means over paths of any length. So it maximizes the
    sum of the values minus the best mean so far, which yields a path with a higher mean
    until there is none. `best_path.ts` does the same.

    Args:
        matrix: Values, ``(L1, L2)``.

    Example:
        >>> best_path([[1.0, 0.5, 0.0], [0.0, 0.75, 1.0]])
        [(0, 0), (1, 1), (1, 2)]
    """
    values = np.asarray(matrix, dtype=np.float64)
    if np.isnan(values).all():
        return []
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    sums = _Sums(values, 2 * sum(values.shape) * (high - low + 1))
    best = sums.best_path(low - 1)
    mean = _mean(values, best)
    while True:
        path = sums.best_path(mean)
        path_mean = _mean(values, path)
        if path_mean >= mean:
            best = path
        if not path_mean > mean:
            return best
        mean = path_mean


class _Sums:
    """Largest sums of values along paths from the first pair to each other one.

    A sum needs those above, to the left and between them, which are on the two
    antidiagonals before its own. Stored as rows, each of these is computed at once.

    Args:
        matrix: Values, ``(L1, L2)``.
        penalty: What a NaN costs.
    """

    def __init__(self, matrix: Values, penalty: float) -> None:
        self._penalty = penalty
        self._is_turned = matrix.shape[0] > matrix.shape[1]
        short = matrix.T if self._is_turned else matrix
        self._shape = rows, columns = short.shape
        # Row i of the matrix is column i + 1 here; the first one is above the matrix.
        self._values = np.full((rows + columns - 1, rows + 1), -np.inf)
        for row, values in enumerate(short):
            self._values[row : row + columns, row + 1] = values
        self._undefined = np.flatnonzero(np.isnan(self._values))
        self._sums = np.empty_like(self._values)

    def best_path(self, level: float) -> list[Step]:
        """The path with the largest sum of values minus level."""
        self._add_up(level)
        rows, columns = self._shape
        step: Step | None = (rows - 1, columns - 1)
        path: list[Step] = []
        while step:
            path.append(step[::-1] if self._is_turned else step)
            step = self._previous(*step)
        return path[::-1]

    @np.errstate(invalid="ignore")  # Infinite values are compared as they are.
    def _add_up(self, level: float) -> None:
        sums, (rows, columns) = self._sums, self._shape
        np.subtract(self._values, level, out=sums)
        sums.ravel()[self._undefined] = -self._penalty
        room = np.empty(rows)
        for at in range(1, len(sums)):
            first, end = max(0, at - columns + 1), min(at + 1, rows)
            own, one, both = sums[at], sums[at - 1], sums[max(0, at - 2)]
            best = room[: end - first]
            np.maximum(one[first:end], one[first + 1 : end + 1], out=best)
            if at > 1:
                np.maximum(best, both[first:end], out=best)
            own[first + 1 : end + 1] += best

    def _previous(self, i: int, j: int) -> Step | None:
        """The step before a pair on its best path; the diagonal one if sums are equal.

        Of one down and one right in the given matrix, the one down.
        """
        if i == 0:
            return (0, j - 1) if j else None
        if j == 0:
            return i - 1, 0
        one = self._sums[i + j - 1]
        above, left, both = one[i], one[i + 1], self._sums[i + j - 2, i]
        goes_left = left >= above if self._is_turned else left > above
        is_longer_better = (left if goes_left else above) > both
        if not is_longer_better:
            return i - 1, j - 1
        return (i, j - 1) if goes_left else (i - 1, j)


def _mean(matrix: Values, path: Sequence[Step]) -> float:
    values = matrix[tuple(np.transpose(path))]
    known = values[~np.isnan(values)].tolist()
    return sum(known) / len(known) if known else float("nan")
