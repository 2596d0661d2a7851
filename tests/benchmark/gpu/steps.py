"""Whole comparisons: time, memory, launches and error, beside forward passes and peers.

Contenders take turns on the same models and batch, which lie on the device.
"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peers import reference, sites
from torch import Tensor, nn

from benchmark import contenders
from benchmark.clocks import ClockedLoader, Peak

from . import engine
from .record import AbsentError, Recorder, spread_of
from .trace import Summary, TracedLoader, summarize
from .workloads import BF16, DEFAULT, IEEE, TF32, Precision, Workload

PEER = "pytorch-cka"
ROUNDS = 2
ROUND_SECONDS = 0.5
"""A contender's turn lasts as many batches as fit, from `FEWEST` to `MOST`."""

FEWEST, MOST = 3, 12


@dataclass(frozen=True)
class Step:
    """One line of the table.

    Attributes:
        precision: Of the forward passes.
        examples: In a batch.
        blocks: Compare building blocks only.
        channels_last: Whether images are in that memory format.
        error_examples: In the batch whose CKA is compared with float64; 0 for none.
    """

    precision: Precision
    examples: int
    blocks: bool = False
    channels_last: bool = False
    error_examples: int = 0

    @property
    def title(self) -> str:
        """All but the examples, in short."""
        words = [self.precision.name]
        words += ["blocks"] * self.blocks + ["channels_last"] * self.channels_last
        return ", ".join(words)


def compare_with_peers(recorder: Recorder) -> None:
    """The benchmark: batch 256, all leaves, beside the fastest peer."""
    for name in ("resnet", "vit"):
        steps = [Step(x, 256, error_examples=64) for x in (TF32, BF16, IEEE)]
        recorder.attempt(name, _workload, recorder, name, steps, True, needs=15)


def compare_modes(recorder: Recorder) -> None:
    """Ours alone, in what the benchmark leaves out."""
    steps = {
        "resnet": [
            Step(DEFAULT, 256),
            Step(DEFAULT, 128, error_examples=128),
            Step(BF16, 128, error_examples=128),
            Step(BF16, 256, channels_last=True),
            Step(DEFAULT, 256, blocks=True),
            Step(BF16, 256, blocks=True),
        ],
        "mlp": [Step(x, 256, error_examples=128) for x in (DEFAULT, TF32, BF16)],
        "vit": [
            Step(DEFAULT, 128, error_examples=128),
            Step(TF32, 128),
            Step(BF16, 128, error_examples=128),
            Step(BF16, 256, blocks=True),
        ],
    }
    for name, some in steps.items():
        recorder.attempt(name, _workload, recorder, name, some, False, needs=15)


def _workload(recorder: Recorder, name: str, steps: list[Step], peers: bool) -> None:
    workload = Workload(name, recorder.device, recorder.quick)
    for step in steps:
        given = recorder, workload, step, peers
        label = f"{name} n={step.examples}, {step.title}"
        recorder.attempt(label, _step, *given, needs=5)


def _step(recorder: Recorder, workload: Workload, step: Step, peers: bool) -> None:
    batch = workload.batch(min(step.examples, workload.examples))
    models = workload.models
    layout = torch.channels_last if step.channels_last else torch.contiguous_format
    if batch.ndim == 4:
        batch = batch.contiguous(memory_format=layout)
        for model in models:
            model.to(memory_format=layout)
    names = workload.layers(blocks=step.blocks)
    with workload.in_precision(step.precision):
        line = _Line(recorder, workload, step, names, batch)
        line.forward_and_ours()
        if peers:
            label = f"{line.shape}, {PEER}"
            recorder.attempt(label, line.peer, needs=10, optional=True)


