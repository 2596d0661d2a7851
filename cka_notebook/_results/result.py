"""A CKA matrix with the names of its axes, its uncertainty and its provenance."""

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor

from cka_notebook._messages import (
    code_of,
    counted,
    first_few,
    is_grave,
)
from cka_notebook.metrics import MinibatchCKA

from . import atomic, contents, files
from .best_path import best_path
from .chance import NOT_KNOWN, Chance
from .layers import in_common, minus, position

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "cka_notebook.result/1"
"""Kind and version of the files that `CKAResult.save` writes."""

KEPT = "Nothing is lost: call save on the same result again."
"""Where a result is that could not be saved."""


class Pair(NamedTuple):
    """A layer of each model and their similarity.

    A value up to ``floor`` is no better than chance; see `CKAResult.floor`.
    """

    layer1: str
    layer2: str
    value: float
    stderr: float
    floor: float = math.nan


@dataclass(eq=False)
class CKAResult(Chance):
    """Similarity of every layer of model 1 (rows) to every layer of model 2 (columns).

    Attributes:
        matrix: Shape ``(L1, L2)``, float64, on the CPU; NaN where undefined, never
            clamped: the unbiased estimate can be slightly negative.
        stderr: Shape ``(L1, L2)``, float64; standard error over batches, NaN with fewer
            than two.
        layers1: Names of the rows.
        layers2: Names of the columns.
        name1: Name of model 1.
        name2: Name of model 2.
        metric: Name of the measure.
        examples: Number of examples that were compared.
        batches: Number of batches of these examples.
        skipped: Number of batches that were too small.
        notes: What a reader should know, in sentences.
        undefined1: Why a row is NaN, by layer name.
        undefined2: Why a column is NaN, by layer name.
        provenance: Versions, devices, dtypes, pooling, models and loaders.
        is_difference: Whether this is the difference of two results.
        null_sd: Shape ``(L1, L2)``, float64; standard deviation of the values, around
            0, if examples were paired at random; see `p_values`. NaN where undefined,
            in a difference, and where an older version did not record it.

    Example:
        >>> from torch import nn
        >>> from cka_notebook import CKA
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> result = CKA(model).compare([torch.randn(16, 4)], progress=False)
        >>> result.layers1
        ('0', '2')
    """

    matrix: Tensor
    stderr: Tensor
    layers1: tuple[str, ...]
    layers2: tuple[str, ...]
    name1: str = "model1"
    name2: str = "model2"
    metric: str = "cka"
    examples: int = 0
    batches: int = 0
    skipped: int = 0
    notes: list[str] = field(default_factory=list)
    undefined1: dict[str, str] = field(default_factory=dict)
    undefined2: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    sums: MinibatchCKA | None = field(default=None, repr=False)
    is_difference: bool = False
    null_sd: Tensor = NOT_KNOWN

    def __post_init__(self) -> None:
        if self.null_sd is NOT_KNOWN:
            self.null_sd = torch.full_like(self.matrix, torch.nan, dtype=torch.float64)

    def __repr__(self) -> str:
        rows, columns = self.matrix.shape
        return (
            f"CKAResult({self.name1} x {self.name2}, {rows} x {columns} layers, "
            f"{self.metric}, {counted(self.examples, 'example')} in "
            f"{counted(self.batches, 'batch')})"
        )

    def __sub__(self, other: Self) -> Self:
        """The change from another result to this one, for the layers of both.

        For example, a fine-tuned model minus its base, or one data set minus another.
        Layers are matched by name and keep the order of this result. The standard
        errors assume independent results; with the same batches the difference is more
        certain.

        Returns:
            A result with values between -2 and 2, which cannot be merged. Figures and
            explorers show it in two colors around 0.

        Raises:
            ValueError: If the measures differ, one of the results is a difference
                itself, or they have no rows or no columns in common.

        Example:
            >>> layers = ("a", "b"), ("x",)
            >>> before = CKAResult(torch.eye(2, 1), torch.full((2, 1), 0.25), *layers)
            >>> after = CKAResult(torch.ones(2, 1), torch.zeros(2, 1), *layers)
            >>> (after - before).matrix.tolist(), (after - before).metric
            ([[0.0], [1.0]], 'cka difference')
        """
        if not isinstance(other, CKAResult):
            return NotImplemented
        are_differences = self.is_difference or other.is_difference
        if self.metric != other.metric or are_differences:
            msg = (
                f"Cannot subtract results of {self.metric!r} and {other.metric!r}. Use "
                "two results of the same measure, neither of them a difference."
            )
            raise ValueError(msg)
        rows, their_rows = in_common("rows", self.layers1, other.layers1)
        columns, their_columns = in_common("columns", self.layers2, other.layers2)
        mine = self._subset(rows, columns)
        theirs = other._subset(their_rows, their_columns)
        return replace(
            mine,
            matrix=mine.matrix - theirs.matrix,
            stderr=torch.hypot(mine.stderr, theirs.stderr),
            name1=minus(self.name1, other.name1),
            name2=minus(self.name2, other.name2),
            metric=self.metric + contents.DIFFERENCE,
            examples=min(self.examples, other.examples),
            batches=min(self.batches, other.batches),
            skipped=0,
            notes=list(
                dict.fromkeys([*_left_out(self, other), *mine.notes, *other.notes])
            ),
            undefined1=mine.undefined1 | theirs.undefined1,
            undefined2=mine.undefined2 | theirs.undefined2,
            provenance={"minuend": self.provenance, "subtrahend": other.provenance},
            is_difference=True,
            null_sd=NOT_KNOWN,
        )

    def row(self, layer: str | int) -> Tensor:
        """One layer of model 1 against all of model 2, shape ``(L2,)``."""
        return self.matrix[position(layer, self.layers1, self.name1)]

    def column(self, layer: str | int) -> Tensor:
        """One layer of model 2 against all of model 1, shape ``(L1,)``."""
        return self.matrix[:, position(layer, self.layers2, self.name2)]

    def diagonal(self) -> Tensor:
        """Layer i against layer i, shape ``(L,)``.

        Raises:
            ValueError: If the numbers of rows and columns differ.
        """
        if len(self.layers1) != len(self.layers2):
            msg = (
                f"The diagonal needs the same number of layers in {self.name1} and "
                f"{self.name2}, got {len(self.layers1)} and {len(self.layers2)}. Use "
                "best_matches(), or choose matching layers."
            )
            raise ValueError(msg)
        return self.matrix.diagonal()

    def best_matches(self, *, above_chance: bool = False) -> dict[str, str | None]:
        """The most similar layer of model 2 for each layer of model 1.

        None if the whole row is undefined.

        Args:
            above_chance: Leave out values that are no better than chance, that is, up
                to their `floor`, and cells in which that is not known.

        Raises:
            ValueError: With ``above_chance``, if the level of chance is not known in
                any cell.
        """
        values = self.matrix.nan_to_num(nan=-torch.inf)
        if above_chance:
            self.check_chance()
            values = values.where(values > self.floor, -torch.inf)
        best, where = values.max(dim=1)
        return {
            layer: self.layers2[int(j)] if value > -torch.inf else None
            for layer, value, j in zip(self.layers1, best, where, strict=True)
        }

    def best_path(self) -> list[Pair]:
        """The pairs along the best path from the first layers to the last ones.

        Each step goes to the next layer of model 1, of model 2, or of both. The path
        thus matches the depths of both models without going back, as dynamic time
        warping does. It has the highest mean of all such paths; it crosses undefined
        values only where it cannot avoid them.

        Returns:
            Pairs in order, for example for ``pandas.DataFrame``; empty if the whole
            matrix is undefined.

        Example:
            >>> matrix = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.75, 1.0]])
            >>> stderr = torch.full((2, 3), 0.125)
            >>> layers = ("a", "b"), ("x", "y", "z")
            >>> result = CKAResult(matrix, stderr, *layers, null_sd=stderr / 2)
            >>> [(pair.layer1, pair.layer2) for pair in result.best_path()]
            [('a', 'x'), ('b', 'y'), ('b', 'z')]
            >>> result.best_path()[1]
            Pair(layer1='b', layer2='y', value=0.75, stderr=0.125, floor=0.25)
        """
        path = best_path(self.matrix.double().numpy())
        where = tuple(
            torch.tensor(path, dtype=torch.long, device="cpu").reshape(-1, 2).T
        )
        columns = (x[where].tolist() for x in (self.matrix, self.stderr, self.floor))
        return [
            Pair(self.layers1[i], self.layers2[j], *numbers)
            for (i, j), *numbers in zip(path, *columns, strict=True)
        ]

    def export(self) -> dict[str, Any]:
        """A plain dict with the keys that torch_cka and pytorch-cka use.

        Example:
            >>> result = CKAResult(torch.eye(1), torch.eye(1), ("a",), ("b",))
            >>> sorted(result.export())[:3]
            ['CKA', 'cka_matrix', 'dataset1_name']
        """
        data = _dataset(self.provenance.get("loader1"), "")
        return {
            "model1_name": self.name1,
            "model2_name": self.name2,
            "CKA": self.matrix,
            "cka_matrix": self.matrix,
            "stderr": self.stderr,
            "model1_layers": list(self.layers1),
            "model2_layers": list(self.layers2),
            "dataset1_name": data,
            "dataset2_name": _dataset(self.provenance.get("loader2"), data),
        }

    def to_dataframe(self) -> "pd.DataFrame":
        """The matrix as a pandas DataFrame with the names of the layers.

        Raises:
            ImportError: If pandas is not installed.
        """
        import pandas as pd  # noqa: PLC0415 optional, and slow to import

        index = pd.Index(self.layers1, name=self.name1)
        columns = pd.Index(self.layers2, name=self.name2)
        return pd.DataFrame(self.matrix.numpy(), index=index, columns=columns)

    def merge(self, other: Self) -> Self:
        """The result over the batches of both, for the same models and layers.

        Raises:
            ValueError: If models, layers or measure differ, or a result has no running
                sums, like a difference.
        """
        _check_same_comparison(self, other)
        if self.sums is None or other.sums is None:
            msg = (
                "Cannot merge a result without running sums. Merge results as "
                "CKA.compare returned them."
            )
            raise ValueError(msg)
        sums = self.sums.merge(other.sums)
        return replace(
            self,
            matrix=sums.compute(),
            stderr=sums.stderr(),
            null_sd=sums.null_sd(),
            examples=self.examples + other.examples,
            batches=self.batches + other.batches,
            skipped=self.skipped + other.skipped,
            notes=list(dict.fromkeys([*self.notes, *other.notes])),
            undefined1=_still_undefined(
                self.undefined1 | other.undefined1, self.layers1, sums.xx
            ),
            undefined2=_still_undefined(
                self.undefined2 | other.undefined2, self.layers2, sums.yy
            ),
            sums=sums,
        )

    def save(self, path: atomic.PathLike) -> None:
        """Write a safetensors file, from which `load` restores the result bit by bit.

        The file appears complete or not at all. A symbolic link is followed, and an
        old file keeps its permissions.

        Raises:
            FileNotFoundError: If its folder does not exist.
            OSError: If it cannot be written there, for example on a full disk. The
                error says what to do; the result is unchanged.
            ValueError: If the result is inconsistent, so that `load` would refuse it.
        """
        tensors = {name: getattr(self, name) for name in contents.MAPS}
        if self.sums is not None:
            sums = self.sums.tensors()
            tensors |= {f"sums.{name}": value for name, value in sums.items()}
        files.write(
            path,
            FORMAT,
            tensors,
            self._facts(),
            self._later_facts(),
            kept=KEPT,
            check=contents.check,
            check_values=contents.check_values,
        )

    @classmethod
    def load(cls, path: atomic.PathLike) -> Self:
        """Read a file that `save` wrote. Nothing in it is executed.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If it is not a result, is damaged, or is of a newer version.
                Nothing is taken from such a file.
        """
        check, check_values = contents.check, contents.check_values
        tensors, facts = files.read(path, FORMAT, check, check_values)
        sums = {k[5:]: v for k, v in tensors.items() if k.startswith("sums.")}
        batches = facts.pop("sums_batches", 0)
        facts |= {key: tuple(facts[key]) for key in ("layers1", "layers2")}
        contents.restore_kinds(facts)
        return cls(
            tensors["matrix"],
            tensors["stderr"],
            sums=MinibatchCKA.from_tensors(sums, batches) if sums else None,
            null_sd=tensors.get("null_sd", NOT_KNOWN),
            **facts,
        )

    def _subset(self, rows: Tensor, columns: Tensor) -> Self:
        """The rows and columns at these positions, without running sums."""
        layers1 = tuple(self.layers1[i] for i in rows.tolist())
        layers2 = tuple(self.layers2[i] for i in columns.tolist())
        return replace(
            self,
            matrix=self.matrix[rows[:, None], columns],
            stderr=self.stderr[rows[:, None], columns],
            layers1=layers1,
            layers2=layers2,
            undefined1={k: v for k, v in self.undefined1.items() if k in layers1},
            undefined2={k: v for k, v in self.undefined2.items() if k in layers2},
            sums=None,
            null_sd=self.null_sd[rows[:, None], columns],
        )

    def _facts(self) -> dict[str, Any]:
        names = (
            "layers1 layers2 name1 name2 metric examples batches skipped notes "
            "undefined1 undefined2 provenance"
        )
        facts = {name: getattr(self, name) for name in names.split()}
        if self.sums is not None:
            facts["sums_batches"] = self.sums.batches
        return facts

    def _later_facts(self) -> dict[str, Any]:
        """Facts that the first version of the format had no place for."""
        reasons = [*self.undefined1.values(), *self.undefined2.values()]
        codes = {reason: code_of(reason) for reason in reasons}
        return {
            "is_difference": self.is_difference,
            "grave_notes": [i for i, note in enumerate(self.notes) if is_grave(note)],
            "codes": {reason: code for reason, code in codes.items() if code},
        }


