"""Markdown of what was measured, and its place in the README."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .cases import ALL
from .contenders import FAST, SLOW

README = Path(__file__).parents[2] / "README.md"


def markdown(report: dict[str, Any]) -> str:
    """One row a case, one column a contender: time, memory, error."""
    peers = [x for x in (*FAST, *SLOW) if x in report["settings"]["contenders"]]
    head = ["", "n", "layers", "forward", *peers]
    rows = [_row(name, found, peers) for name, found in report["cases"].items()]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def legend(report: dict[str, Any]) -> str:
    """What the numbers are, and the command that made them."""
    settings, machine = report["settings"], report["machine"]
    where = machine["gpu"] if settings["device"] != "cpu" else machine["processor"]
    clock = "processor" if settings["threads"] == 1 else "wall"
    clock = "GPU" if settings["device"] != "cpu" else clock
    return (
        f"First number: {clock} time of a batch over that of the bare forward passes, "
        f"medians over {settings['rounds']} alternating rounds (torch_cka, simtorch: "
        "one batch). Second: peak memory above the bare forward's, each contender in a "
        "process of its own. Third: largest error of a cell against float64 from "
        "copied activations of one batch. Empty: not run, it would take too long. "
        f"{where}, {settings['threads']} thread(s), {settings['dtype']}, torch "
        f"{machine['torch']}. Made by `{settings['command']}`."
    )


def place(text: str, marker: str, heading: str, readme: Path = README) -> None:
    """Put text between two ``<!-- marker -->`` lines.

    If there are none yet, a section of that heading is made for them at the end.
    """
    mark = f"<!-- {marker} -->"
    page = readme.read_text(encoding="utf-8")
    if page.count(mark) != 2:
        page = f"{page.rstrip()}\n\n## {heading}\n\n{mark}\n{mark}\n"
    before, _, after = page.split(mark)
    filled = f"{before}{mark}\n{text.strip()}\n{mark}{after}"
    readme.write_text(filled, encoding="utf-8")


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
