"""Layers whose outputs need no second look."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cka_notebook._grams.buffer import DeviceBuffer

from .shuffling import Scatter


class Plain(NamedTuple):
    """A layer whose output needs no look, as long as it is as it was.

    Hooks of small layers take longer to ask what an output is than to multiply it. What
    was a ``(n, p)`` tensor on a CPU, of one layer alone, is multiplied as it is the
    next time, if it needs no shift. Autocast is not asked for: it leaves products alone
    that are written to a tensor at hand.
    """

    row: int
    number: int
    shape: torch.Size
    dtype: torch.dtype
    group: DeviceBuffer
    scatter: Scatter | None

    def suits(self, output: Any) -> bool:
        """Whether this output is of the same kind."""
        return (
            isinstance(output, Tensor)
            and output.shape == self.shape
            and output.dtype is self.dtype
            and output.is_cpu
            and output.layout is torch.strided
            and not output.requires_grad
        )