def _dataset(loader: Any, default: str) -> Any:
    """The data set in the facts about a loader, if there are any."""
    return loader.get("dataset", default) if isinstance(loader, dict) else default


def _left_out(mine: CKAResult, theirs: CKAResult) -> list[str]:
    """A note on the layers that a difference leaves out, if there are any."""
    alone = sorted(
        {*mine.layers1} ^ {*theirs.layers1} | {*mine.layers2} ^ {*theirs.layers2}
    )
    note = f"Left out, because only one of the results has them: {first_few(alone)}"
    return [note] if alone else []


def _check_same_comparison(mine: CKAResult, theirs: CKAResult) -> None:
    for what in ("layers1", "layers2", "metric", "name1", "name2"):
        one, other = getattr(mine, what), getattr(theirs, what)
        if one != other:
            msg = (
                f"Cannot merge results of different comparisons: `{what}` is {one!r} "
                f"in one and {other!r} in the other."
            )
            raise ValueError(msg)


def _still_undefined(
    reasons: dict[str, str], names: tuple[str, ...], norms: Tensor
) -> dict[str, str]:
    """Reasons for the layers that remain undefined after a merge."""
    defined = {n for n, norm in zip(names, norms, strict=True) if norm > 0}
    return {name: text for name, text in reasons.items() if name not in defined}
