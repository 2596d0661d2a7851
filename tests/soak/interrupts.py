"""Interrupts and errors at random moments: nothing is wrong, lost or left behind.

A third strikes a step that is chosen among all of them, a third comes from the timer of
another thread, and a third from a signal, also in the middle of torch's own code.
"""

import _thread
import random
import signal
import tempfile
import threading
import time
import warnings

import torch
from support.faults import ERRORS, Scene, Steps

from cka_notebook._engine import checkpoint


class Timed:
    """Interrupts a block after some seconds, by a thread or by a signal."""

    def __init__(self, seconds, by):
        self._seconds, self._by = seconds, by
        self._is_armed = False
        self.struck = False

    def __enter__(self):
        self._before = [(number, signal.getsignal(number)) for number in SIGNALS]
        for number in SIGNALS:
            signal.signal(number, self._strike)
        self._is_armed = True
        if self._by == "thread":
            self._timer = threading.Timer(self._seconds, _thread.interrupt_main)
            self._timer.start()
        else:
            signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def __exit__(self, *_):
        self._is_armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        if self._by == "thread":
            self._timer.cancel()
            self._timer.join()
        time.sleep(0)  # Lets the handler of a signal that is already here run.
        for number, handler in self._before:
            signal.signal(number, handler)

    def _strike(self, *_):
        if self._is_armed:
            self._is_armed, self.struck = False, True
            raise KeyboardInterrupt


SIGNALS = signal.SIGINT, signal.SIGALRM


def main(count, seed):
    """Strike ``count`` runs; figures, or AssertionError with what was wrong."""
    draw = random.Random(seed)
    kept = checkpoint.SECONDS, checkpoint.SHARE, torch.get_num_threads()
    allowed = torch.get_float32_matmul_precision()
    checkpoint.SECONDS, checkpoint.SHARE = 0.0, 1e9
    torch.set_num_threads(1)
    struck = dict.fromkeys(("step", "thread", "signal"), 0)
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scene = Scene(folder, **_settings(seed))
            steps, seconds = scene.steps(), scene.seconds()
            places = {}
            for code, offset in steps:
                places.setdefault(code, []).append(offset)
            for number in range(count):
                kind = draw.choice(list(struck))
                strike, where = _strike(kind, draw, steps, places, seconds)
                found = scene.faults(strike)
                struck[kind] += strike.struck
                assert not found, f"seed {seed}, try {number}, {where}: {found}"
    finally:
        checkpoint.SECONDS, checkpoint.SHARE = kept[:2]
        torch.set_num_threads(kept[2])
        torch.set_float32_matmul_precision(allowed)
    return {"runs": count, **{f"by {kind}": n for kind, n in struck.items()}}


def _settings(seed):
    """What else a run may change; each seed has it in turn."""
    if seed % 2:
        torch.set_float32_matmul_precision("high")
        return {"autocast": torch.bfloat16, "model1_layers": "all"}
    return {}


def _strike(kind, draw, steps, places, seconds):
    if kind != "step":
        after = draw.uniform(0, seconds)
        return Timed(after, kind), f"{kind} after {after:.4f} s"
    code = draw.choice(list(places))
    offset = draw.choice(places[code])
    passed = draw.randrange(steps[code, offset])
    name = draw.choice(list(ERRORS))
    where = f"{name} in {code.co_qualname}, offset {offset}, after {passed}"
    return Steps((code, offset, passed), ERRORS[name]), where
