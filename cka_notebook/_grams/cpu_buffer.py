"""Gathers the Gram matrices of one batch on a CPU."""

import torch
from torch import Tensor

from .moments import Moments
from .packing import MAX_SQUARE, PackedGrams, packing
from .products import ONEDNN_WIDTH, Shift, lower_gram, lower_product

SCRATCH_BYTES = 8 << 20
"""Features are shifted and multiplied in pieces of this size on a CPU."""

GROUP_BYTES = 4 << 20
"""Gram matrices are U-centered in groups of this size: larger groups gain nothing."""

MIN_STEP = 256
"""Minimum number of features in a piece."""

PADDING = 16
"""Numbers between rows of the scratch buffer: rows a power of two apart share cache
lines, which costs a fifth of the speed."""


class CpuBuffer:
    """The part of a `GramBuffer` for the CPU and one dtype.

    Its last few Gram matrices wait to be U-centered as one group.

    Attributes:
        device: The CPU.
        on_cpu: True.
        learns: True: how to shift a layer.
        group_size: Number of matrices that are U-centered together.
        indices: Indices of its matrices among those of the batch.
        waiting: Layers of the matrices that are not yet U-centered.
        squares: Places of square matrices; empty if they are made in blocks.
    """

    on_cpu = learns = True

    def __init__(
        self, examples: int, device: torch.device, dtype: torch.dtype, capacity: int
    ) -> None:
        self.device, self._dtype = device, dtype
        self._examples = examples
        self._packing = packing(examples, device, dtype)
        length = self._packing.length
        nbytes = length * dtype.itemsize
        self.group_size = min(max(1, GROUP_BYTES // nbytes), capacity)
        self._z = torch.zeros(capacity, length, dtype=dtype, device=device)
        self.squares: list[Tensor] = []
        if examples <= MAX_SQUARE:
            self.squares = list(self._z.view(capacity, examples, examples))
        self._blocks: list[list[Tensor]] = []
        self._step = max(MIN_STEP, SCRATCH_BYTES // (examples * dtype.itemsize))
        self._scratch = self._z.new_empty(0)
        self._pieces: dict[int, Tensor] = {}
        self._moments = Moments(self._z, self.group_size)
        self._row_sums = self._z.new_zeros(self.group_size, self._packing.padded)
        self.begin()

    def begin(self) -> None:
        """Start a new batch."""
        self.indices: list[int] = []
        self.waiting: list[int] = []
        self._summed = 0
        self._done: list[PackedGrams] = []

    def add(
        self,
        rows: Tensor,
        index: int,
        layer: int,
        shift: Shift | None,
        raw: Tensor | None = None,
    ) -> None:
        """Add the Gram matrix of activations.

        Args:
            rows: The activations, ``(n, p)``.
            index: Index of their Gram matrix in the batch.
            layer: Their layer.
            shift: How to shift them; None if not yet decided.
            raw: Their second moment, if known.
        """
        if shift == "none" and rows.dtype is self._dtype:
            self.add_unshifted(rows, index, layer)
            return
        slot, blocks = len(self.waiting), self._next_blocks()
        if shift is not None:
            lower_gram(rows, blocks, self._piece_for(rows), shift)
        else:
            moment = lower_gram(rows, blocks, self._piece_for(rows), "mean")
            self._moments.note(slot, raw, moment)
        self.indices.append(index)
        self.waiting.append(layer)

    def add_unshifted(self, rows: Tensor, index: int, layer: int) -> None:
        """Add the Gram matrix of activations as they are, in the dtype of this part."""
        lower_product(rows, self._next_blocks(), first=True)
        if self._examples > MAX_SQUARE and self._examples >= rows.shape[1]:
            # Summing narrow features is faster than summing rows of their Gram matrix.
            sums = self._row_sums[len(self.waiting), : self._examples]
            torch.mv(rows, rows.sum(0), out=sums)
            self._summed += 1
        self.indices.append(index)
        self.waiting.append(layer)

    def center(self) -> tuple[PackedGrams, Tensor, Tensor]:
        """U-center the group.

        Returns:
            The Gram matrices, and their traces before U-centering, ``(g,)``: of the
            features as shifted, and of the features as given.
        """
        count, stop = len(self.waiting), len(self.indices)
        z = self._z[stop - count : stop]
        sums = self._row_sums[:count] if self._summed == count else None
        packed, moment = self._packing.center(z, self._moments.means[:count], sums)
        raw = self._moments.take(moment)
        self._done.append(packed)
        self.waiting = []
        self._summed = 0
        return packed, moment, raw

    def packed(self) -> PackedGrams:
        """All U-centered matrices of the batch."""
        return PackedGrams.adjacent(self._z[: len(self.indices)], self._done)

    @property
    def can_shrink(self) -> bool:
        """Whether it can work in smaller pieces."""
        return self._step > MIN_STEP

    def shrink(self) -> None:
        """Work in pieces of half the size, after running out of memory."""
        self._step = max(MIN_STEP, self._step // 2)
        self._scratch = self._scratch.new_empty(0)
        self._pieces = {}

    def _next_blocks(self) -> list[Tensor]:
        """Where the next Gram matrix goes."""
        slot = len(self.indices)
        if slot == len(self._blocks):
            self._blocks.append(self._packing.blocks(self._z[slot]))
        return self._blocks[slot]

    def _piece_for(self, rows: Tensor) -> Tensor:
        """Scratch memory for one piece of these features, ``(n, width)``."""
        width = min(rows.shape[1], self._step)
        piece = self._pieces.get(width)
        if piece is None:
            # oneDNN needs contiguous rows, and pads them itself.
            stride = width if width >= ONEDNN_WIDTH else width + PADDING
            if len(self._scratch) < len(rows) * stride:
                self._scratch = self._scratch.new_empty(len(rows) * stride)
                self._pieces = {}
            padded = self._scratch[: len(rows) * stride].view(len(rows), stride)
            piece = self._pieces[width] = padded[:, :width]
        return piece
