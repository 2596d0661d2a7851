"""What of a run goes to the page: live frames, the history of cells, the last state."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from cka_notebook._results.result import shared

from .codes import Floats, Header, error_codes, value_codes
from .history import History, Moment
from .publisher import Publisher, Send, Sent
from .readback import Readback, floats

if TYPE_CHECKING:
    from cka_notebook._engine.state import RunView
    from cka_notebook._results.result import CKAResult

NO_SNAPSHOT: dict[str, Any] = {
    "_snapshot": None,
    "_matrix": b"",
    "_stderr": b"",
    "_history": b"",
}
"""Traits of a run that has neither ended nor paused."""

LARGE_MAP = 500 * 500
"""Frames of maps with more cells are too slow as float32: 8 MB for 1000 layers a side.
The last one, and that of a pause, is float32 all the same."""

SAVED_HISTORY_BYTES = 50_000
"""What a notebook that saves its widgets pays for the history of one of them."""


Layers = tuple[Sequence[str], Sequence[str]]
"""Those of the rows and those of the columns."""


class Progress(NamedTuple):
    """How far a run has come.

    Attributes:
        batches: Batches taken from the loader.
        total: Number of batches to come in all, or None if unknown.
        examples: Examples compared.
        seconds: Time worked, without pauses.
        max_stderr: Largest standard error of the latest frame, or None.
    """

    batches: int = 0
    total: int | None = None
    examples: int = 0
    seconds: float = 0.0
    max_stderr: float | None = None


class _Coming(NamedTuple):
    """A frame whose numbers are on their way; ``cost`` is what asking for them took."""

    numbers: Readback
    cost: float
    progress: Progress
    skipped: int
    gpu: list[int] | None
    sends: bool
    keeps: bool
    catching_up: bool


class Frames:
    """The frames of one explorer, run after run.

    Args:
        send: Called with a header and its buffers, from one thread at a time.

    Attributes:
        publisher: Sends them.
        epoch: Number of the epoch that they belong to.
    """

    def __init__(self, send: Send) -> None:
        self.publisher = Publisher(send)
        self.epoch = 0
        self._send = send
        self._history = History(cells=1)
        self._layers: Layers = (), ()
        self._max_stderr: float | None = None
        self._coming: _Coming | None = None
        self._gpu: list[int] | None = None

    def begin(self, epoch: int, state: "RunView") -> None:
        """A new epoch: forget the frames of the last one.

        Layers that catch up with others leave these their history.
        """
        self.publisher.forget()
        self.epoch = epoch
        known, self._layers = self._layers, (state.layers1, state.layers2)
        self._max_stderr = self._coming = None
        if state.catching_up:
            self._history.move(self._cells, among(self._layers, known))
            self._tell_history()
        else:
            self._history = History(self._cells)

    def begin_anew(self) -> None:
        """In the same epoch all layers are computed from the start after all."""
        self._coming = None
        self._history = History(self._cells)
        self._tell_history(anew=True)

    def take(self, seconds: float, state: "RunView") -> None:
        """Make a frame of this batch if one is wanted, and send what has come."""
        self._arrive()
        # While layers catch up, the others are as they were when the run held.
        keeps = self._history.wants(state.done) and not state.catching_up
        sends = self.publisher.wants()
        if not state.batches or self._coming or not (sends or keeps):
            return
        started = time.perf_counter()
        numbers = Readback(state.matrix(), state.stderr())
        self._coming = _Coming(
            numbers,
            time.perf_counter() - started,
            self.progress(seconds, state),
            state.skipped,
            gpu_memory(state.device) if sends else None,
            sends,
            keeps,
            state.catching_up,
        )
        self._arrive()

    def _arrive(self) -> None:
        """Keep and send the frame that was coming, once it is there."""
        coming = self._coming
        if coming is None or not coming.numbers.has_come:
            return
        self._coming = None
        started = time.perf_counter()
        matrix, stderr = coming.numbers.values()
        if coming.keeps:
            moment = Moment(coming.progress.batches, matrix, stderr)
            # Batches that ran while the numbers came are no cost.
            cost = coming.cost + time.perf_counter() - started
            self._history.add(moment, cost=cost)
        if coming.sends:
            self._gpu, self._max_stderr = coming.gpu, largest(stderr)
            progress = coming.progress._replace(max_stderr=self._max_stderr)
            header = self._header(
                progress, coming.skipped, catching_up=coming.catching_up
            )
            self.publisher.offer(*in_passing(header, matrix, stderr))

    def hold(
        self,
        progress: Progress,
        result: "CKAResult",
        *,
        final: bool,
        catching_up: bool = False,
    ) -> dict[str, Any]:
        """Send a frame that must arrive.

        Args:
            progress: How far the run has come.
            result: Its result so far.
            final: Whether the run is over.
            catching_up: Whether its layers have seen different numbers of batches.

        Returns:
            Traits from which a page can draw it and its history at any later time.
        """
        self._coming = None  # what follows is newer
        matrix, stderr = floats(result.matrix), floats(result.stderr)
        self._layers = result.layers1, result.layers2
        self._max_stderr = largest(stderr)
        if not catching_up:
            self._history.close(Moment(progress.batches, matrix, stderr))
        progress = progress._replace(max_stderr=self._max_stderr)
        header = self._header(
            progress, result.skipped, final=final, catching_up=catching_up
        )
        header = self.publisher.offer(header, (matrix, stderr), urgent=True)
        return self._snapshot(header, matrix, stderr)

    def saved(self, result: "CKAResult") -> dict[str, Any]:
        """Traits that show a result, though nothing was run here."""
        self.epoch = 1
        self._layers = result.layers1, result.layers2
        self._history = History(self._cells)
        self._max_stderr = largest(floats(result.stderr))
        return self.still(self.progress_of(result), result)

    def still(self, progress: Progress, result: "CKAResult") -> dict[str, Any]:
        """Traits that show a result as it is; nothing is sent."""
        header = self._header(progress, result.skipped, final=True)
        matrix, stderr = floats(result.matrix), floats(result.stderr)
        return self._snapshot({**header, "seq": 1}, matrix, stderr)

    def progress(self, seconds: float, state: "RunView") -> Progress:
        """How far a run has come."""
        return Progress(
            state.done, state.total, state.examples, seconds, self._max_stderr
        )

    def progress_of(self, result: "CKAResult") -> Progress:
        """How far the run of a result had come."""
        done = result.batches + result.skipped
        return Progress(done, done, result.examples, 0.0, self._max_stderr)

    def with_whole_history(self, snapshot: dict[str, Any]) -> dict[str, Any]:
        """Traits of the last snapshot again, with all that is known of its history."""
        facts, history = self._history.take()
        return {"_history": history, "_snapshot": {**snapshot, "history": facts}}

    def history_message(
        self, *, anew: bool = False
    ) -> tuple[Header, list[bytes]] | None:
        """The whole history so far, of which traits hold a part at most.

        Args:
            anew: The page is to forget its own.
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

    def _tell_history(self, *, anew: bool = False) -> None:
        message = self.history_message(anew=anew)
        if message is not None:
            self._send(*message)

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

    def _snapshot(
        self, header: Header, matrix: Floats, stderr: Floats
    ) -> dict[str, Any]:
        # The page adds this frame itself, unless its layers are not all as far.
        end = float("inf") if header["catching_up"] else header["batch"]
        facts, history = self._history.take(SAVED_HISTORY_BYTES, end)
        return {
            "_matrix": matrix.tobytes(),
            "_stderr": stderr.tobytes(),
            "_history": history,
            "_snapshot": {"header": header, "history": facts},
        }


