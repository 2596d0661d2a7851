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
    return precision(kind) not in ("none", "ieee", "highest")


def precision(kind: str) -> str:
    """The setting of float32 products on this type of device."""
    backend = _matmul_backend(kind)
    if backend is None:
        return torch.get_float32_matmul_precision()
    return str(backend.fp32_precision)


def set_precision(kind: str, value: str) -> None:
    """Set what `precision` gives, unless it is so already."""
    if precision(kind) == value:
        return
    backend = _matmul_backend(kind)
    if backend is None:
        torch.set_float32_matmul_precision(value)
    else:
        backend.fp32_precision = value


def _matmul_backend(kind: str) -> Any:
    """The settings of products in recent versions of torch, or None."""
    name = {"cuda": "cuda", "cpu": "mkldnn"}.get(kind)
    backend = getattr(getattr(torch.backends, name), "matmul", None) if name else None
    return backend if hasattr(backend, "fp32_precision") else None


@contextmanager
def _full_float32(kind: str) -> Iterator[None]:
    """Disable reduced precision in float32 products."""
    before = precision(kind)
    set_precision(kind, "highest" if _matmul_backend(kind) is None else "ieee")
    try:
        yield
    finally:
        set_precision(kind, before)


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Disable the user's reduced precision and autocast on one type of device."""
    kind = device.type
    guard = _full_float32(kind) if reduces_float32(kind) else nullcontext()
    with guard, torch.autocast(kind, enabled=False):
        yield
