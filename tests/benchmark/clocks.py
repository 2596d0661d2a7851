"""Clocks and gauges: time between batches, and the peak of memory."""

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
    """A loader that notes when each batch is asked for.

    From one request to the next a contender does all of its work for one batch, so its
    time is known without touching it. The first batch is a warm-up.

    Args:
        batches: Inputs; they are yielded as ``(inputs,)``, which all contenders take.
        device: Where the time passes: on ``cuda`` the stream's own, by events.
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
        finally:  # Not every contender asks once more after the last batch.
            self._mark()

    def seconds(self) -> list[float]:
        """Seconds of each batch after the first: processor time, or the GPU's."""
        pairs = list(zip(self._marks[1:], self._marks[2:], strict=False))
        if self._device == "cpu":
            return [after[0] - before[0] for before, after in pairs]
        torch.cuda.synchronize()
        return [before[2].elapsed_time(after[2]) / 1e3 for before, after in pairs]

    def wall(self) -> list[float]:
        """The same by the clock on the wall."""
        pairs = zip(self._marks[1:], self._marks[2:], strict=False)
        return [after[1] - before[1] for before, after in pairs]

    def _mark(self) -> None:
        event = None
        if self._device != "cpu":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
        self._marks.append((time.process_time(), time.perf_counter(), event))


class Peak:
    """The highest memory inside a block, in MiB, and how far that is above its start.

    Of the process (resident set) on the CPU, of the allocator on a GPU.
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
    """The middle, or NaN of nothing."""
    return statistics.median(values) if values else float("nan")


def _status(field: str) -> float:
    """A line of the kernel's account of this process, in MiB."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