class _Line:
    """Measurements of one step.

    Args:
        recorder: Where they go.
        workload: Models.
        step: What is measured.
        names: Layers of each model.
        batch: Inputs.
    """

    def __init__(
        self,
        recorder: Recorder,
        workload: Workload,
        step: Step,
        names: tuple[list[str], list[str]],
        batch: Tensor,
    ) -> None:
        self._recorder, self._step = recorder, step
        self._models, self._names, self._batch = workload.models, names, batch
        self._name, self._device = workload.name, recorder.device
        self._forward_ms = self._forward_peak = float("nan")
        self._count = 2

    def forward_and_ours(self) -> None:
        """The bare forward passes and ours, in turn."""
        runs = {x: self._made(x) for x in ("forward", "ours")}
        self._count = self._batches_of_a_turn(runs["forward"])
        clocks = {name: _Clock() for name in runs}
        for _ in range(1 if self._recorder.quick else ROUNDS):
            for name, run in runs.items():
                clocks[name].add(run, self._loader(self._count))
        self._forward_ms = statistics.median(clocks["forward"].ms)
        self._forward_peak = self._peak(runs["forward"])
        self._write("forward", clocks["forward"])
        peak = self._peak(runs["ours"]) - self._forward_peak
        self._write("ours", clocks["ours"], peak_mib=peak, err=self._error("ours"))
        summary = traced(runs["ours"], self._batch)
        launches = {
            "launches": summary.launches,
            "idle_ms": summary.wall - summary.busy,
        }
        self._recorder.line("step: launches of ours", self.shape, **launches)

    def peer(self) -> None:
        """The fastest of the others."""
        if not sites.installed(PEER):
            msg = "no wheel of it"
            raise AbsentError(msg)
        run, clock = self._made(PEER), _Clock()
        clock.add(run, self._loader(min(self._count, 5)))
        peak = self._peak(run) - self._forward_peak
        self._write(PEER, clock, peak_mib=peak, err=self._error(PEER))

    @property
    def shape(self) -> str:
        """Models, layers, examples and precision."""
        layers = "x".join(str(len(names)) for names in self._names)
        return f"{self._name} {layers}, n={len(self._batch)}, {self._step.title}"

    def _write(self, contender: str, clock: "_Clock", **figures: Any) -> None:
        middle = statistics.median(clock.ms)
        self._recorder.line(
            f"step: {contender}",
            self.shape,
            ms_median=middle,
            ms_iqr=spread_of(clock.ms),
            ratio=middle / self._forward_ms,
            host_ms=statistics.median(clock.host),
            **figures,
        )

    def _made(self, contender: str) -> contenders.Contender:
        return contenders.make(contender, self._models, self._names)

    def _loader(self, count: int) -> ClockedLoader:
        """One batch more, which warms up."""
        return ClockedLoader([self._batch] * (count + 1), self._device)

    def _batches_of_a_turn(self, forward: contenders.Contender) -> int:
        if self._recorder.quick:
            return 1
        loader = self._loader(1)
        forward(loader)
        fitting = ROUND_SECONDS / max(loader.seconds()[-1], 1e-4)
        return round(min(max(fitting, FEWEST), MOST))

    def _peak(self, run: contenders.Contender) -> float:
        if self._device == "cuda":
            torch.cuda.empty_cache()
        with Peak(self._device) as peak:
            run(self._loader(1))
        return peak.above

    def _error(self, contender: str) -> float | None:
        """Largest error of a cell, on a small batch, against float64 activations."""
        if not self._step.error_examples:
            return None
        batch = self._batch[: self._step.error_examples]
        made = self._made(contender)(ClockedLoader([batch], self._device))
        exact = truth(self._models, self._names, batch)
        return float((made.to(exact) - exact).abs().max())


class _Clock:
    """Times of one contender."""

    def __init__(self) -> None:
        self.ms: list[float] = []
        self.host: list[float] = []

    def add(self, run: contenders.Contender, loader: ClockedLoader) -> None:
        """Run over a loader."""
        run(loader)
        self.ms += [1e3 * seconds for seconds in loader.seconds()]
        self.host += [1e3 * seconds for seconds in loader.wall()]


def truth(
    models: tuple[nn.Module, nn.Module],
    names: tuple[list[str], list[str]],
    batch: Tensor,
) -> Tensor:
    """CKA in float64 of the activations as they are, whatever their precision."""
    grams = [
        reference.grams_of(model, layers, [batch], lambda run, x: run(x))
        for model, layers in zip(models, names, strict=True)
    ]
    return reference.cka(*grams)


def profiles(recorder: Recorder) -> Iterator[tuple[str, Summary]]:
    """Titles and profiles of one batch of ours, in a few cases."""
    cases = [("resnet", DEFAULT), ("resnet", BF16), ("mlp", DEFAULT), ("vit", BF16)]
    workload = None
    for name, precision in cases:
        if workload is None or workload.name != name:
            workload = None  # Before the next one takes its memory.
            workload = Workload(name, recorder.device, recorder.quick)
        names = workload.layers()
        with workload.in_precision(precision):
            run = contenders.make("ours", workload.models, names)
            batch = workload.batch(workload.examples)
            yield f"{name} n={len(batch)}, {precision.name}", traced(run, batch)


def traced(run: contenders.Contender, batch: Tensor) -> Summary:
    """One batch under the profiler, after three others."""
    loader = TracedLoader(batch)
    with engine.marked():
        run(loader)
    return summarize(loader.events, engine.PHASES)
