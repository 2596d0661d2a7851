"""Raises an error at any step of a small run, and looks at what that leaves behind.

A step is an instruction of this package, or of contextlib on its behalf. CPython can
deliver an interrupt after a call, at the start of a function and at a jump back; memory
can run out in most others. Left out is only what lies between the last instruction of a
``with`` block and the call of its ``__exit__``, where neither can strike: a lock that
is held there is always released.
"""

import contextlib
import dis
import random
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import cka_notebook
from cka_notebook import CKA

from .reference import differences, snapshot

PACKAGE = str(Path(cka_notebook.__file__).parent)
CONTEXTLIB = contextlib.__file__

ERRORS = {
    "interrupt": KeyboardInterrupt,
    "memory": lambda: RuntimeError("[enforce fail] can't allocate memory"),
}

EXIT_CALL = ["LOAD_CONST", "LOAD_CONST", "LOAD_CONST", "PRECALL", "CALL"]


@cache
def out_of_reach(code):
    """Offsets at which nothing can be raised."""
    steps = list(dis.get_instructions(code))
    found = set()
    for start, step in enumerate(steps):
        names = [x.opname for x in steps[start : start + 5] if x.opname != "PRECALL"]
        nothing = [x.argval for x in steps[start : start + 3]] == [None] * 3
        if nothing and names[:4] == [x for x in EXIT_CALL if x != "PRECALL"]:
            found |= {x.offset for x in steps[start : start + 5]}
        if step.opname in ("PUSH_EXC_INFO", "WITH_EXCEPT_START", "RERAISE", "COPY"):
            found.add(step.offset)
    return found


@dataclass
class Steps:
    """Follows a block step by step, and raises at one of them.

    Attributes:
        target: Code, offset and how often it is passed before; None to raise nowhere.
        error: Makes what is raised.
        counts: How often each step was taken.
        struck: Whether it was raised.
    """

    target: tuple | None = None
    error: object = KeyboardInterrupt
    counts: Counter = field(default_factory=Counter)
    struck: bool = False

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *_):
        sys.settrace(self._before)

    def _call(self, frame, _event, _arg):
        if self.struck or not _is_ours(frame):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame, event, _arg):
        if event != "opcode" or self.struck:
            return self._step
        step = frame.f_code, frame.f_lasti
        if frame.f_lasti in out_of_reach(frame.f_code):
            return self._step
        self.counts[step] += 1
        is_target = self.target is not None and step == self.target[:2]
        if is_target and self.counts[step] > self.target[2]:
            self.struck = True
            sys.settrace(None)
            raise self.error()
        return self._step


def _is_ours(frame):
    name = frame.f_code.co_filename
    if name.startswith(PACKAGE):
        return True
    caller = frame.f_back
    return name == CONTEXTLIB and caller is not None and _is_ours(caller)


class Augmented(Dataset):
    """Examples with transforms that draw from all three random streams."""

    def __init__(self, examples):
        self._x = torch.randn(
            examples, 3, 6, generator=torch.Generator().manual_seed(1)
        )

    def __len__(self):
        return len(self._x)

    def __getitem__(self, i):
        noise = torch.rand(6) + random.random() + np.random.rand()  # noqa: NPY002
        return self._x[i] * noise


class Noisy(nn.Module):
    """Draws random numbers in evaluation mode too."""

    def forward(self, x):
        return x + 0.1 * torch.rand_like(x)


def small_models():
    """Two models with everything that a run has to put back."""
    torch.manual_seed(5)
    first = nn.Sequential(
        nn.Flatten(),
        nn.Linear(18, 7),
        nn.BatchNorm1d(7),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(7, 4),
    )
    block = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
    second = nn.Sequential(nn.TransformerEncoder(block, 1), nn.Flatten(), Noisy())
    return first.train(), second.train()


