"""Forward hooks that live exactly as long as a `with` block and keep no activation.

Inside the hook an activation is reduced to its packed Gram matrix. What happens to the
tensor afterwards, such as an in-place ReLU or ``out += identity``, cannot change it.
"""

import weakref
from collections.abc import Callable, Iterable, Sequence
from threading import get_ident
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from cka_notebook._grams.buffer import GramBuffer
from cka_notebook._grams.packing import PackedGrams
from cka_notebook._grams.pairs import LayerGrams
from cka_notebook._grams.precision import exact, reduces_float32
from cka_notebook._grams.products import working_dtype
from cka_notebook._messages import Reason
from cka_notebook._models.nodes import Layer

from .fast_path import Plain
from .hooks import Uncopied
from .outputs import as_rows, batch_first, tensor_of
from .shuffling import Scatter, watched

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle


Features = Callable[[Tensor], Tensor]
"""From activations (n, ...) of one layer to its features (n, ...)."""


class Capture(Uncopied):
    """Packed Gram matrices of the chosen layers of one model, batch after batch.

    Use as a context manager; hooks exist inside it only. Forward passes of other
    threads, and those outside of `begin` and `finish`, are ignored.

    Args:
        layers: The layers, in the order of the rows.
        features: For each layer, what is made of its activations before the Gram.
        buffer: Where the Gram matrices gather.
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
        self._plain: dict[nn.Module, Plain] = {}
        self._due: dict[nn.Module, Plain] = {}
        self._handles: list[RemovableHandle] = []
        self._thread: int | None = None
        self._reduced: dict[str, bool] = {}
        self._buffer, self._first, self._size = buffer, first, 0
        self._clear(0)

    def __enter__(self) -> Self:
        # Itself the hook: one call less, hundreds of times a batch.
        self._handles = [module.register_forward_hook(self) for module in self._rows]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._plain = [], {}
        self._buffer.release()
        self._clear(0)

    def only(self, rows: Iterable[int]) -> None:
        """Take the outputs of these rows alone, from the next batch on."""
        self._wanted = set(rows)
        self._plain = {}

    def begin(self, examples: int) -> None:
        """Expect the forward pass of one batch, in this thread.

        The buffer has begun that batch.
        """
        self._clear(examples)
        self._reduced = {kind: reduces_float32(kind) for kind in ("cpu", "cuda")}
        if self._reduced["cpu"] or examples != self._size:
            self._plain = {}
        self._size = examples
        shifts = self._buffer.shifts
        self._due = {
            module: plain
            for module, plain in self._plain.items()
            if shifts.get(plain.number) == "none"
        }
        self._calls.update(dict.fromkeys(self._due, 1))  # another call is the second
        self._thread = get_ident()

    def finish(self) -> None:
        """No longer expect it."""
        self._thread = None
        self._stop = self._buffer.count
        self._plain.update(self._plainer)

    def grams(self, packed: PackedGrams) -> LayerGrams:
        """This model's part of the Gram matrices in the buffer, which is contiguous."""
        for row, layer in enumerate(self._layers):
            if self._index[row] < 0 and row in self._wanted:
                self._problems.setdefault(row, _missing(layer))
        start, problems = self._start, self._problems
        index = [max(place - start, -1) for place in self._index]
        own = packed[start : self._stop]
        self._clear(0)
        return LayerGrams(own, index, problems)

    @property
    def scatters(self) -> list[tuple[str, Scatter]]:
        """Names of a few layers, with what tells whether batches are random."""
        return [(self._layers[row].name, s) for row, s in self._scatters.items()]

    def _clear(self, examples: int) -> None:
        self._examples = examples
        self._start = self._stop = self._buffer.count
        self._calls: dict[nn.Module, int] = {}
        self._index = [-1] * len(self._layers)
        self._problems: dict[int, Reason] = {}
        self._seen: dict[int, tuple[weakref.ref[Tensor], int, Features, int]] = {}
        self._plainer: dict[nn.Module, Plain] = {}

    def __call__(self, module: nn.Module, _: Any, output: Any) -> None:
        """Take what a module returned; torch calls this after each forward pass."""
        if get_ident() != self._thread:
            return
        plain = self._due.pop(module, None)
        if plain is None:
            call = self._calls.get(module, 0)
        elif plain.suits(output):
            if plain.scatter is not None:
                plain.scatter.add(output)
            self._index[plain.row] = self._buffer.add_unshifted(
                output, plain.number, plain.group
            )
            return
        else:
            call = 0
        self._calls[module] = call + 1
        for row, layer in self._rows[module]:
            if layer.call == call and row in self._wanted:
                self._reduce(row, layer, output)

    def _reduce(self, row: int, layer: Layer, output: Any) -> None:
        found = tensor_of(output)
        if isinstance(found, Reason):
            self._problems[row] = found
            return
        features = self._features[row]
        gram = self._same_as_before(found, features)
        if gram is None:
            found = found.detach() if found.requires_grad else found
            rows = batch_first(found, layer.output)
            if rows.shape[0] != self._examples:
                shape = tuple(found.shape)
                text = f"output of shape {shape} for {self._examples} examples"
                self._problems[row] = Reason(text, "no_batch_axis")
                return
            kind = found.device.type
            if self._reduced.get(kind) or torch.is_autocast_enabled(kind):
                with exact(found.device):
                    gram = self._gram(row, features(rows))
            else:
                made = features(rows)
                gram = self._gram(row, made)
                if made is output:
                    self._note_plain(row, made)
            if not found.is_inference():
                seen = weakref.ref(found), found._version, features, row  # noqa: SLF001 the only sign of an in-place change
                self._seen[id(found)] = seen
        self._index[row] = gram

    def _note_plain(self, row: int, made: Tensor) -> None:
        """Remember a layer whose output was its features, as a (n, p) tensor."""
        module = self._layers[row].module
        alone = [layer.call for _, layer in self._rows[module]] == [0]
        works = working_dtype(made.dtype) is made.dtype
        if made.ndim == 2 and made.is_cpu and alone and works:
            group = self._buffer.part_for(made)
            scatter = self._scatters.get(row)
            number = self._first + row
            self._plainer[module] = Plain(
                row, number, made.shape, made.dtype, group, scatter
            )

    def _gram(self, row: int, features: Tensor) -> int:
        """Index of the Gram matrix of these features."""
        rows = as_rows(features)
        scatter = self._scatters.get(row)
        if scatter is not None:
            scatter.add(rows)
        return self._buffer.add(rows, self._first + row)

    def _same_as_before(self, found: Tensor, features: Features) -> int | None:
        """Gram of the very same tensor, handed on by an Identity or a container.

        The weak reference tells it from a later tensor at the same address, the version
        from one changed in place since.
        """
        entry = self._seen.get(id(found))
        if entry is None or entry[0]() is not found or entry[2] is not features:
            return None
        if entry[1] != found._version:  # noqa: SLF001 as above
            return None
        self._plainer.pop(self._layers[entry[3]].module, None)
        return self._index[entry[3]]


def _missing(layer: Layer) -> Reason:
    if layer.call == 0:
        return Reason("not called", "not_called")
    return Reason(f"called fewer than {layer.call + 1} times", "not_called")
