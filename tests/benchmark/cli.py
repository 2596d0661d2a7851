"""The command line of the benchmark."""

import argparse
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peers import sites

from . import chance, compare, growth, tables
from .cases import CASES, QUICK
from .contenders import FAST, SLOW

RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str]) -> None:
    """Run the measurement that the arguments select; print and save the results."""
    options = parser().parse_args(arguments)
    options.command = " ".join(["python -m tests.benchmark", *arguments])
    if options.install:
        sites.install()
    options.results.mkdir(parents=True, exist_ok=True)
    options.mode(options)


def parser() -> argparse.ArgumentParser:
    """The command line options."""
    p = argparse.ArgumentParser(prog="python -m tests.benchmark", description=__doc__)
    add = p.add_argument
    modes = p.add_mutually_exclusive_group()
    for flag, mode, text in (
        ("--list", list_cases, "list the cases and stop"),
        (
            "--growth",
            grow,
            "time and memory by number of layers, examples and features",
        ),
        ("--coverage", cover, "coverage of the standard errors, in a simulation"),
        ("--chance", alarm, "how often unrelated layers look related, in a simulation"),
        ("--live", watch, "what sending frames to a page costs the engine"),
    ):
        modes.add_argument(
            flag, dest="mode", action="store_const", const=mode, help=text
        )
    p.set_defaults(mode=compare_contenders)
    add(
        "--quick",
        action="store_true",
        help="small cases, to check that everything works",
    )
    add("--cases", nargs="+", choices=[*CASES, *QUICK], metavar="CASE")
    add("--contenders", nargs="+", choices=[*FAST, *SLOW], default=[*FAST, *SLOW])
    add("--rounds", type=int, default=5, help="alternating rounds")
    add("--keep", action="store_true", help="keep earlier results of other cases")
    add("--times", action="store_true", help="measure times only, not memory and error")
    add(
        "--limit", type=float, default=900, help="time limit of a slow peer, in seconds"
    )
    add("--threads", type=int, default=1)
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--dtype", choices=["float32", "bfloat16"], default="float32")
    add(
        "--no-tf32",
        action="store_true",
        help="on CUDA, run forward passes without TF32",
    )
    add("--runs", type=int, default=200, help="runs of the coverage simulation")
    add("--maps", type=int, default=25, help="maps of the simulation of chance")
    add("--install", action="store_true", help="install missing peers")
    add("--readme", action="store_true", help="write the tables to both READMEs")
    add(
        "--results", type=Path, default=RESULTS, help="folder for the JSON and the plot"
    )
    return p


def list_cases(options: argparse.Namespace) -> None:
    """Print the names of the selected cases."""
    _say("\n".join(_settings(options)["cases"]))


def compare_contenders(options: argparse.Namespace) -> None:
    """Measure all contenders on all cases: the tables of the READMEs."""
    report = compare.measure(_settings(options), _say)
    name = "quick" if options.quick else f"{options.device}-{options.dtype}"
    before = options.results / f"{name}.json"
    if options.keep and before.exists():
        old = json.loads(before.read_text(encoding="utf-8"))
        both = old["cases"] | report["cases"]
        report["cases"] = {case: both[case] for case in CASES if case in both}
    text = f"{tables.markdown(report)}\n\n{tables.legend(report)}"
    _write(options, name, report, text, "comparison")
    if options.readme:
        tables.place(text, "benchmark", tables.PAGE)
        tables.place(tables.headline(report), "benchmark", tables.README)


def grow(options: argparse.Namespace) -> None:
    """Measure how time and memory grow."""
    axes = growth.QUICK_AXES if options.quick else growth.AXES
    found = growth.measure(axes, _settings(options), _say)
    _write(options, "growth", found, growth.markdown(found), "growth")


def cover(options: argparse.Namespace) -> None:
    """Simulate how often the confidence intervals contain the true value."""
    from . import coverage  # noqa: PLC0415 needs scikit-learn

    torch.set_num_threads(1)
    found = coverage.measure(options.runs)
    _write(options, "coverage", found, coverage.markdown(found))


def alarm(options: argparse.Namespace) -> None:
    """Simulate how often chance passes for more."""
    torch.set_num_threads(1)
    found = chance.measure(options.maps)
    _write(options, "chance", found, chance.markdown(found))


def watch(options: argparse.Namespace) -> None:
    """Measure what sending frames costs."""
    from . import live  # noqa: PLC0415 needs the explorer

    torch.set_num_threads(1)
    found = live.measure(options.rounds)
    _write(options, "live", found, live.markdown(found))


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    known = QUICK if options.quick else CASES
    fitting = [
        x for x, y in known.items() if options.quick or y.device == options.device
    ]
    return {
        "cases": options.cases or fitting,
        "contenders": options.contenders,
        "rounds": options.rounds,
        "solo": not options.times,
        "limit": options.limit,
        "threads": options.threads,
        "device": options.device,
        "dtype": options.dtype,
        "tf32": not options.no_tf32,
        "command": options.command,
    }


def _write(
    options: argparse.Namespace, name: str, found: Any, text: str, plot: str = ""
) -> None:
    """Print the text, save the numbers, and plot them if Matplotlib is installed."""
    _say(text)
    file = options.results / f"{name}.json"
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if plot and find_spec("matplotlib") is not None:
        from . import plots  # noqa: PLC0415 needs Matplotlib

        getattr(plots, plot)(found, file.with_suffix(".svg"))


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
