"""Gram matrices ``x @ x.T`` of activations, by the fastest sufficiently exact product.

Most of the time that CKA adds to a forward pass is spent here. Products that are not
part of torch's public interface, or that round more than float32, are tested on the
device before they are used; if they fail, public float32 products take their place.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from cka_notebook._messages import is_out_of_memory

Product = Callable[[Tensor], Tensor]
"""``x @ x.T`` of float32 activations ``(n, p)``."""

Shift = Literal["mean", "row", "none", "wide"]
"""What is subtracted from the features of all examples before they are multiplied.

``"wide"`` is the mean, in float64: float32 cannot hold products of these features.
"""

ONEDNN_WIDTH = 4096
"""Minimum number of features from which oneDNN computes the product, if available."""

SPLIT_NUMBERS = 1 << 22
"""Minimum size of activations for `split_product` on a GPU: below, launching several
products takes longer than one in float32."""

TOLERANCE = 1e-6
"""Largest error of a product on a GPU, relative to the lengths of its two rows."""

TRIAL_SHAPE = 256, 16384
"""Shape of the activations on which products are tested and timed."""


def lower_gram(
    rows: Tensor, blocks: Sequence[Tensor], scratch: Tensor, shift: Shift
) -> Tensor | None:
    """Lower triangle of the linear Gram matrix of shifted features.

    The U-centered matrix is the same for any shift; one near the mean of the features
    avoids cancellation in float32. Features are shifted in small pieces, so a large
    feature map is never copied as a whole.

    Args:
        rows: Shape ``(n, p)``, any real dtype. Not modified.
        blocks: Overwritten: adjacent column blocks of the matrix, each from its
            diagonal down. A single block is the whole matrix.
        scratch: Shape ``(n, c)``, of the dtype of the blocks; holds one piece.
        shift: ``"mean"``; ``"row"``, the first example, which costs less and is as
            good unless that example is far from all others; or ``"none"``.

    Returns:
        ``sum(mean ** 2)`` as a scalar if the shift is the mean, else None. A constant
        layer that is shifted by its first example gives exact zeros.
    """
    if shift == "none" and rows.dtype == scratch.dtype:
        lower_product(rows, blocks, first=True)
        return None
    if shift != "mean" and rows.shape[1] == scratch.shape[1]:
        lower_product(_shifted(rows, rows[0], scratch), blocks, first=True)
        return None
    moment = scratch.new_zeros(()) if shift == "mean" else None
    step = scratch.shape[1]
    for start in range(0, rows.shape[1], step):
        part = rows[:, start : start + step]
        point = part[0] if moment is None else part.mean(0, dtype=scratch.dtype)
        if moment is not None:
            moment += torch.dot(point, point)
        part = _shifted(part, point, scratch[:, : part.shape[1]])
        lower_product(part, blocks, first=start == 0)
    return moment


def lower_product(part: Tensor, blocks: Sequence[Tensor], *, first: bool) -> None:
    """Add ``part @ part.T`` to the blocks of its lower triangle, or overwrite them.

    Column blocks save nearly half the work of the whole product, but small products run
    below full speed.

    Args:
        part: Shape ``(n, c)``. Not modified.
        blocks: Adjacent column blocks of the matrix, each from its diagonal down; a
            single block is the whole matrix.
        first: Whether to overwrite the blocks.
    """
    if part.shape[1] >= ONEDNN_WIDTH and _suits_onednn(part):
        product = _onednn_product()
        if product is not None:
            _by_onednn(product, part, blocks, first)
            return
    if len(blocks) == 1:
        _whole_product(part, blocks[0], first)
        return
    # `narrow` takes half the time of a slice, which matters for small layers.
    n, top, transposed = len(part), 0, part.T
    for block in blocks:
        width = block.shape[1]
        left, right = part.narrow(0, top, n - top), transposed.narrow(1, top, width)
        _product(left, right, block, first)
        top += width


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype in which activations of ``dtype`` are centered and multiplied."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def sums_dtype(device: torch.device) -> torch.dtype:
    """Dtype of long sums: float64 if the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def split_product(x: Tensor) -> Tensor:
    """``x @ x.T`` by two bfloat16 products, nearly as exact as one in float32.

    With x = h + l, both bfloat16, it is ``h h' + l h' + h l'``. The omitted ``l l'`` is
    at most 2 ** -18 of it, and much less off the diagonal.
    """
    high = x.to(torch.bfloat16)
    low = (x - high).to(torch.bfloat16)
    mixed = _bfloat16_product(low, high.T)
    return _bfloat16_product(high, high.T).add_(mixed).add_(mixed.T)


