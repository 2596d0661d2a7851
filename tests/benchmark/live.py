"""Cost of live frames: the explorer compared with a bare `CKA.compare`.

The page acknowledges every frame at once, so the publisher sends as many as it can.
"""

import time
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from cka_notebook import CKA, CKAExplorer

from .clocks import median
from .models import mlp

Times = tuple[float, float]
"""Processor time and wall time, in seconds."""

BATCHES = 3000
EXAMPLES = 32
WIDTH, DEPTH = 64, 12
"""Gives batches of 1 to 2 ms; the requirement is for batches of 20 ms."""


class WatchedExplorer(CKAExplorer):
    """An explorer whose page acknowledges every frame at once."""

    frames = 0

    def send(self, content: Any, buffers: Any = None) -> None:
        super().send(content, buffers)
        if content.get("kind") == "frame":
            self.frames += 1
            ack = {key: content[key] for key in ("epoch", "seq")}
            message = {"kind": "ack", "page": "page", "views": 1, **ack}
            self._handle_custom_msg(message, [])


def measure(rounds: int, batches: int = BATCHES) -> dict[str, Any]:
    """Processor and wall time of a run with and without a page.

    Each round runs without, twice with, and again without, so that a drift in the
    machine's speed favors neither.
    """
    torch.manual_seed(0)
    pair = tuple(mlp(WIDTH, DEPTH, WIDTH).eval() for _ in range(2))
    loader = [torch.randn(EXAMPLES, WIDTH)] * batches
    alone, watched, frames = [], [], 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _alone(pair, loader[:10])
        for _ in range(rounds):
            first = _alone(pair, loader)
            seen = [_watched(pair, loader) for _ in range(2)]
            alone.append(_sum(first, _alone(pair, loader)))
            watched.append(_sum(*(times for times, _ in seen)))
            frames += sum(sent for _, sent in seen)
    return {
        "batches": batches,
        "alone": _milliseconds(alone, 2 * batches),
        "watched": _milliseconds(watched, 2 * batches),
        "ratio": _ratios(watched, alone),
        "frames": frames / (2 * rounds),
    }


def markdown(found: dict[str, Any]) -> str:
    """The cost, in a sentence."""
    alone, watched, ratio = found["alone"], found["watched"], found["ratio"]
    return (
        f"Live: {alone['processor']:.2f} ms of processor time per batch without a "
        f"page, {watched['processor']:.2f} ms with one that takes "
        f"{found['frames']:.0f} frames in {found['batches']} batches: "
        f"{_more(ratio['processor'])} more. Wall time: {alone['wall']:.2f} and "
        f"{watched['wall']:.2f} ms, {_more(ratio['wall'])} more."
    )


def _more(ratio: float) -> str:
    return f"{100 * (ratio - 1):.1f} %"


def _sum(*times: Times) -> Times:
    processor, wall = map(sum, zip(*times, strict=True))
    return processor, wall


def _milliseconds(times: list[Times], batches: int) -> dict[str, float]:
    processor, wall = (median(list(values)) for values in zip(*times, strict=True))
    return {"processor": 1e3 * processor / batches, "wall": 1e3 * wall / batches}


def _ratios(watched: list[Times], alone: list[Times]) -> dict[str, float]:
    """Medians over rounds of the ratios within a round."""
    pairs = list(zip(watched, alone, strict=True))
    processor, wall = (median([w[k] / a[k] for w, a in pairs]) for k in (0, 1))
    return {"processor": processor, "wall": wall}


def _alone(pair: tuple[nn.Module, ...], loader: list[Tensor]) -> Times:
    cka = CKA(*pair, model1_layers="leaves", model2_layers="leaves")
    start = _now()
    cka.compare(loader, progress=False)
    return _since(start)


def _watched(pair: tuple[nn.Module, ...], loader: list[Tensor]) -> tuple[Times, int]:
    leaves = {"model1_layers": "leaves", "model2_layers": "leaves"}
    explorer = WatchedExplorer(*pair, loader, autostart=False, **leaves)
    start = _now()
    explorer.run()
    explorer.wait()
    times = _since(start)
    explorer.close()
    return times, explorer.frames


def _now() -> Times:
    return time.process_time(), time.perf_counter()


def _since(start: Times) -> Times:
    processor, wall = _now()
    return processor - start[0], wall - start[1]
