"""Messages of the page: a queue with a thread of its own, and what they ask for."""

import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any, cast

from cka_notebook._messages import error_text, shortened
from cka_notebook._page.runtime import BOKEH_VERSION, bokehjs_gz, page_code

from .session import Session

Message = Mapping[str, Any]

RELOAD = "Nothing has changed. Reload the page, which may be of another version."

IDLE = 30.0
"""Seconds without a message after which the thread ends."""

LONGEST = 1000
"""Letters in the longest text that a page sends: the name of a layer."""

MOST = 100_000
"""Items in the longest list that a page sends: the layers of a model."""


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and len(value) <= MOST and all(map(_is_text, value))


def _is_pair(value: object) -> bool:
    return value is None or (_are_texts(value) and len(cast("list[str]", value)) == 2)


def _is_range(value: object) -> bool:
    return value == "fit" or isinstance(value, list)


CHOICES: dict[str, Callable[[object], bool]] = {
    "layers1": _are_texts,
    "layers2": _are_texts,
    "focus": _is_pair,
    "metric": _is_text,
    "palette": _is_text,
    "color_range": _is_range,
}
"""Traits that a page may set, each with a test of the form in which it sends them.

Python's own forms, such as patterns, are not for the page.
"""


class Mailbox:
    """Queues messages from any thread and handles them in a single one.

    A page's messages may arrive in the main thread, in a subshell, or nested in an
    ``await``; none of these may wait for what a message asks for.

    Args:
        handle: Called with each message, one after the other.
        failed: Called with an error of `handle`, which does not end the thread.
        idle: Seconds without a message after which the thread ends.
    """

    def __init__(
        self,
        handle: Callable[[Message], None],
        failed: Callable[[BaseException], None],
        idle: float = IDLE,
    ) -> None:
        self._handle = handle
        self._failed = failed
        self._idle = idle
        self._context = contextvars.copy_context()
        self._lock = threading.Lock()
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, message: Message) -> None:
        """Queue a message, and start the thread if there is none.

        Where no thread can be started, the message is handled here.
        """
        self._messages.put(message)
        with self._lock:
            has_thread = self._thread is not None or self._start()
        if not has_thread:
            while not self._messages.empty():
                waiting = self._messages.get()
                if waiting is not None:
                    self._handle(waiting)

    def close(self) -> None:
        """End the thread, if there is one, after the messages that wait."""
        with self._lock:
            if self._thread is not None:
                self._messages.put(None)

    def _start(self) -> bool:
        context = self._context.copy()
        thread = threading.Thread(
            target=context.run, args=(self._read,), name="cka-mailbox", daemon=True
        )
        with contextlib.suppress(RuntimeError):
            thread.start()
            self._thread = thread
        return self._thread is not None

    def _read(self) -> None:
        while True:
            message = None
            with contextlib.suppress(queue.Empty):
                message = self._messages.get(timeout=self._idle)
            if message is not None:
                self._try(message)
                continue
            with self._lock:
                if self._messages.empty():
                    self._thread = None
                    return

    def _try(self, message: Message) -> None:
        """Handle a message; no error ends the thread."""
        try:
            self._handle(message)
        except BaseException as error:
            self._failed(error)


