"""Gathers the Gram matrices of one batch on a GPU, in few operations a layer.

There, a launch costs more than the memory traffic of a small layer, and traffic more
than arithmetic for a large one. So small layers wait and are multiplied together, large
ones are read as few times as possible, and all are U-centered in groups.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .gpu_products import (
    FLOAT32_EXAMPLES,
    HALF_TYPES,
    FusedProduct,
    Product,
    Scratch,
    SplitProduct,
    aligned,
    double_product,
    fastest,
    half_product,
    halves_times_each,
    has_fused,
    multiplies_halves,
    plain_product,
    split_into,
)
from .moments import Moments
from .packing import PackedGrams, on_device, packing
from .precision import outside_inference_mode, reduces_float32
from .products import Shift, shifted

SCRATCH_BYTES = 128 << 20
"""Large layers are shifted and split in pieces that fit into this memory."""

GROUP_BYTES = 64 << 20
"""Gram matrices that wait to be U-centered take about this much."""

SMALL_LAYER = 1 << 18
"""Up to this size, multiplying a layer takes less time than launching the product: it
waits, and is multiplied with others of its width."""

STACK_BYTES = 16 << 20
"""Layers of one width that wait take at most this much."""

MAX_STACKS = 8
"""Maximum number of widths for which layers wait."""

_timed: dict[tuple[torch.device, int, int, bool], str] = {}
"""By device, examples, power of two of the features, and whether float32 products may
be TF32: the fastest product."""


@dataclass(slots=True)
class Stack:
    """Small layers of one width, which wait to be multiplied together.

    Attributes:
        places: Where their features go, ``(k, n, p)``.
        slots: The slots of their Gram matrices in the group.
    """

    places: Tensor
    slots: list[int] = field(default_factory=list)


class GpuBuffer:
    """The part of a `GramBuffer` for one GPU and dtype.

    A Gram matrix is a sum, see `Product`; the last few wait to be U-centered as one
    group.

    Args:
        examples: Number of examples n.
        device: The GPU.
        dtype: Float32 or float64.
        capacity: The largest number of Gram matrices of one batch.
        widest: Features of the widest layer, if known: memory grows otherwise.

    Attributes:
        device: The GPU.
        on_cpu: False.
        learns: Whether it can tell how to shift a layer without waiting.
        group_size: Number of matrices that are U-centered together.
        indices: Indices of its matrices among those of the batch.
        waiting: Layers of the matrices that are not yet U-centered.
        squares: Empty, since no matrix is made in its final place.
    """

    on_cpu = False

    def __init__(
        self,
        examples: int,
        device: torch.device,
        dtype: torch.dtype,
        capacity: int,
        widest: int = 0,
    ) -> None:
        self.device, self._dtype, self._n = device, dtype, examples
        self.learns = device.type == "cuda"
        self._packing = packing(examples, device, dtype)
        self.group_size = group_size(examples, capacity)
        length = self._packing.length
        self._z = torch.empty(capacity, length, dtype=dtype, device=device)
        self._halves = dtype == torch.float32 and multiplies_halves(device)
        height = 2 * examples if self._halves else examples
        self._sums = self._z.new_zeros(self.group_size, height, examples)
        self._slots: list[Tensor] = list(self._sums)
        self._moments = Moments(self._z, self.group_size)
        # Slots of which the lower half of the sum may hold anything but zeros.
        self._split: set[int] = set()
        self.squares: list[Tensor] = []
        self._stacks: dict[int, Stack] = {}
        self._scratch = Scratch(device, examples, SCRATCH_BYTES)
        if widest:
            self._scratch.width(widest, 2 * dtype.itemsize)
        self._products: dict[str, Product] = {
            "plain": plain_product,
            "split": SplitProduct(self._scratch),
            "double": double_product,
            "fused": FusedProduct(self._scratch),
        }
        self._fused_shifted = FusedProduct(self._scratch, shifted=True)
        self._chosen: dict[int, str] = {}
        self._reduces = False
        self.begin()

    def begin(self) -> None:
        """Start a new batch."""
        self.indices: list[int] = []
        self.waiting: list[int] = []
        self._done: list[PackedGrams] = []
        reduces = self.learns and self._dtype == torch.float32
        reduces = reduces and reduces_float32("cuda")
        if reduces is not self._reduces:
            self._reduces, self._chosen = reduces, {}
        for stack in self._stacks.values():
            stack.slots.clear()

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
        slot = len(self.waiting)
        if shift == "none":
            self._add_unshifted(rows, slot)
        elif shift == "row" and self._is_small(rows):
            self._gather(rows, slot, shift)
        elif shift == "row" and self._name_for(rows.shape[1]) == "fused":
            self._fused_shifted(rows, self._upper(slot), True)
        elif shift == "row":
            self._add_pieces(rows, slot, by_mean=False)
        else:
            if shift is None:
                self._time_products(rows, slot)
            moment = self._add_pieces(rows, slot, by_mean=True)
            if shift is None:
                self._moments.note(slot, raw, moment)
        self.indices.append(index)
        self.waiting.append(layer)

    def add_unshifted(self, rows: Tensor, index: int, layer: int) -> None:
        """Add the Gram matrix of activations as they are."""
        self._add_unshifted(rows, len(self.waiting))
        self.indices.append(index)
        self.waiting.append(layer)

    def center(self) -> tuple[PackedGrams, Tensor, Tensor]:
        """U-center the group.

        Returns:
            The Gram matrices, and their traces before U-centering, ``(g,)``: of the
            features as shifted, and of the features as given.
        """
        for stack in self._stacks.values():
            self._multiply(stack)
        count, stop = len(self.waiting), len(self.indices)
        sums = self._sums[:count]
        grams = sums[:, : self._n]
        split = self._split.intersection(range(count))
        if split:
            mixed = sums[:, self._n :]
            grams.add_(mixed).add_(mixed.mT)
            if len(split) < count:
                mixed.zero_()
                self._split -= split
        z = self._z[stop - count : stop]
        packed, moment = self._packing.take(grams, z, self._moments.means[:count])
        raw = self._moments.take(moment)
        self._done.append(packed)
        self.waiting = []
        return packed, moment, raw

    def packed(self) -> PackedGrams:
        """All U-centered matrices of the batch."""
        return PackedGrams.adjacent(self._z[: len(self.indices)], self._done)

    @property
    def can_shrink(self) -> bool:
        """Whether it can work in smaller pieces."""
        return self._scratch.can_shrink

    def shrink(self) -> None:
        """Work in smaller pieces, after running out of memory."""
        self._scratch.shrink()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _is_small(self, rows: Tensor) -> bool:
        """Whether a layer is to wait for others."""
        return rows.numel() <= SMALL_LAYER and (
            rows.shape[1] in self._stacks or len(self._stacks) < MAX_STACKS
        )

    def _add_unshifted(self, rows: Tensor, slot: int) -> None:
        if rows.dtype in HALF_TYPES:
            if not self._halves:
                self._add_pieces(rows, slot, by_mean=None)
                return
            half_product(rows, self._upper(slot), True)
        elif self._is_small(rows):
            self._gather(rows, slot, "none")
        else:
            self._product(slot, rows.shape[1])(rows, self._slots[slot], True)

    def _add_pieces(
        self, rows: Tensor, slot: int, *, by_mean: bool | None
    ) -> Tensor | None:
        """Shift the features, by their mean, their first row or nothing, and multiply.

        Returns:
            ``sum(mean ** 2)`` if the shift is the mean.
        """
        n, width, itemsize = len(rows), rows.shape[1], self._dtype.itemsize
        step = self._scratch.width(width, 2 * itemsize)
        product = self._product_of_piece(slot, width, n * aligned(step) * itemsize)
        moment = self._z.new_zeros(()) if by_mean else None
        for start in range(0, width, step):
            part = rows[:, start : start + step]
            piece = self._scratch.part(n, part.shape[1], self._dtype)
            if by_mean is None:
                piece.copy_(part)
            else:
                point = part.mean(0, dtype=self._dtype) if by_mean else part[0]
                shifted(part, point, piece)
                if moment is not None:
                    moment += torch.dot(point, point)
            product(piece, self._slots[slot], start == 0)
        return moment

    def _product_of_piece(self, slot: int, width: int, after: int) -> Product:
        """The product of shifted pieces, whose halves follow them in the scratch."""
        product = self._product(slot, width)
        is_split = product is self._products["split"]
        return SplitProduct(self._scratch, after) if is_split else product

    def _product(self, slot: int, width: int) -> Product:
        """The product for layers of a width; the slot is ready for it."""
        name = self._name_for(width)
        if name == "split":
            self._split.add(slot)
        else:
            self._upper(slot)
        return self._products[name]

    def _upper(self, slot: int) -> Tensor:
        """The sums of a slot, of which only the upper half is to count."""
        if slot in self._split:
            self._split.discard(slot)
            self._slots[slot][self._n :].zero_()
        return self._slots[slot]

    def _name_for(self, width: int) -> str:
        """Name of the product for a width: the fastest one timed, or by rule."""
        name = self._chosen.get(width) or _timed.get(self._key(width))
        if name is None:
            exact = self._exact_products()
            wide = self._n > FLOAT32_EXAMPLES and "split" in exact
            name = "split" if wide else exact[0]
        self._chosen[width] = name
        return name

    def _exact_products(self) -> list[str]:
        """Names of the products that are exact under the user's settings."""
        if not self._halves:
            return ["double" if self._reduces else "plain"]
        fused = ["fused"] if has_fused(self.device) else []
        return [*([] if self._reduces else ["plain"]), "split", *fused]

    def _key(self, width: int) -> tuple[torch.device, int, int, bool]:
        return self.device, self._n, width.bit_length(), self._reduces

    def _time_products(self, rows: Tensor, slot: int) -> None:
        """Find the fastest product for such layers on one of them, once a process."""
        names, key = self._exact_products(), self._key(rows.shape[1])
        is_small = rows.numel() <= SMALL_LAYER
        if len(names) < 2 or key in _timed or is_small or rows.dtype != self._dtype:
            return
        found = fastest([self._products[x] for x in names], rows, self._slots[slot])
        _timed[key] = next(x for x in names if self._products[x] is found)
        self._split.add(slot)  # whose lower half the trial may have filled

    def _gather(self, rows: Tensor, slot: int, shift: Shift) -> None:
        """Let a small layer wait for others of its width."""
        n, width = rows.shape
        stack = self._stacks.get(width)
        if stack is None:
            size = max(1, STACK_BYTES // (n * width * self._dtype.itemsize))
            with outside_inference_mode():
                places = self._z.new_empty(min(size, self.group_size), n, width)
            stack = self._stacks[width] = Stack(places)
        place = stack.places[len(stack.slots)]
        if shift == "none":
            place.copy_(rows)
        else:
            shifted(rows, rows[0], place)
        stack.slots.append(slot)
        if len(stack.slots) == len(stack.places):
            self._multiply(stack)

    def _multiply(self, stack: Stack) -> None:
        """Multiply the layers of a stack."""
        slots = stack.slots
        if not slots:
            return
        stack.slots = []
        x, count = stack.places[: len(slots)], len(slots)
        is_split = self._halves and self._reduces
        if is_split:
            self._split.update(slots)
        else:
            for slot in self._split.intersection(slots):
                self._upper(slot)
        sums = self._sums if is_split else self._sums[:, : self._n]
        multiply = _split_products if is_split else self._whole_products
        if slots[-1] - slots[0] == count - 1:
            multiply(x, sums[slots[0] : slots[0] + count])
        else:
            made = multiply(x, sums.new_empty(count, *sums.shape[1:]))
            sums.index_copy_(0, on_device(tuple(slots), self.device), made)

    def _whole_products(self, x: Tensor, out: Tensor) -> Tensor:
        if self._reduces:
            wide = x.double()
            return out.copy_(wide @ wide.mT)
        torch.bmm(x, x.mT, out=out)
        return out


def _split_products(x: Tensor, out: Tensor) -> Tensor:
    count, n, width = x.shape
    halves = x.new_empty(count, 2 * n, width, dtype=torch.bfloat16)
    split_into(x, halves)
    halves_times_each(halves, out)
    return out


def gpu_bytes(examples: int, capacity: int, widest: int) -> int:
    """Bytes of a `GpuBuffer` of float32 matrices beside the packed ones."""
    waiting = group_size(examples, capacity) * 8 * examples**2
    return waiting + min(SCRATCH_BYTES, 8 * examples * widest)


def group_size(examples: int, capacity: int) -> int:
    """How many Gram matrices wait for their U-centering on a GPU."""
    return min(max(1, GROUP_BYTES // (8 * examples**2)), capacity)
