"""Frames out: newest wins, one in flight until acknowledged, the last always sent.

The engine's loop asks `wants()` once a batch and makes a frame only when one would
leave at once; all that touches the wire happens in the publisher's own thread. What the
page needs to draw a cell's convergence is kept by `History`, on a clock of its own, so
that it does not depend on how fast a page answers.
"""

import contextlib
import contextvars
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .codes import Codes, Floats, Header

Sent = Floats | Codes
Send = Callable[[Header, list[bytes]], None]

INTERVAL = 0.1
"""Seconds between frames while a page looks on: more than ten a second pile up."""

UNSEEN_INTERVAL = 1.0
"""Seconds between frames while no view is open."""

ACK_TIMEOUT = 2.0
"""After so many seconds without an acknowledgement nobody is taken to listen."""

BLIND_INTERVAL = 0.5
BLIND_BYTES = 1e6
"""Unheard, one frame each half second, and at most so many bytes a second."""


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Frame:
    """One matrix on its way to the page; `arrays` go as they are, row by row."""

    header: Header
    arrays: tuple[Sent, ...]
    urgent: bool

    @property
    def nbytes(self) -> int:
        """Size of the arrays on the wire."""
        return sum(array.nbytes for array in self.arrays)


class Publisher:
    """Sends frames as fast as the page takes them, and not faster.

    Args:
        send: Called with a header and its buffers, from one thread at a time.
        clock: Seconds, as `time.monotonic` gives them.
    """

    def __init__(
        self, send: Send, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._send = send
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: deque[Frame] = deque()
        self._thread: threading.Thread | None = None
        self._sending = False
        self._last: Frame | None = None
        self._sent_at = float("-inf")
        self._unacknowledged = False
        self._listening = False
        self._views: dict[str, int] = {}
        self._seen = False
        self._seq = 0

    def start(self) -> None:
        """Begin to send, in a thread that belongs to the calling cell.

        Where there are no threads, `offer` sends by itself.
        """
        with self._changed:
            if self._thread is not None:
                return
            context = contextvars.copy_context()
            thread = threading.Thread(
                target=context.run, args=(self._work,), name="cka-frames", daemon=True
            )
            with contextlib.suppress(RuntimeError):
                thread.start()
                self._thread = thread

    def finish(self, timeout: float | None = 10.0) -> None:
        """End the thread after what was offered has been sent."""
        with self._changed:
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def wants(self) -> bool:
        """Whether a frame offered now would leave now. Takes no lock."""
        return not self._waiting and not self._sending and self._delay() <= 0

    def offer(
        self, header: Header, arrays: Sequence[Sent], *, urgent: bool = False
    ) -> Header:
        """Replace the waiting frame by this one.

        Args:
            header: What the frame is; its ``seq``, if any, is replaced.
            arrays: Values as float32, or codes. Not to be changed afterwards.
            urgent: Send without waiting, and whatever is offered later: a last frame.

        Returns:
            The header with the number under which the frame goes.
        """
        with self._changed:
            self._seq += 1
            frame = Frame({**header, "seq": self._seq}, tuple(arrays), urgent)
            if self._waiting and not self._waiting[-1].urgent:
                self._waiting.pop()
            self._waiting.append(frame)
            self._changed.notify_all()
            threaded = self._thread is not None
        if not threaded and (urgent or self._delay() <= 0):
            self._flush()
        return frame.header

    def greet(self, page: str, views: int) -> None:
        """A page has come: it gets the latest frame at once."""
        with self._changed:
            self._unacknowledged = False
            self.hear(page, views)
            again = self._last if not self._waiting else None
        if again is not None:
            self.offer(again.header, again.arrays, urgent=again.urgent)

    def forget(self) -> None:
        """Drop the latest frame: a new run has begun."""
        with self._changed:
            self._last = None
            self._unacknowledged = False
            self._sent_at = float("-inf")

    def hear(self, page: str, views: int) -> None:
        """A page has spoken, so somebody listens, with this many views open."""
        with self._changed:
            self._views[page] = views
            self._seen = any(self._views.values())
            self._listening = True
            self._changed.notify_all()

    def acknowledge(self, page: str, views: int, epoch: int, seq: int) -> None:
        """A page has drawn this frame."""
        with self._changed:
            last = self._last.header if self._last else {}
            if (epoch, seq) >= (last.get("epoch", 0), last.get("seq", 0)):
                self._unacknowledged = False
        self.hear(page, views)

    def _delay(self) -> float:
        """Seconds until the next frame may go."""
        waited = self._clock() - self._sent_at
        if self._unacknowledged and self._listening:
            return max(ACK_TIMEOUT, INTERVAL) - waited
        return self._interval() - waited

    def _interval(self) -> float:
        if not self._listening:
            size = self._last.nbytes if self._last else 0
            return max(BLIND_INTERVAL, size / BLIND_BYTES)
        return INTERVAL if self._seen else UNSEEN_INTERVAL

    def _work(self) -> None:
        me = threading.current_thread()
        while (frame := self._next(me)) is not None:
            self._transmit(frame)

    def _next(self, me: threading.Thread) -> Frame | None:
        """The frame whose time has come, or None when the thread is to end."""
        with self._changed:
            while True:
                if self._thread not in (me, None):
                    return None
                if self._waiting:
                    hurry = self._waiting[0].urgent or self._thread is None
                    delay = 0.0 if hurry else self._delay()
                    if delay <= 0:
                        return self._take()
                    self._changed.wait(delay)
                elif self._thread is None:
                    return None
                else:
                    self._changed.wait()

    def _take(self) -> Frame:
        """Remove the first waiting frame and count it as sent. Needs the lock."""
        frame = self._waiting.popleft()
        now = self._clock()
        if self._unacknowledged and now - self._sent_at >= ACK_TIMEOUT:
            self._listening = False
            self._views.clear()
        self._sending = True
        self._sent_at, self._last, self._unacknowledged = now, frame, True
        return frame

    def _transmit(self, frame: Frame) -> None:
        buffers = [array.tobytes() for array in frame.arrays]
        try:
            self._send(frame.header, buffers)
        except Exception:
            log.exception("A frame could not be sent")
        finally:
            self._sending = False

    def _flush(self) -> None:
        """Send everything that waits, in the calling thread."""
        while self._waiting:
            with self._changed:
                frame = self._take()
            self._transmit(frame)
