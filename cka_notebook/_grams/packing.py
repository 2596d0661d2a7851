"""U-centered Gram matrices, each packed into one row, so that dot products give HSIC.

Only the lower triangle of a symmetric matrix is kept. It is cut into column blocks,
each from its diagonal down. The first and the last block together are as tall as the
second and the second to last, and so on. Stacked in such pairs, the blocks form equal
rectangles, and one operation processes those of many layers at once.
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

BLOCK_WIDTH = 32
"""Approximate columns of a block: narrower ones save work, wider ones are faster."""

MAX_SQUARE = 48
"""Up to this number of examples matrices stay square: blocks cost what they save."""

INVERSE_SQRT2 = 0.5**0.5
"""Weight of entries stored in both triangles, so that their products count once."""

CONSTANT_UNITS = 8
"""Features that differ by fewer units in the last place are taken for a constant."""

MAX_UNSCALED = 1e12
"""A matrix is scaled unless its largest diagonal entry is between this and its inverse:
squares, and sums of n * n of them, then stay within float32, 1e-38 to 3e38."""


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
        nothing = torch.empty(0, device="cpu")
        return cls(nothing.reshape(0, 0), nothing, nothing, nothing.double())

    @classmethod
    def concatenate(cls, parts: "Sequence[Self]") -> Self:
        """One after the other, in the widest dtype, on the device of the first."""
        home = parts[0].z.device
        columns = zip(*(part.to(home).tensors() for part in parts), strict=True)
        return cls(*map(torch.cat, columns))

    @classmethod
    def adjacent(cls, z: Tensor, groups: "Sequence[Self]") -> Self:
        """Groups of which ``z`` holds those of all, in order: it is not copied."""
        if len(groups) == 1:
            return groups[0]
        columns = zip(*(group.tensors()[1:] for group in groups), strict=True)
        return cls(z, *map(torch.cat, columns))

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
    """Packs and U-centers Gram matrices of n examples; see `packing`.

    Attributes:
        length: Numbers in a packed row, about ``n * (n + BLOCK_WIDTH) / 2``.
        padded: Length of row sums and diagonals: n, padded with zeros.
    """

    def __init__(self, n: int, device: torch.device, dtype: torch.dtype) -> None:
        count = 2 * round(n / (2 * BLOCK_WIDTH))
        self._n, self._b = n, -(-n // count)
        self._pairs = -(-n // (2 * self._b))
        self.padded = 2 * self._pairs * self._b
        self._height = self.padded + self._b
        self.length = self._pairs * self._height * self._b
        self._gather: tuple[Tensor, Tensor] | None = None
        self._places = self._place_blocks()
        if device.type == "cpu":  # elsewhere, `take` is used
            self._make_constants(dtype)

    def blocks(self, row: Tensor) -> list[Tensor]:
        """Views of the column blocks in one packed row ``(length,)``.

        The block of the columns from j on is (n - j, width), from the diagonal down.
        """
        rectangles = row.view(self._pairs, self._height, self._b)
        return [
            rectangles[pair, top : top + self._n - first, : self._n - first]
            for pair, top, first in self._places
        ]

    def center(
        self, z: Tensor, moments: Tensor, sums: Tensor | None = None
    ) -> tuple[PackedGrams, Tensor]:
        """U-center packed Gram matrices in place.

        Args:
            z: Shape ``(g, length)``: zeros except where `blocks` or `pack` wrote.
                Becomes ``z`` of the result.
            moments: Shape ``(g,)``, the part of the squared norm of the mean features
                that a shift has removed.
            sums: Shape ``(g, padded)``, row sums of the matrices if known from the
                features. Errors in them change products of U-centered matrices to
                second order only, because the rows of these sum to zero.

        Returns:
            The U-centered matrices, and the traces before centering, ``(g,)``.
        """
        diagonal = self._diagonals(z)
        rows = (self._row_sums(z) if sums is None else sums) - diagonal
        moment, trace, a = self._centers(rows, diagonal)
        largest = diagonal.amax(-1)  # before `z`, of which it may be a view, changes
        self._subtract(z, a)
        return self._packed(z, largest, trace, moment, moments), moment

    def take(
        self, grams: Tensor, z: Tensor, moments: Tensor
    ) -> tuple[PackedGrams, Tensor]:
        """U-center whole Gram matrices and pack them, in few operations.

        No matrix product is among them, so their precision is full whatever the
        settings of the process.

        Args:
            grams: Shape ``(g, n, n)``. Overwritten.
            z: Shape ``(g, length)``. Overwritten, and ``z`` of the result.
            moments: As for `center`.

        Returns:
            As `center`.
        """
        diagonal = grams.diagonal(dim1=1, dim2=2).clone()
        moment, trace, a = self._centers(grams.sum(2) - diagonal, diagonal)
        largest = diagonal.amax(-1)
        grams.sub_(a.unsqueeze(2)).sub_(a.unsqueeze(1))
        source, weights = self._sources(z)
        torch.index_select(grams.flatten(1), 1, source, out=z)
        z.mul_(weights)
        return self._packed(z, largest, trace, moment, moments), moment

    def _centers(self, rows: Tensor, diagonal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Traces before and after centering, and a, where U_ij = K_ij - a_i - a_j.

        Args:
            rows: Row sums off the diagonal. Overwritten.
            diagonal: The diagonals.
        """
        n = self._n
        total, moment = rows.sum(-1), diagonal.sum(-1)
        trace = moment - (moment + total) / n
        a = rows.sub_(total.unsqueeze(-1), alpha=0.5 / (n - 1)).div_(n - 2)
        return moment, trace, a

    def _packed(
        self,
        z: Tensor,
        largest: Tensor,
        trace: Tensor,
        moment: Tensor,
        moments: Tensor,
    ) -> PackedGrams:
        """The record of U-centered matrices, without those that are only rounding."""
        scale = _rescale(z, largest)
        norm = torch.linalg.vector_norm(z.view(len(z), -1, self._height), dim=2)
        norm = norm.to(sums_dtype(z.device)).square_().sum(1).mul_(2)
        second_moment = torch.add(moment, moments, alpha=self._n)
        smallest = (CONSTANT_UNITS * torch.finfo(z.dtype).eps) ** 2
        is_constant = trace <= second_moment.mul_(smallest)
        packed = PackedGrams(z, scale, trace, norm)
        return self._without_rounding(packed, is_constant)

    def _without_rounding(
        self, packed: PackedGrams, is_constant: Tensor
    ) -> PackedGrams:
        """Zero the matrices of which only rounding errors are left.

        They belong to constant layers, and to layers in which each example differs from
        all others in its own way: U-centering of a diagonal matrix leaves nothing.
        """
        z, scale, trace, norm = packed.tensors()
        rounding = torch.finfo(z.dtype).eps * self._n**0.5
        nothing = is_constant | (norm.sqrt().mul_(scale) <= trace * rounding)
        if z.is_cpu and not nothing.any():  # elsewhere, reading it would synchronise
            return packed
        z.masked_fill_(nothing.unsqueeze(-1), 0)
        trace, norm = trace.masked_fill(nothing, 0), norm.masked_fill(nothing, 0)
        return PackedGrams(z, scale, trace, norm)

    def _place_blocks(self) -> list[tuple[int, int, int]]:
        """Pair, row in its rectangle, and first example of each nonempty block."""
        b, last = self._b, 2 * self._pairs - 1
        places = []
        for pair in range(self._pairs):
            places.append((pair, 0, pair * b))
            places.append((pair, self.padded - pair * b, (last - pair) * b))
        return sorted((p for p in places if p[2] < self._n), key=lambda place: place[2])

    def _make_constants(self, dtype: torch.dtype) -> None:
        b, h, pairs = self._b, self._height, self._pairs
        pair, row, step = (torch.arange(size, device="cpu") for size in (pairs, h, b))
        pair = pair[:, None]
        second = row >= self.padded - pair * b  # (pairs, h): rows of the second block
        tops = torch.cat([pair * 0, self.padded - pair * b], 1)
        starts = torch.cat([pair, 2 * pairs - 1 - pair], 1) * b
        of_column = starts[..., None] + step
        on_diagonal = (pair[..., None] * h + tops[..., None] + step) * b + step
        in_diagonal_block = (row < b) | (second & (row - self.padded + pair * b < b))
        both = torch.stack([~second, second], -1)
        below = (both & ~in_diagonal_block[..., None]).mT
        # Diagonal blocks are square, so each of their pairs is stored twice.
        weights = torch.full(
            (b, b), INVERSE_SQRT2, dtype=dtype, device="cpu"
        ).fill_diagonal_(0)
        # The example to which each row, column and diagonal entry belongs.
        self._row_examples = torch.where(second, row - b, row + pair * b).flatten()
        self._column_examples = of_column.flatten()
        self._diagonal = on_diagonal.flatten()[of_column.flatten().argsort()]
        self._both, self._below = both.to(dtype), below.to(dtype)
        self._weights = weights
        self._ones = torch.ones(b, device="cpu", dtype=dtype)
        outside = torch.ones(self.length, dtype=torch.bool, device="cpu")
        for block in self.blocks(outside):
            block.fill_(False)
        self._outside = outside if bool(outside.any()) else None

    def _sources(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Where each number of a packed row is in a matrix, and its weight.

        They are made on the device of ``z``, so nothing has to be copied.
        """
        if self._gather is None:
            rows, columns, is_double = self._entries(z.device)
            is_entry = (rows < self._n) & (columns < self._n) & (rows != columns)
            source = torch.where(is_entry, rows * self._n + columns, 0)
            weights = torch.where(is_double, INVERSE_SQRT2, 1.0) * is_entry
            self._gather = source.flatten().int(), weights.flatten().to(z.dtype)
        return self._gather

    def _entries(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Row and column of each entry of a packed row; whether it is stored twice."""
        b, h, last = self._b, self._height, 2 * self._pairs - 1
        pair = torch.arange(self._pairs, device=device).view(-1, 1, 1)
        row = torch.arange(h, device=device).view(-1, 1)
        step = torch.arange(b, device=device)
        top = self.padded - pair * b
        in_second = row >= top
        rows = torch.where(in_second, row - b, row + pair * b)
        columns = torch.where(in_second, last - pair, pair) * b + step
        is_double = (row < b) | (in_second & (row < top + b))
        shape = self._pairs, h, b
        return rows.expand(shape), columns.expand(shape), is_double.expand(shape)

    def _rectangles(self, z: Tensor) -> Tensor:
        return z.view(len(z), self._pairs, self._height, self._b)

    def _diagonals(self, z: Tensor) -> Tensor:
        """The diagonals, padded with zeros to ``(g, padded)``."""
        return z.index_select(1, self._diagonal)

    def _row_sums(self, z: Tensor) -> Tensor:
        """Row sums of the symmetric matrices, ``(g, padded)``."""
        whole = self._rectangles(z)
        sums = z.new_zeros(len(z), self.padded)
        across = whole.view(-1, self._b) @ self._ones
        sums.index_add_(1, self._row_examples, across.view(len(z), -1))
        down = self._below @ whole
        return sums.index_add_(1, self._column_examples, down.view(len(z), -1))

    def _subtract(self, z: Tensor, a: Tensor) -> None:
        """Subtract ``a_i + a_j`` by one product; zero the padding and the diagonal."""
        g, b, h, pairs = len(z), self._b, self._height, self._pairs
        left = z.new_empty(g, pairs, h, 3)
        left[..., 0] = a.index_select(1, self._row_examples).view(g, pairs, h)
        left[..., 1:] = self._both
        right = z.new_ones(g, pairs, 3, b)
        right[:, :, 1:] = a.index_select(1, self._column_examples).view(g, pairs, 2, b)
        whole = z.view(g * pairs, h, b)
        whole.baddbmm_(left.view(-1, h, 3), right.view(-1, 3, b), alpha=-1)
        if self._outside is not None:
            z.masked_fill_(self._outside, 0)
        whole[:, :b] *= self._weights
        # Each second block starts one block above that of the previous pair.
        strides = z.stride(0), (h - b) * b, b, 1
        start = z.storage_offset() + self.padded * b
        z.as_strided((g, pairs, b, b), strides, start).mul_(self._weights)


class SquarePacking(Packing):
    """Packing of few examples: each matrix is one square block."""

    def __init__(self, n: int) -> None:
        self._n = self._height = self.padded = n
        self.length = n * n
        self._gather = None

    def blocks(self, row: Tensor) -> list[Tensor]:
        return [row.view(self._n, self._n)]

    def _entries(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        place = torch.arange(self._n, device=device)
        rows, columns = torch.meshgrid(place, place, indexing="ij")
        return rows, columns, torch.ones_like(rows, dtype=torch.bool)

    def _diagonals(self, z: Tensor) -> Tensor:
        return z[:, :: self._n + 1]

    def _row_sums(self, z: Tensor) -> Tensor:
        return z.view(-1, self._n, self._n).sum(-2)  # twice as fast as sum(-1)

    def _subtract(self, z: Tensor, a: Tensor) -> None:
        whole = z.view(-1, self._n, self._n)
        whole.sub_(a.unsqueeze(-1)).sub_(a.unsqueeze(-2)).mul_(INVERSE_SQRT2)
        self._diagonals(z).zero_()


@lru_cache(maxsize=8)
def packing(n: int, device: torch.device, dtype: torch.dtype) -> Packing:
    """How Gram matrices of n >= 4 examples are packed on a device."""
    return SquarePacking(n) if n <= MAX_SQUARE else Packing(n, device, dtype)


def _rescale(z: Tensor, largest: Tensor) -> Tensor:
    """Divide matrices whose squares could overflow or vanish; returns the divisors."""
    if z.is_cpu:  # elsewhere, reading the values would synchronise
        low, high = largest.aminmax()
        if 1 / MAX_UNSCALED <= low.item() <= high.item() <= MAX_UNSCALED:
            return torch.ones_like(largest)
    extreme = (largest > MAX_UNSCALED) | (largest < 1 / MAX_UNSCALED)
    scale = torch.where(extreme & (largest > 0), largest, 1.0)
    z /= scale.unsqueeze(-1)
    return scale


@lru_cache(maxsize=64)
def on_device(rows: tuple[int, ...], device: torch.device) -> Tensor:
    """Rows as a tensor, cached: copying them to a GPU would synchronise each batch."""
    return torch.tensor(rows, device=device)
