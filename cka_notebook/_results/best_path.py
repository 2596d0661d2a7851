"""The best way through a matrix that never goes back.

From the first pair of layers to the last one by steps down, right or both: dynamic time
warping, with the highest mean in the place of the least sum.
"""

from collections.abc import Sequence
from math import isnan

Step = tuple[int, int]


def best_path(matrix: Sequence[Sequence[float]]) -> list[Step]:
    """Rows and columns of the way of the highest mean, or none if nothing is defined.

    NaN is crossed no more often than it must be, and counts in no mean. A mean over
    ways of any length is no sum, but the way with the largest sum of what is above a
    mean has a higher one, until there is none. `path.ts` does the same.

    Example:
        >>> best_path([[1.0, 0.5, 0.0], [0.0, 0.75, 1.0]])
        [(0, 0), (1, 1), (1, 2)]
    """
    known = [value for row in matrix for value in row if not isnan(value)]
    if not known:
        return []
    low, high = min(known), max(known)
    fine = 2 * (len(matrix) + len(matrix[0])) * (high - low + 1)
    best = _largest_sum(matrix, low - 1, fine)
    mean = _mean(matrix, best)
    while True:
        following = _largest_sum(matrix, mean, fine)
        higher = _mean(matrix, following)
        if higher >= mean:
            best = following
        if not higher > mean:
            return best
        mean = higher


def _largest_sum(
    matrix: Sequence[Sequence[float]], level: float, fine: float
) -> list[Step]:
    """The way along which values above the level add up to most."""
    sums = [[0.0] * len(row) for row in matrix]
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            before = _previous(sums, i, j)
            own = -fine if isnan(value) else value - level
            sums[i][j] = own + (sums[before[0]][before[1]] if before else 0.0)
    step: Step | None = (len(matrix) - 1, len(matrix[0]) - 1)
    way: list[Step] = []
    while step:
        way.append(step)
        step = _previous(sums, *step)
    return way[::-1]


def _previous(sums: Sequence[Sequence[float]], i: int, j: int) -> Step | None:
    """Where the best way to a pair comes from; of equal ones it is the shortest."""
    if i == 0:
        return (0, j - 1) if j else None
    if j == 0:
        return i - 1, 0
    straight = (i, j - 1) if sums[i][j - 1] > sums[i - 1][j] else (i - 1, j)
    is_longer_better = sums[straight[0]][straight[1]] > sums[i - 1][j - 1]
    return straight if is_longer_better else (i - 1, j - 1)


def _mean(matrix: Sequence[Sequence[float]], way: Sequence[Step]) -> float:
    values = [matrix[i][j] for i, j in way if not isnan(matrix[i][j])]
    return sum(values) / len(values) if values else float("nan")
