"""Products of all pairs of layers of one batch, from their packed Gram matrices."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from cka_notebook._messages import Reason

from .packing import PackedGrams, on_device

if TYPE_CHECKING:
    from collections.abc import Sequence

PAIR_BLOCK = 4096
"""Columns summed by one float32 product; the results are summed in float64."""

COPY_BYTES = 64 << 20
"""Float64 copies of packed matrices on a GPU take about this much."""

SELF_BLOCK = 32
"""Rows computed together if a model is paired with itself."""


@dataclass(frozen=True, slots=True)
class LayerGrams:
    """The Gram matrices of one batch, by layer of one model.

    Attributes:
        packed: The Gram matrices. Layers that return the same tensor share one.
        index: Row of ``packed`` for each layer; -1 if it has none.
        problems: Why a layer has none, by position in ``index``.
    """

    packed: PackedGrams
    index: list[int]
    problems: dict[int, Reason]

    def subset(self, rows: "Sequence[int]") -> Self:
        """The Gram matrices of some layers, in the order of ``rows``."""
        known = self.problems
        problems = {i: known[row] for i, row in enumerate(rows) if row in known}
        index = [self.index[row] for row in rows]
        return replace(self, index=index, problems=problems)


def spread(values: Tensor, index: list[int]) -> Tensor:
    """Values of Gram matrices by layer; arbitrary for a layer that has none."""
    if not len(values):
        return values.new_zeros(len(index))
    return values[on_device(tuple(max(0, i) for i in index), values.device)]


def sums_device(device: torch.device) -> torch.device:
    """The device for float64 sums: the same if it has float64, else the CPU."""
    return torch.device("cpu") if device.type == "mps" else device


def pair_products(z1: Tensor, z2: Tensor) -> Tensor:
    """Inner products of all pairs of packed Gram matrices.

    Args:
        z1: Shape ``(L1, m)``.
        z2: Shape ``(L2, m)``; if it is ``z1`` itself, only half the work is needed.

    Returns:
        Shape ``(L1, L2)``, float64: ``<U(K_i), U(L_j)>`` up to the scales.
    """
    if z1.is_cuda:
        return _products_of_blocks(z1, z2).mul_(2)
    total = torch.zeros(len(z1), len(z2), dtype=torch.float64, device=z1.device)
    if z1 is not z2:
        _add_products(z1, z2, total)
        return total.mul_(2)
    for row in range(0, len(z1), SELF_BLOCK):
        rows = slice(row, row + SELF_BLOCK)
        _add_products(z1[row:], z1[rows], total[row:, rows])
    return total.tril().add_(total.tril(-1).T).mul_(2)


def batch_products(
    grams1: LayerGrams, grams2: LayerGrams, home: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """The h of one batch for all pairs: ``(L1, L2)``, ``(L1,)``, ``(L2,)``.

    Args:
        grams1: Of model 1.
        grams2: Of model 2.
        home: Device on which to compute; it has float64.
    """
    first = second = grams1.packed.to(home)
    if grams2.packed is not grams1.packed:
        second = grams2.packed.to(home)
    if not len(first) or not len(second):
        xy = first.norm.new_zeros(len(first), len(second), dtype=torch.float64)
    else:
        xy = pair_products(first.z, second.z)
        _equate_identical(xy, first, second)
    scale1, scale2 = first.scale.double(), second.scale.double()
    xy = xy * (scale1[:, None] * scale2)
    xx, yy = first.norm * scale1.square(), second.norm * scale2.square()
    rows, columns = grams1.index, grams2.index
    xy = _by_layer(_by_layer(xy, rows).T, columns).T
    return xy, _by_layer(xx, rows), _by_layer(yy, columns)


def _add_products(z1: Tensor, z2: Tensor, total: Tensor) -> None:
    for start in range(0, z1.shape[1], PAIR_BLOCK):
        block = slice(start, start + PAIR_BLOCK)
        total += z1[:, block] @ z2[:, block].T


def _products_of_blocks(z1: Tensor, z2: Tensor) -> Tensor:
    """``z1 @ z2.T`` in float64 on a GPU, which blocks of columns keep busy.

    The user may allow TF32 in float32 products, and a float64 copy of all would take
    as much memory as everything else.
    """
    rows = len(z1) + (0 if z1 is z2 else len(z2))
    step = max(1, COPY_BYTES // (rows * PAIR_BLOCK * 8))
    blocks = z1.shape[1] // PAIR_BLOCK
    parts = [
        range(first, min(first + step, blocks)) for first in range(0, blocks, step)
    ]
    columns = [(x.start * PAIR_BLOCK, x.stop * PAIR_BLOCK) for x in parts]
    if blocks * PAIR_BLOCK < z1.shape[1] or not parts:
        columns.append((blocks * PAIR_BLOCK, z1.shape[1]))
    sums = [_product_of_columns(z1, z2, *limits) for limits in columns]
    return sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)


def _product_of_columns(z1: Tensor, z2: Tensor, start: int, stop: int) -> Tensor:
    """The product of some columns: of whole blocks, or of the rest."""
    width = min(PAIR_BLOCK, stop - start)
    first, second = (
        z[:, start:stop].view(len(z), -1, width).transpose(0, 1) for z in (z1, z2)
    )
    wide = first.double()
    other = wide if z1 is z2 else second.double()
    return torch.bmm(wide, other.mT).sum(0)


def _equate_identical(xy: Tensor, first: PackedGrams, second: PackedGrams) -> None:
    """Set the product of two identical Gram matrices to their squared norm.

    A float32 product of all pairs and a sum of squares differ in the seventh digit, but
    identical layers are to have a CKA of exactly 1.
    """
    if first is second:
        xy.diagonal().copy_(first.norm)
        return
    if xy.is_cuda:  # products are float64 there, and reading values would synchronise
        return
    if not {*first.trace.tolist()} & {*second.trace.tolist()}:
        return
    alike = first.trace[:, None] == second.trace
    alike &= first.scale[:, None] == second.scale
    alike &= second.trace > 0
    for i, j in alike.nonzero().tolist():
        if torch.equal(first.z[i], second.z[j]):
            xy[i, j] = first.norm[i]


def _by_layer(values: Tensor, index: list[int]) -> Tensor:
    """Values of Gram matrices by layer; NaN for a layer that has none."""
    if -1 in index:
        nothing = values.new_full((1, *values.shape[1:]), torch.nan)
        values = torch.cat([values, nothing])
    if index == list(range(len(values))):
        return values
    return values[on_device(tuple(index), values.device)]
