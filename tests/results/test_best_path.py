"""The best path, against all possible paths and the examples shared with the page."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from support import TESTS

from cka_notebook import CKAResult
from cka_notebook._results.best_path import best_path

EXAMPLES = json.loads((TESTS / "paths.json").read_text())


def plain_best_path(matrix):
    """The same, pair by pair, as the page does it."""
    known = [value for row in matrix for value in row if not math.isnan(value)]
    if not known:
        return []
    low, high = min(known), max(known)
    penalty = 2 * (len(matrix) + len(matrix[0])) * (high - low + 1)
    best = largest_sum(matrix, low - 1, penalty)
    mean = mean_of(matrix, best)
    while True:
        path = largest_sum(matrix, mean, penalty)
        path_mean = mean_of(matrix, path)
        if path_mean >= mean:
            best = path
        if not path_mean > mean:
            return best
        mean = path_mean


def largest_sum(matrix, level, penalty):
    sums = [[0.0] * len(row) for row in matrix]
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            before = previous(sums, i, j)
            own = -penalty if math.isnan(value) else value - level
            sums[i][j] = own + (sums[before[0]][before[1]] if before else 0.0)
    step = (len(matrix) - 1, len(matrix[0]) - 1)
    path = []
    while step:
        path.append(step)
        step = previous(sums, *step)
    return path[::-1]


def previous(sums, i, j):
    if i == 0:
        return (0, j - 1) if j else None
    if j == 0:
        return i - 1, 0
    straight = (i, j - 1) if sums[i][j - 1] > sums[i - 1][j] else (i - 1, j)
    is_longer_better = sums[straight[0]][straight[1]] > sums[i - 1][j - 1]
    return straight if is_longer_better else (i - 1, j - 1)


def mean_of(matrix, path):
    values = [matrix[i][j] for i, j in path if not math.isnan(matrix[i][j])]
    return sum(values) / len(values) if values else math.nan


def all_paths(rows, columns, here=(0, 0)):
    if here == (rows - 1, columns - 1):
        yield [here]
        return
    for down, right in ((1, 1), (1, 0), (0, 1)):
        step = (here[0] + down, here[1] + right)
        if step[0] < rows and step[1] < columns:
            for rest in all_paths(rows, columns, step):
                yield [here, *rest]


def merit(matrix, path):
    """First few undefined pairs, then a high mean."""
    values = [matrix[i][j] for i, j in path if not math.isnan(matrix[i][j])]
    return len(values) - len(path), sum(values) / len(values) if values else -math.inf


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["name"])
def test_the_path_is_the_same_as_in_the_page(example):
    matrix = [[math.nan if v is None else v for v in row] for row in example["matrix"]]
    assert best_path(matrix) == [tuple(step) for step in example["path"]]


@pytest.mark.parametrize("shape", [*itertools.product((1, 2, 4, 5), (1, 3, 5))])
def test_no_other_path_is_better(shape):
    generator = torch.Generator().manual_seed(sum(shape))
    for holes in (0.0, 0.2, 0.5):
        matrix = torch.rand(shape, generator=generator, dtype=torch.float64)
        matrix[torch.rand(shape, generator=generator) < holes] = torch.nan
        values = matrix.tolist()
        if not matrix.isfinite().any():
            continue
        best = max(merit(values, path) for path in all_paths(*shape))
        assert merit(values, best_path(values)) == pytest.approx(best)


KINDS = {
    "any": lambda draw, shape: draw.random(shape),
    "ties": lambda draw, shape: draw.integers(-2, 3, shape) / 2,
    "constant": lambda draw, shape: draw.integers(0, 2) * np.ones(shape),
    "infinite": lambda draw, shape: draw.choice([-np.inf, 0.0, 1.0, np.inf], shape),
    "wide": lambda draw, shape: np.exp(draw.normal(0, 20, shape)),
}


@pytest.mark.parametrize("holes", [0.0, 0.1, 0.8])
@pytest.mark.parametrize("kind", KINDS)
def test_the_path_is_that_of_the_plain_algorithm_ties_included(kind, holes):
    draw = np.random.default_rng(0)
    for _ in range(60):
        shape = tuple(draw.integers(1, 12, 2))
        matrix = KINDS[kind](draw, shape)
        matrix[draw.random(shape) < holes] = np.nan
        assert best_path(matrix) == plain_best_path(matrix.tolist())


@pytest.mark.parametrize("shape", [(90, 130), (130, 90), (1, 200), (200, 1), (3, 150)])
def test_the_path_is_the_same_through_larger_matrices(shape):
    draw = np.random.default_rng(1)
    for kind in ("any", "ties"):
        matrix = KINDS[kind](draw, shape)
        matrix[draw.random(shape) < 0.1] = np.nan
        assert best_path(matrix) == plain_best_path(matrix.tolist())


def test_a_result_names_the_pairs_with_their_errors():
    matrix = torch.tensor([[0.5, torch.nan], [0.25, 1.0]], dtype=torch.float64)
    names = ("a", "b"), ("x", "y")
    result = CKAResult(matrix, matrix / 8, *names, null_sd=matrix / 2, batches=5)
    first, last = result.best_path()
    assert first == ("a", "x", 0.5, 0.0625, 0.75)
    assert last == ("b", "y", 1.0, 0.125, 1.5)


def test_the_level_of_chance_of_a_pair_can_be_unknown():
    result = CKAResult(torch.ones(1, 1), torch.ones(1, 1), ("a",), ("x",))
    [pair] = result.best_path()
    assert pair[:4] == ("a", "x", 1.0, 1.0)
    assert math.isnan(pair.floor)
