"""Temporary changes that are undone, whatever interrupts that."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from torch import nn

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
)
"""Where a module keeps its hooks, by number, and then what is special about them."""

ATTEMPTS = 3
"""How often a step is tried; an interrupt rarely strikes the same step again."""

_T = TypeVar("_T")
_P = ParamSpec("_P")


class Undo:
    """What a block has to undo at its end, the last change first.

    An interrupt can strike anywhere, even in the first line of an ``__exit__``. So each
    step is registered before its change is made, must do no harm if that was not made
    or is undone already, and is tried again if it is interrupted. Enter the block as
    ``with undo, undo:``: the outer exit does what an interrupt kept the inner one from.

    Example:
        >>> undo, flags = Undo(), {"on": True}
        >>> with undo, undo:
        ...     undo.add(flags.update, on=True)
        ...     flags["on"] = False
        >>> flags
        {'on': True}
    """

    def __init__(self) -> None:
        self._steps: list[Callable[[], object]] = []

    def add(self, step: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """Call this at the end; call `add` before the change that it undoes."""
        self._steps.append(partial(step, *args, **kwargs))

    def enter(self, context: AbstractContextManager[_T, Any]) -> _T:
        """Enter a context whose exit keeps to the rules of a step."""
        self.add(context.__exit__, None, None, None)
        return context.__enter__()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        failed: BaseException | None = None
        while self._steps:
            failed = _done(self._steps[-1]) or failed
            self._steps.pop()
        if failed is not None:
            raise failed


def _done(step: Callable[[], object]) -> BaseException | None:
    """Take a step; what it raised, although another try may have worked."""
    failed: BaseException | None = None
    for _ in range(ATTEMPTS):
        try:
            step()
        except BaseException as error:  # all steps are to be taken
            failed = error
        else:
            break
    return failed


class _Undoing(Undo):
    """The context manager that `undoing` makes."""

    def __init__(self, change: Callable[[Undo], object]) -> None:
        super().__init__()
        self._change = change

    def __enter__(self) -> Self:
        try:
            self._change(self)
        except BaseException:
            self.__exit__()
            raise
        return self


def undoing(
    change: Callable[Concatenate[Undo, _P], object],
) -> Callable[_P, Undo]:
    """Make a context manager of a function that makes changes, for `Undo.enter`.

    Args:
        change: Its first argument is the `Undo` of these changes.

    Example:
        >>> @undoing
        ... def put(undo, values, key, value):
        ...     undo.add(values.pop, key, None)
        ...     values[key] = value
        >>> values = {}
        >>> with put(values, "a", 1):
        ...     print(values)
        {'a': 1}
        >>> values
        {}
    """

    @wraps(change)
    def context(*args: _P.args, **kwargs: _P.kwargs) -> Undo:
        return _Undoing(lambda undo: change(undo, *args, **kwargs))

    return context


def unhook(module: nn.Module, hook: object) -> None:
    """Remove a hook if it is there.

    The handle of a hook removes it as well, but an interrupt can come between the hook
    and its handle.
    """
    own = vars(module)
    kept = [own[name] for name in HOOKS if name in own]
    numbers = [key for each in kept[:2] for key, value in each.items() if value is hook]
    for number in numbers:
        for each in kept:
            each.pop(number, None)
