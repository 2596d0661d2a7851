"""The notebook cell that is being executed, and the front end that shows it.

Running it again frees what it had, and what it shows can be completed later.
"""

import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

VARIABLES = {
    "VSCODE_PID": "VS Code",
    "KAGGLE_KERNEL_RUN_TYPE": "Kaggle",
    "DATABRICKS_RUNTIME_VERSION": "Databricks",
}
"""Set in the environment of their kernels."""


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
    try:
        parent = _shell().kernel.get_parent("shell")
        cell = parent["metadata"]["cellId"]
        return Execution(str(cell), str(parent["header"]["msg_id"]))
    except (AttributeError, KeyError, TypeError, LookupError):
        return None


def front_end() -> str | None:
    """What shows the cells, as far as a kernel can know; None outside of one.

    JupyterLab, Notebook and Voila are all ``"Jupyter"``.
    """
    if "google.colab" in sys.modules:
        return "Google Colab"
    for variable, name in VARIABLES.items():
        if variable in os.environ:
            return name
    if hasattr(_shell(), "kernel"):
        return "Jupyter"
    return "marimo" if "marimo" in sys.modules else None


def outlet() -> Callable[[str, dict[str, Any]], None] | None:
    """Sends outputs to this cell, also when it has ended and from any thread.

    IPython's own way sends them to the cell that was last executed, with ipykernel 6.

    Returns:
        A function of the type of a message and its content; None outside of a kernel.
    """
    try:
        shell = _shell()
        publisher, parent = shell.display_pub, shell.kernel.get_parent("shell")
        session, socket, topic = (
            publisher.session,
            publisher.pub_socket,
            publisher.topic,
        )
    except (AttributeError, LookupError):
        return None

    def publish(kind: str, content: dict[str, Any]) -> None:
        session.send(socket, kind, content, parent=parent, ident=topic)

    return publish


def _shell() -> Any:
    """IPython's shell, or None."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


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
