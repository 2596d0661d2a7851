"""Triton kernels of the two products that torch has no fast way for."""

import torch
import triton
from torch import Tensor
from triton import language as tl

TILE = 128
"""Rows and columns of one tile of a Gram matrix."""

STEP = 32
"""Features that one step of the fused kernel reads of two tiles of rows."""

PROGRAMS = 264
"""Programs of the fused kernel in all: two for each multiprocessor of an H100."""


@triton.jit
def _split(x, halves, width, x_stride, stride, low_start, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    value = tl.load(x + row * x_stride + columns, mask=inside, other=0.0)
    high = value.to(tl.bfloat16)
    low = (value - high.to(tl.float32)).to(tl.bfloat16)
    place = halves + row * stride + columns
    tl.store(place, high, mask=inside)
    tl.store(place + low_start, low, mask=inside)


@triton.jit
def _gram(x, sums, n, p, span, TILE: tl.constexpr, STEP: tl.constexpr):
    tile, part = tl.program_id(0), tl.program_id(1)
    i, first = 0, 0
    while first + i < tile:
        first += i + 1
        i += 1
    j = tile - first
    rows = (i * TILE + tl.arange(0, TILE))[:, None]
    others = (j * TILE + tl.arange(0, TILE))[:, None]
    total = tl.zeros((TILE, TILE), dtype=tl.float32)
    start = part * span
    for k in range(start, tl.minimum(start + span, p), STEP):
        columns = (k + tl.arange(0, STEP))[None, :]
        a = tl.load(x + rows * p + columns, mask=(rows < n) & (columns < p), other=0.0)
        b = tl.load(
            x + others * p + columns, mask=(others < n) & (columns < p), other=0.0
        )
        a_high, b_high = a.to(tl.bfloat16), b.to(tl.bfloat16)
        a_low = (a - a_high.to(tl.float32)).to(tl.bfloat16)
        b_low = (b - b_high.to(tl.float32)).to(tl.bfloat16)
        total = tl.dot(a_high, tl.trans(b_high), total)
        total = tl.dot(a_low, tl.trans(b_high), total)
        total = tl.dot(a_high, tl.trans(b_low), total)
    columns = (j * TILE + tl.arange(0, TILE))[None, :]
    place = sums + part * n * n + rows * n + columns
    tl.store(place, total, mask=(rows < n) & (columns < n))


def split(x: Tensor, halves: Tensor) -> None:
    """Write float32 ``x`` as a sum of two bfloat16 numbers, in one pass.

    Args:
        x: Shape ``(n, c)``, whose rows may be strided.
        halves: Shape ``(2 n, c)``, bfloat16: the high halves, then the low ones.
    """
    n, width = x.shape
    block = 1024
    strides = x.stride(0), halves.stride(0), n * halves.stride(0)
    _split[(n, triton.cdiv(width, block))](x, halves, width, *strides, BLOCK=block)


def gram(x: Tensor) -> Tensor:
    """Lower triangle of ``x @ x.T``: each feature is read once, and split in registers.

    Args:
        x: Shape ``(n, p)``, float32, contiguous.

    Returns:
        Shape ``(n, n)``; above the diagonal only what shares a tile with it is filled.
    """
    n, p = x.shape
    tile = min(TILE, max(16, triton.next_power_of_2(n)))
    side = triton.cdiv(n, tile)
    tiles = side * (side + 1) // 2
    parts = max(1, min(PROGRAMS // tiles, triton.cdiv(p, 4 * STEP)))
    span = triton.cdiv(triton.cdiv(p, parts), STEP) * STEP
    sums = torch.zeros(parts, n, n, dtype=torch.float32, device=x.device)
    options = {"TILE": tile, "STEP": STEP, "num_warps": 8 if tile == TILE else 4}
    _gram[(tiles, parts)](x, sums, n, p, span, **options)
    return sums.sum(0)
