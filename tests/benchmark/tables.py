"""Markdown tables of the results, and where they are written."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .cases import ALL
from .contenders import FAST, SLOW

PAGE = Path(__file__).parent / "README.md"
README = Path(__file__).parents[2] / "README.md"

HEADLINE = ("resnet64-n128", "resnet224-n32", "bert64-n128", "mlp-n128")
"""Cases shown in the main README, among them the one where a peer is faster."""


def markdown(report: dict[str, Any]) -> str:
    """One row per case, one column per contender: time, memory, error."""
    return _table(report, report["cases"])


def headline(report: dict[str, Any]) -> str:
    """The few rows of the main README."""
    return _table(report, HEADLINE)


def legend(report: dict[str, Any]) -> str:
    """How to read the numbers, and the command that produced them."""
    settings, machine = report["settings"], report["machine"]
    where = machine["gpu"] if settings["device"] != "cpu" else machine["processor"]
    clock = "processor" if settings["threads"] == 1 else "wall"
    clock = "GPU" if settings["device"] != "cpu" else clock
    return (
        f"First number: {clock} time per batch, relative to the forward passes alone; "
        f"median over {settings['rounds']} alternating rounds (torch_cka and simtorch: "
        "one batch). Second: peak memory above that of the forward passes, each "
        "contender in its own process. Third: largest error of any cell for one batch, "
        "against float64 and copied activations. Empty: not run, because it would take "
        f"too long. {where}, {settings['threads']} thread(s), {settings['dtype']}, "
        f"torch {machine['torch']}. Command: `{settings['command']}`."
    )


def place(text: str, marker: str, file: Path) -> None:
    """Replace the text between the two ``<!-- marker -->`` lines of a page.

    Raises:
        ValueError: If the page does not have exactly two such lines.
    """
    mark = f"<!-- {marker} -->"
    page = file.read_text(encoding="utf-8")
    if page.count(mark) != 2:
        msg = f"Expected two lines {mark} in {file.name}, got {page.count(mark)}."
        raise ValueError(msg)
    before, _, after = page.split(mark)
    file.write_text(f"{before}{mark}\n{text.strip()}\n{mark}{after}", encoding="utf-8")


def _table(report: dict[str, Any], cases: Iterable[str]) -> str:
    peers = [x for x in (*FAST, *SLOW) if x in report["settings"]["contenders"]]
    head = ["", "n", "layers", "forward", *peers]
    known = report["cases"]
    rows = [_row(name, known[name], peers) for name in cases if name in known]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _row(name: str, found: dict[str, Any], peers: Iterable[str]) -> list[str]:
    case = ALL[name]
    layers = "x".join(str(x) for x in found.get("layers", []))
    forward = found.get("forward", {}).get("seconds", math.nan)
    row = [case.title, str(case.examples), layers, _seconds(forward)]
    return row + [_cell(found["contenders"].get(peer, {})) for peer in peers]


def _cell(found: dict[str, Any]) -> str:
    if "failed" in found:
        return found["failed"]
    parts = (_ratio(found), _memory(found), _error(found))
    return ", ".join(part for part in parts if part)


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def _ratio(found: dict[str, Any]) -> str:
    ratio = found.get("ratio")
    if ratio is None:
        return ""
    return f"{ratio:.2f}" if ratio < 9.95 else f"{ratio:.0f}"


def _memory(found: dict[str, Any]) -> str:
    return f"{found['memory']:+.0f} MiB" if "memory" in found else ""


def _error(found: dict[str, Any]) -> str:
    error = found.get("error")
    if error is None:
        return ""
    return "NaN" if math.isnan(error) else f"{error:.0e}".replace("e-0", "e-")
