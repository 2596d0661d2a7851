"""Frames: the part of a run's state that the page draws, live and afterwards."""

import base64
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from cka_notebook._grams.readback import Readback
from cka_notebook._messages import is_grave
from cka_notebook._results.layers import shared

from .codes import Codes, Floats, Header, error_codes, floats, value_codes
from .history import History, Moment
from .publisher import Array, Failed, Publisher, Send

if TYPE_CHECKING:
    from cka_notebook._engine.state import RunView
    from cka_notebook._results.result import CKAResult

NO_SNAPSHOT: dict[str, Any] = {
    "_snapshot": None,
    "_matrix": b"",
    "_stderr": b"",
    "_history": b"",
}
"""Traits while a run has neither ended nor paused."""

LARGE_MAP = 500 * 500
"""Live frames of maps with more cells are sent as codes of one byte each.

As float32 they are too slow: 1000 layers per model take 8 MB with their errors, and
4 MB already went only 4 times per second (measured). The frame at a pause or at the end
is float32 all the same.
"""

SAVED_HISTORY_BYTES = 50_000
"""Maximum size of the history that a notebook saves for each widget; chosen.

Models of up to 16 layers each keep all 64 maps, models of 129 layers one map.
"""

Layers = tuple[Sequence[str], Sequence[str]]
"""Names of the rows and names of the columns."""


class Progress(NamedTuple):
    """How far a run has come.

    Attributes:
        batches: Batches taken from the loader.
        total: Number of batches of the whole run, or None if unknown.
        examples: Number of examples compared.
        seconds: Running time without pauses.
        max_stderr: Largest standard error of the latest frame, or None.
    """

    batches: int = 0
    total: int | None = None
    examples: int = 0
    seconds: float = 0.0
    max_stderr: float | None = None


class _PendingFrame(NamedTuple):
    """A frame whose values are being copied; ``cost`` is the seconds spent so far."""

    readback: Readback
    cost: float
    progress: Progress
    skipped: int
    gpu: list[int] | None
    for_page: bool
    for_history: bool
    catching_up: bool


