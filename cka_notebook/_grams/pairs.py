"""Products of all pairs of layers of one batch, from their packed Gram matrices."""

from functools import lru_cache

import torch
from torch import Tensor

from .buffer import Grams

PAIR_BLOCK = 4096
"""Columns that one float32 product sums up; the sums of blocks are float64."""


SELF_BLOCK = 32
"""Rows of the pairs of a model with itself that are done together."""


def pair_products(z1: Tensor, z2: Tensor) -> Tensor:
    """Inner products of all pairs of packed Gram matrices.

    Args:
        z1: Shape ``(L1, m)``.
        z2: Shape ``(L2, m)``; if it is ``z1`` itself, half the work is done.

    Returns:
        Shape ``(L1, L2)``, float64: ``<U(K_i), U(L_j)>`` up to the scales.
    """
    total = torch.zeros(len(z1), len(z2), dtype=torch.float64, device=z1.device)
    if z1 is not z2:
        _add_products(z1, z2, total)
        return total.mul_(2)
    for row in range(0, len(z1), SELF_BLOCK):
        rows = slice(row, row + SELF_BLOCK)
        _add_products(z1[row:], z1[rows], total[row:, rows])
    return total.tril().add_(total.tril(-1).T).mul_(2)


def _add_products(z1: Tensor, z2: Tensor, total: Tensor) -> None:
    for start in range(0, z1.shape[1], PAIR_BLOCK):
        block = slice(start, start + PAIR_BLOCK)
        if z1.is_cuda:  # whose float32 products may be TF32
            total += z1[:, block].double() @ z2[:, block].double().T
        else:
            total += z1[:, block] @ z2[:, block].T


def batch_products(
    grams1: Grams, grams2: Grams, home: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """The h of one batch for all pairs: ``(L1, L2)``, ``(L1,)``, ``(L2,)``."""
    z1, z2 = grams1.z.to(home), grams2.z.to(home)
    s1, s2 = grams1.scales.to(home).double(), grams2.scales.to(home).double()
    xx, yy = grams1.norms.to(home), grams2.norms.to(home)
    if not len(z1) or not len(z2):
        xy = torch.zeros(len(z1), len(z2), dtype=torch.float64, device=home)
    else:
        xy = pair_products(z1, z2)
        _settle_equals(xy, xx, grams1, grams2)
    xy, xx, yy = xy * (s1[:, None] * s2), xx * s1.square(), yy * s2.square()
    rows, columns = grams1.index, grams2.index
    return _taken(_taken(xy, rows).T, columns).T, _taken(xx, rows), _taken(yy, columns)


def _settle_equals(xy: Tensor, xx: Tensor, grams1: Grams, grams2: Grams) -> None:
    """Give equal Gram matrices the very product that each has with itself.

    A float32 product of all pairs and a sum of squares differ in the seventh digit;
    identical layers shall have a CKA of exactly 1.
    """
    if grams1.z is grams2.z:
        xy.diagonal().copy_(xx)
        return
    if xy.is_cuda:  # where all products are float64, and a look would wait
        return
    if not {*grams1.traces.tolist()} & {*grams2.traces.tolist()}:
        return
    alike = (grams1.traces[:, None] == grams2.traces) & (
        grams1.scales[:, None] == grams2.scales
    )
    alike &= grams2.traces > 0
    for i, j in alike.nonzero().tolist():
        if torch.equal(grams1.z[i], grams2.z[j]):
            xy[i, j] = xx[i]


def _taken(values: Tensor, index: list[int]) -> Tensor:
    """Rows of each layer; NaN, for good, for a layer without a Gram matrix."""
    if -1 in index:
        nothing = values.new_full((1, *values.shape[1:]), torch.nan)
        values = torch.cat([values, nothing])
    if index == list(range(len(values))):
        return values
    return values[_index(tuple(index), values.device)]


def spread(values: Tensor, index: list[int]) -> Tensor:
    if not len(values):
        return values.new_zeros(len(index))
    return values[_index(tuple(max(0, i) for i in index), values.device)]


@lru_cache(maxsize=8)
def _index(rows: tuple[int, ...], device: torch.device) -> Tensor:
    """Rows as a tensor; kept, for a copy to a GPU in each batch would wait for it."""
    return torch.tensor(rows, device=device)


def sums_device(device: torch.device) -> torch.device:
    """Where float64 exists."""
    return torch.device("cpu") if device.type == "mps" else device
