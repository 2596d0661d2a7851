"""What was measured, as text: the last thing that the script prints."""

import re
from collections.abc import Iterable
from typing import Any

Line = dict[str, Any]
FIGURES = ("host_ms", "host_us", "gbps", "tflops", "err", "ratio", "bare_us")
EXACT = 3e-6
"""The largest error of a product that the engine could use by default."""

APART = ("step: ", "product: ", "sum: ", "waits: ", "test: ", "machine")
"""Lines that have tables of their own."""


def text(report: dict[str, Any]) -> str:
    """All tables of a report."""
    lines = [line for part in report["parts"].values() for line in part["lines"]]
    # The end of a long output is what is seen of it: what matters most comes last.
    tables = (
        _sums(lines),
        _others(lines),
        _products(lines),
        _missing(lines),
        _tests(lines),
        _waits(lines),
        _steps(lines),
        _machine(lines),
        _parts(report),
    )
    return "\n\n".join(table for table in tables if table)


def _machine(lines: list[Line]) -> str:
    facts = next((x for x in lines if x["name"] == "machine"), {})
    return ", ".join(f"{k} {v}" for k, v in facts.items() if k not in ("name", "shape"))


def _tests(lines: list[Line]) -> str:
    tests = [x for x in lines if x["name"].startswith("test: ")]
    rest = [x for x in tests if x["outcome"] != "passed"]
    rows = [[x["outcome"], x["name"][6:], x.get("why", "")[:70]] for x in rest]
    head = f"{len(tests) - len(rest)} of {len(tests)} tests passed"
    return "\n".join([head, _grid(rows)]) if tests else ""


def _steps(lines: list[Line]) -> str:
    """One row a comparison and contender."""
    rows = [["step", "", "ms", "ratio", "host ms", "MiB", "err", "launches"]]
    launches = {
        x["shape"]: f"{x['launches']}, idle {x['idle_ms']:.3g} ms"
        for x in lines
        if x["name"] == "step: launches of ours" and "launches" in x
    }
    for x in lines:
        contender = x["name"].removeprefix("step: ")
        if x["name"].startswith("step: ") and "ms_median" in x:
            keys = ("ms_median", "ratio", "host_ms", "peak_mib", "err")
            row = [x["shape"], contender, *(_number(x.get(key)) for key in keys)]
            rows.append([*row, launches[x["shape"]] if _is_ours(x, launches) else ""])
    return _grid(rows) if len(rows) > 1 else ""


def _is_ours(line: Line, launches: dict[str, str]) -> bool:
    return line["name"] == "step: ours" and line["shape"] in launches


def _products(lines: list[Line]) -> str:
    """Milliseconds by shape and variant, and which exact one is the fastest."""
    found = _by_shape(lines, "product: ")
    variants = list(dict.fromkeys(v for row in found.values() for v in row))
    rows = [["product, ms", *variants, "fastest exact"]]
    for shape in sorted(found, key=_sizes):
        row = found[shape]
        # Where there is no float64 product to compare with, the error is not known.
        exact = [v for v in row if v != "TF32" and row[v].get("err", 0) <= EXACT]
        whole = [v for v in exact if v != "bf16 in"]
        best = min(whole, key=lambda v, row=row: row[v]["ms_median"], default="")
        cells = (_number(row[v]["ms_median"]) if v in row else "" for v in variants)
        rows.append([shape, *cells, best])
    return _grid(rows) if found else ""


def _sums(lines: list[Line]) -> str:
    """Errors of sums in tensor cores, by variant and length."""
    found = _by_shape(lines, "sum: ", "err")
    variants = list(dict.fromkeys(v for row in found.values() for v in row))
    rows = [["error", *variants]]
    rows += [
        [shape, *(_number(row[v]["err"]) if v in row else "" for v in variants)]
        for shape, row in found.items()
    ]
    return _grid(rows) if found else ""


def _others(lines: list[Line]) -> str:
    rows = [["", "shape", "ms", ""]]
    for x in lines:
        figures = [f"{key} {_number(x[key])}" for key in FIGURES if key in x]
        if not x["name"].startswith(APART) and ("ms_median" in x or figures):
            took = _number(x.get("ms_median"))
            rows.append([x["name"], x["shape"], took, ", ".join(figures)])
    return _grid(rows) if len(rows) > 1 else ""


def _waits(lines: list[Line]) -> str:
    rows = [
        [x["name"], _number(x["waits"]), " ".join(list(x["places"])[:5])]
        for x in lines
        if x["name"].startswith("waits: ") and "waits" in x
    ]
    return _grid([["waits a batch", "", "where"], *rows]) if rows else ""


def _missing(lines: list[Line]) -> str:
    """What failed, once each, and how much was skipped or is not there."""
    found: dict[tuple[str, str], list[str]] = {}
    for kind in ("failed", "skipped", "absent"):
        for x in lines:
            if kind in x:
                why = x[kind] if kind != "skipped" else "no time left"
                found.setdefault((kind, why), []).append(x["name"])
    return "\n".join(
        f"{kind}: {', '.join(dict.fromkeys(names))}: {why}"
        for (kind, why), names in found.items()
    )


def _parts(report: dict[str, Any]) -> str:
    rows = [
        [name, part["outcome"], f"{part['seconds']:.0f} s"]
        for name, part in report["parts"].items()
    ]
    return _grid([["part", "", ""], *rows])


def _by_shape(
    lines: list[Line], prefix: str, key: str = "ms_median"
) -> dict[str, dict[str, Line]]:
    found: dict[str, dict[str, Line]] = {}
    for x in lines:
        if x["name"].startswith(prefix) and key in x:
            found.setdefault(x["shape"], {})[x["name"].removeprefix(prefix)] = x
    return found


def _sizes(shape: str) -> list[int]:
    return [int(size) for size in re.findall(r"\d+", shape)]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    text = f"{value:.3g}"
    return re.sub(r"e([+-])0", r"e\1", text)


def _grid(rows: Iterable[list[str]]) -> str:
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
