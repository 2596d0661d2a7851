"""Gathers the Gram matrices of one batch during the forward passes."""

from math import inf

import torch
from torch import Tensor

from .cpu_buffer import CpuBuffer
from .gpu_buffer import GpuBuffer, gpu_bytes
from .gpu_products import HALF_TYPES
from .packing import PackedGrams, on_device, packing
from .precision import outside_inference_mode, undisturbed
from .products import Shift, working_dtype
from .readback import Readback, is_recorded

EARLY = 2
"""Batches in which values may be read from a GPU, which waits for it."""

MAX_READING = 64
"""Maximum number of groups whose numbers are being copied from a GPU."""

MAX_KAPPA = 6.0
"""Features are shifted if kappa exceeds this multiple of n. Without a shift, CKA is off
by at most about 3e-7 + 5e-7 kappa / n: 3e-6 here, and 6e-6 at twice this value, where a
layer that went unshifted is shifted again; 1e-5 is allowed."""

FLOAT32_MOMENTS = 1e-24, 1e34
"""Between these second moments, entries of a Gram matrix that are a millionth of its
diagonal stay above 1e-38, and sums of them below 3e38."""

MAX_FEATURE = 1e30
"""Larger features leave float64 when h, a product of four of them, is squared."""

MAX_OFFSET = 8.0
"""Features are shifted by their first example unless its squared distance from the
mean, in variances, exceeds this; 1 on average. The second moment, and with it the
float32 error, is at most 1 + 8 = 9 times that of features shifted by the mean."""


class GramBuffer:
    """Reduces activations to packed Gram matrices, one layer after the other.

    Memory: one packed Gram matrix per layer, one group of unpacked ones on a GPU, and
    one piece of features. All of it is reused from batch to batch.

    A shift of the features changes no U-centered Gram matrix, but takes time. A layer
    is shifted by its mean in its first batch, and each batch decides about the next
    one: no shift if float32 does not need one, else the first example, or the mean if
    that example is far from it. Float32 needs a shift if kappa is large: the mean of
    the Gram matrix's diagonal, in root mean squares of the U-centered matrix. On CUDA
    the numbers are read a batch or more later, so that nothing waits for the device.
    On other GPUs, which cannot do so, the mean is always used.

    Args:
        capacity: The largest number of Gram matrices of one batch.
        widest: Features of the widest layer, if known.

    Attributes:
        shifts: How the features of each layer will be shifted, by its number.
        examples: Number of examples in this batch.
        count: Gram matrices of this batch so far.
    """

    def __init__(self, capacity: int, widest: int = 0) -> None:
        self.examples = 0
        self.count = 0
        self.shifts: dict[int, Shift] = {}
        self._capacity, self._widest = capacity, widest
        self._parts: dict[tuple[torch.device, torch.dtype], Part] = {}
        self._batches = 0
        self._reading: list[tuple[dict[int, Shift | None], Readback]] = []

    def begin(self, examples: int) -> None:
        """Expect the Gram matrices of a batch of ``examples`` examples."""
        if examples != self.examples:
            self._parts, self._reading = {}, []
        self.examples = examples
        self.count = 0
        self._batches += 1
        if not any(is_recorded(part.device) for part in self._parts.values()):
            self._learn_later()
        for part in self._parts.values():
            part.begin()

    def add(self, rows: Tensor, layer: int) -> int:
        """Reduce activations ``(n, p)``; returns the index of their Gram matrix."""
        if torch.is_inference_mode_enabled():
            with outside_inference_mode():
                return self.add(rows, layer)
        index = self.count
        self.count += 1
        shift, raw = self.shifts.get(layer), None
        if shift in (None, "wide") and rows.device.type in ("cpu", "cuda"):
            raw = _second_moment(rows)
            if shift == "wide" or (
                self._may_wait(rows.device) and _exceeds_float32(rows, float(raw))
            ):
                self.shifts[layer] = "wide"
                rows, shift = rows.double(), None
                raw = _second_moment(rows)
        part = self.part_for(rows)
        while not _has_added(part, rows, index, layer, shift, raw):
            # Outside of the `except` clause, whose traceback would keep memory.
            part.shrink()
        if len(part.waiting) == part.group_size:
            self._flush(part)
        return index

    def add_unshifted(self, rows: Tensor, layer: int, part: "Part") -> int:
        """`add` for a layer known to be unshifted.

        As short as possible: for small layers, Python takes as long as the product.
        """
        index = self.count
        self.count = index + 1
        if part.squares:
            torch.mm(rows, rows.t(), out=part.squares[len(part.indices)])
            part.indices.append(index)
            part.waiting.append(layer)
        else:
            part.add_unshifted(rows, index, layer)
        if len(part.waiting) == part.group_size:
            with outside_inference_mode():
                self._flush(part)
        return index

    def part_for(self, rows: Tensor) -> "Part":
        """The part for Gram matrices of these activations."""
        key = rows.device, working_dtype(rows.dtype)
        part = self._parts.get(key)
        if part is None:
            of_batch = self.examples, *key, self._capacity
            if rows.is_cpu:
                part = CpuBuffer(*of_batch)
            else:
                part = GpuBuffer(*of_batch, self._widest)
            self._parts[key] = part
        return part

    def finish(self) -> PackedGrams:
        """The Gram matrices of the batch, in the order in which they were added.

        All go to the device of the first part, in the widest dtype.
        """
        for part in self._parts.values():
            self._flush(part)
        used = [part for part in self._parts.values() if part.indices]
        if not used:
            return PackedGrams.empty()
        packed = [part.packed() for part in used]
        if len(packed) == 1:
            return packed[0]
        indices = [i for part in used for i in part.indices]
        order = sorted(range(len(indices)), key=indices.__getitem__)
        home = packed[0].z.device
        return PackedGrams.concatenate(packed)[on_device(tuple(order), home)]

    def release(self) -> None:
        """Free the memory."""
        self._parts, self._reading = {}, []

    def _may_wait(self, device: torch.device) -> bool:
        """Whether a value may be read from a device: on a GPU only at first."""
        return device.type == "cpu" or self._batches <= EARLY

    def _flush(self, part: "Part") -> None:
        """U-center the group that is waiting, and learn how to shift its layers."""
        layers = part.waiting
        if not layers:
            return
        with undisturbed(part.device):
            packed, moment, raw = part.center()
        if not part.learns or is_recorded(part.device):
            return
        kappa = raw / (packed.scale * packed.norm.sqrt())
        shifts = {layer: self.shifts.get(layer) for layer in layers}
        if not part.on_cpu:
            self._reading.append((shifts, Readback(kappa, moment / packed.trace - 1)))
            if self._may_wait(part.device):
                self._learn_later(wait=True)
            return
        known = set(shifts.values()) == {"none"}
        if known and (kappa < 2 * MAX_KAPPA * self.examples).all():
            return
        self._learn_shifts(shifts, kappa, moment / packed.trace - 1)

    def _learn_later(self, *, wait: bool = False) -> None:
        """Learn from the numbers of a GPU that have arrived.

        Args:
            wait: Whether to wait for them.
        """
        reading, self._reading = self._reading, []
        for shifts, readback in reading:
            if wait or readback.is_ready:
                self._learn_shifts(shifts, *readback.values())
            elif len(self._reading) < MAX_READING:
                self._reading.append((shifts, readback))

    def _learn_shifts(
        self, shifts: dict[int, Shift | None], kappa: Tensor, offset: Tensor
    ) -> None:
        """Decide how to shift layers from the next batch on.

        Args:
            shifts: How they were shifted. A layer about which an earlier batch has
                decided since is left alone.
            kappa: See the class.
            offset: Squared distance of the shift from the mean, in variances.
        """
        limit = MAX_KAPPA * self.examples
        values = zip(shifts.items(), kappa.tolist(), offset.tolist(), strict=True)
        for (layer, before), k, distance in values:
            shift = _next_shift(before, k, limit, distance)
            if shift is not None and self.shifts.get(layer) == before:
                self.shifts[layer] = shift


