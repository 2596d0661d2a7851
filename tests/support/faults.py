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
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import cka_notebook
from cka_notebook import CKA, CKAExplorer

PACKAGE = str(Path(cka_notebook.__file__).parent)
CONTEXTLIB = contextlib.__file__

ERRORS = {
    "interrupt": KeyboardInterrupt,
    "memory": lambda: RuntimeError("[enforce fail] can't allocate memory"),
}


@cache
def out_of_reach(code):
    """Offsets at which nothing can be raised."""
    steps = list(dis.get_instructions(code))
    found = set()
    for start, step in enumerate(steps):
        names = [x.opname for x in steps[start : start + 5] if x.opname != "PRECALL"]
        nothing = [x.argval for x in steps[start : start + 3]] == [None] * 3
        if nothing and names[:4] == ["LOAD_CONST"] * 3 + ["CALL"]:
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
    """A small comparison that is interrupted, resumed and repeated.

    Args:
        folder: Where the checkpoint goes.
        examples: How many examples, in batches of eight.
        options: Of `CKA`.
    """

    def __init__(self, folder, examples=8 * 4 + 2, **options):
        self.path = Path(folder) / "run.checkpoint"
        self._data = Augmented(examples)
        self._options = options
        self.expected = self.outcome(self.compare(small_models()))

    def compare(self, models, path=None, cka=None, **options):
        """The whole comparison, from the same seeds."""
        _seed()
        loader = DataLoader(self._data, 8, shuffle=True)
        cka = cka or CKA(*models, **self._options)
        return cka.compare(loader, progress=False, checkpoint=path, **options)

    def steps(self):
        """How often each step of a run with a checkpoint is taken."""
        models = small_models()
        cka = self.prepared(models)
        with Steps() as steps:
            self.compare(models, self.path, cka)
        self.clear()
        return steps.counts

    def seconds(self):
        """How long a run with a checkpoint takes."""
        models = small_models()
        cka = self.prepared(models)
        started = time.perf_counter()
        self.compare(models, self.path, cka)
        self.clear()
        return time.perf_counter() - started

    def clear(self):
        """Remove the checkpoint."""
        for file in self.path.parent.iterdir():
            file.unlink()

    def faults(self, strike):
        """What is wrong after an error; empty if nothing is.

        Args:
            strike: A context in which something is raised, such as `Steps`.
        """
        models = small_models()
        cka = self.prepared(models)
        _seed()
        before = _surroundings(models)
        caught = None  # As in a notebook, which keeps the traceback and so its frames.
        try:
            with strike:
                self.compare(models, self.path, cka)
        except BaseException as error:
            caught = error
        found = self.unsettled(cka)
        if found:
            return found  # The rest might wait for ever.
        after = _surroundings(models)
        found = [key for key, value in before.items() if value != after[key]]
        found += self._files() + self._partial(cka)
        found += self.again(cka) + self.after(models)
        del caught
        return found

    def prepared(self, models):
        """What is struck at work, and holds the partial result."""
        return CKA(*models, **self._options)

    def unsettled(self, _cka):
        """What has not ended."""
        return []

    def again(self, _cka):
        """What is wrong when the same object is used again."""
        return []

    def after(self, models):
        """What is wrong when the run is resumed, and then repeated."""
        resumed = self.outcome(self.compare(models, self.path))
        self.clear()
        repeated = self.outcome(self.compare(models))
        runs = {"resumed": resumed, "repeated": repeated}
        return [name for name, outcome in runs.items() if outcome != self.expected]

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
        whole = self.compare(models, max_batches=stop)
        same = self.outcome(whole)[:5] == self.outcome(result)[:5]
        return [] if same else ["partial result"]


class Explored(Scene):
    """The same in an explorer that works in the thread of its caller."""

    def prepared(self, models):
        """An explorer."""
        loader = DataLoader(self._data, 8, shuffle=True)
        options = {**NAMED, "checkpoint": self.path, **self._options}
        return CKAExplorer(*models, loader, **options)

    def compare(self, models, path=None, cka=None, **options):
        """Run this explorer, which has a checkpoint; a `CKA` if there is none."""
        if cka is None:
            return super().compare(models, path, None, **options)
        _seed()
        cka.run(block=True)
        return cka.result

    def unsettled(self, cka):
        """What has not ended: the run, or one of our threads."""
        end = time.monotonic() + 20
        while _ours() and time.monotonic() < end:
            time.sleep(0.001)
        is_live = cka._session.runs.live is not None
        found = ["a run at which nobody works"] if is_live else []
        found += [f"status {x}" for x in [cka.status] if x in LIVE]
        return found + [f"thread {x.name}" for x in _ours()]

    def again(self, cka):
        """What is wrong with the next run of the same explorer."""
        outcome = self.outcome(self.compare(None, None, cka))
        cka.close()
        return [] if outcome == self.expected else ["run again"]


NAMED = {"model1_name": "model1", "model2_name": "model2"}
LIVE = "running", "paused"


def _ours():
    return [x for x in threading.enumerate() if x.name.startswith("cka-")]


def _seed():
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002 the global stream is what is at stake
    random.seed(3)


def _surroundings(models):
    """All that a run must leave as it was found."""
    modules = [module for model in models for module in model.modules()]
    held = [vars(module).items() for module in modules]
    return {
        "state": [
            (str(x.device), x.dtype, x.tolist())
            for model in models
            for x in model.state_dict().values()
        ],
        "hooks": [
            {k: list(v.items()) for k, v in x if "hooks" in k and v} for x in held
        ],
        "attributes": [{k: _plain(v) for k, v in x} for x in held],
        "hooks of all": len(nn.modules.module._global_forward_hooks),
        "descriptor": "training" in vars(nn.Module),
        "stream of numpy": [str(x) for x in np.random.get_state()[1:3]],  # noqa: NPY002 as above
        "stream of Python": random.getstate(),
        "stream of torch": torch.get_rng_state().tolist(),
        "gradients": torch.is_grad_enabled(),
        "autocast": [
            torch.is_autocast_enabled("cpu"),
            torch.get_autocast_dtype("cpu"),
            torch.is_autocast_cache_enabled(),
            _nesting(),
        ],
        "precision": [
            torch.get_float32_matmul_precision(),
            getattr(torch.backends.mkldnn.matmul, "fp32_precision", None),
        ],
        "inference": torch.is_inference_mode_enabled(),
        "default device": torch.get_default_device(),
        "threads": threading.active_count(),
    }


def _plain(value):
    return value if isinstance(value, bool | int | float | str) else id(value)


def _nesting():
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting()
