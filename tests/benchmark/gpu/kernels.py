"""A Triton kernel that splits features in one pass, which torch cannot."""

import triton
from torch import Tensor
from triton import language as tl


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
