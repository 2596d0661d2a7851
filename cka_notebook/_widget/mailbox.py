"""A queue of messages, and the thread that reads it while there are any."""

import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

Message = Mapping[str, Any]

IDLE = 30.0
"""Seconds without a message after which the thread ends."""


class Mailbox:
    """Takes messages in whatever thread they come and handles them in one of its own.

    A page's messages may arrive in the main thread, in a subshell, or nested in an
    ``await``; none of these is to wait for what a message asks.

    Args:
        handle: Called with each message, one after the other.
        idle: Seconds without a message after which the thread ends.
    """

    def __init__(self, handle: Callable[[Message], None], idle: float = IDLE) -> None:
        self._handle = handle
        self._idle = idle
        self._context = contextvars.copy_context()
        self._guard = threading.Lock()
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, message: Message) -> None:
        """Leave a message, and see that a thread reads it.

        Where there are no threads it is handled here.
        """
        self._messages.put(message)
        with self._guard:
            threaded = self._thread is not None or self._open()
        if not threaded:
            while not self._messages.empty():
                self._handle(self._messages.get())

    def _open(self) -> bool:
        context = self._context.copy()
        thread = threading.Thread(
            target=context.run, args=(self._read,), name="cka-desk", daemon=True
        )
        with contextlib.suppress(RuntimeError):
            thread.start()
            self._thread = thread
        return self._thread is not None

    def _read(self) -> None:
        while True:
            try:
                self._handle(self._messages.get(timeout=self._idle))
            except queue.Empty:
                with self._guard:
                    if self._messages.empty():
                        self._thread = None
                        return
