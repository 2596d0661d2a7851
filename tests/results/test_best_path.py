"""The best path, against all possible paths and the examples shared with the page."""

import itertools
import json
import math

import pytest
import torch
from support import TESTS

from cka_notebook import CKAResult
from cka_notebook._results.best_path import best_path

EXAMPLES = json.loads((TESTS / "paths.json").read_text())


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


def test_a_result_names_the_pairs_with_their_errors():
    matrix = torch.tensor([[0.5, torch.nan], [0.25, 1.0]], dtype=torch.float64)
    result = CKAResult(matrix, matrix / 8, ("a", "b"), ("x", "y"))
    assert result.best_path() == [("a", "x", 0.5, 0.0625), ("b", "y", 1.0, 0.125)]