class Frames:
    """The frames of one explorer over all its runs.

    Args:
        send: Called with a header and its buffers, from one thread at a time.
        failed: Called with an error of sending.

    Attributes:
        publisher: Sends the frames.
        epoch: Number of the epoch that the frames belong to.
    """

    def __init__(self, send: Send, failed: Failed) -> None:
        self.publisher = Publisher(send, failed)
        self.epoch = 0
        self._send = send
        self._failed = failed
        self._history = History(cells=1)
        self._layers: Layers = (), ()
        self._max_stderr: float | None = None
        self._pending: _PendingFrame | None = None
        self._gpu: list[int] | None = None

    def begin(self, epoch: int, state: "RunView") -> None:
        """Start a new epoch without the frames of the last one.

        If added layers catch up, the other layers keep their history.
        """
        self.publisher.forget()
        self.epoch = epoch
        known, self._layers = self._layers, (state.layers1, state.layers2)
        self._max_stderr = self._pending = None
        if state.catching_up:
            self._history.resize(self._cells, placed(known, self._layers))
            self._send_history()
        else:
            self._history = History(self._cells)

    def restart(self) -> None:
        """Drop the history, because all layers are computed from the start after all.

        The epoch stays the same.
        """
        self._pending = None
        self._history = History(self._cells)
        self._send_history(anew=True)

    def take(self, seconds: float, state: "RunView") -> None:
        """Make a frame of this batch if one is wanted, and send the pending one."""
        self._deliver()
        # While layers catch up, the values of the others do not change.
        for_history = self._history.wants(state.done) and not state.catching_up
        for_page = self.publisher.wants()
        if not state.batches or self._pending or not (for_page or for_history):
            return
        started = time.perf_counter()
        maps = state.matrix(), state.stderr(), state.floor()
        readback = Readback(*(values.float() for values in maps))
        self._pending = _PendingFrame(
            readback,
            time.perf_counter() - started,
            self.progress(seconds, state),
            state.skipped,
            gpu_memory(state.device) if for_page else None,
            for_page,
            for_history,
            state.catching_up,
        )
        self._deliver()

    def _deliver(self) -> None:
        """Keep and send the pending frame, if its values have arrived."""
        frame = self._pending
        if frame is None or not frame.readback.is_ready:
            return
        self._pending = None
        started = time.perf_counter()
        matrix, stderr, floor = map(floats, frame.readback.values())
        if frame.for_history:
            moment = Moment(frame.progress.batches, matrix, stderr)
            # The batches that ran during the copy cost nothing.
            cost = frame.cost + time.perf_counter() - started
            self._history.add(moment, cost=cost)
        if frame.for_page:
            self._gpu, self._max_stderr = frame.gpu, largest(stderr)
            progress = frame.progress._replace(max_stderr=self._max_stderr)
            header = self._header(
                progress, frame.skipped, catching_up=frame.catching_up
            )
            self.publisher.offer(*live_frame(header, matrix, stderr, floor))

    def publish(
        self,
        progress: Progress,
        result: "CKAResult",
        *,
        final: bool,
        catching_up: bool = False,
    ) -> dict[str, Any]:
        """Send the frame of a pause or of the end, which must not be lost.

        Args:
            progress: How far the run has come.
            result: The result so far.
            final: Whether the run has ended.
            catching_up: Whether the layers have seen different numbers of batches.

        Returns:
            Traits from which a page can draw the frame and its history later.
        """
        self._pending = None  # It is older than this frame.
        matrix, stderr = floats(result.matrix), floats(result.stderr)
        self._layers = result.layers1, result.layers2
        self._max_stderr = largest(stderr)
        if not catching_up:
            self._history.close(Moment(progress.batches, matrix, stderr))
        progress = progress._replace(max_stderr=self._max_stderr)
        header = self._header(
            progress, result.skipped, final=final, catching_up=catching_up
        )
        header, floor = with_floor(header, floats(result.floor))
        arrays = matrix, stderr, floor
        header = self.publisher.offer(header, arrays, urgent=True)
        return self._traits(header, *arrays)

    def show_saved(self, result: "CKAResult") -> dict[str, Any]:
        """Traits that show a result which was not computed here."""
        self.epoch = 1
        self._layers = result.layers1, result.layers2
        self._history = History(self._cells)
        self._max_stderr = largest(floats(result.stderr))
        return self.snapshot(self.progress_of(result), result)

    def snapshot(self, progress: Progress, result: "CKAResult") -> dict[str, Any]:
        """Traits that show a result so far; nothing is sent."""
        header = self._header(progress, result.skipped, final=True)
        matrix, stderr = floats(result.matrix), floats(result.stderr)
        header, floor = with_floor({**header, "seq": 1}, floats(result.floor))
        return self._traits(header, matrix, stderr, floor)

    def progress(self, seconds: float, state: "RunView") -> Progress:
        """How far a run has come."""
        return Progress(
            state.done, state.total, state.examples, seconds, self._max_stderr
        )

    def progress_of(self, result: "CKAResult") -> Progress:
        """How far the run of a result came."""
        done = result.batches + result.skipped
        return Progress(done, done, result.examples, 0.0, self._max_stderr)

    def with_whole_history(self, snapshot: dict[str, Any]) -> dict[str, Any]:
        """Traits that replace the part of the history in a snapshot with all of it."""
        facts, history = self._history.take()
        return {"_history": history, "_snapshot": {**snapshot, "history": facts}}

    def history_message(
        self, *, anew: bool = False
    ) -> tuple[Header, list[bytes]] | None:
        """The whole history so far, of which the traits contain a part at most.

        Args:
            anew: Tell the page to forget the history that it has.

        Returns:
            A header and its buffers, or None if there is nothing to tell.
        """
        facts, data = self._history.take()
        if not (facts["batches"] or anew):
            return None
        rows, cols = map(len, self._layers)
        shape = {"epoch": self.epoch, "rows": rows, "cols": cols, "anew": anew}
        return {"kind": "history", **shape, **facts}, [data]

    @property
    def _cells(self) -> int:
        rows, cols = map(len, self._layers)
        return rows * cols

    def _send_history(self, *, anew: bool = False) -> None:
        message = self.history_message(anew=anew)
        if message is None:
            return
        try:
            self._send(*message)
        except Exception as error:  # The run continues without it.
            self._failed(error)

    def _header(
        self,
        progress: Progress,
        skipped: int,
        *,
        final: bool = False,
        catching_up: bool = False,
    ) -> Header:
        rows, cols = map(len, self._layers)
        return {
            "kind": "frame",
            "epoch": self.epoch,
            "batch": progress.batches,
            "total": progress.total,
            "examples": progress.examples,
            "skipped": skipped,
            "seconds": round(progress.seconds, 3),
            "rate": round(progress.examples / max(progress.seconds, 1e-3), 1),
            "max_stderr": progress.max_stderr,
            "gpu": None if final else self._gpu,
            "rows": rows,
            "cols": cols,
            "final": final,
            "catching_up": catching_up,
        }

    def _traits(
        self, header: Header, matrix: Floats, stderr: Floats, floor: Codes
    ) -> dict[str, Any]:
        # The page adds this frame to the history itself, except during a catch-up.
        end = float("inf") if header["catching_up"] else header["batch"]
        facts, history = self._history.take(SAVED_HISTORY_BYTES, end)
        return {
            "_matrix": matrix.tobytes(),
            "_stderr": stderr.tobytes(),
            "_history": history,
            "_snapshot": {
                "header": header,
                "history": facts,
                "floor": base64.b64encode(floor.tobytes()).decode(),
            },
        }


