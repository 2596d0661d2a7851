"""Where Gram matrices gather during forward passes, a few layers at a time."""

import torch
from torch import Tensor

from .packing import WHOLE, PackedGrams, packing
from .precision import exact
from .products import ONEDNN_WIDTH, Shift, lower_gram, lower_product, working_dtype

SCRATCH_BYTES = 8 << 20
"""Features are shifted and multiplied in pieces of this size, on a CPU."""

SCRATCH_BYTES_GPU = 256 << 20
"""On a GPU a launch costs more than memory traffic; a split takes as much again."""

GROUP_BYTES = 4 << 20
"""Gram matrices are U-centered in groups of this size: larger ones gain nothing."""

GROUP_BYTES_GPU = 64 << 20

PADDING = 16
"""Rows a power of two apart share cache lines, which costs a fifth of the speed."""

SHIFT = 6.0
"""Features are shifted above a kappa of so many n, an error of about 3e-6."""

OUTLYING = 8.0
"""Squared distance of a poor shift from the mean, in variances; one row gives 1."""


class GramBuffer:
    """Reduces the activations of one layer after the other to packed Gram matrices.

    Memory: one packed Gram matrix a layer, one group of whole ones, and one piece of
    features. It is kept from batch to batch.

    On a CPU, shifting the features costs time, so each layer's first batch is shifted
    by its mean, and what is seen of it decides how the next one is: not at all
    where float32 does not need it (the loss is about 5e-7 kappa / n, with kappa the
    mean diagonal of the Gram matrix in root mean squares of the U-centered one), else
    by its first example, or by the mean again where that one lies far off.

    Args:
        capacity: The largest number of Gram matrices of one batch.

    Attributes:
        shifts: How each layer's features will be shifted, by number.
        count: Gram matrices of this batch so far.
    """

    def __init__(self, capacity: int) -> None:
        self.examples = 0
        self._capacity = capacity
        self.shifts: dict[int, Shift] = {}
        self._groups: dict[tuple[torch.device, torch.dtype], Group] = {}
        self.count = 0

    def begin(self, examples: int) -> None:
        """Expect the Gram matrices of a batch of so many examples."""
        if examples != self.examples:
            self._groups = {}
        self.examples = examples
        self.count = 0
        for group in self._groups.values():
            group.begin()

    def add(self, rows: Tensor, layer: int) -> int:
        """Reduce activations ``(n, p)``; returns the index of their Gram matrix."""
        index = self.count
        self.count += 1
        group, shift = self.group(rows), self.shifts.get(layer)
        try:
            group.add(rows, index, layer, shift)
        except torch.OutOfMemoryError:
            group.shrink()
            group.add(rows, index, layer, shift)
        if len(group.waiting) == group.size:
            self._flush(group)
        return index

    def again(self, rows: Tensor, layer: int, group: "Group") -> int:
        """The same for what is known to go unshifted to a group on a CPU.

        As short as can be: for small layers, what Python does takes as long as what
        torch does.
        """
        index = self.count
        self.count = index + 1
        if group.squares:
            torch.mm(rows, rows.t(), out=group.squares[len(group.indices)])
            group.indices.append(index)
            group.waiting.append(layer)
        else:
            group.multiply(rows, index, layer)
        if len(group.waiting) == group.size:
            self._flush(group)
        return index

    def group(self, rows: Tensor) -> "Group":
        """Where the Gram matrix of these activations goes."""
        key = rows.device, working_dtype(rows.dtype)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(self.examples, *key, self._capacity)
        return group

    def finish(self) -> PackedGrams:
        """The Gram matrices of the batch, in the order in which they were added.

        All go to the device of the first group, in the widest dtype.
        """
        for group in self._groups.values():
            self._flush(group)
        used = [group for group in self._groups.values() if group.indices]
        if not used:
            return PackedGrams.empty()
        parts = [group.packed() for group in used]
        if len(parts) == 1:
            return parts[0]
        order = torch.tensor([i for group in used for i in group.indices]).argsort()
        return PackedGrams.concatenate(parts)[order.to(parts[0].z.device)]

    def release(self) -> None:
        """Give the memory back."""
        self._groups = {}

    def _flush(self, group: "Group") -> None:
        """U-center what has gathered, and learn from it."""
        pending = group.waiting
        if not pending:
            return
        with exact(group.device):
            packed, moment, raw = group.center()
        if group.on_cpu:
            self._decide(pending, packed, moment, raw)

    def _decide(
        self, layers: list[int], packed: PackedGrams, moment: Tensor, raw: Tensor
    ) -> None:
        """How to shift these layers' features from the next batch on."""
        n = self.examples
        kappa = raw / (packed.scale * packed.norm.sqrt())
        known = {self.shifts.get(layer) for layer in layers}
        if known == {"none"} and (kappa < 2 * SHIFT * n).all():
            return
        # Squared distance of the shift from the mean, in variances.
        offsets = moment / packed.trace - 1
        both = zip(kappa.tolist(), offsets.tolist(), strict=True)
        for layer, (k, offset) in zip(layers, both, strict=True):
            shift = self.shifts.get(layer)
            if shift is None and k < SHIFT * n:
                self.shifts[layer] = "none"
            elif shift is None and not k < float("inf"):
                continue  # constant so far
            elif shift in (None, "row"):
                self.shifts[layer] = "mean" if offset > OUTLYING else "row"
            elif shift == "none" and not k < 2 * SHIFT * n:
                self.shifts[layer] = "row"


