"""How many examples each batch has, from the batch and the model's output.

Most often all inputs have as many rows as there are examples. Where they differ, as
with graphs, patches or a time step for all, the output has the right number, too.
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor

from .examples import (
    count_attributes,
    count_items,
    index_sizes,
    list_sizes,
    sizes_of,
)
from .nested import describe, private, tensors

Examples = Callable[[Any], int]
"""From a batch to its number of examples."""

Sizes = dict[str, int]
"""What could be the number of examples, by the name of the part that says so."""

INDEXED = ("num_graphs", "num_examples", "batch_size")
"""Attributes in which batches of other libraries have their number of examples."""


SECOND = " (axis 1)"
"""Ends the names of sizes of second axes."""


class ExampleCounter:
    """Counts the examples of one model's batches.

    Args:
        label: What messages call the model.
        axes: Batch axis of the model's inputs, and the other one where some of its
            layers have the examples there.
        examples: Counts them instead, or None.
    """

    def __init__(
        self, label: str, axes: Sequence[int], examples: Examples | None
    ) -> None:
        self._label, self._axes, self._examples = label, axes, examples
        self._axis = axes[0]
        self._names: set[str] = set()  # of the parts that were right so far

    def count(
        self, inputs: Any, batch: Any, number: int, outputs: Callable[[], Any]
    ) -> int | None:
        """Number of examples; None if nothing says it.

        Args:
            inputs: What the model is called with.
            batch: What the loader yielded.
            number: Which batch it is, from 1, for messages.
            outputs: Runs the model and returns its output; called only if inputs
                disagree.

        Raises:
            ValueError: If inputs disagree and the output does not decide.
            TypeError: If ``examples`` gives no number.
        """
        if self._examples is not None:
            return self._by_user(self._examples, batch)
        sizes = sizes_of(inputs, self._axis)
        if not sizes:
            return count_items(inputs) or count_attributes(inputs, self._axis)
        known = self._known(sizes)
        if len(known) == 1 and self._names <= set(sizes):
            return known.pop()  # the usual case
        every, others = self._all(batch, sizes), self._turned(inputs)
        others = others | list_sizes(inputs)
        if not self._names <= set(sizes):
            known = self._known(every | others)
        agreed = known or set(sizes.values())
        is_doubtful = bool(others) or self._is_disputed(agreed, batch)
        if len(agreed) == 1 and (known or not is_doubtful):
            self._names = self._names or set(sizes)
            return agreed.pop()
        return self._settle(sizes, every, others, number, outputs())

    def _by_user(self, examples: Examples, batch: Any) -> int:
        try:
            found = examples(private(batch))
        except Exception as error:
            error.add_note(f"`examples` raised this for {self._label}.")
            raise
        msg = "Expected `examples` to return the number of examples of a batch, got {}."
        try:
            n = operator.index(found)
        except TypeError:
            got = f"{describe(found)} for {self._label}"
            raise TypeError(msg.format(got)) from None
        if n < 1 or isinstance(found, bool):
            raise ValueError(msg.format(f"{found!r} for {self._label}"))
        return n

    def _known(self, sizes: Sizes) -> set[int]:
        return {size for name, size in sizes.items() if name in self._names}

    def _is_disputed(self, agreed: set[int], batch: Any) -> bool:
        """Whether the rest of the batch, such as labels, has other numbers of rows.

        All inputs may have a row for each node, and one of them names its graph.
        """
        others = {*sizes_of(batch, 0).values(), *index_sizes(batch).values()} - {1}
        return self._axis == 0 and bool(others - agreed)

    def _turned(self, inputs: Any) -> Sizes:
        """Sizes of the second axis, where tokens may be on the first one."""
        if self._axis or len(self._axes) == 1:
            return {}
        return {f"{k}{SECOND}": n for k, n in sizes_of(inputs, 1).items()}

    def _all(self, batch: Any, sizes: Sizes) -> Sizes:
        """All that could say the number: the whole batch, and indices in it."""
        own = {name: getattr(batch, name, None) for name in INDEXED}
        counts = {n: x for n, x in own.items() if isinstance(x, int)}
        return sizes_of(batch, self._axis) | sizes | index_sizes(batch) | counts

    def _settle(
        self, sizes: Sizes, every: Sizes, others: Sizes, number: int, output: Any
    ) -> int:
        """The number that the batch and the output have in common."""
        shapes = [tuple(t.shape) for t in tensors(output) if _may_have_rows(t)]
        found = _shared(sizes, every, others, shapes, self._axis)
        if len(found) > 1:
            raise self._unsettled(every, found, shapes, number)
        every = every | others
        self._names = {name for name, size in every.items() if size in found}
        return found.pop()

    def _unsettled(
        self, sizes: Sizes, found: set[int], shapes: list[Any], number: int
    ) -> ValueError:
        each = (f"{n} ({_named(sizes, n)})" for n in sorted(found))
        output = ", ".join(map(str, dict.fromkeys(shapes))) or "none"
        return ValueError(
            f"Expected inputs that agree on the number of examples for {self._label}, "
            f"got {' or '.join(each)} in batch {number}, and the output, of shape "
            f"{output}, does not settle it. Pass examples=lambda batch: ..., which "
            "returns the number of examples of a batch."
        )


def _shared(
    sizes: Sizes, every: Sizes, others: Sizes, shapes: list[Any], axis: int
) -> set[int]:
    """The numbers that the batch and the output have in common.

    Args:
        sizes: Of the inputs.
        every: Of the whole batch, too.
        others: Of second axes and of lists, for a model of which they may be.
        shapes: Of the tensors of the output.
        axis: Batch axis of the inputs.
    """
    plain = set(sizes.values())
    second = {size for name, size in others.items() if name.endswith(SECOND)}
    rows = {shape[axis] for shape in shapes if len(shape) > axis}
    later = {shape[1] for shape in shapes if len(shape) > 2}
    found = set(every.values()) & rows
    if len(plain) > 1 and len(second) == 1:
        # Texts of several lengths, as many of each.
        found = second & (rows | later) or found
    if not found and not plain & later:  # else `forward` puts tokens first
        found = {*every.values(), *others.values()} & rows
    return found or plain & {size for shape in shapes for size in shape} or plain


def _may_have_rows(tensor: Tensor) -> bool:
    return tensor.ndim > 0 and not tensor.is_nested


def _named(sizes: Sizes, size: int) -> str:
    names: Iterable[str] = (name for name, own in sizes.items() if own == size)
    return ", ".join(names)
