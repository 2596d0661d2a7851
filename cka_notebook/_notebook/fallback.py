"""What stands beside the widget in a notebook, for where no widget can be seen.

GitHub, nbconvert, and a notebook that was saved without the state of its widgets show
text and a picture of the finished map. A front end that never answers gets them, too,
with a word of why. Pages that show the widget hide them: see ``styles.css``.
"""

import base64
import contextlib
import html
import os
import threading
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

from .cell import front_end, outlet

VARIABLE = "CKA_NOTEBOOK_RENDERER"
RENDERERS = ("widget", "html", "png", "none")

PATIENCE = 8.0
"""Seconds that a front end has to answer once the widget is shown."""

NO_ANSWER = (
    "No front end has answered: widgets may be switched off here. The run goes on, and "
    f"its end is shown here. {VARIABLE}=html or png leaves the widget out."
)

PAGE = '<div class="cka-still"><p>{reason}</p><pre>{text}</pre>{picture}</div>'


class Preview(NamedTuple):
    """What can be seen of an explorer without its widget."""

    text: str
    picture: bytes | None
    """PNG of the last run that has ended."""


def renderer() -> str:
    """How explorers are shown, as the environment has it.

    Raises:
        ValueError: If it asks for what there is not.
    """
    value = os.environ.get(VARIABLE) or "widget"
    if value not in RENDERERS:
        known = ", ".join(RENDERERS)
        msg = f"Expected {VARIABLE} to be one of {known}, got {value!r}. Or unset it."
        raise ValueError(msg)
    return value


def forms(look: Preview, kind: str, reason: str = "") -> dict[str, str]:
    """The look by media type, as outputs of notebooks have it.

    Args:
        look: What to show.
        kind: One of `RENDERERS`; a widget's is like that of a PNG.
        reason: Why there is no widget.
    """
    made = {"text/plain": f"{reason}\n{look.text}".strip()}
    encoded = base64.b64encode(look.picture or b"").decode()
    if encoded and kind != "none":
        made["image/png"] = encoded
    if kind == "html":
        picture = f'<img src="data:image/png;base64,{encoded}">' if encoded else ""
        text = html.escape(look.text)
        made["text/html"] = PAGE.format(reason=reason, text=text, picture=picture)
    return made


class Fallback:
    """The output beside the widget, in the cell that has last shown it.

    It is made when there is first something to show, and replaced from then on.

    Args:
        look: Tells what can be seen now.

    Raises:
        ValueError: If the environment asks for a renderer that there is not.
    """

    def __init__(self, look: Callable[[], Preview]) -> None:
        self.renderer = renderer()
        self._look = look
        self._lock = threading.Lock()
        self._outlet: Callable[[str, dict[str, Any]], None] | None = None
        self._id = ""
        self._is_made = self._is_answered = False
        self._timer: threading.Timer | None = None

    def appears(self) -> None:
        """The explorer is shown in the cell that is being executed."""
        self.forget()
        self._outlet, self._id, self._is_made = outlet(), uuid.uuid4().hex, False
        hears = self._outlet is not None and self.renderer == "widget"
        if not hears or self._is_answered:
            return
        self._timer = threading.Timer(PATIENCE, self._nobody_answered)
        self._timer.daemon = True
        with contextlib.suppress(RuntimeError):  # Where there are no threads.
            self._timer.start()

    def answered(self) -> None:
        """A page has loaded the widget, whether or not it is in sight."""
        self._is_answered = True
        self.forget()

    def forget(self) -> None:
        """Wait for no answer."""
        if self._timer is not None:
            self._timer.cancel()

    def refresh(self) -> None:
        """Show the run that has just ended."""
        look = self._look()
        is_in_the_way = look.picture is None or _shows_both()
        if self.renderer != "none" and not (self._is_answered and is_in_the_way):
            self._put(forms(look, self.renderer))

    def _nobody_answered(self) -> None:
        self._put(forms(self._look(), "html", NO_ANSWER))

    def _put(self, data: dict[str, str]) -> None:
        with self._lock:
            if self._outlet is None:
                return
            kind = "update_display_data" if self._is_made else "display_data"
            self._is_made = True
            transient = {"display_id": self._id}
            self._outlet(kind, {"data": data, "metadata": {}, "transient": transient})


def _shows_both() -> bool:
    """Whether this front end hides no picture beside a widget."""
    return front_end() in ("VS Code", "Google Colab")
