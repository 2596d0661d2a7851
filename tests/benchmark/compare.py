"""The main measurement: all contenders on all cases."""

import platform
from collections.abc import Callable
from typing import Any

import torch
from peers import sites

from . import jobs
from .cases import ALL
from .contenders import FAST, SLOW

Say = Callable[[str], None]


def measure(settings: dict[str, Any], say: Say) -> dict[str, Any]:
    """Measure every case of the settings and report progress."""
    report = {"settings": settings, "machine": _machine(), "cases": {}}
    for name in settings["cases"]:
        report["cases"][name] = found = _case(name, settings)
        peers = found["contenders"].items()
        ratios = {peer: x.get("ratio") or x.get("failed") for peer, x in peers}
        say(f"{name}: forward {found['forward']['seconds']:.4f} s, {ratios}")
    return report


def _case(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    base = {"case": name, **{k: settings[k] for k in ("device", "dtype", "tf32")}}
    base["threads"] = settings["threads"]
    chosen = [x for x in settings["contenders"] if x == "ours" or sites.installed(x)]
    fast = [x for x in chosen if x in FAST]
    job = {"kind": "times", "rounds": settings["rounds"]}
    timed = jobs.run(base | job | {"contenders": ["forward", *fast]})
    found: dict[str, Any] = {
        "layers": timed["layers"],
        "forward": _figures(timed, "forward", settings["threads"]),
        "contenders": {x: _figures(timed, x, settings["threads"]) for x in fast},
    }
    if settings["solo"]:
        slow = [x for x in chosen if x in SLOW and ALL[name].slow_peers]
        _add_solo(found, base, [*fast, *slow], settings["limit"])
    return found


def _figures(timed: dict[str, Any], name: str, threads: int) -> dict[str, Any]:
    if name in timed["failed"]:
        return {"failed": timed["failed"][name]}
    # Waiting threads also use processor time.
    clock = timed["seconds" if threads == 1 else "wall"]
    return {
        "seconds": timed["seconds"][name],
        "wall": timed["wall"][name],
        "quartiles": timed["quartiles"][name],
        "ratio": clock[name] / clock["forward"],
    }


def _add_solo(
    found: dict[str, Any], base: dict[str, Any], names: list[str], limit: float
) -> None:
    """Add memory, error, and the slow peers' time."""
    bare = jobs.run(base | {"kind": "solo", "contender": "forward"})
    exact = torch.tensor(jobs.run(base | {"kind": "truth"})["matrix"])
    found["forward"]["memory"] = bare["above"]
    for name in names:
        entry = found["contenders"].setdefault(name, {})
        if "failed" in entry:
            continue
        try:
            alone = jobs.run(base | {"kind": "solo", "contender": name}, limit)
        except jobs.JobFailedError as error:
            entry["failed"] = str(error)
            continue
        entry["memory"] = alone["above"] - bare["above"]
        entry["error"] = (torch.tensor(alone["matrix"]) - exact).abs().max().item()
        if "forward" in alone:
            entry["seconds"] = alone["seconds"]
            entry["ratio"] = alone["seconds"] / alone["forward"]


def _machine() -> dict[str, Any]:
    return {
        "processor": _processor(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "peers": {x: y for x, y in sites.PEERS.items() if sites.installed(x)},
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 a kernel file
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
