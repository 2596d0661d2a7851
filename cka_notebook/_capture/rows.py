"""Whether row i of an output is example i: the examples are moved, and its rows follow.

The probe runs the model on some examples, and again on part of them in another order.
Where an example always has the same values, its row is found at its new place. Where
examples are mixed on purpose, as in attention over a batch, values change with the
others; there the same examples in another order tell.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from itertools import pairwise
from math import inf, sqrt
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

MAX_NUMBERS = 128
"""Numbers of an example that are compared, spread evenly over its activations, and as
many parts of these, each by its largest number: none of its tokens may be foreign."""

ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-3}
"""Rows of an example differ by this much of their length in two passes, if the size of
the batch or TF32 makes products round in another way."""

HALF_ROUNDING = 2e-2
"""The same for types of 16 bits and fewer."""

SAME = 0.1
"""Rows of an example differ by at most this much of the distance of two examples."""

CLOSE = 0.01
"""Rows follow exactly if they differ by no more than this much of that distance, and by
no more than rounding: then they hold no number of another example."""

NEAREST = 0.5
"""Where examples are mixed, each row is nearer to its own example than to any other, by
this factor."""

RESOLUTION = {torch.float64: 1e-14, torch.float32: 1e-6}
"""Rows that differ by no more of their length are the same."""

MIN_CYCLE = 4
"""The fewest examples of which some can be moved in a cycle other than rolling all."""


class Match(IntEnum):
    """How well rows follow their examples: only nearly, if places matter, too."""

    NO = 0
    NEARLY = 1
    EXACTLY = 2


class Reading(NamedTuple):
    """How a tensor is read as one row for each example; see `Output`."""

    axis: int = 0
    groups: int = 1
    groups_first: bool = False


@dataclass
class Prints:
    """Some numbers of each example.

    Attributes:
        rows: As they are in its activations, ``(n, m)`` on the CPU.
        rounding: How much they may differ in another pass.
        pairs: Where another axis holds the examples, too, as that of similarities of
            all pairs does: numbers that do not depend on the order of these.
    """

    rows: Tensor
    rounding: float
    pairs: Tensor | None = None

    @cached_property
    def alike(self) -> Tensor:
        """Which examples have the same values: they could change places unseen."""
        count, width = self.rows.shape
        if not width:
            return torch.ones(count, count, dtype=torch.bool, device="cpu")
        least = RESOLUTION[self.rows.dtype] * sqrt(width) * float(self.rows.abs().max())
        some = sorted(self.rows[:, 0].tolist())
        if all(y - x > least for x, y in pairwise(some)):
            return torch.eye(count, dtype=torch.bool, device="cpu")
        (rows,) = _scaled(self.rows)
        return _distances(rows, rows) <= _resolution(rows, self)

    @cached_property
    def varied(self) -> int:
        """How many examples differ from what most of them have."""
        return len(self.rows) - int(self.alike.sum(1).max())

    @cached_property
    def has_pairs(self) -> bool:
        """Whether two examples have the same values."""
        return int(self.alike.sum()) > len(self.rows)


def orders(examples: int, few: int) -> tuple[list[int], list[int]]:
    """A part of the examples in another order, and all of them in another.

    No pattern of a forward pass, such as reversing, rolling or swapping rows, leads to
    these orders or commutes with the second one. That one moves an odd number of
    examples in one cycle; so it commutes with its own powers alone, of which none swaps
    rows. Where the number of examples is even, one stays where it is.

    Args:
        examples: How many examples there are.
        few: How many are to be in the part.

    Example:
        >>> orders(8, 5)
        ([3, 6, 1, 5, 7], [5, 6, 1, 3, 0, 7, 4, 2])
    """
    part, every, cycle = (list(range(examples)) for _ in range(3))
    Random(1).shuffle(part)
    if examples < MIN_CYCLE:
        return part[:few], every[::-1]
    Random(3).shuffle(cycle)
    cycle = cycle[: examples - 1 + examples % 2]
    for place, example in zip(cycle, cycle[1:] + cycle[:1], strict=True):
        every[place] = example
    return part[:few], every


def prints(tensor: Tensor, examples: int) -> dict[Reading, Prints]:
    """What each possible reading of a tensor would take for the examples."""
    readings = [Reading(axis) for axis, n in enumerate(tensor.shape) if n == examples]
    groups, rest = divmod(tensor.shape[0], examples)
    if not rest and groups > 1:
        readings += [Reading(0, groups), Reading(0, groups, groups_first=True)]
    rounding = ROUNDING.get(tensor.dtype, HALF_ROUNDING)
    found = {}
    for reading in readings:
        rows = _rows_first(tensor.detach(), reading, examples)
        pairs = _of_pairs(rows, examples)
        some = None if pairs is None else _some(pairs)
        found[reading] = Prints(_some(rows), rounding, some)
    return found


def follow(found: Prints, moved: Prints, order: list[int], *, mixed: bool) -> Match:
    """Whether rows follow their examples.

    Args:
        found: Of the examples in their order.
        moved: Of the examples in another order, or of some of them.
        order: Which example is at each place there.
        mixed: Whether rows may also depend on the other examples, all of which are
            there.
    """
    match = _follow(found, moved, order, mixed=mixed)
    if match or not mixed or found.pairs is None or moved.pairs is None:
        return match
    pairs = Prints(found.pairs, found.rounding), Prints(moved.pairs, moved.rounding)
    return _follow(*pairs, order, mixed=True)


def _follow(found: Prints, moved: Prints, order: list[int], *, mixed: bool) -> Match:
    if moved.rows.shape != (len(order), found.rows.shape[1]):
        return Match.NO
    rows, moved_rows = _scaled(found.rows, moved.rows)
    apart = _distances(rows, rows).max()
    length = rows.norm(dim=1).max()
    distances = _distances(moved_rows, rows)
    places = torch.tensor(order, device="cpu")[:, None]
    own = distances.gather(1, places).squeeze(1)
    others = distances.scatter(1, places, inf).amin(1)
    rounding, tiny = found.rounding * length, _resolution(rows, found)
    same = own <= torch.maximum(rounding, SAME * apart)
    if mixed:
        same |= own <= NEAREST * others
    elsewhere = (others < SAME * own) & (own > tiny)
    if not (same & ~elsewhere).all():
        return Match.NO
    close = max(CLOSE, found.rounding) * apart
    exact = own <= torch.maximum(torch.minimum(rounding, close), tiny)
    return Match.EXACTLY if exact.all() else Match.NEARLY


def _resolution(rows: Tensor, found: Prints) -> Tensor:
    """The distance up to which rows are the same."""
    length: Tensor = rows.norm(dim=1).max()
    return RESOLUTION[found.rows.dtype] * length


def shuffled(found: Prints, other: Prints) -> bool:
    """Whether examples took the places of others, in a pass with other random numbers.

    Noise of their own does not make examples equal to others.
    """
    if found.rows.shape != other.rows.shape:
        return True
    distances = _distances(*_scaled(other.rows, found.rows))
    own = distances.diagonal()
    others = distances.clone().fill_diagonal_(inf).amin(1)
    return int((others < 1e-3 * own).sum()) > 1


def differences(found: Prints, other: Prints, order: list[int]) -> float:
    """How far examples are from themselves in another pass, all together."""
    rows, others = _scaled(found.rows, other.rows)
    return float((rows[order] - others).norm())


def equal(found: Prints, other: Prints) -> bool:
    """Whether the same examples gave the same values, but for rounding."""
    if found.rows.shape != other.rows.shape:
        return False
    rows, others = _scaled(found.rows, other.rows)
    return bool((rows - others).abs().max() <= found.rounding)


def _scaled(*rows: Tensor) -> list[Tensor]:
    """Rows in a scale in which squares neither overflow nor vanish."""
    own = [each.double() for each in rows]
    largest = max(float(each.abs().max()) for each in own)
    return [each / largest for each in own] if largest else own


def _distances(rows: Tensor, others: Tensor) -> Tensor:
    """Distances of all pairs. `torch.cdist` may round small ones."""
    return (rows[:, None] - others[None]).square().sum(2).sqrt()


def _rows_first(tensor: Tensor, reading: Reading, examples: int) -> Tensor:
    """A tensor as (n, ...)."""
    axis, groups, groups_first = reading
    rows = tensor.movedim(axis, 0)
    if groups == 1:
        return rows
    if groups_first:
        return rows.reshape(groups, examples, *rows.shape[1:]).transpose(0, 1)
    return rows.reshape(examples, groups, *rows.shape[1:])


def _of_pairs(rows: Tensor, examples: int) -> Tensor | None:
    """What does not depend on the order of the examples on another axis, if any."""
    axes = [axis for axis, size in enumerate(rows.shape) if axis and size == examples]
    if not axes:
        return None
    axis = axes[0]
    return torch.stack([rows.mean(axis), rows.amax(axis), rows.amin(axis)], 1)


def _some(rows: Tensor) -> Tensor:
    """Some numbers of each example, ``(n, m)``."""
    rows = rows.reshape(len(rows), -1)
    step = max(1, -(-rows.shape[1] // MAX_NUMBERS))
    some = rows[:, ::step]
    if step > 1:
        largest = rows.unfold(1, step, step).amax(2)
        some = torch.cat([some, largest, rows[:, -step:].amax(1, keepdim=True)], 1)
    wide = torch.float64 if rows.dtype == torch.float64 else torch.float32
    # A copy, because later modules may change the tensor in place.
    return some.to("cpu", wide, copy=True).nan_to_num_(nan=0.0, posinf=1.0, neginf=-1.0)
