"""The jobs of the benchmark; each runs in its own process, see `jobs`."""

import copy
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peers import reference
from torch import Tensor, nn

from . import contenders
from .cases import ALL, Case, fan
from .clocks import ClockedLoader, Peak, median

Job = dict[str, Any]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ROUND_SECONDS = 1.0
MOST_BATCHES = 48
"""A round of one contender takes about this long, but at most this many batches."""


def main() -> None:
    """Run the job given on the command line and write its result."""
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    torch.backends.cuda.matmul.allow_tf32 = job["tf32"]
    torch.backends.cudnn.allow_tf32 = job["tf32"]
    found = JOBS[job["kind"]](job)
    Path(job["out"]).write_text(json.dumps(found))


def times(job: Job) -> dict[str, Any]:
    """Seconds per batch of the forward passes and the fast contenders, in turn."""
    case, models, batches = _prepared(job, 1)
    layers = case.layers(models[0]), case.layers(models[1])
    runs = {name: contenders.make(name, models, layers) for name in job["contenders"]}
    clocks: dict[str, tuple[list[float], list[float]]] = {x: ([], []) for x in runs}
    failed: dict[str, str] = {}
    many = _batches_of_a_round(runs["forward"], batches, job)
    for turn in range(job["rounds"]):
        order = list(runs)[turn % len(runs) :] + list(runs)[: turn % len(runs)]
        for name in order:
            loader = ClockedLoader(batches * (many + 1), job["device"])
            try:
                runs[name](loader)
            except RuntimeError as error:  # Mostly out of memory.
                failed[name] = str(error).split("\n")[0][:60]
                del runs[name]
                continue
            clocks[name][0].extend(loader.seconds())
            clocks[name][1].extend(loader.wall())
    done = {name: clocks[name] for name in runs}
    return {
        "seconds": {name: median(seconds) for name, (seconds, _) in done.items()},
        "wall": {name: median(wall) for name, (_, wall) in done.items()},
        "quartiles": {name: _quartiles(seconds) for name, (seconds, _) in done.items()},
        "failed": failed,
        "layers": [len(x) for x in layers],
    }


def solo(job: Job) -> dict[str, Any]:
    """Peak memory and matrix of one contender, and its time if it is slow."""
    slow = job["contender"] in contenders.SLOW
    case, models, batches = _prepared(job, 1)
    layers = case.layers(models[0]), case.layers(models[1])
    before = _forward_seconds(models, batches, job) if slow else []
    if slow:
        # Their hooks stay and would slow down the timed forward passes.
        models = _copied(models)
    run = contenders.make(job["contender"], models, layers)
    loader = ClockedLoader(batches if slow else batches * 2, job["device"])
    with Peak(job["device"]) as peak:
        clock = time.process_time if job["device"] == "cpu" else time.perf_counter
        start = clock()
        matrix = run(loader)  # The slow ones synchronize after every pair.
        seconds = clock() - start
    found: dict[str, Any] = {"above": peak.above, "peak": peak.peak}
    if matrix is not None and job.get("matrix", True):
        found["matrix"] = matrix.double().cpu().tolist()
    if slow:
        forward = median(before + _forward_seconds(_prepared(job, 1)[1], batches, job))
        found |= {"seconds": seconds, "forward": forward}
    return found


def truth(job: Job) -> dict[str, Any]:
    """CKA in float64 from copied activations of one batch."""
    case, models, batches = _prepared(job, 1)
    grams = [
        reference.grams_of(model, case.layers(model), batches, lambda m, x: m(x))
        for model in models
    ]
    return {"matrix": reference.cka(*grams).cpu().tolist()}


def _prepared(
    job: Job, count: int
) -> tuple[Case, tuple[nn.Module, nn.Module], list[Tensor]]:
    name = job["case"]
    case = ALL[name] if isinstance(name, str) else fan(**name)
    dtype = DTYPES[job["dtype"]]
    model1, model2 = case.models()
    same = model1 is model2
    model1 = model1.to(job["device"], dtype)
    model2 = model1 if same else model2.to(job["device"], dtype)
    batches = [x.to(job["device"]) for x in case.batches(count)]
    batches = [x.to(dtype) if x.is_floating_point() else x for x in batches]
    return case, (model1, model2), batches


def _copied(models: tuple[nn.Module, nn.Module]) -> tuple[nn.Module, nn.Module]:
    first = copy.deepcopy(models[0])
    return first, first if models[1] is models[0] else copy.deepcopy(models[1])


def _forward_seconds(
    models: tuple[nn.Module, nn.Module], batches: list[Tensor], job: Job
) -> list[float]:
    loader = ClockedLoader(batches * 4, job["device"])
    contenders.make("forward", models, ([], []))(loader)
    return loader.seconds()


def _batches_of_a_round(
    forward: contenders.Contender, batches: list[Tensor], job: Job
) -> int:
    loader = ClockedLoader(batches * 2, job["device"])
    forward(loader)
    many = math.ceil(ROUND_SECONDS / max(loader.seconds()[-1], 1e-3))
    return min(max(many, 1), MOST_BATCHES)


def _quartiles(values: list[float]) -> list[float]:
    """First and third quartile."""
    ordered = sorted(values)
    return [ordered[len(ordered) // 4], ordered[(3 * len(ordered)) // 4]]


JOBS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "times": times,
    "solo": solo,
    "truth": truth,
}

if __name__ == "__main__":
    main()
