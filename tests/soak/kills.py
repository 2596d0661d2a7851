"""Processes killed without warning, up to three times in a row, then resumed."""

import os
import random
import signal
import tempfile
import time
import warnings

import torch
from support.faults import Scene, small_models

from cka_notebook._engine import checkpoint


def main(count, seed):
    """Kill ``count`` runs; figures, or AssertionError with what was wrong."""
    draw = random.Random(seed)
    kept = checkpoint.SECONDS, torch.get_num_threads()
    checkpoint.SECONDS = 0.0
    torch.set_num_threads(1)  # A forked child has no other threads.
    killed = runs = resumed = 0
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scene = Scene(folder)
            seconds = scene.seconds()
            while killed < count:
                for _ in range(draw.randint(1, 3)):
                    killed += _killed(scene, draw.uniform(0, 1.5 * seconds))
                resumed += scene.path.exists()
                runs += 1
                found = scene.after(small_models())
                assert not found, f"seed {seed}, run {runs}: {found}"
    finally:
        checkpoint.SECONDS = kept[0]
        torch.set_num_threads(kept[1])
    return {"kills": killed, "runs": runs, "of these with a checkpoint": resumed}


def _killed(scene, seconds):
    """Run the comparison in a child for so long; whether it was killed."""
    pid = os.fork()
    if not pid:
        try:
            scene.compare(small_models(), scene.path)
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])
