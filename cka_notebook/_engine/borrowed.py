"""User state that a run borrows and restores: devices, random numbers, the compiler."""

import random
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from cka_notebook._grams import precision
from cka_notebook._models.offloading import is_dispatched
from cka_notebook._undo import Undo, undoing

from .modes import Shared, held, switched_off


class RandomStreams:
    """A run's own random streams, which replace the global ones while it computes.

    They start from the global streams of torch, numpy and Python, so seeding works as
    expected, and leave those untouched, so comparing models changes nothing else in a
    notebook. Nested blocks cost nothing; `lent` interrupts them.

    Args:
        devices: The devices that the models compute on.
    """

    def __init__(self, devices: list[torch.device]) -> None:
        self._cuda = sorted({d.index or 0 for d in devices if d.type == "cuda"})
        self._depth = 0
        self._global: list[Any] | None = None
        self._outer: RandomStreams | None = None
        self._in_place = False
        self._own = self._get()

    def __enter__(self) -> None:
        self._depth += 1
        if self._depth == 1:
            self._outer = _active.streams
            self.take()

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.give_back()

    def take(self) -> None:
        """Replace the global streams by the run's own."""
        self._global = self._get()
        _active.streams = self
        self._set(self._own)
        self._in_place = True

    def give_back(self) -> None:
        """Restore the global streams, if they are replaced or an interrupt left both.

        It does no harm to call it again.
        """
        if self._in_place:
            self._own = self._get()
            self._in_place = False
        if self._global is not None:
            self._set(self._global)
            self._global = None
        if _active.streams is self:
            _active.streams = self._outer

    def save(self) -> dict[str, torch.Tensor]:
        """The run's own streams, as tensors."""
        if self._in_place:
            self._own = self._get()
        version, words, gauss = self._own[0]
        name, keys, position, has_gauss, cached = self._own[1]
        del version, name  # There is only one kind of each.
        return {
            "python": torch.tensor(words, device="cpu"),
            "python_gauss": _numbers([float("nan") if gauss is None else gauss])[0],
            "numpy": torch.from_numpy(keys.astype(np.int64)),
            "numpy_rest": _numbers([position, has_gauss, cached]),
            **{f"torch{i}": state for i, state in enumerate(self._own[2:])},
        }

    def load(self, saved: dict[str, torch.Tensor]) -> None:
        """Continue from streams that `save` gave."""
        gauss = float(saved["python_gauss"])
        python = 3, tuple(saved["python"].tolist()), None if gauss != gauss else gauss  # noqa: PLR0124 NaN
        position, has_gauss, cached = saved["numpy_rest"].tolist()
        keys = saved["numpy"].numpy().astype(np.uint32)
        state = "MT19937", keys, int(position), int(has_gauss), cached
        count = len(self._own) - 2
        self._own = [python, state, *(saved[f"torch{i}"] for i in range(count))]
        if self._in_place:
            self._set(self._own)

    def _get(self) -> list[Any]:
        cuda = [torch.cuda.get_rng_state(index) for index in self._cuda]
        python = random.getstate()
        return [python, np.random.get_state(), torch.get_rng_state(), *cuda]  # noqa: NPY002 the global stream, which transforms use

    def _set(self, states: list[Any]) -> None:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002 as above
        torch.set_rng_state(states[2])
        for index, state in zip(self._cuda, states[3:], strict=True):
            torch.cuda.set_rng_state(state, index)


def _numbers(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, device="cpu")


@contextmanager
def lent() -> Iterator[None]:
    """The user's random streams, while the user's code runs between two batches."""
    own = _active.streams
    if own is None:
        yield
        return
    own.give_back()
    _active.streams = None
    try:
        yield
    finally:
        own.take()


class _Active(threading.local):
    """The streams that replace the global ones in this thread, if any."""

    streams: RandomStreams | None = None


_active = _Active()


@undoing
def without_nested_tensors(undo: Undo, encoders: list[nn.TransformerEncoder]) -> None:
    """Keep torch's encoders from passing nested tensors to their layers.

    In evaluation mode they do so if there is padding, and nested tensors have no Gram
    matrix. The switch is that of the module, because torch's other one counts for all
    threads; the last of several runs restores it.
    """
    for encoder in encoders:
        undo.enter(held(switched_off(encoder, "use_nested_tensor")))


@undoing
def placed(undo: Undo, model: nn.Module, device: torch.device | None) -> None:
    """The model on ``device``, and back afterwards; dispatched models stay.

    Raises:
        ValueError: If the model is on several devices, or ``device`` is "meta".
    """
    homes = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    if device is not None and device.type == "meta":
        msg = "Expected a device that stores data, got 'meta'. Leave device=None."
        raise ValueError(msg)
    if device is None or homes == {device} or is_dispatched(model):
        return
    if len(homes) > 1:
        msg = (
            f"Cannot move {type(model).__name__} to one device: its parameters are on "
            f"{homes}. Leave device=None, and inputs follow the model."
        )
        raise ValueError(msg)
    for home in homes:
        undo.add(model.to, home)
    model.to(device)


@undoing
def torch_settings(undo: Undo, kinds: Iterable[str]) -> None:
    """Torch's settings, as they are found, after whatever interrupts a block.

    Torch's own context managers restore them too, unless they are interrupted.

    Args:
        undo: Restores them.
        kinds: Types of the devices on which the block computes.
    """
    for kind in kinds:
        undo.add(_restore, kind, _settings(kind))
        undo.add(precision.let_go, kind, precision.held(kind))
    undo.add(torch.set_grad_enabled, torch.is_grad_enabled())


def _settings(kind: str) -> tuple[Any, ...]:
    nesting = torch.autocast_increment_nesting()
    torch.autocast_decrement_nesting()
    return (
        nesting,
        torch.is_autocast_enabled(kind),
        torch.get_autocast_dtype(kind),
        torch.is_autocast_cache_enabled(),
    )


def _restore(kind: str, found: tuple[Any, ...]) -> None:
    now = _settings(kind)
    if now == found:
        return
    nesting, enabled, dtype, caches = found
    for _ in range(nesting, now[0]):
        torch.autocast_decrement_nesting()
    if nesting == 1:  # the number inside of one more
        torch.clear_autocast_cache()
    torch.set_autocast_enabled(kind, enabled)
    torch.set_autocast_dtype(kind, dtype)
    torch.set_autocast_cache_enabled(caches)


def eager() -> AbstractContextManager[Any]:
    """Run eagerly: graphs compiled earlier do not contain the hooks."""
    # Without this module, which takes seconds to import, nothing was compiled.
    compiled = "torch._dynamo" in sys.modules
    if compiled and hasattr(torch.compiler, "set_stance"):
        return held(_STANCE)  # Torch has one for all threads.
    return nullcontext()


def _force_eager(undo: Undo) -> None:
    frames = sys.modules["torch._dynamo.eval_frame"]
    # No public function tells the stance, and it must be known before it is changed.
    undo.add(setattr, frames, "_stance", frames._stance)  # noqa: SLF001
    torch.compiler.set_stance("force_eager")


_STANCE = Shared(_force_eager)
