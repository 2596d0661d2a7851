"""The parts of the script, each run in a process of its own."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from . import graphs, operations, steps, waits
from .record import DeviceLostError, Recorder

ROOT = Path(__file__).parents[3]


def run(name: str, folder: Path, device: str, quick: bool, end: float) -> int:
    """Run one part until a time of `time.time`; the exit status."""
    if device == "cpu":
        torch.set_num_threads(1)  # Two on a busy machine are many times slower.
    path = folder / f"{name}.jsonl"
    recorder = Recorder(path, device, quick, end - time.time())
    try:
        PARTS[name](recorder, folder)
    except DeviceLostError as error:
        print(f"The rest of {name} is left out: {error}", file=sys.stderr)
    return int(recorder.failures > 0)


def run_tests(recorder: Recorder, _: Path) -> None:
    """``tests/test_gpu.py``, without plugins, which may be broken here."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    import pytest  # noqa: PLC0415 only here

    tests = ROOT / "tests"
    where = ["-c", "/dev/null", "--rootdir", str(ROOT), "--confcutdir", str(tests)]
    quiet = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestWarning"]
    file = str(tests / "test_gpu.py")
    status = pytest.main([*where, *quiet, file], plugins=[_Outcomes(recorder)])
    recorder.failures += status not in (0, 5)


def profile(recorder: Recorder, folder: Path) -> None:
    """One batch under the profiler, as text."""
    path = folder / "profile.txt"

    def write() -> None:
        for title, summary in steps.profiles(recorder):
            with path.open("a", encoding="utf-8") as file:
                file.write(f"== {title}\n{summary.text()}\n\n")
            facts = {"launches": summary.launches, "wall_ms": summary.wall}
            shares = {f"{phase} ms": ms for phase, ms in summary.device.items()}
            idle = summary.wall - summary.busy
            recorder.line("profile", title, idle_ms=idle, **facts, **shares)

    recorder.attempt("profile", write)


class _Outcomes:
    """A plugin of pytest that writes a line for each test."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def pytest_runtest_logreport(self, report: object) -> None:
        if report.when == "call" or report.outcome != "passed":
            outcome, why = report.outcome, ""
            if hasattr(report, "wasxfail"):
                outcome = "xfailed" if report.skipped else "xpassed"
                why = report.wasxfail
            elif report.failed:
                why = str(report.longrepr).strip().splitlines()[-1]
            name = f"test: {report.nodeid.rpartition('::')[2]}"
            self._recorder.line(name, outcome=outcome, why=why, s=report.duration)


PARTS: dict[str, Callable[[Recorder, Path], None]] = {
    "tests": run_tests,
    "benchmark": lambda recorder, _: steps.compare_with_peers(recorder),
    "profile": profile,
    "operations": lambda recorder, _: operations.measure(recorder),
    "steps": lambda recorder, _: steps.compare_modes(recorder),
    "waits": lambda recorder, _: waits.measure(recorder),
    "graphs": lambda recorder, _: graphs.measure(recorder),
}
