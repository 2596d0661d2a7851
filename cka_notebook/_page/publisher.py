"""Sends frames: the newest wins, one at a time is unacknowledged, the last always goes.

The loop of the engine calls `wants()` once per batch and computes a frame only if it
would be sent at once. Sending happens in the publisher's own thread.
"""

import contextlib
import contextvars
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .codes import Codes, Floats, Header

Array = Floats | Codes
"""Values as float32, or their codes."""

Send = Callable[[Header, list[bytes]], None]
"""Sends a header and its buffers to the page."""

Failed = Callable[[BaseException], None]
"""Shows an error that reaches no caller."""

MOST_PAGES = 64
"""Number of pages whose views are counted; older ones are forgotten."""

INTERVAL = 0.1
"""Seconds between frames while a page shows them.

Ten frames per second look live, and cost the loop of the engine 1.6 % at 2 ms per batch
(measured with 200 layers per model).
"""

UNSEEN_INTERVAL = 1.0
"""Seconds between frames while no view is open; chosen, as nobody sees them."""

ACK_TIMEOUT = 2.0
"""Seconds without an acknowledgement after which the page counts as gone.

More than three times the slowest answer measured: 0.58 s from sending to repainting
(95th percentile, 1000 layers per model). A lost acknowledgement costs 2 s of updates.
"""

BLIND_INTERVAL = 0.5
BLIND_BYTES = 1e6
"""Without acknowledgements: one frame per half second, within these bytes per second.

Both are chosen: nothing stops unacknowledged frames from piling up, and a page that was
flooded with frames of 4 MB drew 4 per second (measured), so this leaves it ample time.
"""


@dataclass(frozen=True, slots=True)
class Frame:
    """One map on its way to the page; `arrays` are sent in row-major order."""

    header: Header
    arrays: tuple[Array, ...]
    urgent: bool

    @property
    def nbytes(self) -> int:
        """Number of bytes that the arrays take when sent."""
        return sum(array.nbytes for array in self.arrays)


class Publisher:
    """Sends frames as fast as the page draws them, and not faster.

    Args:
        send: Called with a header and its buffers, from one thread at a time.
        failed: Called with an error of sending.
        clock: Returns seconds, as `time.monotonic` does.
    """

    def __init__(
        self, send: Send, failed: Failed, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._send = send
        self._failed = failed
        self._clock = clock
        # Entered by itself: an interrupt in the condition's own `__enter__`, which is
        # written in Python, would leave it locked.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
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
        """Start to send, in a thread that belongs to the running notebook cell.

        Where threads cannot be started, `offer` sends by itself.
        """
        with self._lock:
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
        """Send what is waiting, and end the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def wants(self) -> bool:
        """Whether a frame offered now would be sent at once. Takes no lock."""
        return not self._waiting and not self._sending and self._delay() <= 0

    def offer(
        self, header: Header, arrays: Sequence[Array], *, urgent: bool = False
    ) -> Header:
        """Replace the waiting frame with this one.

        Args:
            header: Facts about the frame; its ``seq``, if any, is replaced.
            arrays: Values, errors and more. They must not change afterwards.
            urgent: Send without delay; no later frame replaces this one.

        Returns:
            The header with the sequence number of the frame.
        """
        with self._lock:
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
        """Send the latest frame to a page that has just opened."""
        with self._lock:
            self._unacknowledged = False
            self.hear(page, views)
            latest = self._last if not self._waiting else None
        if latest is not None:
            self.offer(latest.header, latest.arrays, urgent=latest.urgent)

    def forget(self) -> None:
        """Drop the latest frame, because a new run has begun."""
        with self._lock:
            self._last = None
            self._unacknowledged = False
            self._sent_at = float("-inf")

    def hear(self, page: str, views: int) -> None:
        """Note that a page is listening, and how many views it has open."""
        with self._lock:
            self._views.pop(page, None)
            self._views[page] = views
            while len(self._views) > MOST_PAGES:
                del self._views[next(iter(self._views))]
            self._seen = any(self._views.values())
            self._listening = True
            self._changed.notify_all()

    def acknowledge(self, page: str, views: int, seq: int) -> None:
        """Note that a page has drawn this frame, or a later one.

        Raises:
            ValueError: If there is no such frame yet.
        """
        with self._lock:
            if seq > self._seq:
                msg = f"Expected one of {self._seq} frames to be drawn, got {seq}."
                raise ValueError(msg)
            if self._last is None or seq >= self._last.header["seq"]:
                self._unacknowledged = False
        self.hear(page, views)

    def _delay(self) -> float:
        """Seconds until the next frame may be sent."""
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
        try:
            while (frame := self._next(me)) is not None:
                self._transmit(frame)
        except BaseException as error:
            self._failed(error)

    def _next(self, me: threading.Thread) -> Frame | None:
        """Wait for the next frame to send; None when the thread should end."""
        with self._lock:
            while True:
                if self._thread not in (me, None):
                    return None
                if self._waiting:
                    at_once = self._waiting[0].urgent or self._thread is None
                    delay = 0.0 if at_once else self._delay()
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
        try:
            buffers = [array.tobytes() for array in frame.arrays]
            self._send(frame.header, buffers)
        except Exception as error:
            self._failed(error)
        finally:
            self._sending = False

    def _flush(self) -> None:
        """Send everything that is waiting, in the calling thread."""
        while self._waiting:
            with self._lock:
                frame = self._take()
            self._transmit(frame)