def fastest(
    candidates: Sequence[Product],
    x: Tensor,
    seconds: Callable[[Product, Tensor], float],
) -> Product:
    """The fastest candidate that is exact on ``x``.

    Args:
        candidates: Products. The first one is assumed to be exact; others are dropped
            if they raise.
        x: Activations to test them on.
        seconds: Measures the time of a candidate.
    """
    exact = x.double() @ x.double().T
    lengths = exact.diagonal().sqrt()
    best, shortest = candidates[0], seconds(candidates[0], x)
    for candidate in candidates[1:]:
        try:
            error = (candidate(x) - exact).abs() / (lengths[:, None] * lengths)
            if error.fill_diagonal_(0).max() > TOLERANCE:
                continue
            took = seconds(candidate, x)
        except (RuntimeError, TypeError):  # not available on this device or torch
            continue
        if took < shortest:
            best, shortest = candidate, took
    return best


def _whole_product(part: Tensor, out: Tensor, first: bool) -> None:
    if part.is_cuda and part.dtype == torch.float32 and part.numel() >= SPLIT_NUMBERS:
        made = _gpu_product(part.device)(part)
        out.copy_(made) if first else out.add_(made)
    else:
        _product(part, part.T, out, first)


def _product(left: Tensor, right: Tensor, out: Tensor, first: bool) -> None:
    if first:
        torch.mm(left, right, out=out)
    else:
        out.addmm_(left, right)


def _by_onednn(
    product: Callable[..., Tensor], part: Tensor, blocks: Sequence[Tensor], first: bool
) -> None:
    """`lower_product` by oneDNN, two blocks at once if that is faster."""
    step = 2 if len(part) >= 256 or part.shape[1] < 32768 else 1
    top = 0
    for start in range(0, len(blocks), step):
        group = blocks[start : start + step]
        width = sum(block.shape[1] for block in group)
        made = product(part[top:], part[top : top + width], None, "none", [], "")
        left = 0
        for block in group:
            piece = made[left:, left : left + block.shape[1]]
            block.copy_(piece) if first else block.add_(piece)
            left += block.shape[1]
        top += width


def _suits_onednn(part: Tensor) -> bool:
    """Whether oneDNN is fast: with strided rows it is a hundred times slower."""
    return part.is_cpu and part.dtype == torch.float32 and part.is_contiguous()


@lru_cache(maxsize=1)
def _onednn_product() -> Callable[..., Tensor] | None:
    """``x @ y.T`` by oneDNN, a quarter faster on wide layers; None if not available.

    The operation is not public, so its result is checked before it is used.
    """
    x = torch.arange(3.0 * ONEDNN_WIDTH, device="cpu").reshape(3, -1).sin()
    try:
        product: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001 see above
        made = product(x, x[:2], None, "none", [], "")
    except Exception as error:  # whatever the reason, torch.mm is used instead
        if is_out_of_memory(error):
            raise
        return None
    return product if torch.allclose(made, x @ x[:2].T, rtol=1e-4) else None


@lru_cache(maxsize=16)
def _gpu_product(device: torch.device) -> Product:
    """The fastest exact product on a device, measured on first use."""
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(TRIAL_SHAPE, device=device, generator=generator)
    return fastest([_float32_product, split_product], x, _gpu_seconds)


def _float32_product(x: Tensor) -> Tensor:
    return x @ x.T


def _bfloat16_product(left: Tensor, right: Tensor) -> Tensor:
    """A product of bfloat16 matrices, summed and returned in float32."""
    as_float32: dict[str, Any] = {"out_dtype": torch.float32}
    return torch.mm(left, right, **as_float32)


def _gpu_seconds(product: Product, x: Tensor) -> float:
    event: Any = torch.cuda.Event
    start, end = event(enable_timing=True), event(enable_timing=True)
    product(x)
    start.record()
    for _ in range(5):
        product(x)
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 5e3


def _shifted(part: Tensor, point: Tensor, out: Tensor) -> Tensor:
    if part.dtype == out.dtype:
        return torch.sub(part, point, out=out)
    return out.copy_(part).sub_(point)
