"""Gram matrices ``x @ x.T`` of activations on a CPU, by the fastest product.

Most of the time that CKA adds to a forward pass is spent here. Products that are not
part of torch's public interface are tested before they are used; if they fail, public
ones take their place.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from cka_notebook._messages import is_out_of_memory

Shift = Literal["mean", "row", "none", "wide"]
"""What is subtracted from the features of all examples before they are multiplied.

``"wide"`` is the mean, in float64: float32 cannot hold products of these features.
"""

ONEDNN_WIDTH = 4096
"""Minimum number of features from which oneDNN computes the product, if available."""


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
        lower_product(shifted(rows, rows[0], scratch), blocks, first=True)
        return None
    moment = scratch.new_zeros(()) if shift == "mean" else None
    step = scratch.shape[1]
    for start in range(0, rows.shape[1], step):
        part = rows[:, start : start + step]
        point = part[0] if moment is None else part.mean(0, dtype=scratch.dtype)
        if moment is not None:
            moment += torch.dot(point, point)
        part = shifted(part, point, scratch[:, : part.shape[1]])
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
        _product(part, part.T, blocks[0], first)
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


def shifted(part: Tensor, point: Tensor, out: Tensor) -> Tensor:
    """``part - point``, computed in the dtype of ``out``."""
    if part.dtype == out.dtype:
        return torch.sub(part, point, out=out)
    return out.copy_(part).sub_(point)


def scaled(rows: Tensor) -> Tensor:
    """The rows in a scale in which products of four of them stay in range.

    No CKA depends on the scale, and a power of two changes no digit. It is applied in
    two steps, because that of the smallest numbers is not a number itself.
    """
    largest = float(rows.detach().abs().max()) if rows.numel() else 0.0
    if not math.isfinite(largest):
        return rows
    exponent = math.frexp(largest)[1]
    half = exponent // 2
    return rows * 2.0**-half * 2.0 ** (half - exponent)
