"""Where Gram matrices gather during a forward pass, a few layers at a time."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import hsic

if TYPE_CHECKING:
    from collections.abc import Sequence

SCRATCH_BYTES = 8 << 20
"""Features are shifted and multiplied in pieces of this size, on a CPU."""

SCRATCH_BYTES_GPU = 512 << 20
"""On a GPU a launch costs more than memory traffic."""

GROUP_BYTES = 1 << 20
"""Gram matrices are U-centered in groups of this size, which stay in a core's cache."""

GROUP_BYTES_GPU = 64 << 20

PADDING = 16
"""Rows a power of two apart share cache lines, which costs a fifth of the speed."""

SHIFT = 3.0
"""Features are shifted above a kappa of so many n, an error of about 2e-6."""

OUTLYING = 8.0
"""Squared distance of a poor shift from the mean, in variances; one row gives 1."""


@dataclass(slots=True)
class Grams:
    """What one forward pass of one model gave.

    Attributes:
        z: Packed U-centered Gram matrices, ``(u, m)``; equal tensors share one.
        scales: Scale of each row of ``z``, ``(u,)``.
        traces: Trace of each centered Gram matrix, ``(u,)``.
        norms: Squared norm of each matrix of ``z``, ``(u,)`` float64.
        index: Row of ``z`` for each layer; -1 where there is none.
        problems: Why there is none, by layer.
    """

    z: Tensor
    scales: Tensor
    traces: Tensor
    norms: Tensor
    index: list[int]
    problems: dict[int, str]

    def subset(self, rows: "Sequence[int]") -> "Grams":
        """The Gram matrices of some layers, in another order."""
        known = self.problems
        problems = {i: known[row] for i, row in enumerate(rows) if row in known}
        index = [self.index[row] for row in rows]
        return replace(self, index=index, problems=problems)


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
        capacity: The largest number of Gram matrices of one forward pass.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._examples = 0
        self._shifts: dict[int, hsic.Shift] = {}
        self._groups: dict[tuple[torch.device, torch.dtype], _Group] = {}
        self._z = torch.empty(0)
        self._clear()

    def begin(self, examples: int) -> None:
        """Expect the Gram matrices of a batch of so many examples."""
        if examples != self._examples:
            self._groups = {}
        self._examples = examples
        self._clear()

    def add(self, rows: Tensor, layer: int) -> int:
        """Reduce activations ``(n, p)``; returns the index of their Gram matrix."""
        index = self._count
        self._count += 1
        key = rows.device, hsic.working_dtype(rows.dtype)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(self._examples, *key, self._capacity)
        shift = self._shifts.get(layer)
        try:
            group.add(rows, index, layer, shift)
        except torch.OutOfMemoryError:
            group.shrink()
            group.add(rows, index, layer, shift)
        if len(group.indices) == group.size:
            self._flush(group)
        return index

    def finish(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Packed matrices ``(u, m)``, scales, traces and squared norms ``(u,)``."""
        for group in self._groups.values():
            if group.indices:
                self._flush(group)
        z = self._z[: self._count]
        if not self._packed:
            none = torch.empty(0)
            return z.reshape(0, 0), none, none, none.double()
        columns = [
            torch.cat([values[c].to(z.device) for _, values in self._packed])
            for c in range(3)
        ]
        if len(self._groups) > 1:
            order = torch.tensor([i for indices, _ in self._packed for i in indices])
            columns = [column[order.argsort().to(z.device)] for column in columns]
        self._clear()
        return z, columns[0], columns[1], columns[2]

    @property
    def shifts(self) -> dict[int, hsic.Shift]:
        """How each layer's features will be shifted, by row."""
        return self._shifts

    def release(self) -> None:
        """Give the memory back."""
        self._groups, self._z = {}, torch.empty(0)
        self._clear()

    def _clear(self) -> None:
        self._count = 0
        self._packed: list[tuple[list[int], tuple[Tensor, Tensor, Tensor]]] = []

    def _flush(self, group: "_Group") -> None:
        """U-center a group; the first one's device is where all of them go."""
        indices, layers = group.indices, group.layers
        whole, moments, raw = group.take()
        size = self._capacity, hsic.packed_length(self._examples)
        if not self._packed and not _fits(self._z, size, whole):
            self._z = whole.new_empty(size)
        in_place = len(self._groups) == 1
        out = (
            self._z[indices[0] : indices[-1] + 1]
            if in_place
            else whole.new_empty(len(whole), size[1])
        )
        packed = hsic.pack_grams(whole, moments, out)
        if not in_place:
            self._z[indices] = out.to(self._z)
        norms = hsic.self_products(packed.z)
        self._packed.append((indices, (packed.scale, packed.trace, norms)))
        if group.on_cpu:
            raw = torch.where(raw > 0, raw, packed.trace * (1 + packed.offset))
            self._decide(layers, raw, packed, norms)

    def _decide(
        self, layers: list[int], raw: Tensor, packed: hsic.PackedGrams, norms: Tensor
    ) -> None:
        """How to shift these layers' features from the next batch on."""
        n = self._examples
        kappa = raw / (packed.scale * norms.sqrt())
        offsets = packed.offset.tolist()
        for layer, k, offset in zip(layers, kappa.tolist(), offsets, strict=True):
            shift = self._shifts.get(layer)
            if shift is None and k < SHIFT * n:
                self._shifts[layer] = "none"
            elif shift is None and not k < float("inf"):
                continue  # constant so far
            elif shift in (None, "row"):
                self._shifts[layer] = "mean" if offset > OUTLYING else "row"
            elif shift == "none" and not k < 2 * SHIFT * n:
                self._shifts[layer] = "row"


class _Group:
    """Whole Gram matrices that wait to be U-centered together."""

    def __init__(
        self, examples: int, device: torch.device, dtype: torch.dtype, capacity: int
    ) -> None:
        self.on_cpu = device.type == "cpu"
        of_scratch = SCRATCH_BYTES if self.on_cpu else SCRATCH_BYTES_GPU
        size = group_size(examples, dtype.itemsize, capacity, on_cpu=self.on_cpu)
        self.size = size
        self._step = max(256, of_scratch // (examples * dtype.itemsize))
        self._whole = torch.empty(size, examples, examples, dtype=dtype, device=device)
        self._slots = self._whole.unbind()
        self._scratch = self._whole.new_empty(0)
        self._widths: dict[int, Tensor] = {}
        self._zero = self._whole.new_zeros(())
        self.indices: list[int] = []
        self.layers: list[int] = []
        self.raw: list[Tensor] = []
        self._moments: list[Tensor] = []

    def add(
        self, rows: Tensor, index: int, layer: int, shift: hsic.Shift | None
    ) -> None:
        """Take the Gram matrix of these activations; None has not been decided yet."""
        out = self._slots[len(self.indices)]
        if not self.on_cpu:
            made = hsic.lower_gram(rows, out, self._room(rows), "mean")
            moment = self._zero if made is None else made
            raw = self._zero
        else:
            raw = _second_moment(rows) if shift is None else self._zero
            hsic.lower_gram(rows, out, self._room(rows), shift or "mean")
            moment = raw / len(rows) if shift is None else self._zero
        self.indices.append(index)
        self.layers.append(layer)
        self.raw.append(raw)
        self._moments.append(moment)

    def shrink(self) -> None:
        """Work in pieces half as large, after running out of memory."""
        self._step = max(256, self._step // 2)
        self._scratch = self._scratch.new_empty(0)
        self._widths = {}
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def take(self) -> tuple[Tensor, Tensor, Tensor]:
        """What has gathered: Gram matrices, squared means, raw second moments."""
        count = len(self.indices)
        moments, raw = torch.stack(self._moments), torch.stack(self.raw)
        self.indices, self.layers, self.raw, self._moments = [], [], [], []
        return self._whole[:count], moments, raw

    def _room(self, rows: Tensor) -> Tensor:
        """The buffer for one piece of these features."""
        width = min(rows.shape[1], self._step)
        room = self._widths.get(width)
        if room is None:
            # oneDNN wants whole rows, and pads them itself.
            stride = width if width >= hsic.ONEDNN_WIDTH else width + PADDING
            if len(self._scratch) < len(rows) * stride:
                self._scratch = self._scratch.new_empty(len(rows) * stride)
                self._widths = {}
            whole = self._scratch[: len(rows) * stride].view(len(rows), stride)
            room = self._widths[width] = whole[:, :width]
        return room


def group_size(examples: int, itemsize: int, capacity: int, *, on_cpu: bool) -> int:
    """How many Gram matrices wait to be U-centered together."""
    of_group = GROUP_BYTES if on_cpu else GROUP_BYTES_GPU
    return min(max(1, of_group // (examples * examples * itemsize)), capacity)


def _second_moment(rows: Tensor) -> Tensor:
    """Trace of the Gram matrix of features as they are."""
    dtype = hsic.working_dtype(rows.dtype)
    norm: Tensor = torch.linalg.vector_norm(rows, dtype=dtype)
    return norm.square()


def _fits(buffer: Tensor, size: tuple[int, int], like: Tensor) -> bool:
    same = buffer.dtype == like.dtype and buffer.device == like.device
    return same and buffer.shape == size
