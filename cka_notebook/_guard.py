"""What a run borrows from the user and gives back: modes, devices, random numbers."""

import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn


class OwnRandom:
    """Random streams of the run's own, swapped in around what it computes.

    They start where the global streams of torch, numpy and Python are, so seeding works
    as expected, and leave those untouched, so comparing models changes nothing else in
    a notebook.
    """

    def __init__(self, devices: list[torch.device]) -> None:
        self._cuda = sorted({d.index or 0 for d in devices if d.type == "cuda"})
        self._depth = 0
        self._mine = self._get()

    def __enter__(self) -> None:
        self._depth += 1
        if self._depth == 1:
            self._theirs = self._get()
            self._set(self._mine)

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._mine = self._get()
            self._set(self._theirs)

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
    if device is None or homes == {device} or hasattr(model, "hf_device_map"):
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
    if hasattr(torch.compiler, "set_stance"):
        return torch.compiler.set_stance("force_eager")
    return nullcontext()
