"""Steps by hand: replayed as a CUDA graph, and with a second stream."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from . import engine, products
from .record import AbsentError, Recorder, host_us
from .workloads import BF16, DEFAULT, Workload

WARM_UPS = 3
"""Before a graph is recorded, on a stream beside."""

FEW = 5
"""Runs by which the processor's time is told."""

Run = Callable[[], Tensor | None]

EXAMPLES = 8
"""In the batch that shows which outputs are changed in place."""


def measure(recorder: Recorder) -> None:
    """Graphs first, then streams."""
    for name in ("mlp", "resnet"):
        recorder.attempt(f"graph: {name}", _graph, recorder, name, needs=8)
    for precision in (DEFAULT, BF16):
        label = f"streams: resnet, {precision.name}"
        recorder.attempt(label, _streams, recorder, precision, needs=8)


def _graph(recorder: Recorder, name: str) -> None:
    """Forward passes alone, and whole steps: launched one by one, and replayed."""
    workload = Workload(name, recorder.device, recorder.quick)
    batch = workload.batch(workload.examples)
    step = engine.Step(workload.models, workload.single_calls(), batch)
    shape = f"{name} n={len(batch)}"
    for title, run in (("forward", step.forward), ("step", step)):
        with step.hooked() if run is step else nullcontext():
            label = f"graph: {title}"
            recorder.attempt(label, _launched, recorder, label, shape, run)
            recorder.attempt(label, _replayed, recorder, label, shape, run)


def _launched(recorder: Recorder, name: str, shape: str, run: Run) -> None:
    host = host_us(run, recorder.device, FEW) / 1e3
    recorder.time(f"{name}, launched", shape, run, host_ms=host)


def _replayed(recorder: Recorder, name: str, shape: str, run: Run) -> None:
    if recorder.device != "cuda":
        msg = "graphs are for CUDA"
        raise AbsentError(msg)
    expected = run()
    graph, made = _recorded(run)
    graph.replay()
    error = None
    if expected is not None and made is not None:
        error = float((made - expected).abs().max() / expected.abs().max())
    host = host_us(graph.replay, recorder.device, FEW) / 1e3
    recorder.time(f"{name}, replayed", shape, graph.replay, host_ms=host, err=error)


def _recorded(run: Run) -> tuple[torch.cuda.CUDAGraph, Any]:
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UPS):
            run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = run()
    return graph, made


def _streams(recorder: Recorder, precision: Any) -> None:
    """Products of layers that stay as they are, on a stream beside the forward pass."""
    workload = Workload("resnet", recorder.device, recorder.quick)
    batch, names = workload.batch(workload.examples), workload.single_calls()
    shape = f"resnet n={len(batch)}, {precision.name}"

    def forward() -> None:
        with torch.no_grad():
            for model in workload.models:
                model(batch)

    with workload.in_precision(precision):
        changed = [
            changed_in_place(model, layers, batch[:EXAMPLES])
            for model, layers in zip(workload.models, names, strict=True)
        ]
        bare = recorder.time("streams: forward", shape, forward)
        for title, stream in (("one", None), ("two", _new_stream(recorder.device))):
            given = workload.models, names, changed, stream
            with _multiplying(*given) as join:

                def run(join: Callable[[], None] = join) -> None:
                    forward()
                    join()

                run()
                took = recorder.time(f"streams: {title}", shape, run)
            figures = {"ratio": took / bare, "changed": sum(map(len, changed))}
            recorder.line(f"streams: {title}, over forward", shape, **figures)


def changed_in_place(
    model: nn.Module, layers: Sequence[str], batch: Tensor
) -> set[str]:
    """Layers whose output is overwritten by a later one."""
    outputs: dict[str, tuple[Tensor, int]] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda *given, name=name: outputs.__setitem__(
                name, (given[2], given[2]._version)
            )
        )
        for name in layers
    ]
    with torch.no_grad():
        model(batch)
    for handle in handles:
        handle.remove()
    return {name for name, (x, version) in outputs.items() if x._version != version}


def _new_stream(device: str) -> Any:
    return torch.cuda.Stream() if device == "cuda" else None


@contextmanager
def _multiplying(
    models: Sequence[nn.Module],
    names: Sequence[Sequence[str]],
    changed: Sequence[set[str]],
    aside: Any,
) -> Iterator[Callable[[], None]]:
    """Hooks with one product a layer; yields what waits for those on the stream."""

    def hook(_module: object, _args: object, output: Tensor, *, here: bool) -> None:
        if here or aside is None:
            _multiply(output.flatten(1))
            return
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            _multiply(output.flatten(1))
        output.record_stream(aside)

    def join() -> None:
        if aside is not None:
            torch.cuda.current_stream().wait_stream(aside)

    with ExitStack() as stack:
        for model, layers, here in zip(models, names, changed, strict=True):
            for name in layers:
                handle = model.get_submodule(name).register_forward_hook(
                    lambda *given, here=name in here: hook(*given, here=here)
                )
                stack.callback(handle.remove)
        yield join


def _multiply(rows: Tensor) -> Tensor:
    if rows.dtype == torch.bfloat16:
        out = rows.new_empty(len(rows), len(rows), dtype=torch.float32)
        return products.half_mm(rows, rows.T, out)
    with torch.autocast(rows.device.type, enabled=False):
        return engine.split_product(rows) if rows.is_cuda else rows @ rows.T
