"""The table: all contenders on all cases, as JSON and as Markdown."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from benchmark.tables import README, place

from . import sites
from .cases import CASES
from .contenders import CONTENDERS
from .verdicts import TOLERANCE, Verdict

HERE = Path(__file__).parent
FILE = HERE / "table.json"
PAGE = HERE / "README.md"
COMMAND = "python -m tests.peers"
DEADLINE = 1800

SHORT = ("inplace", "residual", "bert", "sorted", "mode", "last", "found")
"""Cases that the main README shows."""


def build(chosen: Iterable[str]) -> dict[str, Any]:
    """Run the chosen contenders in turn; keep the known verdicts on the others."""
    known = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    fresh = {name: verdicts(name) for name in chosen}
    cases = {key: {"title": case.title} for key, case in CASES.items()}
    for name in CONTENDERS:
        for key, row in cases.items():
            old = known.get("cases", {}).get(key, {}).get(name)
            found = fresh[name][key] if name in fresh else old
            row.update({name: found} if found else {})
    return {
        "command": COMMAND,
        "torch": torch.__version__,
        "contenders": {"ours": "cka_notebook", **sites.PEERS},
        "tolerance": TOLERANCE,
        "cases": cases,
    }


def markdown(table: dict[str, Any]) -> str:
    """The whole table and how to read it."""
    rows = [
        [case["title"], *(_cell(case, name) for name in table["contenders"])]
        for case in table["cases"].values()
    ]
    return f"{_table(table, rows)}\n\n{_legend(table)}"


def short(table: dict[str, Any]) -> str:
    """A few rows, and how many of all cases each contender gets right."""
    cases, names = table["cases"], table["contenders"]
    rows = [
        [cases[key]["title"], *(_short_cell(cases[key], name) for name in names)]
        for key in SHORT
    ]
    right = [
        sum(_kind(case, name) == "right" for case in cases.values()) for name in names
    ]
    rows.append([f"Right, of all {len(cases)} cases", *map(str, right)])
    return _table(table, rows)


def main(arguments: list[str]) -> None:
    """Install the peers, then build, save and print the table."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument(
        "--readme", action="store_true", help="write it to both READMEs"
    )
    parser.add_argument(
        "--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS)
    )
    options = parser.parse_args(arguments)
    if set(options.contenders) != {"ours"}:
        sites.install()
    table = build(options.contenders)
    FILE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    text = markdown(table)
    print(text)
    if options.readme:
        place(text, "peers", PAGE)
        place(short(table), "peers", README)


def _table(table: dict[str, Any], rows: list[list[str]]) -> str:
    head = ["", *(title.replace("==", " ") for title in table["contenders"].values())]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _kind(case: dict[str, Any], name: str) -> str:
    return case[name]["kind"] if name in case else ""


def _short_cell(case: dict[str, Any], name: str) -> str:
    """The verdict without the text of an exception."""
    return "crash" if _kind(case, name) == "crash" else _cell(case, name)


def _cell(case: dict[str, Any], name: str) -> str:
    return str(Verdict(**case[name])) if name in case else ""


def _legend(table: dict[str, Any]) -> str:
    return (
        f"Right: every cell is within {table['tolerance']:g} of CKA computed in "
        "float64 from activations copied in a hook, for the layers that its row and "
        "column name, and NaN where CKA is 0 / 0. A layer whose rows are not the "
        "examples in order may also be NaN, and it or one that cannot be seen may be "
        "missing, if a warning or an error names it. Two models that share nothing but "
        "the lengths of their inputs have to be below 0.25. In brackets: the largest "
        "error, or what else is wrong. "
        "simtorch is judged by the biased estimator that it documents, and in all rows "
        "but the first its factor (number of batches / number of layers) is divided "
        f"out. Command: `{table['command']}`, torch {table['torch']}, CPU."
    )


def verdicts(name: str, *keys: str) -> dict[str, dict[str, str]]:
    """Run one contender in its own process, on some cases or on all."""
    path = os.pathsep.join([str(HERE.parent), str(HERE.parents[1])])
    quiet = {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "MPLBACKEND": "agg"}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "verdicts.json"
        subprocess.run(
            [sys.executable, "-m", "peers.worker", name, str(out), *keys],
            env=os.environ | quiet | {"PYTHONPATH": path},
            check=True,
            timeout=DEADLINE,
        )
        return json.loads(out.read_text(encoding="utf-8"))
