"""A shortcut for layers that return a plain matrix of features in every batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cka_notebook._grams.buffer import GramBuffer, Part, is_unshifted_type
from cka_notebook._models.nodes import Layer

from .shuffling import Scatter


@dataclass(slots=True)
class _Expected:
    """What a layer returned in an earlier batch, and how it is reduced.

    Attributes:
        batch: The last batch in which the module of the layer was called.
    """

    row: int
    number: int
    shape: torch.Size
    dtype: torch.dtype
    part: Part
    scatter: Scatter | None
    batch: int = 0


class FastPath:
    """Reduces outputs that need no inspection.

    Inspecting the output of a small layer takes longer than multiplying it. So once a
    layer has returned its features as an ``(n, p)`` tensor (`learn`), its
    output is multiplied as it is in later batches (`take`), as long as

    - it is the only layer of its module, and that module's first call,
    - shape, dtype and layout of the tensor are the same, and
    - its features need no shift.

    Tensors taken this way are not remembered, so a layer whose tensor another layer
    returns too is dropped (`unlearn`): both are to share one Gram matrix. Autocast need
    not be checked: it does not affect products written to an existing tensor.

    Args:
        layers: Layers by module, each with its row.
        scatters: By row, what watches whether the batches are random.
        buffer: Where the Gram matrices go.
        first: The number of row 0 in the buffer.
    """

    def __init__(
        self,
        layers: Mapping[nn.Module, Sequence[tuple[int, Layer]]],
        scatters: Mapping[int, Scatter],
        buffer: GramBuffer,
        first: int,
    ) -> None:
        self._rows = {
            module: found[0][0]
            for module, found in layers.items()
            if [layer.call for _, layer in found] == [0]
        }
        self._scatters = scatters
        self._buffer, self._first = buffer, first
        self._shifts = buffer.shifts
        self._batch = self._examples = 0
        self._index: list[int] = []
        self._expected: dict[nn.Module, _Expected] = {}
        self._learned: dict[nn.Module, _Expected] = {}

    def begin(self, examples: int, index: list[int], *, reduced: bool) -> None:
        """Start a batch.

        Args:
            examples: Examples in the batch.
            index: Gets the index of each Gram matrix that is taken, by row.
            reduced: Whether the user allows float32 products of reduced precision on
                the CPU. What was learned is then dropped.
        """
        if reduced or examples != self._examples:
            self.forget()
        self._batch += 1
        self._examples, self._index = examples, index
        self._learned = {}

    def take(self, module: nn.Module, output: Any) -> bool:
        """Reduce the output of a module if it is as expected.

        Returns:
            Whether the output needs no inspection: it was reduced, or it is not of the
            first call, and only that is a layer.
        """
        expected = self._expected.get(module)
        if expected is None:
            return False
        if expected.batch == self._batch:
            return True
        expected.batch = self._batch
        if (
            self._shifts.get(expected.number) != "none"
            or not isinstance(output, Tensor)
            or output.shape != expected.shape
            or output.dtype is not expected.dtype
            or output.device != expected.part.device
            or output.layout is not torch.strided
            or output.requires_grad
        ):
            return False
        if expected.scatter is not None:
            expected.scatter.add(output)
        self._index[expected.row] = self._buffer.add_unshifted(
            output, expected.number, expected.part
        )
        return True

    def learn(self, module: nn.Module, output: Tensor) -> None:
        """Expect such an output from the next batch on, if it qualifies.

        Args:
            module: A module of one of the layers.
            output: What it returned, which is also its features.
        """
        row = self._rows.get(module)
        if row is None or output.ndim != 2 or not is_unshifted_type(output):
            return
        self._learned[module] = _Expected(
            row,
            self._first + row,
            output.shape,
            output.dtype,
            self._buffer.part_for(output),
            self._scatters.get(row),
        )

    def unlearn(self, module: nn.Module) -> None:
        """Drop what this batch taught: another layer returned the same tensor."""
        self._learned.pop(module, None)

    def finish(self) -> None:
        """End the batch: what it taught holds from the next one on."""
        self._expected.update(self._learned)

    def forget(self) -> None:
        """Expect nothing, as before the first batch."""
        self._expected = {}
