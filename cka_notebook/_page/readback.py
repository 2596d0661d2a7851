"""Numbers on their way from a GPU to the CPU, for which nothing waits."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .codes import Floats


class Readback:
    """Copies of tensors, which come when the device has got so far.

    On a GPU they go through pinned memory, and an event tells when they have come; the
    batches that follow are launched meanwhile. Elsewhere they are there at once.

    Args:
        tensors: Of one device, and nobody else's.
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
    def has_come(self) -> bool:
        """Whether `values` need not wait."""
        return self._event is None or bool(self._event.query())

    def values(self) -> list[Floats]:
        """The numbers, as they go over the wire."""
        if self._event is not None:
            self._event.synchronize()
            self._values, self._event = [floats(value) for value in self._pinned], None
        return self._values


def floats(values: Tensor) -> Floats:
    """Float32 on the CPU, row by row, as it goes over the wire."""
    return np.ascontiguousarray(values.detach().cpu().numpy(), "<f4")


def _pinned_copy(values: Tensor) -> Tensor:
    copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return copy.copy_(values, non_blocking=True)
