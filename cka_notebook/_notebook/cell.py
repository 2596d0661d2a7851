"""The notebook cell that is being executed, and the front end that displays it."""

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
"""Environment variables that these front ends set in their kernels."""


class Execution(NamedTuple):
    """One execution of one notebook cell."""

    cell: str
    message: str


class Closable(Protocol):
    """What `supersede` closes."""

    def close(self) -> None:
        """Stop, and free all memory."""


_lock = threading.Lock()
_created: dict[str, list[tuple[str, weakref.ref[Any]]]] = {}


def current_execution() -> Execution | None:
    """The current execution; None if the front end does not name its cells."""
    try:
        parent = _shell().kernel.get_parent("shell")
        cell = parent["metadata"]["cellId"]
        return Execution(str(cell), str(parent["header"]["msg_id"]))
    except (AttributeError, KeyError, TypeError, LookupError):
        return None


def front_end() -> str | None:
    """Name of the front end, as far as a kernel can know; None outside of a kernel.

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
    """A function that sends outputs to this cell, at any time and from any thread.

    With ipykernel 6, IPython itself sends them to the cell that was executed last.

    Returns:
        A function of a message's type and content; None outside of a kernel.
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


def after_each_cell(method: Callable[[], None]) -> None:
    """Call a method whenever a notebook cell has been executed, before its end is sent.

    Its object is held weakly. Outside of IPython nothing is called.
    """
    events = getattr(_shell(), "events", None)
    if events is None:
        return
    weak = weakref.WeakMethod(method)

    def call(_: object) -> None:
        alive = weak()
        if alive is None:
            events.unregister("post_run_cell", call)
        else:
            alive()

    events.register("post_run_cell", call)


def _shell() -> Any:
    """IPython's shell, or None."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def supersede(new: Closable) -> None:
    """Close what earlier executions of this cell have created, and remember this."""
    execution = current_execution()
    if execution is None:
        return
    with _lock:
        earlier = _created.get(execution.cell, [])
        same = [item for item in earlier if item[0] == execution.message]
        stale = [ref for message, ref in earlier if message != execution.message]
        _created[execution.cell] = [*same, (execution.message, weakref.ref(new))]
    for reference in stale:
        old = reference()
        if old is not None:
            old.close()
