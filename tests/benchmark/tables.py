"""Markdown of what was measured, and its place in the README."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .cases import ALL
from .contenders import FAST, SLOW

README = Path(__file__).parents[2] / "README.md"


def markdown(report: dict[str, Any]) -> str:
    """One row a case: time over the forward passes, memory above them, error."""
    peers = [x for x in (*FAST, *SLOW) if x in report["settings"]["contenders"]]
    head = ["Case", "n", "layers", "forward"]
    head += [
        f"{name}: {what}" for what in ("time", "memory", "error") for name in peers
    ]
    rows = [_row(name, found, peers) for name, found in report["cases"].items()]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def legend(report: dict[str, Any]) -> str:
    """What the numbers are, and the command that made them."""
    settings, machine = report["settings"], report["machine"]
    clock = "GPU time" if settings["device"] != "cpu" else "processor time"
    return (
        f"Time: {clock} of one batch over that of the bare forward passes of both "
        f"models, medians over {settings['rounds']} alternating rounds; torch_cka and "
        "simtorch one batch only. Memory: peak above the bare forward's, each in its "
        "own process. Error: largest difference to float64 CKA of copied activations "
        f"(of one batch). {machine['processor']}, {settings['threads']} thread(s), "
        f"torch {machine['torch']}. Made by `{settings['command']}`."
    )


def place(text: str, marker: str, readme: Path = README) -> None:
    """Put text between two ``<!-- marker -->`` lines, at the end if there are none."""
    mark = f"<!-- {marker} -->"
    page = readme.read_text(encoding="utf-8")
    if page.count(mark) != 2:
        page = f"{page.rstrip()}\n\n{mark}\n{mark}\n"
    before, _, after = page.split(mark)
    filled = f"{before}{mark}\n{text.strip()}\n{mark}{after}"
    readme.write_text(filled, encoding="utf-8")


def _row(name: str, found: dict[str, Any], peers: Iterable[str]) -> list[str]:
    case = ALL[name]
    layers = "x".join(str(x) for x in found.get("layers", []))
    forward = found.get("forward", {}).get("seconds", math.nan)
    row = [case.title, str(case.examples), layers, _seconds(forward)]
    contenders = [found["contenders"].get(peer, {}) for peer in peers]
    row += [_ratio(x) for x in contenders]
    row += [_memory(x) for x in contenders]
    return row + [_error(x) for x in contenders]


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def _ratio(found: dict[str, Any]) -> str:
    if "failed" in found:
        return found["failed"]
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
    return "NaN" if math.isnan(error) else f"{error:.0e}"
