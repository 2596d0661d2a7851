"""Forward hooks that exist only within a `with` block and keep no activation.

A hook reduces the activation to its packed Gram matrix at once. What happens to the
tensor afterwards, such as an in-place ReLU or ``out += identity``, cannot change it.
"""

import weakref
from collections.abc import Callable, Iterable, Sequence
from threading import get_ident
from typing import Any, Self

import torch
from torch import Tensor, nn

from cka_notebook._grams.buffer import GramBuffer
from cka_notebook._grams.packing import PackedGrams
from cka_notebook._grams.pairs import LayerGrams
from cka_notebook._grams.precision import exact, reduces_float32
from cka_notebook._messages import Reason
from cka_notebook._models.nodes import Layer
from cka_notebook._undo import unhook

from .fast_path import FastPath
from .hooks import Uncopied
from .outputs import as_rows, batch_first, tensor_of
from .shuffling import Scatter, watched

Features = Callable[[Tensor], Tensor]
"""From the activations (n, ...) of one layer to its features (n, ...)."""


class Capture(Uncopied):
    """Packed Gram matrices of the chosen layers of one model, batch after batch.

    Use as a context manager; hooks exist only inside it. Forward passes of other
    threads, and those that are not between `begin` and `finish`, are ignored.

    Args:
        layers: The layers, in the order of the rows.
        features: For each layer, what turns its activations into features.
        buffer: Where the Gram matrices go.
        first: The number of the first layer there.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        features: Sequence[Features],
        buffer: GramBuffer,
        first: int = 0,
    ) -> None:
        self._layers = layers
        self._features = features
        self._scatters = {row: Scatter() for row in watched(len(layers))}
        self._rows: dict[nn.Module, list[tuple[int, Layer]]] = {}
        for row, layer in enumerate(layers):
            self._rows.setdefault(layer.module, []).append((row, layer))
        self._wanted = set(range(len(layers)))
        self._fast_path = FastPath(self._rows, self._scatters, buffer, first)
        self._thread: int | None = None
        self._is_reduced = False
        self._buffer, self._first = buffer, first
        self._clear(0)

    def __enter__(self) -> Self:
        # The capture is the hook itself: a method in between would cost a call each.
        for module in self._rows:
            module.register_forward_hook(self)
        return self

    def __exit__(self, *_: object) -> None:
        for module in self._rows:
            unhook(module, self)
        self._fast_path.forget()
        self._buffer.release()
        self._clear(0)

    def only(self, rows: Iterable[int]) -> None:
        """Capture only these rows, from the next batch on."""
        self._wanted = set(rows)
        self._fast_path.forget()

    def begin(self, examples: int) -> None:
        """Expect the forward pass of one batch, in this thread.

        Call `GramBuffer.begin` first.
        """
        self._clear(examples)
        self._is_reduced = reduces_float32("cpu")
        self._fast_path.begin(examples, self._index, reduced=self._is_reduced)
        self._thread = get_ident()

    def finish(self) -> None:
        """End the forward pass."""
        self._thread = None
        self._stop = self._buffer.count
        self._fast_path.finish()

    def grams(self, packed: PackedGrams) -> LayerGrams:
        """This model's part of the Gram matrices of the batch, which is contiguous."""
        for row, layer in enumerate(self._layers):
            if self._index[row] < 0 and row in self._wanted:
                self._problems.setdefault(row, _missing(layer))
        start, problems = self._start, self._problems
        index = [max(position - start, -1) for position in self._index]
        own = packed[start : self._stop]
        self._clear(0)
        return LayerGrams(own, index, problems)

    @property
    def scatters(self) -> list[tuple[str, Scatter]]:
        """Names of the watched layers, each with its scatter."""
        return [(self._layers[row].name, s) for row, s in self._scatters.items()]

    def _clear(self, examples: int) -> None:
        self._examples = examples
        self._start = self._stop = self._buffer.count
        self._calls: dict[nn.Module, int] = {}
        self._index = [-1] * len(self._layers)
        self._problems: dict[int, Reason] = {}
        # By id: the tensor, its version, its features, and the row that it was for.
        self._reduced: dict[int, tuple[weakref.ref[Tensor], int, Features, int]] = {}

    def __call__(self, module: nn.Module, _: Any, output: Any) -> None:
        """Reduce the output of a module; torch calls this after each forward pass."""
        if get_ident() != self._thread or self._fast_path.take(module, output):
            return
        call = self._calls.get(module, 0)
        self._calls[module] = call + 1
        for row, layer in self._rows[module]:
            if layer.call == call and row in self._wanted:
                self._inspect(row, layer, output)

    def _inspect(self, row: int, layer: Layer, output: Any) -> None:
        """Find the tensor to compare, and its Gram matrix."""
        tensor = tensor_of(output, layer.output.path)
        if isinstance(tensor, Reason):
            self._problems[row] = tensor
            return
        features = self._features[row]
        index = self._shared_index(tensor, features)
        if index is None:
            tensor = tensor.detach() if tensor.requires_grad else tensor
            rows = batch_first(tensor, layer.output)
            if rows.shape[0] != self._examples:
                shape = tuple(tensor.shape)
                text = f"output of shape {shape} for {self._examples} examples"
                self._problems[row] = Reason(text, "no_batch_axis")
                return
            index = self._reduce(row, rows, features, output)
            if not tensor.is_inference():
                version = tensor._version  # noqa: SLF001 the only sign of an in-place change
                reduced = weakref.ref(tensor), version, features, row
                self._reduced[id(tensor)] = reduced
        self._index[row] = index

    def _reduce(
        self, row: int, activations: Tensor, features: Features, output: Any
    ) -> int:
        """Index of the Gram matrix of these activations ``(n, ...)``."""
        # On a GPU no product of ours depends on these settings.
        if activations.is_cpu and (
            self._is_reduced or torch.is_autocast_enabled("cpu")
        ):
            with exact(activations.device):
                return self._add(row, features(activations))
        made = features(activations)
        index = self._add(row, made)
        if made is output:
            self._fast_path.learn(self._layers[row].module, made)
        return index

    def _add(self, row: int, features: Tensor) -> int:
        rows = as_rows(features)
        scatter = self._scatters.get(row)
        if scatter is not None:
            scatter.add(rows)
        return self._buffer.add(rows, self._first + row)

    def _shared_index(self, tensor: Tensor, features: Features) -> int | None:
        """Index of the Gram matrix of a tensor that another layer has returned before.

        An Identity or a container does so. The weak reference tells the tensor from a
        later one at the same address, the version shows a change in place.
        """
        found = self._reduced.get(id(tensor))
        if found is None:
            return None
        reference, version, same_features, row = found
        if reference() is not tensor or same_features is not features:
            return None
        if version != tensor._version:  # noqa: SLF001 as above
            return None
        self._fast_path.unlearn(self._layers[row].module)
        return self._index[row]


def _missing(layer: Layer) -> Reason:
    if layer.call == 0:
        return Reason("not called", "not_called")
    return Reason(f"called fewer than {layer.call + 1} times", "not_called")
