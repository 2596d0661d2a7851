"""Runs one contender on all cases, each in its own process.

``python -m peers.worker NAME OUT.json [CASE ...]``
"""

import io
import json
import multiprocessing
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from .cases import CASES
from .contenders import CONTENDERS
from .verdicts import Verdict, crash

SECONDS = 120
"""Time limit of a case, which normally takes a second or two."""

ESTIMATORS = {"simtorch": "biased"}
"""simtorch documents the biased estimator and is judged by it."""


def main(name: str, out: str, *keys: str) -> None:
    """Write the verdicts on one contender to a file."""
    torch.set_num_threads(1)
    found = {key: apart(name, key) for key in keys or CASES}
    Path(out).write_text(json.dumps(found), encoding="utf-8")


def apart(name: str, key: str) -> dict[str, str]:
    """The verdict on one case, from a forked process."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(name, key, there))
    process.start()
    there.close()
    try:
        if here.poll(SECONDS):
            return here.recv()
        return vars(Verdict("crash", f"still running after {SECONDS} s"))
    except EOFError:
        return vars(Verdict("crash", "the process died"))
    finally:
        process.kill()
        process.join()


def verdict(name: str, key: str) -> Verdict:
    """The verdict on one case; an exception counts as a crash."""
    try:
        return CASES[key].run(CONTENDERS[name], ESTIMATORS.get(name, "unbiased"))
    except Exception as error:
        return crash(error)


def _answer(name: str, key: str, pipe: Connection) -> None:
    silence = io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(silence), redirect_stderr(silence):
        warnings.simplefilter("ignore")
        pipe.send(vars(verdict(name, key)))


if __name__ == "__main__":
    main(*sys.argv[1:])
