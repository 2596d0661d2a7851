"""Time between batches, and peak memory."""

import resource
import statistics
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

MIB = 2**20


class ClockedLoader:
    """A loader that records when each batch is requested.

    Between two requests, a contender does all of its work for one batch, so this
    measures it without changing it. The first batch is a warm-up.

    Args:
        batches: Inputs, yielded as ``(inputs,)``, which all contenders accept.
        device: On ``cuda``, time is measured by events on the stream.
    """

    dataset = "synthetic"
    batch_size = None

    def __init__(self, batches: list[Tensor], device: str = "cpu") -> None:
        self.batches = batches
        self._device = device
        self._marks: list[tuple[float, float, torch.cuda.Event | None]] = []

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor]]:
        self._marks = []
        try:
            for batch in self.batches:
                self._mark()
                yield (batch,)
        finally:  # Not every contender requests another batch after the last.
            self._mark()

    def seconds(self) -> list[float]:
        """Processor or GPU time of each batch after the first, in seconds."""
        pairs = list(zip(self._marks[1:], self._marks[2:], strict=False))
        if self._device == "cpu":
            return [after[0] - before[0] for before, after in pairs]
        torch.cuda.synchronize()
        return [before[2].elapsed_time(after[2]) / 1e3 for before, after in pairs]

    def wall(self) -> list[float]:
        """Wall time of each batch after the first, in seconds."""
        pairs = zip(self._marks[1:], self._marks[2:], strict=False)
        return [after[1] - before[1] for before, after in pairs]

    def _mark(self) -> None:
        event = None
        if self._device != "cpu":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
        self._marks.append((time.process_time(), time.perf_counter(), event))


class Peak:
    """Peak memory inside a block, absolute and above its start, in MiB.

    On the CPU, the resident set of the process; on a GPU, the allocator's memory.
    """

    def __init__(self, device: str = "cpu") -> None:
        self._cuda = device != "cpu"
        self.peak = self.above = 0.0
        self._start = 0.0

    def __enter__(self) -> "Peak":
        if self._cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._start = torch.cuda.memory_allocated() / MIB
        else:
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")
            self._start = _status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        if self._cuda:
            torch.cuda.synchronize()
            self.peak = torch.cuda.max_memory_allocated() / MIB
        else:
            self.peak = _status("VmHWM")
        self.above = self.peak - self._start


def median(values: list[float]) -> float:
    """The median; NaN for an empty list."""
    return statistics.median(values) if values else float("nan")


def _status(field: str) -> float:
    """A memory field of ``/proc/self/status``, in MiB."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
