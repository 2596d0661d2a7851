"""False alarms: how often unrelated layers look related, at each level of chance.

Two models cut the features of an example into layers of their own, so that no layer of
one has anything to do with a layer of the other.
"""

import math
import warnings
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from cka_notebook import CKA, CKAResult

LAYERS = 20
GRID = 6
"""Layers of each model in the maps whose highest value is tested."""

LEVELS = (0.05, 0.01)


class Cut(nn.Module):
    """Layers that each return some of the features of the input.

    Args:
        first: The first feature.
        width: Features of each layer.
        layers: Number of layers.
    """

    def __init__(self, first: int, width: int, layers: int) -> None:
        super().__init__()
        starts = range(first, first + width * layers, width)
        self.layers = nn.ModuleList(Part(slice(x, x + width)) for x in starts)

    def forward(self, x: Tensor) -> Tensor:
        return sum(layer(x).sum(1, keepdim=True) for layer in self.layers)


class Part(nn.Module):
    """Some of the features of the input."""

    def __init__(self, columns: slice) -> None:
        super().__init__()
        self.columns = columns

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.columns] * 1


def independent(examples: int, layers: int, width: int) -> Tensor:
    """Independent normal features."""
    return torch.randn(examples, layers, width)


def heavy_tails(examples: int, layers: int, width: int) -> Tensor:
    """The same, in which few examples are much longer than the others.

    Each layer has its own: lengths have the tails of Student's t with two degrees of
    freedom.
    """
    lengths = torch.randn(examples, layers, 2).square().mean(2).rsqrt()
    return independent(examples, layers, width) * lengths[..., None]


def few_directions(examples: int, layers: int, width: int) -> Tensor:
    """The same with the standard deviations 1, 1/2, 1/3 and so on."""
    return independent(examples, layers, width) / torch.arange(1, width + 1)


def correlated(examples: int, layers: int, width: int) -> Tensor:
    """The same in which each example is correlated with the one before it, by 0.5."""
    x = independent(examples, layers, width)
    for row in range(1, examples):
        x[row] = 0.5 * x[row - 1] + math.sqrt(1 - 0.5**2) * x[row]
    return x


Draw = Callable[[int, int, int], Tensor]

CASES: dict[str, tuple[Draw, int]] = {
    "independent, 512 features": (independent, 512),
    "independent, 64 features": (independent, 64),
    "independent, 16 features": (independent, 16),
    "independent, 4 features": (independent, 4),
    "heavy tails, 64 features": (heavy_tails, 64),
    "few directions of 64 features": (few_directions, 64),
    "correlated examples, 64 features": (correlated, 64),
}
EXAMPLES = (16, 64, 256)
BATCHES = (1, 4, 16)


def measure(
    maps: int,
    cases: dict[str, tuple[Draw, int]] = CASES,
    examples: tuple[int, ...] = EXAMPLES,
    batches: tuple[int, ...] = BATCHES,
) -> list[dict[str, Any]]:
    """The shares of false alarms by case, examples in a batch, and batches.

    Args:
        maps: Maps of ``LAYERS`` x ``LAYERS`` cells for each.
        cases: How features are drawn, and how many, by name.
        examples: Numbers of examples in a batch.
        batches: Numbers of batches.
    """
    torch.manual_seed(0)
    grid = product(cases.items(), examples, batches)
    return [
        {"case": name, "examples": n, "batches": b}
        | _alarms([_map(*case, n, b) for _ in range(maps)])
        for (name, case), n, b in grid
    ]


def markdown(found: list[dict[str, Any]]) -> str:
    """One row per case, number of examples and number of batches; in percent."""
    head = ["features", "batches", "p < 0.05", "p < 0.01", "floor", "max < 0.05"]
    keys = ("0.05", "0.01", "floor", "max")
    rows = [
        [x["case"], f"{x['batches']} x {x['examples']}"]
        + [f"{100 * x[key]:.1f}" for key in keys]
        for x in found
    ]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _map(draw: Draw, width: int, examples: int, batches: int) -> dict[str, Tensor]:
    """Which cells of one map look related, and the highest values of small maps."""
    data = [
        torch.cat([draw(examples, LAYERS, width).flatten(1) for _ in range(2)], 1)
        for _ in range(batches)
    ]
    models = [Cut(k * LAYERS * width, width, LAYERS) for k in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cka = CKA(*models, model1_layers=[Part], model2_layers=[Part])
        result = cka.compare(data, progress=False)
    p = result.p_values()
    starts = range(0, LAYERS - GRID + 1, GRID)
    small = [_small(result, slice(x, x + GRID)).p_values("max").min() for x in starts]
    alarms = {str(level): p < level for level in LEVELS}
    alarms["floor"] = result.matrix > result.floor
    return alarms | {"max": torch.stack(small) < LEVELS[0]}


def _small(result: CKAResult, part: slice) -> CKAResult:
    """The map of some layers of both models."""
    cells = (x[part, part] for x in (result.matrix, result.stderr, result.null_sd))
    matrix, stderr, null_sd = cells
    layers = result.layers1[part], result.layers2[part]
    return CKAResult(matrix, stderr, *layers, null_sd=null_sd)


def _alarms(found: list[dict[str, Tensor]]) -> dict[str, float]:
    return {
        key: torch.cat([x[key].flatten() for x in found]).double().mean().item()
        for key in found[0]
    }
