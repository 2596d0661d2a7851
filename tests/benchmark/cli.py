"""The command line of the benchmark."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from peers import sites

from . import compare, tables
from .cases import CASES, QUICK
from .contenders import FAST, SLOW

RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str]) -> None:
    """Measure what the arguments ask for, print it, and write it down."""
    options = parser().parse_args(arguments)
    if options.install:
        sites.install()
    compare_contenders(options)


def parser() -> argparse.ArgumentParser:
    """What can be asked for."""
    p = argparse.ArgumentParser(prog="python -m tests.benchmark", description=__doc__)
    add = p.add_argument
    add("--quick", action="store_true", help="small cases, to see that all works")
    add("--cases", nargs="+", choices=[*CASES, *QUICK], metavar="CASE")
    add("--contenders", nargs="+", choices=[*FAST, *SLOW], default=[*FAST, *SLOW])
    add("--rounds", type=int, default=5, help="alternating rounds")
    add("--times", action="store_true", help="times only: no memory, no error")
    add("--limit", type=float, default=900, help="seconds for one batch of a slow peer")
    add("--threads", type=int, default=1)
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--dtype", choices=["float32", "bfloat16"], default="float32")
    add("--no-tf32", action="store_true", help="CUDA: forward passes without TF32")
    add("--install", action="store_true", help="install the peers that are missing")
    add("--readme", action="store_true", help="put the table into README.md")
    add("--results", type=Path, default=RESULTS, help="folder of the JSON and the plot")
    add("--list", action="store_true", help="list the cases and stop")
    return p


def compare_contenders(options: argparse.Namespace) -> None:
    """The cases, or with ``--list`` only their names."""
    settings = _settings(options)
    if options.list:
        print("\n".join(settings["cases"]))
        return
    report = compare.measure(settings, lambda text: print(text, flush=True))
    text = f"{tables.markdown(report)}\n\n{tables.legend(report)}"
    print(text)
    options.results.mkdir(parents=True, exist_ok=True)
    name = "quick" if options.quick else options.device
    file = options.results / f"{name}.json"
    file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if options.readme:
        tables.place(text, "benchmark")


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    known = QUICK if options.quick else CASES
    fitting = [x for x, case in known.items() if case.device == options.device]
    return {
        "cases": options.cases or (list(QUICK) if options.quick else fitting),
        "contenders": options.contenders,
        "rounds": options.rounds,
        "solo": not options.times,
        "limit": options.limit,
        "threads": options.threads,
        "device": options.device,
        "dtype": options.dtype,
        "tf32": not options.no_tf32,
        "command": " ".join(["python -m tests.benchmark", *sys.argv[1:]]),
    }
