"""Describes what each call of each module returns in one pass of the probe."""

from dataclasses import dataclass, field
from threading import get_ident
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cka_notebook._messages import Reason, is_out_of_memory
from cka_notebook._models.nodes import Path
from cka_notebook._models.parameters import kind_of

from .outputs import EMPTY, entries, usable
from .rows import Prints, Reading, prints

MAX_TENSORS = 16
"""Tensors of one output that are looked at."""


@dataclass(slots=True)
class Entry:
    """One tensor of an output, or why it cannot be compared.

    Attributes:
        path: Where it is in the output.
        rank: Smaller for what is more likely the result of the module.
        prints: Numbers that tell the examples apart, by how it may be read.
        itemsize: Bytes of a number.
    """

    path: Path
    rank: tuple[int, ...] = ()
    reason: Reason | None = None
    shape: tuple[int, ...] = ()
    kind: str = ""
    itemsize: int = 0
    prints: dict[Reading, Prints] = field(default_factory=dict)


class Call(NamedTuple):
    """One observed call of a module."""

    order: int
    entries: list[Entry]


Calls = dict[nn.Module, list[Call]]


class Observer:
    """Hooks that describe each call of each module."""

    def __init__(self, examples: int) -> None:
        self.calls: Calls = {}
        self._examples = examples
        self._thread = get_ident()
        self._given: list[tuple[nn.Module, list[Any], set[Any], set[int]]] = []
        self._order = 0

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Remember what a module is given: it may hand it on."""
        if get_ident() != self._thread:
            return
        given = [value for _, value in entries([*args, *kwargs.values()])]
        tensors = [value for value in given if isinstance(value, Tensor)]
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
                if entry.reason is None and len(found) > 1:
                    # Of what was put into a given dict, the last is the result.
                    position = -place if is_given else place
                    entry.rank = *_unlikely(value, given), position
            except Exception as error:  # an odd tensor is no reason to stop
                if is_out_of_memory(error):
                    raise
                text = f"output that cannot be read ({type(error).__name__}: {error})"
                entry = Entry(path, reason=Reason(text, "no_tensor"))
            described.append(entry)
        return described or [Entry((), reason=EMPTY)]


def _entry(path: Path, value: Any, examples: int) -> Entry:
    """A description of one part of an output."""
    if isinstance(value, Tensor) and _is_batched(value):
        return Entry(path, reason=Reason("output inside torch.vmap", "no_tensor"))
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


def _unlikely(value: Any, given: set[Any]) -> tuple[bool, bool, bool]:
    """What speaks against a tensor as the result of a module, the strongest first.

    It was given to the module; it looks like a mask or weights; it has one axis.
    """
    tensor = value if isinstance(value, Tensor) else value.data
    values = tensor.detach().float()
    is_mask = bool(((values == 0) | (values == 1) | (values < -1e4)).all())
    if tensor.ndim > 2 and not is_mask:
        sums = values.sum(-1)
        is_mask = bool((values >= 0).all() and ((sums - 1).abs() < 1e-2).all())
    return _mark(tensor) in given, is_mask, tensor.ndim == 1


def _mark(tensor: Tensor) -> tuple[int, int]:
    """The same for tensors of the same memory, while nothing changes it."""
    try:
        return tensor.untyped_storage().data_ptr(), tensor._version  # noqa: SLF001 the only sign of a change
    except (NotImplementedError, RuntimeError):  # no storage, or in inference mode
        return id(tensor), 0


def _is_batched(tensor: Tensor) -> bool:
    """Whether this is a tensor of one example in `torch.vmap`."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))  # noqa: SLF001 there is no public test
