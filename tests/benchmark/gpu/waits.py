"""How often a batch makes the processor wait for the GPU, and where."""

import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from cka_notebook import CKA

from . import engine
from .record import Recorder
from .workloads import Workload

FIRST, LAST = 3, 6
"""Batches that are watched: what is found out once was found out before."""

STABLE = 9, 12
"""The same where `stop_when_stable` is obeyed, from the eighth batch on."""

TEXT = "called a synchronizing CUDA operation"

States = Generator[engine.RunState, None, None]
Look = Callable[[engine.RunState], object]


def measure(recorder: Recorder) -> None:
    """All ways to run that may differ in it."""
    workload = Workload("resnet", recorder.device, recorder.quick)
    for name, mode in MODES.items():
        recorder.attempt(f"waits: {name}", mode, recorder, workload, needs=3)


def plain(recorder: Recorder, workload: Workload) -> None:
    """As `compare` runs."""
    _watch(recorder, "plain", engine.steps(_cka(workload), _loader(workload)))


def autocast(recorder: Recorder, workload: Workload) -> None:
    """Under autocast."""
    cka = _cka(workload, autocast=torch.bfloat16)
    _watch(recorder, "autocast", engine.steps(cka, _loader(workload)))


def frames(recorder: Recorder, workload: Workload) -> None:
    """With the numbers of each batch sent to a page."""

    def send(state: engine.RunState) -> None:
        engine.Readback(state.matrix(), state.stderr())

    states = engine.steps(_cka(workload), _loader(workload))
    _watch(recorder, "frames", states, send)


def stop_when_stable(recorder: Recorder, workload: Workload) -> None:
    """With a look at the standard errors, which never suffice."""
    loader = _loader(workload, STABLE[1])
    states = engine.steps(_cka(workload), loader, stop_when_stable=1e-9)
    _watch(recorder, "stop_when_stable", states, between=STABLE)


def mixed_dtypes(recorder: Recorder, workload: Workload) -> None:
    """A float64 model beside a float32 one."""
    model1, model2 = workload.models

    def in_double(model: nn.Module, batch: object) -> object:
        return model(batch[0].double())

    try:
        cka = CKA(model1.double(), model2, forward=(in_double, None))
        states = engine.steps(cka, _loader(workload))
        _watch(recorder, "mixed dtypes", states)
    finally:
        model1.float()


def added_layers(recorder: Recorder, workload: Workload) -> None:
    """While layers that were added catch up, with frames."""

    def send(state: engine.RunState) -> None:
        engine.Readback(state.matrix(), state.stderr())

    names = workload.single_calls()
    loader = _loader(workload, LAST + 2)
    states = engine.added_layers(_cka(workload), loader, names, done=LAST + 1)
    _watch(recorder, "added layers", states, send)


MODES = {
    "plain": plain,
    "autocast": autocast,
    "frames": frames,
    "stop_when_stable": stop_when_stable,
    "mixed dtypes": mixed_dtypes,
    "added layers": added_layers,
}


def _cka(workload: Workload, **options: object) -> CKA:
    return CKA(*workload.models, **options)


def _loader(workload: Workload, count: int = LAST) -> list[tuple[torch.Tensor]]:
    batch = workload.batch(min(32, workload.examples))
    return [(batch + 0.01 * number,) for number in range(count)]


def _watch(
    recorder: Recorder,
    name: str,
    states: States,
    look: Look = lambda _: None,
    between: tuple[int, int] = (FIRST, LAST),
) -> None:
    """Run the states, and count the waits of some batches by where they are."""
    first, last = between
    found: Counter[str] = Counter()
    with _noting_waits(recorder.device) as places:
        for number, state in enumerate(states):
            look(state)
            if number < first:
                places.clear()
            if number == last:
                break
        found.update(places)
    states.close()
    waits = sum(found.values()) / (last - first + 1)
    recorder.line(f"waits: {name}", waits=waits, places=dict(found))


@contextmanager
def _noting_waits(device: str) -> Iterator[list[str]]:
    """Places, as file and line, at which the processor waited."""
    places: list[str] = []

    def note(message: object, _kind: object, file: str, line: int, *_: object) -> None:
        if TEXT in str(message):
            places.append(f"{Path(file).name}:{line}")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield places
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
