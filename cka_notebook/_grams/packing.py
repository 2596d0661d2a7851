"""U-centered Gram matrices, each in one row of numbers, so that dot products give HSIC.

A symmetric matrix needs its lower triangle only. It is cut into column blocks, each
from its diagonal down. The first and the last of them together are as long as the
second and the last but one, and so on: stacked in such pairs they are equal rectangles,
on which one operation works for many layers at once.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from .products import sums_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

MIN_EXAMPLES = 4
"""The unbiased HSIC divides by n (n - 3)."""

BLOCK = 32
"""Columns of a block, about: narrower ones save work, wider ones are faster."""

WHOLE = 48
"""Matrices of so few examples stay whole: blocks would cost what they save."""

HALF = 0.5**0.5
"""Numbers that lie in both triangles count twice; of each square, half is meant."""

CONSTANT = (8 * torch.finfo(torch.float32).eps) ** 2
"""Below this share of the second moment, a variance is the rounding of a constant."""

SAFE = 1e12
"""Matrices with a diagonal between 1 / SAFE and SAFE are not scaled."""


@dataclass(frozen=True, slots=True)
class PackedGrams:
    """U-centered Gram matrices of one batch, packed for inner products.

    Attributes:
        z: Shape ``(g, m)``; ``<U(K), U(L)>`` is ``2 * z1 @ z2 * scale1 * scale2``.
        scale: Shape ``(g,)``: what ``z`` was divided by, so that no square overflows.
        trace: Shape ``(g,)``, of the centered Gram matrices: not finite if an
            activation is not, 0 if U-centering leaves nothing.
        norm: Shape ``(g,)``, float64 if the device has it:
            ``<U(K), U(K)> / scale ** 2``.
    """

    z: Tensor
    scale: Tensor
    trace: Tensor
    norm: Tensor

    @classmethod
    def empty(cls) -> Self:
        """No Gram matrix."""
        nothing = torch.empty(0)
        return cls(nothing.reshape(0, 0), nothing, nothing, nothing.double())

    @classmethod
    def concatenate(cls, parts: "Sequence[Self]") -> Self:
        """One after the other, in the widest dtype, on the device of the first."""
        home = parts[0].z.device
        columns = zip(*(part.to(home).tensors() for part in parts), strict=True)
        return cls(*map(torch.cat, columns))

    def __getitem__(self, rows: int | slice | Tensor) -> Self:
        """Some of the Gram matrices."""
        return type(self)(*(tensor[rows] for tensor in self.tensors()))

    def __len__(self) -> int:
        """Number of Gram matrices."""
        return len(self.z)

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return type(self)(*(tensor.to(device) for tensor in self.tensors()))

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The tensors of all attributes, in order."""
        return self.z, self.scale, self.trace, self.norm


