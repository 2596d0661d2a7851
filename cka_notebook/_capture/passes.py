"""Passes of a model over a few examples, from the same state each time."""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TypeVar

from cka_notebook._messages import is_out_of_memory
from cka_notebook._models.layer_tree import LayerTree
from cka_notebook._models.nodes import expects_tokens_first
from cka_notebook._undo import Undo

from .hooks import hooked
from .observer import Calls, Observer
from .rewinding import Rewinder
from .rows import Prints, Reading, equal, orders

PROBE_EXAMPLES = 9, 5
"""Examples of the two passes. A layer that puts its rows in an order of its own passes
for one that does not if it leaves these where they are: once in 15120 random orders.
Few layers are as wide, which saves the pass that tells them from similarities."""

Run = Callable[[Sequence[int] | None], int]
"""Runs the model on these examples of a batch, or on all if None; their number."""


_T = TypeVar("_T")


class Passes:
    """Passes of the model over some examples, each from the same state.

    Attributes:
        rewinder: Restores that state.
        examples: How many examples the first pass had.
        first: What it called.
        part: What the pass over some of these called; None if there is none.
        order: Which examples those were.
        threaded: Modules that it called in threads of its own, and whether they were
            in training mode there.
        is_blind: Whether batches cannot be cut, so that only sizes tell the batch axis.
    """

    def __init__(self, tree: LayerTree, run: Run) -> None:
        self.rewinder = Rewinder(tree.model)
        self._tree, self._run = tree, run
        self.part: Calls | None = None
        self.is_blind = False
        self.order: list[int] = []

    def begin(self, examples: int) -> int:
        """Run the first passes; the number of examples if these cannot be chosen.

        Args:
            examples: How many examples the batch has.
        """
        few, fewer = PROBE_EXAMPLES
        can_be_cut = None
        if examples > few:
            rows = [i * (examples - 1) // (few - 1) for i in range(few)]
            can_be_cut = self._attempt(lambda: self._run_both(rows, fewer))
        if not can_be_cut:
            self._run_first(None, examples)
        if can_be_cut is None and examples > 1:
            can_be_cut = self._attempt(lambda: self._run_part(examples - 1))
        if can_be_cut is None and examples > 1:
            moved = self.moved
            can_be_cut = moved is not None and not _values_equal(self.first, moved)
        self.is_blind = not can_be_cut
        return examples if self.is_blind else 0

    def _run_both(self, rows: list[int], fewer: int) -> bool:
        """Run these examples, and some of them; whether shapes differ."""
        self._run_first(rows, len(rows))
        return self._run_part(fewer)

    def _run_first(self, rows: list[int] | None, examples: int) -> None:
        self.examples = examples
        self._rows = list(range(examples)) if rows is None else rows
        self.first = self.observe(rows)
        self.threaded = self._observer.threaded
        self.drew = self.rewinder.drew
        self._changed = self.rewinder.changed()

    def _run_part(self, fewer: int) -> bool:
        """Run some of the examples; whether shapes differ.

        A batch of an unknown class may not have been cut.
        """
        self.order = orders(self.examples, fewer)[0]
        part = self.observe([self._rows[i] for i in self.order])
        self.part = part if _shapes(self.first) != _shapes(part) else None
        return self.part is not None

    @cached_property
    def moved(self) -> Calls | None:
        """The pass over the same examples in another order; None if it fails."""
        return self._in_order(self.all_moved)

    @cached_property
    def moved_again(self) -> Calls | None:
        """The same in a third order."""
        return self._in_order(self.all_moved_again)

    def _in_order(self, order: list[int]) -> Calls | None:
        rows = [self._rows[i] for i in order]
        return self._attempt(lambda: self.observe(rows))

    @property
    def are_few(self) -> bool:
        """Whether rows may follow by chance when only some of the examples are run."""
        return self.examples < PROBE_EXAMPLES[0] and self.moved is not None

    @cached_property
    def may_be_turned(self) -> bool:
        """Whether any module documents its tensors as (tokens, examples, ...)."""
        return any(expects_tokens_first(node.module) for node in self._tree.nodes)

    @property
    def all_moved(self) -> list[int]:
        """The other order of all examples."""
        return orders(self.examples, 0)[1]

    @property
    def all_moved_again(self) -> list[int]:
        """A third order. Only rows that stay where they are follow into both others."""
        return self.all_moved[1:] + self.all_moved[:1]

    @cached_property
    def redrawn(self) -> Calls | None:
        """The first pass once more with other random numbers, if it draws any."""
        return self._attempt(self._redraw) if self.drew else None

    def _redraw(self) -> Calls:
        self.rewinder.rewind(other_numbers=True)
        return self._observe(self._rows)

    def state(self) -> list[str]:
        """Names of what the first pass changed and another one depends on."""
        if not self._changed:
            return []
        try:
            self.observe(self._rows)
            self.rewinder.rewind(only_random=True)
            later = self._observe(self._rows)
        except Exception as error:  # the state may have another size
            if is_out_of_memory(error):
                raise
            return self._changed
        return [] if _values_equal(self.first, later) else self._changed

    def observe(self, rows: Sequence[int] | None) -> Calls:
        """What a pass over some examples calls, from the state that was found."""
        self.rewinder.rewind()
        return self._observe(rows)

    def _observe(self, rows: Sequence[int] | None) -> Calls:
        count = self.examples if rows is None else len(rows)
        self._observer = observer = Observer(count)
        undo = Undo()
        with undo, undo:
            undo.enter(hooked(self._tree, observer.after, observer.before))
            self._run(rows)
        return observer.calls

    @staticmethod
    def _attempt(function: Callable[[], _T]) -> _T | None:
        try:
            return function()
        except Exception as error:  # the other passes have to do
            if is_out_of_memory(error):
                raise
            return None


def _shapes(calls: Calls) -> list[list[list[tuple[int, ...]]]]:
    return [[[x.shape for x in c.entries] for c in each] for each in calls.values()]


def _all_prints(calls: Calls) -> Iterable[tuple[Reading, Prints]]:
    for each in calls.values():
        for call in each:
            for entry in call.entries:
                yield from entry.prints.items()


def _values_equal(one: Calls, other: Calls) -> bool:
    """Whether two passes gave the same values, but for rounding."""
    if _shapes(one) != _shapes(other):
        return False
    pairs = zip(_all_prints(one), _all_prints(other), strict=True)
    return all(equal(x, y) for (_, x), (_, y) in pairs)
