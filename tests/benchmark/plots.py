"""Plots of the results, as small SVG files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from .cases import ALL
from .contenders import FAST, SLOW

COLORS = {
    "ours": "#3b528b",
    "pytorch-cka": "#e69f00",
    "torch_cka": "#999999",
    "simtorch": "#cc79a7",
}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cka_notebook",
    "figure.constrained_layout.use": True,
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def comparison(report: dict[str, Any], path: Path) -> None:
    """Time, memory and error of all contenders, with a group of bars per case."""
    panels = (
        ("time / forward passes", "ratio", "log"),
        ("memory above forward, MiB", "memory", "symlog"),
        ("largest error", "error", "log"),
    )
    cases = report["cases"]
    with mpl.rc_context(STYLE):
        height = 1.3 + 0.42 * len(cases)
        figure, axes = plt.subplots(1, 3, figsize=(10, height), sharey=True)
        for ax, (title, key, scale) in zip(axes, panels, strict=True):
            _bars(ax, cases, key)
            ax.set_xscale(scale)
            ax.set_title(title, loc="left")
        axes[0].set_xlim(left=1)
        axes[0].set_yticks(range(len(cases)), [_label(name) for name in cases])
        axes[0].invert_yaxis()
        handles, names = axes[0].get_legend_handles_labels()
        place = "outside lower left"
        figure.legend(handles, names, loc=place, ncols=4, frameon=False)
        _save(figure, path)


def growth(found: dict[str, Any], path: Path) -> None:
    """Milliseconds and MiB along each axis."""
    rows: tuple[tuple[str, str, Callable[[float], float]], ...] = (
        ("CKA part, ms per batch", "seconds", lambda x: 1e3 * x),
        ("memory above forward, MiB", "memory", lambda x: max(x, 0.1)),
    )
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            2,
            len(found),
            figsize=(3.2 * len(found), 5),
            squeeze=False,
            sharex="col",
            sharey="row",
        )
        for line, (title, key, unit) in zip(axes, rows, strict=True):
            for ax, (axis, entries) in zip(line, found.items(), strict=True):
                _curves(ax, axis, entries, key, unit)
            line[0].set_ylabel(title)
        for ax, (axis, entries) in zip(axes[1], found.items(), strict=True):
            ax.set_xlabel(_axis_label(axis, entries[0]["point"]))
        axes[0][0].legend(frameon=False)
        _save(figure, path)


def _bars(ax: Axes, cases: dict[str, Any], key: str) -> None:
    names = [
        n for n in (*FAST, *SLOW) if any(n in x["contenders"] for x in cases.values())
    ]
    height = 0.8 / max(1, len(names))
    for i, name in enumerate(names):
        values = [x["contenders"].get(name, {}).get(key) or 0 for x in cases.values()]
        places = [
            row + (i - (len(names) - 1) / 2) * height for row in range(len(cases))
        ]
        ax.barh(places, values, height, color=COLORS[name], label=name)


def _label(name: str) -> str:
    return f"{ALL[name].title}, n={ALL[name].examples}"


def _curves(
    ax: Axes,
    axis: str,
    entries: list[dict[str, Any]],
    key: str,
    unit: Callable[[float], float],
) -> None:
    places = [entry["point"][axis] for entry in entries]
    for name in entries[0]["contenders"]:
        values = [unit(entry["contenders"][name][key]) for entry in entries]
        ax.plot(places, values, "o-", markersize=3, color=COLORS[name], label=name)
    ax.set(xscale="log", yscale="log", xticks=places, xticklabels=places)
    ax.minorticks_off()


def _axis_label(axis: str, point: dict[str, int]) -> str:
    others = {"layers": "layers", "examples": "n", "features": "features"}
    rest = [f"{others[key]} {value}" for key, value in point.items() if key != axis]
    return f"{axis}  ({', '.join(rest)})"


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
