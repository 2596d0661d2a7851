"""Measure all that is worth measuring on a GPU, in one call of under nine minutes.

The parts run one after the other, each in a process of its own, so that one that fails
leaves the others alone.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import torch
from peers import sites

from . import tables

BUDGETS = {
    "tests": 60,
    "benchmark": 125,
    "profile": 40,
    "operations": 110,
    "steps": 95,
    "waits": 30,
    "graphs": 60,
}
"""Seconds of each part; what one leaves over goes to those that follow."""

GRACE = 10.0
"""Seconds that a part has to end after its time is up."""

PEER, WHEEL = "pytorch-cka", "pytorch_cka-*.whl"


def main(arguments: list[str]) -> int:
    """Run what the arguments ask for; 1 if a part failed."""
    options = parser().parse_args(arguments)
    if options.part:
        from . import parts  # noqa: PLC0415 imports the engine, in a process of its own

        given = options.device, options.quick, options.end
        return parts.run(options.part, options.out, *given)
    if options.device == "cuda" and not torch.cuda.is_available():
        print(
            "Expected a CUDA device, and torch sees none. "
            "Pass --device cpu --quick to try the script.",
            file=sys.stderr,
        )
        return 2
    folder = folder_of(options)
    unpack_peer(options.wheels)
    print(f"Writing to {folder}", flush=True)
    report = run_parts(options, folder)
    (folder / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")
    text = tables.text(report)
    (folder / "table.txt").write_text(f"{text}\n", encoding="utf-8")
    print(f"\n{text}\n\nAll of it is in {folder}", flush=True)
    return int(any(part["failed"] for part in report["parts"].values()))


def parser() -> argparse.ArgumentParser:
    """What can be asked for."""
    p = argparse.ArgumentParser(prog="bash tests/gpu", description=__doc__)
    add = p.add_argument
    text = "where the files go; otherwise $OUT, or a temporary folder"
    add("out", nargs="?", type=Path, metavar="OUT_FOLDER", help=text)
    add("--quick", action="store_true", help="tiny shapes, to see that all of it runs")
    add("--device", choices=["cuda", "cpu"], default="cuda")
    add("--seconds", type=float, default=520, help="for everything (520)")
    add("--only", nargs="+", choices=list(BUDGETS), metavar="PART", help="these parts")
    text = f"folder with a wheel of {PEER}; otherwise $CKA_WHEELS"
    add("--wheels", type=Path, default=os.environ.get("CKA_WHEELS"), help=text)
    add("--folder-of-caller", type=Path, default=Path(), help=argparse.SUPPRESS)
    add("--part", choices=list(BUDGETS), help=argparse.SUPPRESS)
    add("--end", type=float, help=argparse.SUPPRESS)
    return p


def folder_of(options: argparse.Namespace) -> Path:
    """The folder of the files, made if there is none, without those of a last run."""
    out = options.out or os.environ.get("OUT") or tempfile.mkdtemp(prefix="cka-gpu-")
    folder = options.folder_of_caller / out
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("profile.txt", *(f"{part}.jsonl" for part in BUDGETS)):
        (folder / name).unlink(missing_ok=True)
    return folder.resolve()


def unpack_peer(wheels: Path | None) -> None:
    """Put the peer where `peers.sites` looks for it: a wheel is a ZIP file."""
    if sites.installed(PEER):
        return
    found = sorted(Path(wheels).glob(WHEEL)) if wheels else []
    if not found:
        print(f"Without {PEER}: no {WHEEL} in a folder given by --wheels", flush=True)
        return
    with zipfile.ZipFile(found[-1]) as wheel:
        wheel.extractall(sites.FOLDER / PEER)


def run_parts(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the parts one by one, and gather their lines."""
    end = time.time() + options.seconds
    names = [name for name in BUDGETS if not options.only or name in options.only]
    report: dict[str, Any] = {"arguments": sys.argv[1:], "parts": {}}
    for place, name in enumerate(names):
        left = end - time.time()
        share = BUDGETS[name] / sum(BUDGETS[x] for x in names[place:])
        print(f"\n== {name}: {max(left, 0) * share:.0f} s", flush=True)
        report["parts"][name] = run_part(options, folder, name, left * share, left)
    return report


def run_part(
    options: argparse.Namespace, folder: Path, name: str, seconds: float, left: float
) -> dict[str, Any]:
    """Run one part in a new process; how it ended, and its lines."""
    if left < GRACE and not options.quick:
        return {"outcome": "skipped", "failed": False, "seconds": 0.0, "lines": []}
    started = time.time()
    command = [sys.executable, "-m", "benchmark.gpu", str(folder), "--part", name]
    command += ["--device", options.device, "--end", str(started + seconds)]
    command += ["--quick"] * options.quick
    try:
        limit = min(seconds + GRACE, left)
        status = subprocess.run(command, timeout=max(limit, 1), check=False).returncode
        outcome = "passed" if status == 0 else f"failed (status {status})"
    except subprocess.TimeoutExpired:
        outcome = f"failed (ended after {time.time() - started:.0f} s)"
    return {
        "outcome": outcome,
        "failed": outcome != "passed",
        "seconds": time.time() - started,
        "lines": lines_of(folder / f"{name}.jsonl"),
    }


def lines_of(path: Path) -> list[dict[str, Any]]:
    """What a part has written; a line that was cut off is left out."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
