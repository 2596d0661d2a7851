"""Describes what each call of each module returns in one pass of the probe."""

import weakref
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from cka_notebook._messages import Reason, is_out_of_memory
from cka_notebook._models.nodes import Path
from cka_notebook._models.parameters import kind_of

from .outputs import EMPTY, entries, usable
from .rows import Prints, Reading, prints

MAX_TENSORS = 16
"""Maximum number of tensors of one output that are inspected."""

SUM_ROUNDING = 1e-4
"""Attention weights of an example sum to 1 but for this much."""

HALF_SUM_ROUNDING = 1e-2
"""The same for types of 16 bits and fewer."""

IN_TRANSFORM = Reason(
    "output inside a transform of torch.func, such as vmap or grad", "no_tensor"
)


@dataclass(slots=True)
class Entry:
    """One tensor of an output, or why it cannot be compared.

    Attributes:
        path: Where it is in the output.
        rank: Smaller for what is more likely the result of the module.
        prints: Numbers that tell the examples apart, by how it may be read.
        itemsize: Bytes of a number.
        is_given: Whether the module was given it; None if it is not a tensor.
        is_rewritten: Whether its numbers are others than when it was returned before,
            and its version is the same.
    """

    path: Path
    rank: tuple[int, ...] = ()
    reason: Reason | None = None
    shape: tuple[int, ...] = ()
    kind: str = ""
    itemsize: int = 0
    is_given: bool | None = None
    is_rewritten: bool = False
    prints: dict[Reading, Prints] = field(default_factory=dict)


class Call(NamedTuple):
    """One observed call of a module."""

    order: int
    entries: list[Entry]


Calls = dict[nn.Module, list[Call]]


class Observer:
    """Hooks that describe each call of each module.

    Attributes:
        calls: The calls in this thread.
        threaded: Modules that were called in threads of the model's own, and whether
            they were in training mode there.
    """

    def __init__(self, examples: int) -> None:
        self.calls: Calls = {}
        self.threaded: dict[nn.Module, bool] = {}
        self._seen: dict[int, weakref.ref[Tensor]] = {}
        self._threads: set[int] = set()
        self._examples = examples
        self._thread = get_ident()
        self._given: list[tuple[nn.Module, list[Any], set[Any], set[int]]] = []
        self._returned: dict[Any, dict[Reading, Prints]] = {}
        self._order = 0

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Remember what a module is given: it may hand it on."""
        given = [value for _, value in entries([*args, *kwargs.values()])]
        tensors = [x for x in given if isinstance(x, Tensor | PackedSequence)]
        if get_ident() != self._thread:
            self._before_elsewhere(module, tensors)
            return
        self._see(tensors)
        containers = {id(value) for value in (*args, *kwargs.values())}
        # The tensors stay referenced, so that no other gets their addresses.
        marks = set(map(_mark, tensors))
        self._given.append((module, tensors, marks, containers))

    def after(self, module: nn.Module, _: Any, output: Any) -> None:
        """Describe the output of a module."""
        if get_ident() != self._thread:
            return
        marks, containers = self._taken(module)
        found = self._described(output, marks, is_given=id(output) in containers)
        self.calls.setdefault(module, []).append(Call(self._order, found))
        self._order += 1

    def _taken(self, module: nn.Module) -> tuple[set[Any], set[int]]:
        """What the module was given; calls that have failed are passed over."""
        while self._given:
            called, _, marks, containers = self._given.pop()
            if called is module:
                return marks, containers
        return set(), set()

    def _see(self, values: list[Any]) -> None:
        """Remember tensors of this pass: a user's own thread has none of them."""
        for value in values:
            if isinstance(value, Tensor) and value.numel():
                self._seen[_mark(value)[0]] = weakref.ref(value)

    def _before_elsewhere(self, module: nn.Module, given: list[Any]) -> None:
        """Note a call in another thread, if that works on tensors of this pass."""
        if any(map(self._is_seen, given)):
            self._threads.add(get_ident())
        if get_ident() in self._threads:
            self.threaded[module] = module.training

    def _is_seen(self, value: Tensor | PackedSequence) -> bool:
        found = self._seen.get(_mark(value)[0])
        return found is not None and found() is not None

    def _described(
        self, output: Any, given: set[Any], *, is_given: bool
    ) -> list[Entry]:
        """The tensors of an output.

        Args:
            output: The output.
            given: Marks of the tensors that the module was given.
            is_given: Whether the output itself is one of the arguments.
        """
        found = list(entries(output))[:MAX_TENSORS]
        described = []
        for place, (path, value) in enumerate(found):
            try:
                entry = _entry(path, value, self._examples)
                if isinstance(value, Tensor | PackedSequence):
                    self._see([value])
                    mark = _mark(value)
                    entry.is_given = mark in given
                    entry.is_rewritten = _differ(self._returned.get(mark), entry)
                    self._returned[mark] = entry.prints
                if entry.reason is None and len(found) > 1:
                    # Of what was put into a given dict, the last is the result.
                    position = -place if is_given else place
                    entry.rank = bool(entry.is_given), *_unlikely(value), position
            except Exception as error:  # an odd tensor must not stop the run
                if is_out_of_memory(error):
                    raise
                text = f"output that cannot be read ({type(error).__name__}: {error})"
                entry = Entry(path, reason=Reason(text, "no_tensor"))
            described.append(entry)
        return described or [Entry((), reason=EMPTY)]


def _entry(path: Path, value: Any, examples: int) -> Entry:
    """A description of one part of an output."""
    if isinstance(value, Tensor) and _is_wrapped(value):
        return Entry(path, reason=IN_TRANSFORM)
    tensor = usable(value)
    if isinstance(tensor, Reason):
        return Entry(path, reason=tensor)
    return Entry(
        path,
        shape=tuple(tensor.shape),
        kind=kind_of(tensor),
        itemsize=tensor.itemsize,
        prints=prints(tensor, examples),
    )


def _differ(earlier: dict[Reading, Prints] | None, entry: Entry) -> bool:
    """Whether a tensor has other numbers than what was at the same place in memory."""
    pairs = [(x, entry.prints.get(key)) for key, x in (earlier or {}).items()]
    return any(y is not None and not torch.equal(x.rows, y.rows) for x, y in pairs)


def _unlikely(value: Tensor | PackedSequence) -> tuple[bool, bool]:
    """What speaks against a tensor as the result of a module, the strongest first.

    It looks like a mask or weights; it has one axis.
    """
    tensor = value if isinstance(value, Tensor) else value.data
    values = tensor.detach().float()
    is_mask = bool(((values == 0) | (values == 1) | (values < -1e4)).all())
    if tensor.ndim > 1 and not is_mask:
        rounding = SUM_ROUNDING if tensor.itemsize > 2 else HALF_SUM_ROUNDING
        off = (values.sum(-1) - 1).abs()
        is_mask = bool((values >= 0).all() and (off < rounding).all())
    return is_mask, tensor.ndim == 1


def _mark(value: Tensor | PackedSequence) -> tuple[int, int]:
    """The same for tensors of the same memory, while nothing changes it."""
    tensor = value if isinstance(value, Tensor) else value.data
    try:
        return tensor.untyped_storage().data_ptr(), tensor._version  # noqa: SLF001 the only sign of a change
    except (NotImplementedError, RuntimeError):  # no storage, or in inference mode
        return id(tensor), 0


def _is_wrapped(tensor: Tensor) -> bool:
    """Whether this is a tensor inside `torch.vmap`, `torch.func.jvp` or the like."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))  # noqa: SLF001 there is no public test
