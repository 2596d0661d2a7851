"""Messages of the page: a queue with a thread of its own, and what they ask for."""

import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

from cka_notebook._messages import error_text
from cka_notebook._page.runtime import BOKEH_VERSION, bokehjs_gz, page_code

from .session import Session

Message = Mapping[str, Any]

IDLE = 30.0
"""Seconds without a message after which the thread ends."""

CHOICES = ("layers1", "layers2", "focus", "metric", "palette", "color_range")
"""Traits that a page may set."""


class Mailbox:
    """Queues messages from any thread and handles them in a single one.

    A page's messages may arrive in the main thread, in a subshell, or nested in an
    ``await``; none of these may wait for what a message asks for.

    Args:
        handle: Called with each message, one after the other.
        idle: Seconds without a message after which the thread ends.
    """

    def __init__(self, handle: Callable[[Message], None], idle: float = IDLE) -> None:
        self._handle = handle
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
                self._handle(message)
                continue
            with self._lock:
                if self._messages.empty():
                    self._thread = None
                    return


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
        self._mailbox = Mailbox(self.handle)

    def receive(self, content: object) -> None:
        """Take a message in whatever thread it arrives."""
        if not isinstance(content, Mapping):
            return
        request = content.get("kind"), content.get("name")
        if request == ("command", "pause"):
            self._session.runs.pause()
        elif request == ("command", "stop"):
            self._session.runs.stop()
        elif request[0] == "ack":
            self._acknowledge(content)
        else:
            self._mailbox.put(content)

    def close(self) -> None:
        """End the thread that handles messages."""
        self._mailbox.close()

    def handle(self, content: Message) -> None:
        """Do what a message asks for, and show on the page what goes wrong."""
        handlers: dict[str, Callable[[Message], None]] = {
            "ready": self._greet,
            "command": self._obey,
            "layers": self._choose,
            "focus": self._choose,
            "view": self._choose,
            "tolerance": self._set_tolerance,
            "need_bokeh": self._send_bokeh,
            "need_code": self._send_code,
        }
        handler = handlers.get(str(content.get("kind")))
        try:
            if handler is not None:
                handler(content)
        except Exception as error:
            self._session.say("error", error_text(error))

    def _acknowledge(self, content: Message) -> None:
        with contextlib.suppress(KeyError, TypeError, ValueError):
            page, views = str(content["page"]), int(content["views"])
            epoch, seq = int(content["epoch"]), int(content["seq"])
            self._session.frames.publisher.acknowledge(page, views, epoch, seq)

    def _greet(self, content: Message) -> None:
        """Give a page that has just loaded what it cannot find in traits."""
        page, views = str(content.get("page")), int(content.get("views") or 0)
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
        commands: dict[str, Callable[[], object]] = {
            "run": self._session.runs.start,
            "resume": self._session.runs.resume,
            "restart": self._session.restart,
        }
        command = commands.get(str(content.get("name")))
        if command is not None:
            command()

    def _choose(self, content: Message) -> None:
        for name in CHOICES:
            if name in content:
                self._set_trait(name, content[name])

    def _set_tolerance(self, content: Message) -> None:
        value = content.get("value")
        tolerance = None if value is None else float(value)
        self._set_trait("stop_when_stable", tolerance)

    def _send_bokeh(self, _: Message) -> None:
        content = {"kind": "bokehjs", "version": BOKEH_VERSION}
        self._send(content, [bokehjs_gz()])

    def _send_code(self, _: Message) -> None:
        self._send({"kind": "code", "code": page_code()})
