"""Verdicts, from the numbers of an answer and the exact values."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .contenders import Answer
from .exact import Exact, Grams

TOLERANCE = 1e-3
"""Largest error of a cell that counts as right: maps are read to two digits."""

SHORTEST, LONGEST = 24, 44
"""Length of an exception's text: enough to be clear, and most that fits a cell."""


@dataclass(frozen=True)
class Verdict:
    """Right, wrong or crash, and by how much or why."""

    kind: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind} ({self.detail})" if self.detail else self.kind


RIGHT = Verdict("right")


@dataclass(frozen=True)
class Cell:
    """One value of an answer, and the exact values it may mean, by call of the row."""

    row: str
    column: str
    value: float
    truths: dict[str, list[float]]

    @property
    def ghost(self) -> bool:
        """Whether this is a value for a layer that never ran."""
        return not self.truths and not math.isnan(self.value)

    @property
    def invented(self) -> bool:
        """Whether this is a value where CKA is 0 / 0."""
        truths = [x for found in self.truths.values() for x in found]
        undefined = bool(truths) and all(math.isnan(x) for x in truths)
        return undefined and not math.isnan(self.value)

    def error(self, call: str) -> float:
        """Distance to the nearest exact value for this call of the row's module."""
        return min((_distance(self.value, x) for x in self.truths[call]), default=0.0)


def judge(
    answer: Answer,
    exact: Exact,
    estimator: str,
    wanted: Iterable[str],
    odd: Iterable[str] = (),
) -> Verdict:
    """Compare every cell with the exact value for the layers that it names.

    Args:
        answer: A contender's answer.
        exact: The exact values.
        estimator: ``"unbiased"`` or ``"biased"``, as the contender documents.
        wanted: Layers that the rows must include, or of which something must be said.
        odd: Layers whose rows are not the examples: they may be NaN, or missing if
            something is said of them.
    """
    shape = list(answer.matrix.shape)
    if shape != [len(answer.rows), len(answer.columns)] or 0 in shape:
        return Verdict("wrong", f"a matrix of {' x '.join(map(str, shape))}")
    cells = list(_cells(answer, exact, estimator))
    for name in odd:
        problem = _odd(name, answer, exact, cells)
        if problem is not None:
            return problem
    cells = [cell for cell in cells if not _is_refused(cell, odd)]
    for cell in cells:
        if cell.ghost:
            return Verdict("wrong", f"{cell.value:.2f} for a layer that never ran")
        if cell.invented:
            return Verdict("wrong", f"{cell.value:.2f} for 0 / 0")
    worst, used = _closest(cells)
    if worst > TOLERANCE:
        return Verdict("wrong", _number(worst))
    missing = [name for name in wanted if name not in used and not told(answer, name)]
    return Verdict("wrong", f"no row for {', '.join(missing)}") if missing else RIGHT


def told(answer: Answer, name: str) -> bool:
    """Whether something was said of a layer."""
    return any(repr(name) in note for note in answer.notes)


def _odd(name: str, answer: Answer, exact: Exact, cells: list[Cell]) -> Verdict | None:
    """What is wrong with a layer whose rows are not the examples, if anything."""
    rows = [row for row in answer.rows if row.split("#")[0] == name]
    if not rows and not told(answer, name):
        return Verdict("wrong", f"no word on {name}")
    numbers = [
        cell.value for cell in cells if cell.row in rows and cell.value == cell.value
    ]
    if numbers and not _calls(name, exact.grams1):
        return Verdict("wrong", f"{numbers[0]:.2f} for rows that are no examples")
    return None


def _is_refused(cell: Cell, odd: Iterable[str]) -> bool:
    """Whether this is NaN because of a layer whose rows are not the examples."""
    names = {name.split("#")[0] for name in (cell.row, cell.column)}
    return math.isnan(cell.value) and not names.isdisjoint(odd)


def crash(error: BaseException) -> Verdict:
    """A verdict from an exception, shortened to fit the table."""
    text = str(error).split("\n")[0].replace("|", "/")
    if len(text) < SHORTEST:
        text = f"{type(error).__name__}: {text}"
    return Verdict("crash", text if len(text) <= LONGEST else f"{text[:LONGEST]}...")


def _cells(answer: Answer, exact: Exact, estimator: str) -> Iterator[Cell]:
    truth = getattr(exact, estimator)
    for i, row in enumerate(answer.rows):
        for j, column in enumerate(answer.columns):
            calls = _calls(column, exact.grams2)
            rows = _calls(row, exact.grams1) if calls else []
            truths = {a: [truth(a, b) for b in calls] for a in rows}
            yield Cell(row, column, float(answer.matrix[i, j]), truths)


def _closest(cells: list[Cell]) -> tuple[float, set[str]]:
    """The largest error, with each row matched to its nearest call, and those calls."""
    errors: dict[str, dict[str, float]] = {}
    for cell in cells:
        of_row = errors.setdefault(cell.row, {})
        for call in cell.truths:
            of_row[call] = max(of_row.get(call, 0.0), cell.error(call))
    found = [min(x.items(), key=lambda item: item[1]) for x in errors.values() if x]
    return max((x for _, x in found), default=0.0), {call for call, _ in found}


def _calls(name: str, grams: Grams) -> list[str]:
    """The calls that a name may mean; none if its module never ran."""
    return [x for x in grams if x == name or x.startswith(f"{name}#")]


def _distance(value: float, truth: float) -> float:
    if math.isnan(value):
        return 0.0 if math.isnan(truth) else math.inf
    return abs(value - truth)


def _number(error: float) -> str:
    if math.isinf(error):
        return "NaN"
    return f"{error:.2f}" if error >= 0.01 else f"{error:.3f}"