def axes(epoch: int, known: "RunView | CKAResult") -> dict[str, Any]:
    """What the rows and columns of an epoch's frames are."""
    return {
        "epoch": epoch,
        "layers1": list(known.layers1),
        "layers2": list(known.layers2),
        "undefined1": dict(known.undefined1),
        "undefined2": dict(known.undefined2),
        "notes": list(known.notes),
    }


def among(layers: Layers, known: Layers) -> Callable[[Floats], Floats]:
    """What puts a map of known layers among others, whose cells are NaN.

    Example:
        >>> among((["a", "b"], ["c"]), (["b"], ["c"]))(np.float32([[0.5]])).tolist()
        [[nan], [0.5]]
    """
    (rows, their_rows), (columns, their_columns) = map(shared, layers, known)
    place = np.ix_(rows.numpy(), columns.numpy())
    theirs = np.ix_(their_rows.numpy(), their_columns.numpy())

    def moved(values: Floats) -> Floats:
        whole = np.full((len(layers[0]), len(layers[1])), np.nan, np.float32)
        whole[place] = values[theirs]
        return whole

    return moved


def gpu_memory(device: torch.device) -> list[int] | None:
    """Bytes in use and in all of a CUDA device, by whomever; None of others.

    Asks the driver, and waits for nothing that the device computes.
    """
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return [total - free, total]


def in_passing(
    header: Header, matrix: Floats, stderr: Floats
) -> tuple[Header, tuple[Sent, Sent]]:
    """A frame that others follow: of a large map a byte for each value and error."""
    if matrix.size <= LARGE_MAP:
        return header, (matrix, stderr)
    values, scale = value_codes(matrix, np.uint8)
    errors, most = error_codes(stderr)
    return {**header, "codes": {**scale, "most": most}}, (values, errors)


def largest(values: Floats) -> float | None:
    """The largest value, or None if none is finite."""
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else None
