"""Measurements as JSON lines, each flushed at once, and the clock they are made by."""

import gc
import json
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

SLOW_MS = 50.0
"""Above this a time needs fewer repetitions."""

DEAD = (
    "illegal memory access",
    "device-side assert",
    "unspecified launch failure",
    "misaligned address",
)
"""After one of these errors, every call of CUDA in the process fails."""


class AbsentError(Exception):
    """Something this machine or this torch does not have; no failure."""


class DeviceLostError(Exception):
    """The CUDA context is broken: nothing more can be measured in this process."""


class Recorder:
    """Writes the lines of one part and watches its time.

    Args:
        path: File of the lines.
        device: ``"cuda"`` or ``"cpu"``.
        quick: Tiny shapes and few repetitions, to see that everything runs.
        seconds: When they have passed, what is left is skipped.

    Attributes:
        failures: Number of measurements that raised.
    """

    def __init__(self, path: Path, device: str, quick: bool, seconds: float) -> None:
        self.device, self.quick = device, quick
        self.failures = 0
        self._path = path
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds left."""
        return self._end - time.monotonic()

    def line(self, name: str, shape: str = "", **figures: Any) -> None:
        """Write one line."""
        known = ((key, value) for key, value in figures.items() if value is not None)
        rounded = {key: _rounded(value) for key, value in known}
        text = json.dumps({"name": name, "shape": shape} | rounded)
        with self._path.open("a", encoding="utf-8") as lines:
            lines.write(f"{text}\n")
        print(text, flush=True)

    def time(
        self,
        name: str,
        shape: str,
        *runs: Callable[[], object],
        nbytes: float = 0,
        flop: float = 0,
        **figures: Any,
    ) -> float:
        """Time ``runs`` in turn and write a line; returns the median in ms.

        Args:
            name: What is timed.
            shape: On what.
            runs: The same work on different data, so that no cache holds it.
            nbytes: Memory traffic of one run.
            flop: Its floating-point operations.
            figures: More for the line.
        """
        took = timed(runs, self.device, quick=self.quick)
        middle = statistics.median(took)
        if nbytes:
            figures["gbps"] = nbytes / middle / 1e6
        if flop:
            figures["tflops"] = flop / middle / 1e9
        spread = {"ms_median": middle, "ms_iqr": spread_of(took)}
        self.line(name, shape, **spread, **figures)
        return middle

    def attempt(
        self,
        name: str,
        work: Callable[..., object],
        *given: Any,
        needs: float = 0,
        optional: bool = False,
    ) -> None:
        """Do some work unless time is up; what it raises is written down.

        Args:
            name: What it is.
            work: Is called with ``given``.
            given: Arguments.
            needs: Seconds it will take.
            optional: An error is no failure, such as a peer's, or that of a kernel
                which cannot be built here.
        """
        if self.left < needs:
            self.line(name, skipped=f"{needs:.0f} s needed, {self.left:.0f} s left")
            return
        try:
            work(*given)
        except AbsentError as error:
            self.line(name, absent=str(error))
        except Exception as error:
            self._note(name, error, optional)
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def _note(self, name: str, error: Exception, optional: bool) -> None:
        text = f"{type(error).__name__}: {error}".split("\n")[0][:200]
        self.failures += not optional
        self.line(name, **{"absent" if optional else "failed": text})
        if any(words in str(error) for words in DEAD):
            raise DeviceLostError(text) from error


def timed(
    runs: Sequence[Callable[[], object]], device: str, *, quick: bool = False
) -> list[float]:
    """Milliseconds of repetitions that take the runs in turn, after a warm-up."""
    for _ in range(1 if quick else 5):
        runs[0]()
    [first] = _clocked(runs[:1], device)
    repetitions = 3 if quick else 10 if first > SLOW_MS else 20
    return _clocked([runs[i % len(runs)] for i in range(repetitions)], device)


def host_us(run: Callable[[], object], device: str, count: int) -> float:
    """Microseconds the processor takes for one run, without waiting for the GPU."""
    run()
    _wait(device)
    start = time.perf_counter()
    for _ in range(count):
        run()
    took = time.perf_counter() - start
    _wait(device)
    return 1e6 * took / count


def spread_of(values: Sequence[float]) -> float:
    """Interquartile range."""
    ordered = sorted(values)
    return ordered[(3 * len(ordered)) // 4] - ordered[len(ordered) // 4]


@contextmanager
def tf32(*, products: bool, convolutions: bool):
    """Let float32 products and convolutions round to TF32 or not; then the defaults."""
    _allow_tf32(products, convolutions)
    try:
        yield
    finally:
        _allow_tf32(False, True)


def _allow_tf32(products: bool, convolutions: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = products
    torch.backends.cudnn.allow_tf32 = convolutions


def _clocked(runs: Sequence[Callable[[], object]], device: str) -> list[float]:
    if device == "cpu":
        return [1e3 * _seconds(run) for run in runs]
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(2 * len(runs))]
    torch.cuda._sleep(10_000_000)  # Launches get ahead, or they would be timed.
    for i, run in enumerate(runs):
        marks[2 * i].record()
        run()
        marks[2 * i + 1].record()
    torch.cuda.synchronize()
    pairs = zip(marks[::2], marks[1::2], strict=True)
    return [start.elapsed_time(end) for start, end in pairs]


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
