"""Notices when several runs take batches from one iterator, each of them only a part.

A generator can be iterated once, and a DataLoader with persistent workers has a single
iterator, which starts over for whoever asks for it next.
"""

import threading
from collections.abc import Iterable, Iterator
from typing import Any
from weakref import WeakKeyDictionary


class Usage:
    """The iterators from which one run takes its batches.

    Attributes:
        is_shared: Whether another run has taken from one of them at the same time.
        before: How many batches earlier runs have taken from them.
    """

    def __init__(self) -> None:
        self.is_shared = False
        self.before = 0
        self._iterators: list[Iterator[Any]] = []

    def of(self, loader: Iterable[Any]) -> Iterable[Any]:
        """The loader, which notes who iterates it."""
        return _Watched(loader, self)

    def begin(self, iterator: Iterator[Any], *, is_fresh: bool) -> None:
        """Notice that this run takes from an iterator.

        Args:
            iterator: The iterator.
            is_fresh: Whether it starts with the first batch.
        """
        with _lock:
            self._iterators.append(iterator)
            users = _users.setdefault(id(iterator), [])
            users.append(self)
            for user in users if len(users) > 1 else ():
                user.is_shared = True
            if not is_fresh:
                self.before = max(self.before, _taken_from(iterator))

    def end(self, taken: int) -> None:
        """Notice that this run takes nothing more; may be repeated.

        Args:
            taken: How many batches it took.
        """
        with _lock:
            for iterator in self._iterators:
                users = _users.get(id(iterator), [])
                if self in users:
                    users.remove(self)
                if not users:
                    _users.pop(id(iterator), None)
                _remember(iterator, self.before + taken)
            self._iterators = []


class _Watched:
    """A loader that tells a `Usage` who iterates it."""

    def __init__(self, loader: Iterable[Any], usage: Usage) -> None:
        self._loader, self._usage = loader, usage

    def __iter__(self) -> Iterator[Any]:
        iterator = iter(self._loader)
        self._usage.begin(iterator, is_fresh=iterator is not self._loader)
        return iterator


_lock = threading.RLock()

_users: dict[int, list[Usage]] = {}
"""Runs at work by the identity of their iterators, which they keep alive."""

_taken: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
"""Batches that runs have taken from iterators."""


def _taken_from(iterator: Any) -> int:
    try:
        return _taken.get(iterator, 0)
    except TypeError:  # no weak references, or no hash
        return 0


def _remember(iterator: Any, taken: int) -> None:
    try:
        _taken[iterator] = taken
    except TypeError:  # as above
        return