def axes(epoch: int, known: "RunView | CKAResult") -> dict[str, Any]:
    """Describe the rows and columns of the frames of an epoch."""
    return {
        "epoch": epoch,
        "layers1": list(known.layers1),
        "layers2": list(known.layers2),
        "undefined1": dict(known.undefined1),
        "undefined2": dict(known.undefined2),
        "notes": [{"text": note, "grave": is_grave(note)} for note in known.notes],
    }


def placed(old: Layers, new: Layers) -> Callable[[Floats], Floats]:
    """A function that puts the cells of a map where their layers now are.

    Cells of new layers are NaN; those of removed layers are dropped.

    Example:
        >>> place = placed((["b"], ["c"]), (["a", "b"], ["c"]))
        >>> place(np.float32([[0.5]])).tolist()
        [[nan], [0.5]]
    """
    (rows, old_rows), (columns, old_columns) = map(shared, new, old)
    target = np.ix_(rows.numpy(), columns.numpy())
    source = np.ix_(old_rows.numpy(), old_columns.numpy())

    def place(values: Floats) -> Floats:
        whole = np.full((len(new[0]), len(new[1])), np.nan, np.float32)
        whole[target] = values[source]
        return whole

    return place


def gpu_memory(device: torch.device) -> list[int] | None:
    """Used and total bytes of a CUDA device over all processes; None for others.

    Asks the driver and does not wait for the device.
    """
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return [total - free, total]


def live_frame(
    header: Header, matrix: Floats, stderr: Floats, floor: Floats
) -> tuple[Header, tuple[Array, Array, Array]]:
    """A frame that others will follow: for large maps, a byte per value and error."""
    header, chance = with_floor(header, floor)
    if matrix.size <= LARGE_MAP:
        return header, (matrix, stderr, chance)
    values, scale = value_codes(matrix, np.uint8)
    errors, most = error_codes(stderr)
    return {**header, "codes": {**scale, "most": most}}, (values, errors, chance)


def with_floor(header: Header, floor: Floats) -> tuple[Header, Codes]:
    """The header of a frame and the codes of its level of chance, its last buffer.

    They are codes of standard errors, of which ``floor`` in the header is the largest.
    """
    codes, most = error_codes(floor)
    return {**header, "floor": most}, codes


def largest(values: Floats) -> float | None:
    """The largest value, or None if none is finite."""
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else None
