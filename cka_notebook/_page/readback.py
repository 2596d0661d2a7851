"""Copies from a GPU to the CPU that nothing waits for."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .codes import Floats


class Readback:
    """Asynchronous copies of device tensors to the CPU, as float32.

    On a GPU the copies go to pinned memory and an event marks their end, so the next
    batches are launched in the meantime. On the CPU the values are ready at once.

    Args:
        tensors: Tensors on one device, which nobody changes afterwards.
    """

    def __init__(self, *tensors: Tensor) -> None:
        device = tensors[0].device
        values = [tensor.detach().to(torch.float32) for tensor in tensors]
        self._event: Any = None
        if device.type != "cuda":
            self._values = [floats(value) for value in values]
            return
        self._pinned = [_pinned_copy(value) for value in values]
        self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._event.record(torch.cuda.current_stream(device))

    @property
    def is_ready(self) -> bool:
        """Whether the copies have finished, so that `values` need not wait."""
        return self._event is None or bool(self._event.query())

    def values(self) -> list[Floats]:
        """The values as they are sent; waits for the copies if necessary."""
        if self._event is not None:
            self._event.synchronize()
            self._values, self._event = [floats(value) for value in self._pinned], None
        return self._values


def floats(values: Tensor) -> Floats:
    """Little-endian float32 on the CPU in row-major order, as values are sent."""
    return np.ascontiguousarray(values.detach().cpu().numpy(), "<f4")


def _pinned_copy(values: Tensor) -> Tensor:
    copy = torch.empty(values.shape, dtype=values.dtype, device="cpu", pin_memory=True)
    return copy.copy_(values, non_blocking=True)
