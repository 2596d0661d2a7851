"""Full float32 for our own products, whatever precision the user allows elsewhere."""

import threading
from contextlib import AbstractContextManager, suppress
from functools import lru_cache
from threading import get_ident
from typing import Any

import torch

from cka_notebook._undo import Undo, undoing


def reduces_float32(kind: str) -> bool:
    """Whether the user allows float32 products of reduced precision (TF32, bfloat16).

    Args:
        kind: Type of the device. Only ``"cpu"`` and ``"cuda"`` have settings of their
            own; others follow `torch.get_float32_matmul_precision`.
    """
    return _full_float32(kind).users_setting not in ("highest", "none", "ieee")


def _matmul_backend(kind: str) -> Any:
    """The settings of products in recent versions of torch, or None."""
    name = {"cuda": "cuda", "cpu": "mkldnn"}.get(kind)
    backend = getattr(getattr(torch.backends, name), "matmul", None) if name else None
    return backend if hasattr(backend, "fp32_precision") else None


class _FullFloat32:
    """Full precision of float32 products, which many runs may need at the same time.

    The first to enter changes the setting of the process and the last to leave puts it
    back, so that none of them sees the setting of another as the user's.

    Args:
        kind: Type of the device.
    """

    def __init__(self, kind: str) -> None:
        self._backend = _matmul_backend(kind)
        self._lock = threading.RLock()
        self._users: dict[int, int] = {}
        self._before = ""

    @property
    def users_setting(self) -> str:
        """The user's precision, also while a run has changed it."""
        with self._lock:
            return self._before if self._users else self._get()

    @property
    def held(self) -> int:
        """How many blocks of this thread need it."""
        return self._users.get(get_ident(), 0)

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._before = self._get()
            self._users[get_ident()] = self.held + 1
            self._set("highest" if self._backend is None else "ieee")

    def __exit__(self, *_: object) -> None:
        self.let_go(self.held - 1)

    def let_go(self, count: int) -> None:
        """Let this many blocks of this thread need it; the last puts it back."""
        with self._lock:
            if count > 0:
                self._users[get_ident()] = count
            elif self.held:
                # An interrupt in between leaves something to repeat.
                if len(self._users) == 1:
                    self._restore()
                self._users.pop(get_ident())

    def _get(self) -> str:
        if self._backend is None:
            return torch.get_float32_matmul_precision()
        return str(self._backend.fp32_precision)

    def _set(self, value: str) -> None:
        if self._backend is None:
            torch.set_float32_matmul_precision(value)
        else:
            self._backend.fp32_precision = value

    def _restore(self) -> None:
        if self._backend is not None:
            # What is inherited from a more general setting stays inherited.
            self._set("none")
        if self._get() != self._before:
            self._set(self._before)


@lru_cache
def _full_float32(kind: str) -> _FullFloat32:
    return _FullFloat32(kind)


def held(kind: str) -> int:
    """How many blocks of this thread are in `exact` and have changed the precision."""
    return _full_float32(kind).held


def let_go(kind: str, count: int) -> None:
    """Undo what an interrupt has left of such blocks.

    Args:
        kind: Type of the device.
        count: How many blocks there were before.
    """
    if held(kind) > count:
        _full_float32(kind).let_go(count)


@undoing
def exact(undo: Undo, device: torch.device) -> None:
    """Disable the user's reduced precision and autocast on one type of device.

    This is not a generator: one that an interrupt has left suspended ends when its
    traceback is freed, and would change the settings then.
    """
    kind = device.type
    if reduces_float32(kind):
        full = _full_float32(kind)
        undo.add(full.let_go, full.held)
        full.__enter__()
    if torch.is_autocast_enabled(kind):
        off: Any = torch.autocast(kind, enabled=False)
        off.__enter__()
        undo.add(off.__exit__, None, None, None)


def undisturbed(device: torch.device) -> AbstractContextManager[Any]:
    """`exact` for a run, whose products on CUDA depend on no setting of the process.

    There, a change would reach the user's training in another thread.
    """
    if device.type == "cuda":
        return torch.autocast("cuda", enabled=False)
    return exact(device)


@undoing
def outside_inference_mode(undo: Undo) -> None:
    """Make tensors that can be changed outside of inference mode."""
    if torch.is_inference_mode_enabled():
        mode: Any = torch.inference_mode(mode=False)
        undo.add(_leave, mode)
        mode.__enter__()
        torch.set_grad_enabled(False)


def _leave(mode: Any) -> None:
    """Leave a mode of torch's, entered or not; leaving it twice does no harm."""
    with suppress(AttributeError):
        mode.__exit__(None, None, None)
