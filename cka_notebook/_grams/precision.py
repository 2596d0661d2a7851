"""Full float32 for our own products, whatever precision the user allows elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch


def reduces_float32(kind: str) -> bool:
    """Whether the user allows float32 products of reduced precision (TF32, bfloat16).

    Args:
        kind: Type of the device. Only ``"cpu"`` and ``"cuda"`` have settings of their
            own; others follow `torch.get_float32_matmul_precision`.
    """
    backend = _matmul_backend(kind)
    if backend is None:
        return torch.get_float32_matmul_precision() != "highest"
    return backend.fp32_precision not in ("none", "ieee")


def _matmul_backend(kind: str) -> Any:
    """The settings of products in recent versions of torch, or None."""
    name = {"cuda": "cuda", "cpu": "mkldnn"}.get(kind)
    backend = getattr(getattr(torch.backends, name), "matmul", None) if name else None
    return backend if hasattr(backend, "fp32_precision") else None


@contextmanager
def _full_float32(kind: str) -> Iterator[None]:
    """Disable reduced precision in float32 products."""
    backend = _matmul_backend(kind)
    if backend is None:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
    else:
        before, backend.fp32_precision = backend.fp32_precision, "ieee"
    try:
        yield
    finally:
        if backend is None:
            torch.set_float32_matmul_precision(before)
        else:
            backend.fp32_precision = before


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Disable the user's reduced precision and autocast on one type of device."""
    kind = device.type
    guard = _full_float32(kind) if reduces_float32(kind) else nullcontext()
    with guard, torch.autocast(kind, enabled=False):
        yield