class Packing:
    """How Gram matrices of n examples are packed; see `packing`.

    Attributes:
        length: Numbers in a row, about ``n * (n + BLOCK) / 2``.
        padded: Row sums and diagonals have so many numbers, n and zeros.
    """

    def __init__(self, n: int, device: torch.device, dtype: torch.dtype) -> None:
        count = 2 * round(n / (2 * BLOCK))
        self._n, self._b = n, -(-n // count)
        self._pairs = -(-n // (2 * self._b))
        self.padded = 2 * self._pairs * self._b
        self._height = self.padded + self._b
        self.length = self._pairs * self._height * self._b
        self._tops = self._places()
        self._make_constants(device, dtype)

    def blocks(self, row: Tensor) -> list[Tensor]:
        """The places of the column blocks in one row ``(length,)`` of numbers.

        Each is (n - j, width) for the columns from j on, from the diagonal down.
        """
        rectangles = row.view(self._pairs, self._height, self._b)
        return [
            rectangles[pair, top : top + self._n - first, : self._n - first]
            for pair, top, first in self._tops
        ]

    def take(self, grams: Tensor, z: Tensor) -> None:
        """Copy Gram matrices ``(g, n, n)`` to rows ``z`` of shape ``(g, length)``."""
        places = self._rectangles(z)
        for pair, top, first in self._tops:
            block = grams[:, first:, first : first + self._b]
            rows, columns = block.shape[1:]
            places[:, pair, top : top + rows, :columns] = block

    def center(
        self, z: Tensor, moments: Tensor, sums: Tensor | None = None
    ) -> tuple[PackedGrams, Tensor]:
        """U-center packed Gram matrices.

        Args:
            z: Shape ``(g, length)``: zeros but for what `blocks` or `take` filled.
                Becomes ``z`` of the result.
            moments: Shape ``(g,)``, the squared norm of the mean features, or as much
                of it as the shift took away.
            sums: Shape ``(g, padded)``, sums of the rows of the matrices, where they
                are known from the features. Errors in them change products of
                U-centered matrices to second order only: their rows sum to 0.

        Returns:
            The record, and the traces of the matrices before centering, ``(g,)``.
        """
        n = self._n
        diagonal = self._diagonals(z)
        rows = (self._row_sums(z) if sums is None else sums) - diagonal
        total, moment = rows.sum(-1), diagonal.sum(-1)
        trace = moment - (moment + total) / n
        top = diagonal.amax(-1)
        # Off the diagonal, U is K less this number of the row and that of the column.
        a = rows.sub_(total.unsqueeze(-1), alpha=0.5 / (n - 1)).div_(n - 2)
        self._subtract(z, a)
        scale = torch.ones_like(trace)
        if not (z.is_cpu and _is_ordinary(top)):  # a look waits for the device
            scale = _scale(top)
            z /= scale.unsqueeze(-1)
        norm = torch.linalg.vector_norm(z.view(len(z), -1, self._height), dim=2)
        norm = norm.to(sums_dtype(z.device)).square_().sum(1).mul_(2)
        # A constant layer leaves only rounding errors behind, and so does one where no
        # two examples differ alike: U-centering makes both zero.
        nothing = trace <= torch.add(moment, moments, alpha=n).mul_(CONSTANT)
        rounding = torch.finfo(z.dtype).eps * n**0.5
        nothing |= norm.sqrt().mul_(scale) <= trace * rounding
        if not z.is_cpu or nothing.any():
            z.masked_fill_(nothing.unsqueeze(-1), 0)
            trace, norm = trace.masked_fill(nothing, 0), norm.masked_fill(nothing, 0)
        return PackedGrams(z, scale, trace, norm), moment

    def _places(self) -> list[tuple[int, int, int]]:
        """Pair, row in its rectangle, and first example of each block with any."""
        b, last = self._b, 2 * self._pairs - 1
        places = []
        for pair in range(self._pairs):
            places.append((pair, 0, pair * b))
            places.append((pair, self.padded - pair * b, (last - pair) * b))
        return sorted((p for p in places if p[2] < self._n), key=lambda place: place[2])

    def _make_constants(self, device: torch.device, dtype: torch.dtype) -> None:
        b, h, pairs = self._b, self._height, self._pairs
        pair, row, step = torch.arange(pairs)[:, None], torch.arange(h), torch.arange(b)
        second = row >= self.padded - pair * b  # (pairs, h): of which block a row is
        tops = torch.cat([pair * 0, self.padded - pair * b], 1)
        starts = torch.cat([pair, 2 * pairs - 1 - pair], 1) * b
        of_column = starts[..., None] + step
        on_diagonal = (pair[..., None] * h + tops[..., None] + step) * b + step
        in_diagonal_block = (row < b) | (second & (row - self.padded + pair * b < b))
        both = torch.stack([~second, second], -1)
        below = (both & ~in_diagonal_block[..., None]).mT
        # The diagonal blocks are whole: each pair of theirs counts twice.
        share = torch.full((b, b), HALF, dtype=dtype).fill_diagonal_(0)
        # For each row, column and number of the diagonal: of which example it is.
        self._of_row = torch.where(second, row - b, row + pair * b).flatten().to(device)
        self._of_column = of_column.flatten().to(device)
        self._diagonal = on_diagonal.flatten()[of_column.flatten().argsort()].to(device)
        self._both, self._below = both.to(device, dtype), below.to(device, dtype)
        self._share = share.to(device)
        self._ones = torch.ones(b, device=device, dtype=dtype)
        outside = torch.ones(self.length, dtype=torch.bool)
        for block in self.blocks(outside):
            block.fill_(False)
        self._outside = outside.to(device) if bool(outside.any()) else None

    def _rectangles(self, z: Tensor) -> Tensor:
        return z.view(len(z), self._pairs, self._height, self._b)

    def _diagonals(self, z: Tensor) -> Tensor:
        """The diagonals, and zeros up to ``(g, padded)``."""
        return z.index_select(1, self._diagonal)

    def _row_sums(self, z: Tensor) -> Tensor:
        """Sums of the rows of the whole symmetric matrices, ``(g, padded)``."""
        whole = self._rectangles(z)
        sums = z.new_zeros(len(z), self.padded)
        across = whole.view(-1, self._b) @ self._ones
        sums.index_add_(1, self._of_row, across.view(len(z), -1))
        down = self._below @ whole
        return sums.index_add_(1, self._of_column, down.view(len(z), -1))

    def _subtract(self, z: Tensor, a: Tensor) -> None:
        """``K_ij - a_i - a_j`` as one product, and what lies outside of it zero."""
        g, b, h, pairs = len(z), self._b, self._height, self._pairs
        left = z.new_empty(g, pairs, h, 3)
        left[..., 0] = a.index_select(1, self._of_row).view(g, pairs, h)
        left[..., 1:] = self._both
        right = z.new_ones(g, pairs, 3, b)
        right[:, :, 1:] = a.index_select(1, self._of_column).view(g, pairs, 2, b)
        whole = z.view(g * pairs, h, b)
        whole.baddbmm_(left.view(-1, h, 3), right.view(-1, 3, b), alpha=-1)
        if self._outside is not None:
            z.masked_fill_(self._outside, 0)
        whole[:, :b] *= self._share
        # The second block of a pair begins one block higher than that of the last pair.
        strides = z.stride(0), (h - b) * b, b, 1
        start = z.storage_offset() + self.padded * b
        z.as_strided((g, pairs, b, b), strides, start).mul_(self._share)


class Squares(Packing):
    """Gram matrices of few examples, whole: one block each, and nothing to compute."""

    def __init__(self, n: int) -> None:
        self._n = self._height = self.padded = n
        self.length = n * n

    def blocks(self, row: Tensor) -> list[Tensor]:
        return [row.view(self._n, self._n)]

    def take(self, grams: Tensor, z: Tensor) -> None:
        z.copy_(grams.flatten(1))

    def _diagonals(self, z: Tensor) -> Tensor:
        return z[:, :: self._n + 1]

    def _row_sums(self, z: Tensor) -> Tensor:
        return z.view(-1, self._n, self._n).sum(-2)  # of rows, but twice as fast

    def _subtract(self, z: Tensor, a: Tensor) -> None:
        whole = z.view(-1, self._n, self._n)
        whole.sub_(a.unsqueeze(-1)).sub_(a.unsqueeze(-2)).mul_(HALF)
        self._diagonals(z).zero_()


@lru_cache(maxsize=8)
def packing(n: int, device: torch.device, dtype: torch.dtype) -> Packing:
    """How Gram matrices of n >= 4 examples are packed."""
    return Squares(n) if n <= WHOLE else Packing(n, device, dtype)


def _scale(top: Tensor) -> Tensor:
    """What to divide by: 1 unless squares could overflow or vanish."""
    extreme = (top > 0) & ((top > SAFE) | (top < 1 / SAFE))
    return torch.where(extreme, top, 1.0)


def _is_ordinary(top: Tensor) -> bool:
    """Whether there is nothing to scale."""
    low, high = top.aminmax()
    return 1 / SAFE <= low.item() <= high.item() <= SAFE
