"""Products ``x @ x.T`` on a GPU whose precision no setting of the process changes.

Torch may round the operands of a float32 product to TF32 if the user allows it. That
setting belongs to the whole process, so a run that changed it would reach the user's
training in another thread. Products of half-precision matrices have no such setting.
They sum in float32, and two of them are nearly as exact as one of float32 matrices.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

Product = Callable[[Tensor, Tensor, bool], None]
"""Adds ``x @ x.T`` of ``x (n, p)`` to ``sums (2 n, n)``, or overwrites it.

The matrix is the upper half of ``sums``, plus the lower half and its transpose.
"""

HALF_TYPES = torch.bfloat16, torch.float16

FLOAT32_EXAMPLES = 128
"""Up to this number of examples a float32 product takes less time than splitting the
features: an estimate, which is used for layers that were not timed."""

TOLERANCE = 1e-6
"""Largest error of a product, relative to the lengths of its two rows."""

TRIAL_WIDTH = 16384
"""Features on which the error of a product is measured."""


ALIGNED = 8
"""Rows of halves start at multiples of this many: else products are much slower."""


class Scratch:
    """Memory for pieces of one layer: as much as the widest needs, up to a limit.

    Args:
        device: Where it is.
        examples: Number of examples n of a piece ``(n, c)``.
        limit: Maximum number of bytes.
    """

    MIN_WIDTH = 256
    """Minimum number of features in a piece."""

    def __init__(self, device: torch.device, examples: int, limit: int) -> None:
        self._device, self._examples, self._limit = device, examples, limit
        self._bytes = torch.empty(0, dtype=torch.uint8, device=device)

    def width(self, features: int, nbytes: int) -> int:
        """The width of the pieces of a layer.

        Args:
            features: Features of the layer.
            nbytes: Bytes of each of them in the scratch.
        """
        row = self._examples * nbytes
        width = min(features, max(self.MIN_WIDTH, self._limit // row))
        self._reserve(aligned(width) * row)
        return width

    def part(self, rows: int, width: int, dtype: torch.dtype, after: int = 0) -> Tensor:
        """A part ``(rows, width)``, which starts after some bytes."""
        stride = aligned(width)
        stop = after + rows * stride * dtype.itemsize
        return self._bytes[after:stop].view(dtype).view(rows, stride)[:, :width]

    def numbers(self, count: int) -> Tensor:
        """Some float32 numbers."""
        self._reserve(4 * count)
        return self._bytes[: 4 * count].view(torch.float32)

    @property
    def can_shrink(self) -> bool:
        """Whether pieces can be smaller."""
        return len(self._bytes) > 16 * self._examples * self.MIN_WIDTH

    def shrink(self) -> None:
        """Work in pieces of half the size."""
        self._limit = len(self._bytes) // 2
        self._bytes = self._bytes[:0].clone()

    def _reserve(self, nbytes: int) -> None:
        if len(self._bytes) < nbytes:
            self._bytes = self._bytes[:0].clone()  # release the old memory first
            self._bytes = torch.empty(nbytes, dtype=torch.uint8, device=self._device)


def aligned(width: int) -> int:
    """Numbers between the starts of two rows of a part."""
    return -(-width // ALIGNED) * ALIGNED


def half_product(x: Tensor, sums: Tensor, first: bool) -> None:
    """A `Product` of half-precision features."""
    _halves_times(x, x, sums[: len(x)], first)


def plain_product(x: Tensor, sums: Tensor, first: bool) -> None:
    """A `Product` of features in the dtype of the sums, as torch multiplies them."""
    upper = sums[: len(x)]
    if first:
        torch.mm(x, x.T, out=upper)
    else:
        upper.addmm_(x, x.T)


def double_product(x: Tensor, sums: Tensor, first: bool) -> None:
    """A `Product` in float64, for a torch that cannot multiply halves into float32."""
    wide = x.double()
    made = wide @ wide.T
    sums[: len(x)].copy_(made) if first else sums[: len(x)].add_(made)


def split_into(x: Tensor, halves: Tensor) -> None:
    """Write float32 ``x`` as the sum of two bfloat16 numbers.

    Args:
        x: Shape ``(..., n, c)``.
        halves: Shape ``(..., 2 n, c)``, bfloat16: the high halves, then the low ones.
    """
    high, low = halves.chunk(2, dim=-2)
    high.copy_(x)
    torch.sub(x, high, out=low)


class SplitProduct:
    """A `Product` of float32 features by one product of their halves.

    With x = h + l, both bfloat16, it is ``h h' + l h' + h l'``. The omitted ``l l'`` is
    at most 2 ** -18 of it, and much less off the diagonal.
    """

    def __init__(self, scratch: Scratch, after: int = 0) -> None:
        self._scratch, self._after = scratch, after

    def __call__(self, x: Tensor, sums: Tensor, first: bool) -> None:
        n, width = len(x), x.shape[1]
        step = width if self._after else self._scratch.width(width, 4)
        for start in range(0, width, step):
            part = x[:, start : start + step]
            halves = self._scratch.part(
                2 * n, part.shape[1], torch.bfloat16, self._after
            )
            split_into(part, halves)
            _halves_times(halves, halves[:n], sums, first and start == 0)


class FusedProduct:
    """A `Product` that reads wide features once, where Triton is; see `fused`.

    Args:
        scratch: Memory for its sums.
        shifted: Whether to subtract the first row from all.
    """

    def __init__(self, scratch: Scratch, *, shifted: bool = False) -> None:
        self._scratch, self._shifted = scratch, shifted

    def __call__(self, x: Tensor, sums: Tensor, first: bool) -> None:
        from .fused import fused_product, shape_of_sums  # noqa: PLC0415 may be missing

        if x.stride(1) != 1:
            x = x.contiguous()  # The kernel takes features to be adjacent.
        n, width = x.shape
        spans, tiles, tile = shape_of_sums(n, width)
        partial = self._scratch.numbers(spans * tiles * tile**2)
        out = sums[:n]
        fused_product(x, out, partial, first=first, shifted=self._shifted)


@lru_cache(maxsize=16)
def has_fused(device: torch.device) -> bool:
    """Whether a device can be tried with `FusedProduct`."""
    return (
        device.type == "cuda"
        and find_spec("triton") is not None
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def _halves_times(left: Tensor, right: Tensor, out: Tensor, first: bool) -> None:
    """``left @ right.T`` of half-precision matrices, in float32."""
    options: dict[str, Any] = {"out_dtype": torch.float32, "out": out}
    if first:
        torch.mm(left, right.T, **options)
    else:
        torch.addmm(out, left, right.T, **options)


def halves_times_each(halves: Tensor, out: Tensor) -> None:
    """The products of split features ``(k, 2 n, p)`` to sums ``(k, 2 n, n)``."""
    high = halves.chunk(2, dim=1)[0]
    options: dict[str, Any] = {"out_dtype": torch.float32, "out": out}
    torch.bmm(halves, high.mT, **options)


@lru_cache(maxsize=16)
def multiplies_halves(device: torch.device) -> bool:
    """Whether products of halves can be trusted on a device. Waits for it."""
    if device.type != "cuda":
        return False
    x = torch.arange(64.0, device=device).sin().view(4, 16).to(torch.bfloat16)
    sums = torch.zeros(4, 4, device=device)
    try:
        half_product(x, sums, first=True)
        half_product(x, sums, first=False)
        halves_times_each(x.view(1, 4, 16), sums.new_empty(1, 4, 2))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError):
        return False
    wide = x.double()
    return torch.allclose(sums.double(), 2 * wide @ wide.T, rtol=1e-4)


def fastest(
    candidates: Sequence[Product],
    x: Tensor,
    sums: Tensor,
    seconds: Callable[[Product, Tensor, Tensor], float] | None = None,
) -> Product:
    """The fastest candidate that is exact on these features. Waits for the device.

    Args:
        candidates: Products. The first one is assumed to be exact; others are dropped
            if they fail.
        x: Features of a layer.
        sums: Overwritten.
        seconds: Measures the time of a product of x to sums.

    Raises:
        torch.OutOfMemoryError: If there is no memory for a candidate.
    """
    seconds = seconds or gpu_seconds
    some = x[:, :TRIAL_WIDTH]
    exact = some.double() @ some.double().T
    lengths = exact.diagonal().sqrt()
    lengths = (lengths[:, None] * lengths).clamp_min_(torch.finfo(x.dtype).tiny)
    best, shortest = candidates[0], float("inf")
    for candidate in candidates:
        try:
            candidate(some, sums, True)
            error = (matrix_of(sums) - exact).abs() / lengths
            if candidate is not candidates[0] and (
                not error.fill_diagonal_(0).max() <= TOLERANCE
            ):
                continue
            took = seconds(candidate, x, sums)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError):  # not available on this device or torch
            continue
        if took < shortest:
            best, shortest = candidate, took
    return best


def matrix_of(sums: Tensor) -> Tensor:
    """The matrix ``(n, n)`` that sums ``(2 n, n)`` represent."""
    upper, lower = sums.chunk(2)
    return upper + lower + lower.T


def gpu_seconds(product: Product, x: Tensor, sums: Tensor) -> float:
    """Seconds that a GPU takes for a product, the mean of five."""
    event: Any = torch.cuda.Event
    with torch.cuda.device(x.device):  # events belong to the current device's stream
        start, end = event(enable_timing=True), event(enable_timing=True)
        product(x, sums, True)
        start.record()
        for _ in range(5):
            product(x, sums, True)
        end.record()
        end.synchronize()
    return float(start.elapsed_time(end)) / 5e3