Part = CpuBuffer | GpuBuffer


def _has_added(
    part: Part,
    rows: Tensor,
    index: int,
    layer: int,
    shift: Shift | None,
    raw: Tensor | None,
) -> bool:
    """Add to a part; False if memory ran out, but smaller pieces may fit.

    Raises:
        torch.OutOfMemoryError: If the pieces cannot be smaller.
    """
    try:
        part.add(rows, index, layer, shift, raw)
    except torch.OutOfMemoryError:
        if not part.can_shrink:
            raise
        return False
    return True


def buffer_bytes(
    examples: int, capacity: int, device: torch.device, widest: int = 0
) -> int:
    """Bytes of a `GramBuffer` of float32 matrices, with the scratch memory of a GPU.

    Args:
        examples: Number of examples n.
        capacity: Number of Gram matrices.
        device: Where they are.
        widest: Features of the widest layer.
    """
    length = packing(examples, torch.device("cpu"), torch.float32).length
    nbytes = 4 * capacity * length
    if device.type == "cpu":
        return nbytes
    return nbytes + gpu_bytes(examples, capacity, widest)


def _next_shift(
    shift: Shift | None, kappa: float, limit: float, offset: float
) -> Shift | None:
    """How to shift a layer from the next batch on; None is still to be decided.

    Args:
        shift: How it was shifted; None in its first batch.
        kappa: See `GramBuffer`.
        limit: The largest kappa of features that are not shifted.
        offset: Squared distance of the shift from the mean, in variances.
    """
    if shift is None and kappa < limit:
        return "none"
    if shift is None and not kappa < inf:  # constant in this batch
        return None
    if shift in (None, "row"):
        return "mean" if offset > MAX_OFFSET else "row"
    if shift == "none" and not kappa < 2 * limit:
        return "row"
    return shift


def _exceeds_float32(rows: Tensor, raw: float) -> bool:
    """Whether products of these features are too small or too large for float32.

    Args:
        rows: The features.
        raw: Their second moment.
    """
    low, high = FLOAT32_MOMENTS
    if rows.dtype == torch.float64 or low < raw < high:
        return False
    return 0 < float(torch.linalg.vector_norm(rows, inf)) < MAX_FEATURE


def is_unshifted_type(rows: Tensor) -> bool:
    """Whether activations of this type and device are ever multiplied as they are."""
    kind, dtype = rows.device.type, rows.dtype
    is_exact = working_dtype(dtype) is dtype
    return (kind == "cpu" and is_exact) or (
        kind == "cuda" and (is_exact or dtype in HALF_TYPES)
    )


def _second_moment(rows: Tensor) -> Tensor:
    """Trace of the Gram matrix of features as they are."""
    dtype = working_dtype(rows.dtype)
    norm: Tensor = torch.linalg.vector_norm(rows, dtype=dtype)
    return norm.square()
