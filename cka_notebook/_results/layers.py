"""Layers of results, by name."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cka_notebook._messages import counted, did_you_mean, first_few


def shared(layers: Sequence[str], others: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Positions of the common layers in the first and in the second sequence.

    Both are in the order of the first sequence.

    Example:
        >>> shared(["a", "b", "c"], ["c", "b"])
        (tensor([1, 2]), tensor([1, 0]))
    """
    positions = {name: i for i, name in enumerate(others)}
    pairs = [(i, positions[name]) for i, name in enumerate(layers) if name in positions]
    both = torch.tensor(pairs, dtype=torch.long, device="cpu").reshape(-1, 2)
    return both[:, 0], both[:, 1]


def position(layer: str | int, names: tuple[str, ...], title: str) -> int:
    """The position of a layer, given by name or position.

    Raises:
        ValueError: If there is no layer of that name.
    """
    if isinstance(layer, int):
        return layer
    if layer in names:
        return names.index(layer)
    msg = (
        f"Expected a layer of {title} in this result, got {layer!r}."
        f"{did_you_mean(layer, names)} It has {counted(len(names), 'layer')}: "
        f"{first_few(names)}."
    )
    raise ValueError(msg)


def in_common(
    what: str, mine: tuple[str, ...], theirs: tuple[str, ...]
) -> tuple[Tensor, Tensor]:
    """Positions of the common rows or columns of two results, as `shared` gives them.

    Raises:
        ValueError: If there are none.
    """
    positions = shared(mine, theirs)
    if not len(positions[0]):
        msg = (
            f"Cannot subtract results without common {what}: {first_few(mine)} and "
            f"{first_few(theirs)}. Compare layers with the same names."
        )
        raise ValueError(msg)
    return positions


def minus(mine: str, theirs: str) -> str:
    """The name of a model in a difference."""
    return mine if mine == theirs else f"{mine} \u2212 {theirs}"