class Group:
    """The Gram matrices of one device and dtype; the last few wait to be U-centered.

    Attributes:
        indices: Which of the batch's matrices they are.
        waiting: Layers of those that are not U-centered yet.
        size: So many are U-centered together.
        squares: Where whole matrices go, on a CPU; empty if they go there in blocks.
    """

    def __init__(
        self, examples: int, device: torch.device, dtype: torch.dtype, capacity: int
    ) -> None:
        self.device, self._dtype = device, dtype
        self.on_cpu = device.type == "cpu"
        self._examples = examples
        of_scratch = SCRATCH_BYTES if self.on_cpu else SCRATCH_BYTES_GPU
        self._packing = packing(examples, device, dtype)
        length = self._packing.length
        self.size = _group_size(length * dtype.itemsize, capacity, on_cpu=self.on_cpu)
        self._step = max(256, of_scratch // (examples * dtype.itemsize))
        self._z = torch.zeros(capacity, length, dtype=dtype, device=device)
        self._whole: Tensor | None = None
        if not self.on_cpu and examples > WHOLE:
            self._whole = self._z.new_empty(self.size, examples, examples)
        self.squares: list[Tensor] = []
        if self.on_cpu and examples <= WHOLE:
            self.squares = list(self._z.view(capacity, examples, examples))
        self._places: list[list[Tensor]] = []
        self._scratch = self._z.new_empty(0)
        self._widths: dict[int, Tensor] = {}
        self._of_trace, self._of_mean = self._z.new_zeros(2, self.size).unbind()
        self._has_moments = False
        self._sums = self._z.new_zeros(self.size, self._packing.padded)
        self.begin()

    def begin(self) -> None:
        """Begin a batch."""
        self.indices: list[int] = []
        self.waiting: list[int] = []
        self._summed = 0
        self._done: list[PackedGrams] = []

    def add(self, rows: Tensor, index: int, layer: int, shift: Shift | None) -> None:
        """Take the Gram matrix of these activations; None has not been decided yet."""
        if shift == "none" and rows.dtype is self._dtype:
            self.multiply(rows, index, layer)
            return
        slot, blocks = len(self.waiting), self._place()
        if self.on_cpu and shift is not None:
            lower_gram(rows, blocks, self._room(rows), shift)
        else:
            self._has_moments = True
            if self.on_cpu:
                self._of_trace[slot] = _second_moment(rows)
            moment = lower_gram(rows, blocks, self._room(rows), "mean")
            self._of_mean[slot] = 0 if moment is None else moment
        self.indices.append(index)
        self.waiting.append(layer)

    def multiply(self, rows: Tensor, index: int, layer: int) -> None:
        """Take the Gram matrix of these activations as they are, in our dtype."""
        lower_product(rows, self._place(), first=True)
        if self._examples > WHOLE and self._examples >= rows.shape[1]:
            # Narrow features are read sooner than the matrix of their products.
            sums = self._sums[len(self.waiting), : self._examples]
            torch.mv(rows, rows.sum(0), out=sums)
            self._summed += 1
        self.indices.append(index)
        self.waiting.append(layer)

    def center(self) -> tuple[PackedGrams, Tensor, Tensor]:
        """U-center those; also their second moments, as shifted and as given."""
        count = len(self.waiting)
        z = self._z[len(self.indices) - count : len(self.indices)]
        if self._whole is not None:
            self._packing.take(self._whole[:count], z)
        sums = self._sums[:count] if self._summed == count else None
        packed, moment = self._packing.center(z, self._of_mean[:count], sums)
        raw = moment
        if self._has_moments:
            if self.on_cpu:
                known = self._of_trace[:count]
                raw = torch.where(known > 0, known, moment)
            self._of_trace.zero_()
            self._of_mean.zero_()
            self._has_moments = False
        self._done.append(packed)
        self.waiting = []
        self._summed = 0
        return packed, moment, raw

    def packed(self) -> PackedGrams:
        """All of the batch."""
        done = self._done
        return PackedGrams(
            self._z[: len(self.indices)],  # in place, so not copied
            scale=torch.cat([part.scale for part in done]),
            trace=torch.cat([part.trace for part in done]),
            norm=torch.cat([part.norm for part in done]),
        )

    def shrink(self) -> None:
        """Work in pieces half as large, after running out of memory."""
        self._step = max(256, self._step // 2)
        self._scratch = self._scratch.new_empty(0)
        self._widths = {}
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _place(self) -> list[Tensor]:
        """Where the next Gram matrix goes."""
        whole = self._whole
        slot = len(self.indices if whole is None else self.waiting)
        if slot == len(self._places):
            self._places.append(
                self._packing.blocks(self._z[slot]) if whole is None else [whole[slot]]
            )
        return self._places[slot]

    def _room(self, rows: Tensor) -> Tensor:
        """The buffer for one piece of these features."""
        width = min(rows.shape[1], self._step)
        room = self._widths.get(width)
        if room is None:
            # oneDNN wants whole rows, and pads them itself.
            stride = width if width >= ONEDNN_WIDTH else width + PADDING
            if len(self._scratch) < len(rows) * stride:
                self._scratch = self._scratch.new_empty(len(rows) * stride)
                self._widths = {}
            whole = self._scratch[: len(rows) * stride].view(len(rows), stride)
            room = self._widths[width] = whole[:, :width]
        return room


def held(examples: int, capacity: int, *, on_cpu: bool) -> int:
    """Bytes that a `GramBuffer` holds of float32 Gram matrices, packed and whole."""
    length = packing(examples, torch.device("cpu"), torch.float32).length
    numbers = capacity * length
    if not on_cpu and examples > WHOLE:
        group = _group_size(length * 4, capacity, on_cpu=on_cpu)
        numbers += group * examples**2
    return 4 * numbers


def _group_size(nbytes: int, capacity: int, *, on_cpu: bool) -> int:
    """How many Gram matrices of so many bytes wait to be U-centered together."""
    of_group = GROUP_BYTES if on_cpu else GROUP_BYTES_GPU
    return min(max(1, of_group // nbytes), capacity)


def _second_moment(rows: Tensor) -> Tensor:
    """Trace of the Gram matrix of features as they are."""
    dtype = working_dtype(rows.dtype)
    norm: Tensor = torch.linalg.vector_norm(rows, dtype=dtype)
    return norm.square()
