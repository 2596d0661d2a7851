"""Forward hooks that live exactly as long as a `with` block and keep no activation.

Inside the hook an activation is reduced to its packed Gram matrix. What happens to the
tensor afterwards, such as an in-place ReLU or ``out += identity``, cannot change it.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from threading import get_ident
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from . import hsic
from ._grams import GramBuffer, Grams, Group
from ._guard import exact, reduces_float32
from ._layers import LayerTree
from ._nodes import Layer, Output
from ._parameters import kind_of
from ._randomness import Scatter, watched

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

OUTPUT_KEYS = ("last_hidden_state", "logits")
"""Where Hugging Face outputs keep what the next layer sees."""

PROBE_EXAMPLES = (3, 2)
"""The axis that changes with the number of examples is the batch axis."""

Features = Callable[[Tensor], Tensor]
"""From activations (n, ...) of one layer to its features (n, ...)."""


class _Uncopied:
    """A forward hook that a copy or pickle of the model leaves behind."""

    def __deepcopy__(self, _: dict[int, Any]) -> Callable[..., None]:
        return no_hook

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[()]]:
        return _unhooked, ()


class Capture(_Uncopied):
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
        self._plain: dict[nn.Module, _Plain] = {}
        self._due: dict[nn.Module, _Plain] = {}
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

    def grams(self, *packed: Tensor) -> Grams:
        """This model's of what the buffer gave for the batch: it is in a row there."""
        for row, layer in enumerate(self._layers):
            if self._index[row] < 0 and row in self._wanted:
                self._problems.setdefault(row, _missing(layer))
        start, problems = self._start, self._problems
        index = [max(place - start, -1) for place in self._index]
        held = slice(start, self._stop)
        z, scales, traces, norms = (values[held] for values in packed)
        self._clear(0)
        return Grams(z, scales, traces, norms, index, problems)

    @property
    def scatters(self) -> list[tuple[str, Scatter]]:
        """Names of a few layers, with what tells whether batches are random."""
        return [(self._layers[row].name, s) for row, s in self._scatters.items()]

    def _clear(self, examples: int) -> None:
        self._examples = examples
        self._start = self._stop = self._buffer.count
        self._calls: dict[nn.Module, int] = {}
        self._index = [-1] * len(self._layers)
        self._problems: dict[int, str] = {}
        self._seen: dict[int, tuple[weakref.ref[Tensor], int, Features, int]] = {}
        self._plainer: dict[nn.Module, _Plain] = {}

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
            self._index[plain.row] = self._buffer.again(
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
        if isinstance(found, str):
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
                self._problems[row] = text
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
        works = hsic.working_dtype(made.dtype) is made.dtype
        if made.ndim == 2 and made.is_cpu and alone and works:
            group = self._buffer.group(made)
            scatter = self._scatters.get(row)
            number = self._first + row
            self._plainer[module] = _Plain(
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


class _Plain(NamedTuple):
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
    group: Group
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


class _Hook(_Uncopied):
    """A function as a forward hook."""

    def __init__(self, function: Callable[[nn.Module, Any, Any], None]) -> None:
        self._function = function

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        self._function(module, args, output)


def no_hook(*_: Any) -> None:
    """What a copy of a hooked model has in place of our hook."""


def _unhooked() -> Callable[..., None]:
    return no_hook


def probe(tree: LayerTree, run: Callable[[int | None], int]) -> None:
    """Learn which modules are called, in what order and with what outputs.

    Args:
        tree: Gets what was learned.
        run: ``run(count)`` runs the model on the first ``count`` examples of a batch,
            or on all with None, and returns how many there were.
    """
    try:
        seen = [_observe(tree, run, count) for count in PROBE_EXAMPLES]
    except Exception:  # some models refuse small batches; the full one decides
        seen = []
    (more, calls), (fewer, others) = seen if len(seen) == 2 else [(0, []), (0, [])]
    same_modules = [c.module for c in calls] == [c.module for c in others]
    # A batch of a class of its own may not have let itself be cut.
    unchanged = [c.shape for c in calls] == [c.shape for c in others]
    if not calls or more == fewer or not same_modules or unchanged:
        examples, calls = _observe(tree, run, None)
        outputs = [_by_size(call, examples) for call in calls]
    else:
        outputs = [
            _by_change(a, b, more, fewer) for a, b in zip(calls, others, strict=True)
        ]
    found: dict[nn.Module, list[Output]] = {}
    for order, (call, output) in enumerate(zip(calls, outputs, strict=True)):
        found.setdefault(call.module, []).append(
            replace(
                output, order=order, kind=call.kind, nbytes=_example_bytes(call, output)
            )
        )
    tree.learn(found)


def tensor_of(output: Any) -> Tensor | str:
    """The tensor to compare in a module's output, or why there is none."""
    if isinstance(output, Tensor):
        return _usable(output)
    if output is None:
        return "no output"
    if isinstance(output, Mapping):
        first = [output[key] for key in OUTPUT_KEYS if output.get(key) is not None]
        items = [*first, *output.values()]
    elif isinstance(output, list | tuple):
        items = list(output)
    else:
        return f"output of type {type(output).__name__}"
    found = [tensor_of(item) for item in items]
    tensor = next((item for item in found if isinstance(item, Tensor)), None)
    reasons = [item for item in found if isinstance(item, str)]
    return tensor if tensor is not None else (reasons or ["empty output"])[0]


def batch_first(activations: Tensor, output: Output) -> Tensor:
    """Activations as (n, ...), whatever their batch axis."""
    rows = activations.movedim(output.axis, 0) if output.axis else activations
    if output.groups > 1 and len(rows) % output.groups == 0:
        rows = rows.reshape(-1, output.groups, *rows.shape[1:])
    return rows.unsqueeze(1) if rows.ndim == 1 else rows


def as_rows(features: Tensor) -> Tensor:
    """Features as (n, p), in memory order where that saves a copy.

    A Gram matrix does not depend on the order of the columns.
    """
    if features.ndim == 4 and features.is_contiguous(memory_format=torch.channels_last):
        features = features.permute(0, 2, 3, 1)
    return features.flatten(1)


@dataclass(slots=True)
class _Call:
    """One observed call: its tensor's shape and first rows, or what is wrong."""

    module: nn.Module
    shape: tuple[int, ...] = ()
    reason: str | None = None
    rows: Tensor | None = None
    kind: str = ""
    itemsize: int = 0


def _observe(
    tree: LayerTree, run: Callable[[int | None], int], count: int | None
) -> tuple[int, list[_Call]]:
    calls: list[_Call] = []
    thread = get_ident()

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if get_ident() == thread:
            calls.append(_describe(module, tensor_of(output), count))

    with _hooked(tree, note):
        examples = run(count)
    return examples, calls


def _describe(module: nn.Module, found: Tensor | str, count: int | None) -> _Call:
    if isinstance(found, str):
        return _Call(module, reason=found)
    shape = tuple(found.shape)
    grouped = bool(count) and shape[0] != count and shape[0] % (count or 1) == 0
    # A copy: the probe runs few examples, and what follows may change the tensor.
    rows = found.detach().clone() if grouped else None
    return _Call(module, shape, rows=rows, kind=kind_of(found), itemsize=found.itemsize)


def _example_bytes(call: _Call, output: Output) -> int:
    """Size of what a call gives for one example; 0 where there is no batch axis."""
    if None not in output.shape:
        return 0
    sizes = [size for size in output.shape if size is not None]
    return prod(sizes) * output.groups * call.itemsize


@contextmanager
def _hooked(tree: LayerTree, function: Callable[..., None]) -> Iterator[None]:
    modules = {id(node.module): node.module for node in tree.nodes}.values()
    hook = _Hook(function)
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _by_change(call: _Call, other: _Call, more: int, fewer: int) -> Output:
    """Batch axis from two calls with different numbers of examples."""
    reason = call.reason or other.reason
    if reason is not None or len(call.shape) != len(other.shape):
        return Output(0, reason=reason or "output of varying rank")
    pairs = list(zip(call.shape, other.shape, strict=True))
    if (more, fewer) in pairs:
        axis = pairs.index((more, fewer))
        return Output(0, _open_shape(call.shape, axis), axis)
    if call.shape == other.shape:
        return Output(0, reason="output does not depend on the batch")
    size, less = pairs[0]
    groups = size // more
    if size == groups * more and less == groups * fewer and _grouped(call, other):
        return Output(0, _open_shape(call.shape, 0), 0, groups)
    return Output(0, reason=f"no batch axis in output of shape {call.shape}")


def _grouped(call: _Call, other: _Call) -> bool:
    """Whether rows of one example lie together: the first ones are then the same."""
    if call.rows is None or other.rows is None:
        return False
    first, same = other.rows.float(), call.rows[: len(other.rows)].float()
    tolerance = 1e-3 * float(first.abs().max())
    return first.shape == same.shape and bool(
        torch.allclose(first, same, rtol=1e-3, atol=tolerance)
    )


def _by_size(call: _Call, examples: int) -> Output:
    """Batch axis as the first of the right size, where small batches do not run."""
    if call.reason is not None:
        return Output(0, reason=call.reason)
    if examples not in call.shape:
        reason = f"no batch axis in output of shape {call.shape}"
        return Output(0, reason=reason)
    axis = call.shape.index(examples)
    return Output(0, _open_shape(call.shape, axis), axis)


def _open_shape(shape: tuple[int, ...], axis: int) -> tuple[int | None, ...]:
    return (*shape[:axis], None, *shape[axis + 1 :])


def _usable(tensor: Tensor) -> Tensor | str:
    if tensor.layout != torch.strided or tensor.is_nested:
        return "sparse or nested output"
    if tensor.is_complex():
        return "complex output"
    if not tensor.is_floating_point():
        return "integer output"
    return tensor if tensor.ndim > 0 else "scalar output"


def _missing(layer: Layer) -> str:
    if layer.call == 0:
        return "not called"
    return f"called fewer than {layer.call + 1} times"
