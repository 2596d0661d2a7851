"""A product of wide float32 layers in one pass over their features, in Triton.

Each program reads pieces of two tiles of rows, splits them into halves of bfloat16 in
registers, and sums three products of these. All programs of a piece run at about the
same time, so that the memory is read once. Triton comes with torch for CUDA on Linux;
elsewhere other products take the place of this one.
"""

import triton
from torch import Tensor
from triton import language as tl

TILE = 128
"""Rows and columns of one tile of a Gram matrix."""

STEP = 32
"""Features that one step reads of two tiles of rows."""

PROGRAMS = 264
"""Programs in all: two for each multiprocessor of an H100."""


@triton.jit
def _halves(x, EMULATED: tl.constexpr):
    """The high and low halves of float32 numbers."""
    if EMULATED:
        high = _rounded(x)
        return high, _rounded(x - high)
    high = x.to(tl.bfloat16)
    return high, (x - high.to(tl.float32)).to(tl.bfloat16)


@triton.jit
def _rounded(x):
    """The nearest bfloat16 as float32: Triton's interpreter can do neither of both."""
    bits = x.to(tl.int32, bitcast=True)
    bits += 0x7FFF + ((bits >> 16) & 1)
    return ((bits >> 16) << 16).to(tl.float32, bitcast=True)


@triton.jit
def _rows_of(x, rows, columns, row_stride, n, p, SHIFTED: tl.constexpr):
    """Pieces of rows as float32, shifted by those of the first row."""
    inside = (rows < n) & (columns < p)
    piece = tl.load(x + rows * row_stride + columns, mask=inside, other=0.0)
    piece = piece.to(tl.float32)
    if SHIFTED:
        point = tl.load(x + columns, mask=columns < p, other=0.0)
        piece = tl.where(rows < n, piece - point.to(tl.float32), 0.0)
    return piece


@triton.jit
def _partial(
    x,
    sums,
    n,
    p,
    row_stride,
    span,
    tiles,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
    SHIFTED: tl.constexpr,
    EMULATED: tl.constexpr,
):
    """One tile of the Gram matrix of a span of the features."""
    tile, part = tl.program_id(0), tl.program_id(1)
    i, first = 0, 0
    while first + i < tile:
        first += i + 1
        i += 1
    j = tile - first
    rows = (i * TILE + tl.arange(0, TILE))[:, None].to(tl.int64)
    others = (j * TILE + tl.arange(0, TILE))[:, None].to(tl.int64)
    total = tl.zeros((TILE, TILE), dtype=tl.float32)
    start = part * span
    for k in range(start, tl.minimum(start + span, p), STEP):
        columns = (k + tl.arange(0, STEP))[None, :]
        left = _rows_of(x, rows, columns, row_stride, n, p, SHIFTED)
        right = _rows_of(x, others, columns, row_stride, n, p, SHIFTED)
        high, low = _halves(left, EMULATED)
        other_high, other_low = _halves(right, EMULATED)
        total = tl.dot(high, tl.trans(other_high), total, input_precision="ieee")
        total = tl.dot(low, tl.trans(other_high), total, input_precision="ieee")
        total = tl.dot(high, tl.trans(other_low), total, input_precision="ieee")
    place = (part * tiles + tile) * TILE * TILE
    inner = tl.arange(0, TILE)[:, None] * TILE + tl.arange(0, TILE)[None, :]
    tl.store(sums + place + inner, total)


@triton.jit
def _collect(
    sums,
    out,
    n,
    parts,
    tiles,
    TILE: tl.constexpr,
    ROWS: tl.constexpr,
    FIRST: tl.constexpr,
):
    """Some rows of one tile, summed over the spans in order, and their mirror image."""
    tile = tl.program_id(0)
    i, first = 0, 0
    while first + i < tile:
        first += i + 1
        i += 1
    j = tile - first
    inner_rows = (tl.program_id(1) * ROWS + tl.arange(0, ROWS))[:, None]
    inner_columns = tl.arange(0, TILE)[None, :]
    total = tl.zeros((ROWS, TILE), dtype=tl.float32)
    for part in range(parts):
        place = (part * tiles + tile) * TILE * TILE
        total += tl.load(sums + place + inner_rows * TILE + inner_columns)
    rows, columns = i * TILE + inner_rows, j * TILE + inner_columns
    below = (rows < n) & (columns < n) & (rows >= columns)
    above = (rows < n) & (columns < n) & (rows > columns)
    if FIRST:
        tl.store(out + rows * n + columns, total, mask=below)
        tl.store(out + columns * n + rows, total, mask=above)
    else:
        known = tl.load(out + rows * n + columns, mask=below, other=0.0)
        tl.store(out + rows * n + columns, known + total, mask=below)
        tl.store(out + columns * n + rows, known + total, mask=above)


def shape_of_sums(n: int, p: int) -> tuple[int, int, int]:
    """Number of spans of the features, tiles of the matrix, and rows of a tile.

    Args:
        n: Examples.
        p: Features.
    """
    tile = min(TILE, max(16, triton.next_power_of_2(n)))
    side = triton.cdiv(n, tile)
    tiles = side * (side + 1) // 2
    spans = max(1, min(PROGRAMS // tiles, triton.cdiv(p, 4 * STEP)))
    return spans, tiles, tile


def fused_product(
    x: Tensor, out: Tensor, sums: Tensor, *, first: bool, shifted: bool = False
) -> None:
    """Add ``x @ x.T`` to a matrix, or overwrite it.

    Args:
        x: Shape ``(n, p)``, with adjacent features.
        out: Shape ``(n, n)``, float32, contiguous.
        sums: Memory for sums, float32; its size is the product of `shape_of_sums`,
            the last one squared.
        first: Whether to overwrite.
        shifted: Whether to subtract the first row from all.
    """
    n, p = x.shape
    spans, tiles, tile = shape_of_sums(n, p)
    span = triton.cdiv(triton.cdiv(p, spans), STEP) * STEP
    whole = tile == TILE
    _partial[(tiles, spans)](
        x,
        sums,
        n,
        p,
        x.stride(0),
        span,
        tiles,
        TILE=tile,
        STEP=STEP,
        SHIFTED=shifted,
        EMULATED=not x.is_cuda,
        num_warps=8 if whole else 4,
    )
    rows = min(tile, 16)
    _collect[(tiles, tile // rows)](
        sums, out, n, spans, tiles, TILE=tile, ROWS=rows, FIRST=first
    )
