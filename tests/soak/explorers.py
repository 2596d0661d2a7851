"""Runs many explorers, and reports what is left of them.

``python -m tests.soak explorers --count 500`` ends with an error if anything has grown.
"""

import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import comm
import ipywidgets
import torch
from torch import nn

from cka_notebook import CKAExplorer
from cka_notebook._notebook import cell

WAYS = ("closed", "closed in a run", "superseded", "superseded in a run", "deleted")
"""How an explorer ends."""

WARM = 10
"""Explorers after which everything that is made once has been made."""

OURS = ("cka-engine", "cka-frames", "cka-mailbox")
MOST_GROWTH = 20.0
"""Megabytes that memory may grow by, for the allocator's sake; ten loaders."""

MOST_OBJECTS = 200
"""Objects that may be more; one explorer has some thousands."""


class Live(NamedTuple):
    """What exists at one moment.

    Attributes:
        explorers: Explorers.
        modules: Modules of models.
        loaders: Loaders.
        widgets: Widgets that ipywidgets keeps.
        comms: Open comms.
        threads: Threads of explorers.
        objects: Objects that the garbage collector follows.
        megabytes: Memory of the process.
    """

    explorers: int
    modules: int
    loaders: int
    widgets: int
    comms: int
    threads: int
    objects: int
    megabytes: float

    @classmethod
    def now(cls) -> "Live":
        """Count, after all threads have ended and garbage is collected."""
        end = time.monotonic() + 60
        while _threads() and time.monotonic() < end:
            time.sleep(0.01)
        for _ in range(3):
            gc.collect()
        every = gc.get_objects()
        kinds = CKAExplorer, nn.Module, Loader
        # Not isinstance, which asks proxies in other libraries for their class.
        counts = [sum(issubclass(type(x), kind) for x in every) for kind in kinds]
        widgets = len(ipywidgets.widgets.widget._instances)
        comms = len(comm.get_comm_manager().comms)
        return cls(*counts, widgets, comms, _threads(), len(every), _megabytes())


class Loader(list[torch.Tensor]):
    """Batches of 2 MB in all."""

    def __init__(self) -> None:
        super().__init__(torch.randn(64, 1024) for _ in range(8))


def _threads() -> int:
    return sum(thread.name in OURS for thread in threading.enumerate())


def _megabytes() -> float:
    """Resident memory; 0 where there is no ``/proc``."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * 4096 / 2**20 if path.exists() else 0.0


def net() -> nn.Module:
    """A small model."""
    return nn.Sequential(nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 4))


def end(explorer: CKAExplorer, way: str) -> None:
    """Let an explorer end, in one of `WAYS`."""
    explorer.run()
    explorer._messages.receive({"kind": "ready", "page": "p", "views": 1})
    if not way.endswith("in a run"):
        explorer.wait(60)
    if way.startswith("closed"):
        explorer.close()


def explorers(count: int) -> Iterator[Live]:
    """Run ``count`` explorers, and measure after each tenth of them.

    All are of one cell, whose next run closes what is left: superseded ones, and
    deleted ones, which ipywidgets keeps until then.
    """
    execution = iter(range(count + WARM))
    current = cell.current_execution
    cell.current_execution = lambda: cell.Execution("cell", str(next(execution)))
    try:
        for number in range(1, count + WARM + 1):
            explorer = CKAExplorer(net(), net(), Loader(), model1_layers="all")
            end(explorer, WAYS[number % len(WAYS)])
            if number >= WARM and (number - WARM) % max(1, count // 10) == 0:
                explorer.close()
                del explorer
                yield Live.now()
    finally:
        cell.current_execution = current


def growth(first: Live, last: Live) -> dict[str, float]:
    """What has grown, and by how much.

    Memory may grow by `MOST_GROWTH`, and the number of all objects by `MOST_OBJECTS`.
    """
    limits = {"objects": MOST_OBJECTS, "megabytes": MOST_GROWTH}
    grown = {name: b - a for name, a, b in zip(Live._fields, first, last, strict=True)}
    return {name: by for name, by in grown.items() if by > limits.get(name, 0)}


def main(count: int, seed: int = 0) -> dict[str, float]:
    """Run ``count`` explorers, and return by how much each kind has grown.

    Raises:
        AssertionError: If anything has grown.
    """
    torch.manual_seed(seed)
    seen = list(explorers(count))
    first, last = seen[0], seen[-1]
    grown = growth(first, last)
    if grown:
        msg = f"grown over {count} explorers: {grown}"
        raise AssertionError(msg)
    more = {name: b - a for name, a, b in zip(Live._fields, first, last, strict=True)}
    return {"tries": count, **more}
