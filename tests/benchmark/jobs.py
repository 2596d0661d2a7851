"""Runs jobs in their own processes, with allocator settings for stable times."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
STEADY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
"""Keep freed memory in the process. By default glibc returns it after each layer, and
page faults take a tenth of the time, except for contenders that keep activations: these
would make the forward passes themselves faster."""

DEADLINE = 1800.0
"""Default time limit of a job, in seconds."""


class JobFailedError(Exception):
    """A job ended without a result; its text goes into the table."""


def run(job: dict[str, Any], deadline: float = DEADLINE) -> dict[str, Any]:
    """Run one job in a new process and return its result.

    Raises:
        JobFailedError: If it crashed or exceeded the deadline.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = [sys.executable, "-m", "benchmark.worker"]
        arguments = json.dumps(job | {"out": str(out)})
        try:
            subprocess.run(
                [*command, arguments],
                env=_environment(job),
                capture_output=True,
                text=True,
                check=True,
                timeout=deadline,
            )
        except subprocess.TimeoutExpired as error:
            msg = f"> {deadline:.0f} s"
            raise JobFailedError(msg) from error
        except subprocess.CalledProcessError as error:
            last = error.stderr.strip().splitlines()[-1:] or [
                f"exit {error.returncode}"
            ]
            raise JobFailedError(last[0][:200]) from error
        return json.loads(out.read_text())


def _environment(job: dict[str, Any]) -> dict[str, str]:
    threads = {"OMP_NUM_THREADS": str(job["threads"]), "TQDM_DISABLE": "1"}
    path = {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    # Memory is measured with the default allocator, as users have it.
    steady = STEADY if job["kind"] == "times" else {}
    return os.environ | threads | path | steady
