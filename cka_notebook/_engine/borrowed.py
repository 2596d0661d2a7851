"""What a run borrows from the user and gives back: modes, devices, random numbers."""

import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from cka_notebook._models.offloading import is_dispatched


class RandomStreams:
    """Random streams of the run's own, swapped in around what it computes.

    They start where the global streams of torch, numpy and Python are, so seeding works
    as expected, and leave those untouched, so comparing models changes nothing else in
    a notebook. A block inside another costs nothing; `lent` interrupts them.
    """

    def __init__(self, devices: list[torch.device]) -> None:
        self._cuda = sorted({d.index or 0 for d in devices if d.type == "cuda"})
        self._depth = 0
        self._mine = self._get()

    def __enter__(self) -> None:
        self._depth += 1
        if self._depth == 1:
            self._before, _of_thread.streams = _of_thread.streams, self
            self.take()

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            _of_thread.streams = self._before
            self.give_back()

    def take(self) -> None:
        """Put the run's own streams in the place of the global ones."""
        self._theirs = self._get()
        self._set(self._mine)

    def give_back(self) -> None:
        """Put the global streams back."""
        self._mine = self._get()
        self._set(self._theirs)

    def save(self) -> dict[str, torch.Tensor]:
        """The run's own streams, as tensors."""
        if self._depth:
            self._mine = self._get()
        version, words, gauss = self._mine[0]
        name, keys, position, has_gauss, cached = self._mine[1]
        del version, name  # of the one kind that both have
        return {
            "python": torch.tensor(words),
            "python_gauss": torch.tensor(
                float("nan") if gauss is None else gauss, dtype=torch.float64
            ),
            "numpy": torch.from_numpy(keys.astype(np.int64)),
            "numpy_rest": torch.tensor(
                [position, has_gauss, cached], dtype=torch.float64
            ),
            **{f"torch{i}": state for i, state in enumerate(self._mine[2:])},
        }

    def load(self, saved: dict[str, torch.Tensor]) -> None:
        """Take up streams that `save` gave."""
        gauss = float(saved["python_gauss"])
        python = 3, tuple(saved["python"].tolist()), None if gauss != gauss else gauss  # noqa: PLR0124 NaN
        position, has_gauss, cached = saved["numpy_rest"].tolist()
        keys = saved["numpy"].numpy().astype(np.uint32)
        state = "MT19937", keys, int(position), int(has_gauss), cached
        count = len(self._mine) - 2
        self._mine = [python, state, *(saved[f"torch{i}"] for i in range(count))]
        if self._depth:
            self._set(self._mine)

    def _get(self) -> list[Any]:
        cuda = [torch.cuda.get_rng_state(index) for index in self._cuda]
        loaders = [random.getstate(), np.random.get_state()]  # noqa: NPY002 the global one, that transforms use
        return [*loaders, torch.get_rng_state(), *cuda]

    def _set(self, states: list[Any]) -> None:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002 as above
        torch.set_rng_state(states[2])
        for index, state in zip(self._cuda, states[3:], strict=True):
            torch.cuda.set_rng_state(state, index)


@contextmanager
def lent() -> Iterator[None]:
    """The user's random streams, while code of hers runs between two batches."""
    own = _of_thread.streams
    if own is None:
        yield
        return
    _of_thread.streams = None
    own.give_back()
    try:
        yield
    finally:
        own.take()
        _of_thread.streams = own


class _OfThread(threading.local):
    """The streams of a run that this thread has in place, if any."""

    streams: RandomStreams | None = None


_of_thread = _OfThread()


@contextmanager
def evaluating(modules: list[nn.Module]) -> Iterator[None]:
    """Evaluation mode for one forward pass; each module's own flag comes back."""
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def placed(model: nn.Module, device: torch.device | None) -> Iterator[None]:
    """The model on ``device``, and back afterwards. Dispatched models stay put.

    Raises:
        ValueError: If the model is on several devices, or ``device`` holds no numbers.
    """
    held = [*model.parameters(), *model.buffers()]
    homes = {tensor.device for tensor in held}
    if device is not None and device.type == "meta":
        msg = "Expected `device` to hold numbers, got 'meta'. Leave device=None."
        raise ValueError(msg)
    if device is None or homes == {device} or is_dispatched(model):
        yield
        return
    if len(homes) > 1:
        msg = (
            f"Expected {type(model).__name__} on one device to move it, got {homes}. "
            "Leave device=None: inputs then follow the model."
        )
        raise ValueError(msg)
    try:
        model.to(device)
        yield
    finally:
        for home in homes:
            model.to(home)


def eager() -> Any:
    """No compiled graphs for now: hooks added after compilation are not in them."""
    # Nothing was compiled without this module, which takes seconds to import.
    compiled = "torch._dynamo" in sys.modules
    if compiled and hasattr(torch.compiler, "set_stance"):
        return torch.compiler.set_stance("force_eager")
    return nullcontext()
