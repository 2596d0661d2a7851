"""Interrupts and errors at random moments: nothing is wrong, lost or left behind.

A third strikes a step that is chosen among all of them, a third comes from the timer of
another thread, and a third from a signal, also in the middle of torch's own code. Half
of them are followed by a second one, mostly while the first is on its way out. Each
other seed strikes an explorer that works in the thread of its caller.
"""

import _thread
import random
import signal
import tempfile
import threading
import time
import warnings
from collections import Counter

import torch
from support.faults import ERRORS, Explored, Scene, Steps

from cka_notebook._engine import checkpoint


class Struck:
    """A block in which interrupts arrive: of a kind, and perhaps a second one.

    Args:
        first: What raises the first; None for a timer.
        seconds: When the timer is due.
        by: ``"thread"`` or ``"signal"``, if it is a timer.
        again: Seconds after the first when a second one is due, or None.
    """

    def __init__(self, first=None, seconds=0.0, by="signal", again=None):
        self._first, self._seconds, self._by = first, seconds, by
        self._again, self._left = again, 0
        self.strikes = 0

    def __enter__(self):
        self._before = [(number, signal.getsignal(number)) for number in SIGNALS]
        for number in SIGNALS:
            signal.signal(number, self._strike)
        self._left = 1 + (self._again is not None)
        self._timer = None
        if self._first is not None:
            self._error, self._first.error = self._first.error, self._raised
            self._first.__enter__()
        elif self._by == "thread":
            self._timer = threading.Timer(self._seconds, _thread.interrupt_main)
            self._timer.start()
        else:
            signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def __exit__(self, *_):
        self._left = 0
        signal.setitimer(signal.ITIMER_REAL, 0)
        if self._first is not None:
            self._first.__exit__()
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
        time.sleep(0)  # Lets the handler of a signal that is already here run.
        for number, handler in self._before:
            signal.signal(number, handler)

    def _raised(self):
        self._noted()
        return self._error()

    def _strike(self, *_):
        if self._left:
            self._noted()
            raise KeyboardInterrupt

    def _noted(self):
        self._left -= 1
        self.strikes += 1
        if self._left:
            signal.setitimer(signal.ITIMER_REAL, self._again)


SIGNALS = signal.SIGINT, signal.SIGALRM
SCENES = Scene, Explored


def main(count, seed):
    """Strike ``count`` runs; figures, or AssertionError with all that was wrong."""
    draw = random.Random(seed)
    kept = checkpoint.SECONDS, checkpoint.SHARE, torch.get_num_threads()
    allowed = torch.get_float32_matmul_precision()
    checkpoint.SECONDS, checkpoint.SHARE = 0.0, 1e9
    torch.set_num_threads(1)
    struck, wrong = Counter(), []
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scene = SCENES[seed // 2 % 2](folder, **_settings(seed))
            steps, seconds = scene.steps(), scene.seconds()
            places = {}
            for code, offset in steps:
                places.setdefault(code, []).append(offset)
            for number in range(count):
                kind = draw.choice(("step", "thread", "signal"))
                strike, where = _strike(kind, draw, steps, places, seconds)
                found = scene.faults(strike)
                struck[f"by {kind}"] += strike.strikes > 0
                struck["twice"] += strike.strikes > 1
                is_explorer = isinstance(scene, Explored)
                struck["in an explorer"] += is_explorer and strike.strikes > 0
                if found:
                    wrong.append(f"seed {seed}, try {number}, {where}: {found}")
    finally:
        checkpoint.SECONDS, checkpoint.SHARE = kept[:2]
        torch.set_num_threads(kept[2])
        torch.set_float32_matmul_precision(allowed)
    assert not wrong, "\n".join(wrong)
    return {"runs": count, **struck}


def _settings(seed):
    """What else a run may change; each seed has it in turn."""
    if seed % 2:
        torch.set_float32_matmul_precision("high")
        return {"autocast": torch.bfloat16, "model1_layers": "all"}
    return {}


def _strike(kind, draw, steps, places, seconds):
    again = 10 ** draw.uniform(-5, -2) if draw.random() < 0.5 else None
    more = "" if again is None else f", and {again:.6f} s later"
    if kind != "step":
        after = draw.uniform(0, seconds)
        where = f"{kind} after {after:.4f} s{more}"
        return Struck(None, after, kind, again), where
    code = draw.choice(list(places))
    offset = draw.choice(places[code])
    passed = draw.randrange(steps[code, offset])
    name = draw.choice(list(ERRORS))
    where = f"{name} in {code.co_qualname}, offset {offset}, after {passed}{more}"
    return Struck(Steps((code, offset, passed), ERRORS[name]), again=again), where
