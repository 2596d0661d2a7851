"""Copies from a GPU to the CPU that nothing waits for."""

from typing import Any

import torch
from torch import Tensor


class Readback:
    """Asynchronous copies of device tensors to the CPU.

    On a GPU the copies go to pinned memory and an event marks their end, so the next
    batches are launched in the meantime. On the CPU the values are ready at once.

    Args:
        tensors: Tensors on one device that do not change afterwards.
    """

    def __init__(self, *tensors: Tensor) -> None:
        device = tensors[0].device
        self._values = [tensor.detach() for tensor in tensors]
        self._event: Any = None
        if device.type != "cuda":
            return
        self._values = [_pinned_copy(value) for value in self._values]
        self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._event.record(torch.cuda.current_stream(device))

    @property
    def is_ready(self) -> bool:
        """Whether the copies have finished, so that `values` need not wait."""
        return self._event is None or bool(self._event.query())

    def values(self) -> list[Tensor]:
        """The values on the CPU; waits for the copies if necessary.

        They are not in pinned memory, which is scarce.
        """
        if self._event is not None:
            self._event.synchronize()
            self._values, self._event = [x.clone() for x in self._values], None
        return [value.cpu() for value in self._values]


def is_recorded(device: torch.device) -> bool:
    """Whether a CUDA graph is being recorded, in which nothing can be read back."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _pinned_copy(values: Tensor) -> Tensor:
    copy = torch.empty(values.shape, dtype=values.dtype, device="cpu", pin_memory=True)
    return copy.copy_(values, non_blocking=True)
