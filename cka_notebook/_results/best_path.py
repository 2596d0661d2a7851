"""The best monotone path through a matrix.

It leads from the first pair of layers to the last one by steps down, right or both, as
in dynamic time warping, but has the highest mean instead of the smallest sum.
"""

from collections.abc import Sequence
from math import isnan

Step = tuple[int, int]


def best_path(matrix: Sequence[Sequence[float]]) -> list[Step]:
    """Rows and columns of the path with the highest mean; none if all values are NaN.

    The path crosses NaN as rarely as possible, and the mean leaves it out. Dynamic
    programming maximizes sums, not means over paths of any length. So it maximizes the
    sum of the values minus the best mean so far, which yields a path with a higher mean
    until there is none. `best_path.ts` does the same.

    Example:
        >>> best_path([[1.0, 0.5, 0.0], [0.0, 0.75, 1.0]])
        [(0, 0), (1, 1), (1, 2)]
    """
    known = [value for row in matrix for value in row if not isnan(value)]
    if not known:
        return []
    low, high = min(known), max(known)
    penalty = 2 * (len(matrix) + len(matrix[0])) * (high - low + 1)
    best = _largest_sum(matrix, low - 1, penalty)
    mean = _mean(matrix, best)
    while True:
        path = _largest_sum(matrix, mean, penalty)
        path_mean = _mean(matrix, path)
        if path_mean >= mean:
            best = path
        if not path_mean > mean:
            return best
        mean = path_mean


def _largest_sum(
    matrix: Sequence[Sequence[float]], level: float, penalty: float
) -> list[Step]:
    """The path with the largest sum of values minus level; NaN costs the penalty."""
    sums = [[0.0] * len(row) for row in matrix]
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            before = _previous(sums, i, j)
            own = -penalty if isnan(value) else value - level
            sums[i][j] = own + (sums[before[0]][before[1]] if before else 0.0)
    step: Step | None = (len(matrix) - 1, len(matrix[0]) - 1)
    path: list[Step] = []
    while step:
        path.append(step)
        step = _previous(sums, *step)
    return path[::-1]


def _previous(sums: Sequence[Sequence[float]], i: int, j: int) -> Step | None:
    """The step before a pair on its best path; the diagonal one if sums are equal."""
    if i == 0:
        return (0, j - 1) if j else None
    if j == 0:
        return i - 1, 0
    straight = (i, j - 1) if sums[i][j - 1] > sums[i - 1][j] else (i - 1, j)
    is_longer_better = sums[straight[0]][straight[1]] > sums[i - 1][j - 1]
    return straight if is_longer_better else (i - 1, j - 1)


def _mean(matrix: Sequence[Sequence[float]], path: Sequence[Step]) -> float:
    values = [matrix[i][j] for i, j in path if not isnan(matrix[i][j])]
    return sum(values) / len(values) if values else float("nan")
