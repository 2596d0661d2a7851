"""Ranks that fail in every way: the others end soon, with an error that names it.

Ranks are forked, since each would take seconds to import torch.
"""

import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from cka_notebook import CKA
from cka_notebook._engine import distributed

RANKS = 4
PATIENCE = 60.0
"""Seconds in which all ranks must have ended."""

LONG = 400
"""Batches of the ranks that are still at work when one fails."""


def batches(rank, count=3):
    generator = torch.Generator().manual_seed(rank)
    return list(torch.randn(count, 12, 6, generator=generator).double())


def made(seed=0, out=3, kind=nn.Sequential):
    torch.manual_seed(seed)
    return kind(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, out)).double()


class Broken(nn.Sequential):
    """Fails in its forward pass."""

    def forward(self, *_):
        raise ValueError("a broken model")


class Ending(list):
    """Batches, after the first of which something happens."""

    def __init__(self, given, event):
        super().__init__(given)
        self._event = event

    def __iter__(self):
        yield self[0]
        self._event()
        yield from self[1:]


def fail(*_):
    raise ValueError("broken")


def send(number):
    return lambda *_: os.kill(os.getpid(), number)


def killed_in_a_pass():
    model = made()
    model.register_forward_hook(send(signal.SIGKILL))
    return model


def with_nan(given):
    given[1][0, 0] = torch.nan
    return given


def other(**changes):
    """What a rank does otherwise than the others, given its batches."""
    return lambda _: changes


FAILING = {
    "loader": (lambda x: {"loader": Ending(x, fail)}, "ValueError: broken"),
    "model": (other(model=made(kind=Broken)), "ValueError: a broken model"),
    "callback": (other(callback=fail), "ValueError: broken"),
    "argument": (other(max_batches=0), "ValueError: Expected `max_batches`"),
    "interrupt": (
        lambda x: {"loader": Ending(x, send(signal.SIGINT))},
        "KeyboardInterrupt",
    ),
    "exit": (lambda x: {"loader": Ending(x, sys.exit)}, "SystemExit"),
    "empty": (other(loader=[]), "at least one batch"),
    "weights": (lambda _: {"model": made(1)}, "the same model1 on every rank"),
    "layers": (other(model1_layers=["0"]), "the same layers1 on every rank"),
    "width": (lambda _: {"model": made(out=4)}, "the same model1 on every rank"),
    "pool": (other(pool="mean"), "the same pool on every rank"),
    "autocast": (other(autocast=torch.bfloat16), "the same autocast on every rank"),
    "kill": (lambda x: {"loader": Ending(x, send(signal.SIGKILL))}, ""),
    "early kill": (lambda _: {"model": killed_in_a_pass()}, ""),
}
"""Kinds of failing ranks: what they do, and what all ranks say."""

GOOD = {
    "alike": other(),
    "small": lambda x: {"loader": [batch[:3] for batch in x]},
    "fewer": lambda x: {"loader": x[:1]},
    "nan": lambda x: {"loader": with_nan(x)},
    "doubtful": lambda x: {"loader": [x[0][:1].repeat(12, 1), *x[1:]]},
}
"""Kinds of odd ranks that must not fail."""

KILLED = "no sign of life", "connection to the other ranks is lost", "was lost while"


def one_rank(rank, size, store, out, kind, odd):
    """What one rank of a group does; it writes down what came of it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    plan = {"model": made(), "model1_layers": "all", "loader": batches(rank)}
    if kind in FAILING:
        plan |= {"loader": batches(rank, LONG), "callback": lambda *_: time.sleep(0.2)}
    if rank == odd:
        change = FAILING[kind][0] if kind in FAILING else GOOD[kind]
        plan |= change(batches(rank))
    model, loader = plan.pop("model"), plan.pop("loader")
    names = {"max_batches", "callback"} & set(plan)
    run = {name: plan.pop(name) for name in names}
    facts = {"error": ""}
    started = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = CKA(model, **plan).compare(loader, progress=False, **run)
        facts |= {name: getattr(result, name) for name in ("batches", "skipped")}
        facts |= {"notes": result.notes, "undefined": result.undefined1}
        facts["matrix"] = result.matrix.tolist()
    except BaseException as error:
        facts["error"] = f"{type(error).__name__}: {error}"
    facts["seconds"] = time.monotonic() - started
    Path(f"{out}{rank}").write_text(json.dumps(facts))
    os._exit(0)  # Nobody destroys the group: some of it may be gone.


def group(kind, odd, *, size=RANKS, tcp=False):
    """What each rank of a group says; None for one that was killed or hangs."""
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/out"
        store = f"tcp://127.0.0.1:{_free_port()}" if tcp else f"file://{folder}/store"
        started = [
            fork.Process(target=one_rank, args=(rank, size, store, out, kind, odd))
            for rank in range(size)
        ]
        for process in started:
            process.start()
        end = time.monotonic() + 1.5 * PATIENCE
        for process in started:
            process.join(max(0, end - time.monotonic()))
            process.kill()
            process.join()
        files = [Path(f"{out}{rank}") for rank in range(size)]
        return [json.loads(f.read_text()) if f.exists() else None for f in files]


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def problem(kind, odd, facts):
    """What is wrong with how a group ended, or nothing."""
    is_killed = "kill" in kind
    every = [x for rank, x in enumerate(facts) if rank != odd or not is_killed]
    if any(x is None or x["seconds"] > PATIENCE for x in every):
        return "not all ranks ended"
    errors = [x["error"] for x in every]
    if kind in GOOD:
        first = every[0]
        is_same = all(
            x.get(key) == first.get(key) for x in every for key in ("matrix", "notes")
        )
        return "" if is_same and not any(errors) else f"{errors}"
    texts = KILLED if is_killed else [FAILING[kind][1]]
    is_said = all(any(text in error for text in texts) for error in errors)
    others = [x["error"] for rank, x in enumerate(facts) if rank != odd]
    is_named = is_killed or all(f"ank {odd} " in error for error in others)
    return "" if is_said and is_named else f"{errors}"


def main(count, seed):
    """``count`` groups of four; figures, or AssertionError with what was wrong."""
    chance, slowest, kinds = random.Random(seed), 0.0, [*FAILING, *GOOD]
    for number in range(seed * count, (seed + 1) * count):
        kind = kinds[number % len(kinds)]
        odd, tcp = chance.randrange(RANKS), chance.random() < 0.5
        facts = group(kind, odd, tcp=tcp)
        found = problem(kind, odd, facts)
        assert not found, f"{kind}, rank {odd}, {tcp=}: {found}"
        slowest = max([slowest, *(x["seconds"] for x in facts if x is not None)])
    return {"groups": count, "seconds of the slowest rank": round(slowest, 1)}


def check(kinds, lost=3.0):
    """For tests: what is wrong with one group of two ranks of each of these kinds."""
    distributed.LOST = lost
    found = {}
    for number, kind in enumerate(kinds):
        facts = group(kind, number % 2, size=2, tcp=number % 4 > 1)
        found[kind] = problem(kind, number % 2, facts), facts
    return found
