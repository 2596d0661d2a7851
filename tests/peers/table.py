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
from benchmark.tables import place

from . import sites
from .cases import CASES
from .contenders import CONTENDERS
from .verdicts import TOLERANCE, Verdict

HERE = Path(__file__).parent
FILE = HERE / "table.json"
COMMAND = "python -m tests.peers"
DEADLINE = 900


def build(chosen: Iterable[str]) -> dict[str, Any]:
    """Run the chosen contenders, one after the other; keep what is known of others."""
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
    """The table and how to read it."""
    names = list(table["contenders"])
    head = ["", *(title.replace("==", " ") for title in table["contenders"].values())]
    rows = [
        [case["title"], *(_cell(case, name) for name in names)]
        for case in table["cases"].values()
    ]
    lines = [head, ["---"] * len(head), *rows]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{body}\n\n{_legend(table)}"


def main(arguments: list[str]) -> None:
    """Install the peers, build the table, write and print it."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--readme", action="store_true", help="put it into README.md")
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
        place(text, "peers", "What the others get wrong")


def _cell(case: dict[str, Any], name: str) -> str:
    return str(Verdict(**case[name])) if name in case else ""


def _legend(table: dict[str, Any]) -> str:
    return (
        f"Right: every cell within {table['tolerance']:g} of CKA in float64 from "
        "activations that were copied in a hook, for the layer that its row and column "
        "are said to be, and NaN where CKA is 0 / 0; in brackets the largest error. "
        "simtorch is judged by the biased estimate that it promises, and below the "
        "first row its factor (number of batches / number of layers) is taken out. "
        f"Made by `{table['command']}`, torch {table['torch']}, CPU."
    )


def verdicts(name: str, *keys: str) -> dict[str, dict[str, str]]:
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
