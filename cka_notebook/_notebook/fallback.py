"""A second output next to the widget, for where the widget cannot be displayed.

GitHub, nbconvert, and a notebook that was saved without the state of its widgets show
text and a picture of the finished map. A front end that never answers shows them with
the reason. Pages that display the widget hide them: see ``styles.css``.
"""

import base64
import contextlib
import html
import os
import sys
import threading
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

from .cell import after_each_cell, current_execution, front_end, outlet

VARIABLE = "CKA_NOTEBOOK_RENDERER"
RENDERERS = ("widget", "html", "png", "none")

PATIENCE = 8.0
"""Seconds that a front end has to answer after the widget was displayed.

In JupyterLab on two cores the first figure takes about 1.2 s, so a page that works has
answered long before.
"""

NO_ANSWER = (
    "The front end has not answered, so widgets may be disabled here. The run "
    f"continues; its result will appear here. Set {VARIABLE}=html or png to show it "
    "without a widget."
)

PAGE = '<div class="cka-still"><p>{reason}</p><pre>{text}</pre>{picture}</div>'


class Preview(NamedTuple):
    """An explorer without its widget."""

    text: str
    picture: bytes | None
    """PNG of the last run that has ended."""


def renderer() -> str:
    """How explorers are displayed: one of `RENDERERS`, from the environment.

    Raises:
        ValueError: If the renderer does not exist.
    """
    value = os.environ.get(VARIABLE) or "widget"
    if value not in RENDERERS:
        known = ", ".join(RENDERERS)
        msg = f"Expected {VARIABLE} to be one of {known} or unset, got {value!r}."
        raise ValueError(msg)
    return value


def forms(preview: Preview, kind: str, reason: str = "") -> dict[str, str]:
    """A preview by media type, as in a notebook's outputs.

    Args:
        preview: What to show.
        kind: One of `RENDERERS`; ``"widget"`` has the same forms as ``"png"``.
        reason: Why there is no widget.
    """
    data = {"text/plain": f"{reason}\n{preview.text}".strip()}
    encoded = base64.b64encode(preview.picture or b"").decode()
    if encoded and kind != "none":
        data["image/png"] = encoded
    if kind == "html":
        picture = f'<img src="data:image/png;base64,{encoded}">' if encoded else ""
        text = html.escape(preview.text)
        data["text/html"] = PAGE.format(reason=reason, text=text, picture=picture)
    return data


class Fallback:
    """The output next to the widget, in the notebook cell that displayed it last.

    It is created when there is first something to show, and replaced from then on.

    Programs that execute a notebook and save it, such as nbconvert and papermill, drop
    what is sent to a cell that is over. They name no cells, by which they are known:
    the cell that is being executed when the run ends then shows the map, too.

    Args:
        preview: Returns the explorer as it is now.
        failed: Shows an error that reaches no caller.

    Raises:
        ValueError: If the environment asks for an unknown renderer.
    """

    def __init__(
        self,
        preview: Callable[[], Preview],
        failed: Callable[[BaseException], None],
    ) -> None:
        self.renderer = renderer()
        self._preview, self._failed = preview, failed
        self._lock = threading.Lock()
        self._outlet: Callable[[str, dict[str, Any]], None] | None = None
        self._id = ""
        self._is_created = self._is_answered = False
        self._timer: threading.Timer | None = None
        self._follows_cells = self._is_cell_over = self._is_owed = False

    def shown(self) -> None:
        """The explorer is displayed in the notebook cell that is being executed."""
        self.stop_waiting()
        self._is_cell_over = self._is_owed = False
        if not self._follows_cells and current_execution() is None:
            self._follows_cells = True
            after_each_cell(self._cell_ended)
        self._outlet, self._id, self._is_created = outlet(), uuid.uuid4().hex, False
        may_answer = self._outlet is not None and self.renderer == "widget"
        if not may_answer or self._is_answered:
            return
        self._timer = threading.Timer(PATIENCE, self._nobody_answered)
        self._timer.daemon = True
        with contextlib.suppress(RuntimeError):  # No thread can be started.
            self._timer.start()

    def answered(self) -> None:
        """A page has loaded the widget, whether or not it is visible."""
        self._is_answered = True
        self.stop_waiting()

    def stop_waiting(self) -> None:
        """Expect no answer any more."""
        if self._timer is not None:
            self._timer.cancel()

    def refresh(self) -> None:
        """Show the run that has just ended."""
        preview = self._preview()
        is_redundant = preview.picture is None or _shows_both()
        if self.renderer != "none" and not (self._is_answered and is_redundant):
            is_late = self._put(forms(preview, self.renderer))
            self._is_owed = is_late and preview.picture is not None

    def _cell_ended(self) -> None:
        """The cell being executed ends: show in it what its predecessor could not."""
        with self._lock:  # What is being sent to this cell is still received.
            is_owed, self._is_owed, self._is_cell_over = self._is_owed, False, True
        here = outlet()
        if is_owed and here is not None and not self._is_answered:
            data = forms(self._preview(), self.renderer)
            sys.stdout.flush()  # What the cell has printed comes first.
            here("display_data", {"data": data, "metadata": {}, "transient": {}})

    def _nobody_answered(self) -> None:
        try:
            self._put(forms(self._preview(), "html", NO_ANSWER))
        except BaseException as error:
            self._failed(error)

    def _put(self, data: dict[str, str]) -> bool:
        """Send the output, and return whether its cell was over before."""
        with self._lock:
            if self._outlet is None:
                return False
            kind = "update_display_data" if self._is_created else "display_data"
            self._is_created = True
            transient = {"display_id": self._id}
            self._outlet(kind, {"data": data, "metadata": {}, "transient": transient})
            return self._is_cell_over


def _shows_both() -> bool:
    """Whether this front end cannot hide a picture next to a widget."""
    return front_end() in ("VS Code", "Google Colab")
