"""Interrupts of a Jupyter kernel in a cell that compares: the next one is right."""

import random
import time

from jupyter_client.manager import start_new_kernel
from support import ROOT

PREPARED = """
import random, threading, time, warnings
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from cka_notebook import CKA, CKAExplorer

warnings.simplefilter("ignore")
torch.set_num_threads(1)


def make():
    layers = nn.Linear(64, 128), nn.BatchNorm1d(128), nn.Dropout(), nn.Linear(128, 10)
    return nn.Sequential(*layers).train()


def shuffled():
    return DataLoader(TensorDataset(data), 64, shuffle=True)


def explorer():
    return CKAExplorer(one, two, shuffled(), model1_layers="all")


def compared(loader):
    return CKA(one, two, model1_layers="all").compare(loader, progress=False).matrix


def state():
    modules = [x for model in (one, two) for x in model.modules()]
    held = [vars(x).items() for x in modules]
    return (
        [x.training for x in modules],
        [(k, len(v)) for each in held for k, v in each if "hooks" in k and v],
        [x.tolist() for x in [*one.state_dict().values(), *two.state_dict().values()]],
        torch.get_rng_state().tolist(),
        random.getstate(),
        str(np.random.get_state()),
        torch.is_grad_enabled(),
        "training" in vars(nn.Module),
    )


def check():
    end = time.monotonic() + 60
    while any(x.name == "cka-engine" for x in threading.enumerate()):
        assert time.monotonic() < end, "the run goes on"
        time.sleep(0.01)
    assert shown is None or shown.status in ("idle", "stopped", "done"), shown.status
    assert [a == b for a, b in zip(before, state())] == [True] * len(before)
    assert torch.equal(compared(small), expected), "other numbers"


torch.manual_seed(0)
one, two, shown = make(), make(), None
two[2].eval()
data, small = torch.randn(64 * 400, 64), list(torch.randn(5, 32, 64))
expected, before = compared(small), state()
compared(shuffled())
"""

CELLS = (
    "shown = None; compared(shuffled())",
    "shown = explorer(); shown.wait()",
    "shown = explorer(); display(shown); shown.wait()",
    "shown = explorer(); shown.run(block=True)",
)


class Kernel:
    """A kernel and its client."""

    def __enter__(self):
        self._manager, self._client = start_new_kernel(cwd=str(ROOT))
        return self

    def __exit__(self, *_):
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)

    def run(self, code, interrupts=()):
        """Run a cell, interrupted after these seconds each; the error, or nothing."""
        cell = self._client.execute(code)
        for seconds in interrupts:
            time.sleep(seconds)
            self._manager.interrupt_kernel()
        error = ""
        while True:
            message = self._client.get_iopub_msg(timeout=120)
            if message["parent_header"].get("msg_id") != cell:
                continue
            content = message["content"]
            if message["msg_type"] == "error":
                error = f"{content['ename']}: {content['evalue']}"
            if content.get("execution_state") == "idle":
                return error


def main(count, seed):
    """Interrupt ``count`` cells; figures, or AssertionError with what was wrong."""
    draw, struck, twice = random.Random(seed), 0, 0
    with Kernel() as kernel:
        assert not kernel.run(PREPARED)
        started = time.monotonic()
        kernel.run("compared(shuffled())")
        seconds = time.monotonic() - started
        for number in range(count):
            cell, times = draw.choice(CELLS), [draw.uniform(0, 0.8 * seconds)]
            if draw.random() < 0.4:
                times.append(10 ** draw.uniform(-4, -1.5))
            error = kernel.run(cell, times)
            found = kernel.run("check()")
            if found == "KeyboardInterrupt: ":  # It came late, in the next cell.
                found = kernel.run("check()")
            assert not found, f"seed {seed}, try {number}, {cell}, {times}: {found}"
            struck += error != ""
            twice += len(times) > 1
    return {"cells": count, "interrupted": struck, "twice": twice}