class PageMessages:
    """Does what the messages of the page ask for.

    Pause, stop and acknowledgements take effect at once, in the thread in which they
    arrive. Everything else may take long, and waits in a `Mailbox`.

    Args:
        session: The explorer's session.
        send: Sends a custom message, with or without buffers.
        set_trait: Sets a trait, which may refuse the value.
        answered: Called with the number of its views when a page has loaded the widget.
    """

    def __init__(
        self,
        session: Session,
        send: Callable[..., None],
        set_trait: Callable[[str, Any], None],
        answered: Callable[[int], None],
    ) -> None:
        self._session = session
        self._send = send
        self._set_trait = set_trait
        self._answered = answered
        self._mailbox = Mailbox(self.handle, session.failed)

    def receive(self, content: object) -> None:
        """Take a message in whatever thread it arrives."""
        given = content if isinstance(content, Mapping) else {"kind": content}
        request = given.get("kind"), given.get("name")
        if request == ("command", "pause"):
            self._session.runs.pause()
        elif request == ("command", "stop"):
            self._session.runs.stop()
        elif request[0] != "ack" or not self._is_acknowledged(given):
            self._mailbox.put(given)

    def close(self) -> None:
        """End the thread that handles messages."""
        self._mailbox.close()

    def handle(self, content: Message) -> None:
        """Do what a message asks for, and show on the page what goes wrong.

        The page then takes back what it shows of a choice that was refused.
        """
        handlers: dict[str, Callable[[Message], None]] = {
            "ready": self._greet,
            "ack": self._acknowledge,
            "command": self._obey,
            "layers": self._choose,
            "focus": self._choose,
            "view": self._choose,
            "tolerance": self._set_tolerance,
            "need_bokeh": self._send_bokeh,
            "need_code": self._send_code,
            "": self._refuse,
        }
        kind = content.get("kind")
        known = isinstance(kind, str) and kind in handlers
        try:
            handlers[str(kind) if known else ""](content)
        except Exception as error:
            self._session.say("error", error_text(error))
            self._send({"kind": "refused"})

    def _is_acknowledged(self, content: Message) -> bool:
        """Note at once that a frame was drawn; False for any other message."""
        try:
            self._acknowledge(content)
        except ValueError:
            return False
        return True

    def _acknowledge(self, content: Message) -> None:
        page, views = _page(content)
        seq = _count(content, "seq")
        self._session.frames.publisher.acknowledge(page, views, seq)

    def _greet(self, content: Message) -> None:
        """Give a page that has just loaded what it cannot find in traits."""
        page, views = _page(content)
        frames, runs = self._session.frames, self._session.runs
        frames.publisher.hear(page, views)
        self._answered(views)
        only_probes = runs.live is not None and runs.live.only_probe
        history = None if only_probes else frames.history_message()
        if history is not None:
            self._send(*history)
        if runs.live is not None and not only_probes:
            frames.publisher.greet(page, views)

    def _obey(self, content: Message) -> None:
        commands: dict[object, Callable[[], object]] = {
            "run": self._session.runs.start,
            "resume": self._session.runs.resume,
            "restart": self._session.restart,
        }
        name = content.get("name")
        if not isinstance(name, str) or name not in commands:
            raise ValueError(_unknown("command", name))
        commands[name]()

    def _choose(self, content: Message) -> None:
        """Set traits; none of them if one has a form that the page never sends."""
        names = [name for name in CHOICES if name in content]
        for name in names:
            if not CHOICES[name](content[name]):
                raise ValueError(_wrong(name, content[name]))
        for name in names:
            self._set_trait(name, content[name])

    def _set_tolerance(self, content: Message) -> None:
        self._set_trait("stop_when_stable", content.get("value"))

    def _refuse(self, content: Message) -> None:
        raise ValueError(_unknown("message", content.get("kind")))

    def _send_bokeh(self, _: Message) -> None:
        content = {"kind": "bokehjs", "version": BOKEH_VERSION}
        self._send(content, [bokehjs_gz()])

    def _send_code(self, _: Message) -> None:
        self._send({"kind": "code", "code": page_code()})


def _page(content: Message) -> tuple[str, int]:
    """Name of a page and number of its views."""
    page = content.get("page")
    if not _is_text(page):
        raise ValueError(_wrong("page", page))
    return str(page), _count(content, "views")


def _count(content: Message, name: str) -> int:
    value = content.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(_wrong(name, value))
    return value


def _wrong(name: str, value: object) -> str:
    return f"The page has sent {shortened(value)} as `{name}`. {RELOAD}"


def _unknown(what: str, value: object) -> str:
    return f"The page has sent an unknown {what}, {shortened(value)}. {RELOAD}"


def leave_replies_to_the_page(comm: Any) -> None:
    """Let the page's next message go to any free thread of the kernel.

    ipykernel 7.4 notes on the comm which shell has sent last and routes the page's
    messages there, which is the main shell, blocked while a notebook cell runs. Without
    the note they go to a subshell, as the page asks. This is an optimization on which
    nothing depends: other versions have no such note.
    """
    getattr(comm, "__dict__", {}).pop("_reply_subshell_id", None)
