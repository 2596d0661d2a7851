"""What a trace of the profiler says: launches, phases, gaps, the longest kernels."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

Event = dict[str, Any]
ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")
CALLS = ("cuda_runtime", "cuda_driver")


@dataclass
class Summary:
    """Times in ms.

    Attributes:
        launches: Kernels, copies and fills that were launched.
        wall: From the start of the first of them to the end of the last.
        busy: Of that, while at least one ran.
        device: GPU time by phase; what is in none is in ``"forward and rest"``.
        host: Processor time by phase.
        counts: Launches by phase.
        kernels: Name, count and total time, the longest first.
    """

    launches: int = 0
    wall: float = 0.0
    busy: float = 0.0
    device: dict[str, float] = field(default_factory=dict)
    host: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    kernels: list[tuple[str, int, float]] = field(default_factory=list)

    def text(self) -> str:
        """For people."""
        gap = self.wall - self.busy
        lines = [
            f"{self.launches} launches, {self.wall:.3f} ms in all, idle {gap:.3f} ms",
            "",
            f"{'phase':20} {'GPU ms':>10} {'share':>7} {'launches':>9} {'host ms':>10}",
        ]
        total = sum(self.device.values()) or float("nan")
        for phase in {**self.device, **self.host}:
            spent = self.device.get(phase, 0.0)
            lines.append(
                f"{phase:20} {spent:10.3f} {spent / total:7.1%} "
                f"{self.counts.get(phase, 0):9} {self.host.get(phase, 0.0):10.3f}"
            )
        lines += ["", f"{'count':>6} {'GPU ms':>10}  kernel"]
        lines += [f"{n:6} {ms:10.3f}  {name[:110]}" for name, n, ms in self.kernels]
        return "\n".join(lines)


class TracedLoader:
    """A loader whose last batch is profiled, from one request to the next.

    Args:
        batch: Is given every time, as ``(batch,)``.
        count: Batches in all.
    """

    dataset, batch_size = "synthetic", None

    def __init__(self, batch: Tensor, count: int = 4) -> None:
        self.batches = [batch] * count
        self.events: list[Event] = []

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor]]:
        for batch in self.batches[:-1]:
            yield (batch,)
        _wait()
        kinds = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            kinds.append(ProfilerActivity.CUDA)
        with profile(activities=kinds) as found:
            yield (self.batches[-1],)
            _wait()
        self.events = _events(found)


def summarize(events: Iterable[Event], phases: Iterable[str]) -> Summary:
    """Sum up a trace in Chrome's format.

    Args:
        events: Its ``traceEvents``.
        phases: Names of ranges of the profiler, none inside another.
    """
    events = [event for event in events if event.get("ph") == "X"]
    ranges = [
        x for x in events if x["cat"] == "user_annotation" and x["name"] in phases
    ]
    calls = {
        x["args"]["correlation"]: x
        for x in events
        if x["cat"] in CALLS and "correlation" in x.get("args", {})
    }
    work = [event for event in events if event["cat"] in ON_GPU]
    summary = Summary(launches=len(work))
    summary.host = _sums((x["name"], x["dur"]) for x in ranges)
    owner = _owner(ranges, calls)
    summary.device = _sums((owner(x), x["dur"]) for x in work)
    summary.counts = dict(Counter(map(owner, work)))
    summary.wall, summary.busy = _times(work)
    times = _sums((x["name"], x["dur"]) for x in work)
    counts = Counter(x["name"] for x in work)
    longest = sorted(times, key=times.__getitem__, reverse=True)[:30]
    summary.kernels = [(name, counts[name], times[name]) for name in longest]
    return summary


def _owner(ranges: list[Event], calls: dict[int, Event]) -> Callable[[Event], str]:
    """Says in which range an event of the GPU was launched."""

    def owner(event: Event) -> str:
        call = calls.get(event.get("args", {}).get("correlation"))
        for span in ranges if call is not None else ():
            inside = span["ts"] <= call["ts"] <= span["ts"] + span["dur"]
            if inside and span["tid"] == call["tid"]:
                return span["name"]
        return "forward and rest"

    return owner


def _times(work: list[Event]) -> tuple[float, float]:
    """Time from the first to the last, and the part in which something ran, in ms."""
    spans = sorted((x["ts"], x["ts"] + x["dur"]) for x in work)
    if not spans:
        return 0.0, 0.0
    busy, end = 0.0, spans[0][0]
    for start, stop in spans:
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return (end - spans[0][0]) / 1e3, busy / 1e3


def _sums(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Milliseconds by name, of microseconds."""
    sums: defaultdict[str, float] = defaultdict(float)
    for name, microseconds in pairs:
        sums[name] += microseconds / 1e3
    return dict(sums)


def _events(found: profile) -> list[Event]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        found.export_chrome_trace(str(path))
        return json.loads(path.read_text(encoding="utf-8"))["traceEvents"]


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