class Scene:
    """A small comparison that is struck, resumed and repeated.

    Args:
        folder: Where the checkpoint goes.
        examples: How many examples, in batches of eight.
    """

    def __init__(self, folder, examples=8 * 4 + 2):
        self.path = Path(folder) / "run.checkpoint"
        self._data = Augmented(examples)
        self.expected = self.outcome(self.compare(small_models()))

    def compare(self, models, path=None, cka=None):
        """The whole comparison, from the same seeds."""
        _seed()
        loader = DataLoader(self._data, 8, shuffle=True)
        cka = cka or CKA(*models)
        return cka.compare(loader, progress=False, checkpoint=path)

    def steps(self):
        """How often each step of a run with a checkpoint is taken."""
        models = small_models()
        with Steps() as steps:
            self.compare(models, self.path)
        self.clear()
        return steps.counts

    def clear(self):
        """Remove the checkpoint."""
        for file in self.path.parent.iterdir():
            file.unlink()

    def faults(self, target, error):
        """What is wrong after an error at this step; empty if nothing is."""
        models = small_models()
        cka = CKA(*models)
        _seed()
        before = _surroundings(models)
        raised = None
        try:
            with Steps(target, error):
                self.compare(models, self.path, cka)
        except BaseException as caught:
            raised = caught
        found = _changes(before, _surroundings(models))
        found += self._files()
        found += self._partial(cka)
        del raised
        resumed = self.compare(models, self.path)
        if self.outcome(resumed) != self.expected:
            found.append("resumed")
        self.clear()
        if self.outcome(self.compare(models)) != self.expected:
            found.append("next run")
        return found

    @staticmethod
    def outcome(result):
        """All of a result that must be the same bit for bit."""
        return (
            result.matrix.numpy().tobytes(),
            result.stderr.numpy().tobytes(),
            result.examples,
            result.batches,
            result.skipped,
            result.layers1,
            result.layers2,
            result.undefined1,
            result.undefined2,
            result.notes,
            result.provenance["masked"],
        )

    def _files(self):
        others = [x.name for x in self.path.parent.iterdir() if x != self.path]
        return [f"left {name}" for name in others]

    def _partial(self, cka):
        """The result that remains must be that of whole batches."""
        result = cka.result
        if result is None:
            return []
        stop = result.batches + result.skipped
        models = small_models()
        _seed()
        loader = DataLoader(self._data, 8, shuffle=True)
        whole = CKA(*models).compare(loader, progress=False, max_batches=stop)
        same = self.outcome(whole)[:5] == self.outcome(result)[:5]
        return [] if same else ["partial result"]


def _seed():
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002 the global stream is what is at stake
    random.seed(3)


def _surroundings(models):
    """All that a run must leave as it was found."""
    return {
        "models": [snapshot(model) for model in models],
        "hooks": [
            {k: list(v.items()) for k, v in vars(module).items() if "hooks" in k and v}
            for model in models
            for module in model.modules()
        ],
        "attributes": [
            {k: v for k, v in vars(module).items() if isinstance(v, bool | int)}
            for model in models
            for module in model.modules()
        ],
        "global hooks": len(nn.modules.module._global_forward_hooks),
        "descriptor": "training" in vars(nn.Module),
        "numpy": [str(x) for x in np.random.get_state()[1:3]],  # noqa: NPY002 as above
        "python": random.getstate(),
        "torch": torch.get_rng_state().tolist(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "autocast nesting": _nesting(),
        "precision": torch.get_float32_matmul_precision(),
        "inference": torch.is_inference_mode_enabled(),
        "default device": torch.get_default_device(),
        "threads": threading.active_count(),
    }


def _nesting():
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting()


def _changes(before, after):
    found = []
    for key, value in before.items():
        now = after[key]
        if key == "models":
            for number, pair in enumerate(zip(value, now, strict=True), 1):
                found += [
                    f"model{number} {x}" for x in differences(*pair) if x != "random"
                ]
        elif value != now:
            found.append(key)
    return found
