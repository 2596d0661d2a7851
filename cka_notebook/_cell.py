"""Which notebook cell is being executed, so that running it again frees what it had."""

import sys
import threading
import weakref
from typing import Any, NamedTuple, Protocol


class Execution(NamedTuple):
    """One execution of one cell."""

    cell: str
    message: str


class Closable(Protocol):
    """What can be superseded."""

    def close(self) -> None:
        """Stop and free everything."""


_lock = threading.Lock()
_made: dict[str, list[tuple[str, weakref.ref[Any]]]] = {}


def current_execution() -> Execution | None:
    """The execution that is going on, where the front end names its cells."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        return None
    try:
        parent = kernel.get_parent("shell")
        cell = parent["metadata"]["cellId"]
        return Execution(str(cell), str(parent["header"]["msg_id"]))
    except (AttributeError, KeyError, TypeError, LookupError):
        return None


def supersede(made: Closable) -> None:
    """Close what an earlier execution of this cell has made, and remember this."""
    execution = current_execution()
    if execution is None:
        return
    with _lock:
        earlier = _made.get(execution.cell, [])
        same = [item for item in earlier if item[0] == execution.message]
        stale = [ref for message, ref in earlier if message != execution.message]
        _made[execution.cell] = [*same, (execution.message, weakref.ref(made))]
    for ref in stale:
        old = ref()
        if old is not None:
            old.close()
