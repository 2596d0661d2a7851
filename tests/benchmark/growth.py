"""How the cost of CKA itself grows with layers, examples and features.

The models are fans of layers that are almost free, so subtracting the time of the
forward passes leaves the cost of CKA.
"""

from collections.abc import Callable
from typing import Any

from peers import sites

from . import jobs
from .contenders import FAST

Say = Callable[[str], None]
Point = dict[str, int]


def _points(axis: str, values: tuple[int, ...], **others: int) -> list[Point]:
    return [{**others, axis: value} for value in values]


AXES = {
    "layers": _points("layers", (25, 50, 100, 200, 400), examples=128, features=2048),
    "examples": _points("examples", (32, 64, 128, 256, 512), layers=50, features=2048),
    "features": _points(
        "features", (1024, 4096, 16384, 65536), layers=20, examples=128
    ),
}
QUICK_AXES = {"layers": _points("layers", (2, 4), examples=8, features=16)}


def measure(
    axes: dict[str, list[Point]], settings: dict[str, Any], say: Say
) -> dict[str, Any]:
    """Seconds and memory of CKA at every point of every axis."""
    names = [x for x in settings["contenders"] if x in FAST]
    names = [x for x in names if x == "ours" or sites.installed(x)]
    found: dict[str, Any] = {}
    for axis, points in axes.items():
        found[axis] = [_at(point, names, settings) for point in points]
        for entry in found[axis]:
            say(f"{axis} {entry['point'][axis]}: {_words(entry['contenders'])}")
    return found


def markdown(found: dict[str, Any]) -> str:
    """One row per point: milliseconds and MiB of each contender."""
    names = list(next(iter(found.values()))[0]["contenders"])
    head = ["layers", "n", "features"]
    head += [f"{name}, {unit}" for unit in ("ms", "MiB") for name in names]
    lines = [head, ["---"] * len(head)]
    for entries in found.values():
        lines += [_row(entry, names) for entry in entries]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _at(point: Point, names: list[str], settings: dict[str, Any]) -> dict[str, Any]:
    base = {"case": point, "matrix": False}
    base |= {k: settings[k] for k in ("device", "dtype", "tf32", "threads", "rounds")}
    timed = jobs.run(base | {"kind": "times", "contenders": ["forward", *names]})
    solo = base | {"kind": "solo"}
    bare = jobs.run(solo | {"contender": "forward"})["above"]
    seconds = timed["seconds"]
    return {
        "point": point,
        "forward": seconds["forward"],
        "contenders": {
            name: {
                "seconds": seconds[name] - seconds["forward"],
                "memory": jobs.run(solo | {"contender": name})["above"] - bare,
            }
            for name in names
        },
    }


def _row(entry: dict[str, Any], names: list[str]) -> list[str]:
    point, found = entry["point"], entry["contenders"]
    row = [str(point[key]) for key in ("layers", "examples", "features")]
    row += [f"{1e3 * found[name]['seconds']:.1f}" for name in names]
    return row + [f"{found[name]['memory']:.0f}" for name in names]


def _words(found: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {1e3 * x['seconds']:.1f} ms {x['memory']:+.0f} MiB"
        for name, x in found.items()
    )
