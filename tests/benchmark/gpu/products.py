"""Ways to multiply activations with themselves; see `VARIANTS`."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import engine
from .record import AbsentError

CHUNK_BYTES = 128 << 20
"""Size of the buffer of halves."""

Run = Callable[[], Tensor]


@dataclass(frozen=True)
class Variant:
    """A way to make ``x @ x.T``, of which the lower triangle counts.

    Attributes:
        name: For the tables.
        make: Makes a function without arguments from x ``(n, p)``, with its buffers.
        tf32: Whether float32 products may be TF32 in it.
        half: Whether its features are bfloat16 from the start.
    """

    name: str
    make: Callable[[Tensor], Run]
    tf32: bool = False
    half: bool = False


def product(x: Tensor) -> Run:
    """One float32 product."""
    out = x.new_empty(len(x), len(x))
    return lambda: torch.mm(x, x.T, out=out)


def half_product(x: Tensor) -> Run:
    """One product of bfloat16 features with a float32 result."""
    half = x.to(torch.bfloat16)
    out = x.new_empty(len(x), len(x), dtype=torch.float32)
    return lambda: half_mm(half, half.T, out)


def split_product(x: Tensor) -> Run:
    """What the engine does today with large float32 layers."""
    if not x.is_cuda:
        msg = "the engine's split product is for CUDA"
        raise AbsentError(msg)
    return lambda: engine.split_product(x)


def two_halves(x: Tensor) -> Run:
    """High and low halves by two passes of torch, then one product."""

    def split(part: Tensor, halves: Tensor) -> None:
        high, low = halves.chunk(2)
        high.copy_(part)
        torch.sub(part, high, out=low)

    return _of_halves(x, split)


def two_halves_in_one_pass(x: Tensor) -> Run:
    """The same, split by one kernel."""
    return _of_halves(x, _kernels(x).split)


def fused(x: Tensor) -> Run:
    """One kernel, which reads each feature once."""
    _kernels(x)
    return lambda: engine.fused_product(x)


def half_mm(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """A product of bfloat16 into float32; on a CPU by what is exact, for a try."""
    if not left.is_cuda:
        return torch.mm(left.float(), right.float(), out=out)
    try:
        return torch.mm(left, right, out_dtype=torch.float32, out=out)
    except TypeError as error:
        msg = "torch.mm has no out_dtype here"
        raise AbsentError(msg) from error


VARIANTS = (
    Variant("float32", product),
    Variant("TF32", product, tf32=True),
    Variant("bf16 in", half_product, half=True),
    Variant("today's split", split_product),
    Variant("two halves", two_halves),
    Variant("one-pass split", two_halves_in_one_pass),
    Variant("fused", fused),
)


def error_of(made: Tensor, x: Tensor) -> float:
    """Largest error off the diagonal, as a share of the lengths of its two rows."""
    exact = torch.zeros(len(x), len(x), dtype=torch.float64, device=x.device)
    for part in x.split(1 << 16, dim=1):
        wide = part.double()
        exact.addmm_(wide, wide.T)
    lengths = exact.diagonal().sqrt()
    error = (made.double() - exact).abs_().div_(lengths[:, None] * lengths)
    return float(error.tril_(-1).max())


def _of_halves(x: Tensor, split: Callable[[Tensor, Tensor], None]) -> Run:
    """Products of halves by chunks of features: ``h h' + l h' + (l h')'``."""
    n, p = x.shape
    step = min(p, CHUNK_BYTES // (4 * n))
    parts = x.split(step, dim=1)
    halves = torch.empty(2 * n * step, dtype=torch.bfloat16, device=x.device)
    sums = x.new_empty(len(parts), 2 * n, n, dtype=torch.float32)

    def run() -> Tensor:
        for part, out in zip(parts, sums, strict=True):
            both = halves[: 2 * n * part.shape[1]].view(2 * n, -1)
            split(part, both)
            half_mm(both, both[:n].T, out)
        high, mixed = (sums.sum(0) if len(parts) > 1 else sums[0]).chunk(2)
        return high + mixed + mixed.T

    return run


def _kernels(x: Tensor):
    try:
        from . import kernels  # noqa: PLC0415 Triton may be missing
    except ImportError as error:
        msg = "there is no Triton"
        raise AbsentError(msg) from error
    if not (x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"):
        msg = "Triton needs a GPU, or TRITON_INTERPRET=1"
        raise AbsentError(msg)
    return kernels
