"""The state of a run: running sums, and what was skipped or is undefined."""

import time
from math import isfinite
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cka_notebook import metrics
from cka_notebook._capture.shuffling import Scatter, note_on
from cka_notebook._grams.packing import MIN_EXAMPLES
from cka_notebook._grams.pairs import LayerGrams, batch_products, spread, sums_device
from cka_notebook._grams.precision import exact
from cka_notebook._messages import counted, first_few
from cka_notebook._results.result import CKAResult

if TYPE_CHECKING:
    from .estimate import Estimate

TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%z"

NO_VARIANCE = (
    "the same for every example, or each differs in its own way: no variance to compare"
)
"""In both cases U-centering makes the Gram matrix zero."""

MIN_STABLE = 8
"""Standard errors of fewer batches are too uncertain to end a run by."""


class RunState:
    """The state of a run: sums so far, and what was skipped or undefined.

    Attributes:
        catching_up: Layers that were added take the batches done once more.
        layers1: Names of the rows.
        layers2: Names of the columns.
        total: Number of batches to come in all, or None if unknown.
        batches: Batches in the sums.
        skipped: Batches that were too small.
        examples: Examples in the sums.
        notes: Sentences a reader should know.
        provenance: What a result says of how it came about.
        names: What the two models are called.
        metric: Name of the measure.
        scatters: Model, name and scatter of the layers watched for random batches.
        start: The random streams with which the run began, by which it can be repeated.
        estimate: What the run will take; None where it was not looked at.
        first: Of the first batch, the h of each layer with itself: rows, columns.
    """

    catching_up = False

    def __init__(
        self, layers1: list[str], layers2: list[str], total: int | None
    ) -> None:
        self.layers1, self.layers2 = tuple(layers1), tuple(layers2)
        self.total = total
        self.batches = self.skipped = self.examples = 0
        self.notes: list[str] = []
        self.provenance: dict[str, Any] = {}
        self.names = ("model1", "model2")
        self.metric = "cka"
        self.scatters: list[tuple[str, str, Scatter]] = []
        self.start: dict[str, Tensor] = {}
        self.estimate: Estimate | None = None
        self.first: tuple[Tensor, Tensor] | None = None
        self._finished = False
        self._sums: metrics.MinibatchCKA | None = None
        self._problems: tuple[dict[int, str], dict[int, str]] = ({}, {})
        self._bad: list[Tensor | None] = [None, None]

    @property
    def done(self) -> int:
        """Batches taken from the loader."""
        return self.batches + self.skipped

    def matrix(self) -> Tensor:
        """CKA so far, ``(L1, L2)`` float64 on the device of the Gram matrices."""
        return self.sums.compute()

    def stderr(self) -> Tensor:
        """Its standard error, likewise."""
        return self.sums.stderr()

    @property
    def sums(self) -> metrics.MinibatchCKA:
        """The running sums; zeros before the first batch."""
        if self._sums is None:
            return metrics.MinibatchCKA.empty(len(self.layers1), len(self.layers2))
        return self._sums

    @property
    def device(self) -> torch.device:
        """Where the sums are, and the Gram matrices were."""
        return self.sums.xy.device

    @property
    def undefined1(self) -> dict[str, str]:
        """Why rows are undefined, by layer. Waits for the device."""
        return self._reasons(0, self.layers1, self.sums.xx)

    @property
    def undefined2(self) -> dict[str, str]:
        """Why columns are undefined, by layer. Waits for the device."""
        return self._reasons(1, self.layers2, self.sums.yy)

    def result(self) -> CKAResult:
        """The result of the batches so far, on the CPU."""
        undefined1, undefined2 = self.undefined1, self.undefined2
        reasons = [
            sentence
            for name, undefined in zip(
                self.names, (undefined1, undefined2), strict=True
            )
            for sentence in _sentences(name, undefined)
        ]
        return CKAResult(
            matrix=self.matrix().cpu(),
            stderr=self.stderr().cpu(),
            layers1=self.layers1,
            layers2=self.layers2,
            name1=self.names[0],
            name2=self.names[1],
            metric=self.metric,
            examples=self.examples,
            batches=self.batches,
            skipped=self.skipped,
            notes=[*self.notes, *dict.fromkeys(reasons)],
            undefined1=undefined1,
            undefined2=undefined2,
            provenance={**self.provenance, "finished": time.strftime(TIME_FORMAT)},
            sums=self.sums.to("cpu", copy=True),
        )

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What `load` needs to go on from here: tensors and facts."""
        tensors = dict(self.sums.tensors())
        for side, names in enumerate((self.layers1, self.layers2)):
            bad = self._bad[side]
            tensors[f"bad{side}"] = (
                torch.full((len(names),), -1.0) if bad is None else bad
            )
        return tensors, {
            "batches": self.batches,
            "skipped": self.skipped,
            "examples": self.examples,
            "problems": [
                {str(row): text for row, text in problems.items()}
                for problems in self._problems
            ],
        }

    def load(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Take up a state that `save` gave."""
        sums = {name: value for name, value in tensors.items() if name[:3] != "bad"}
        self._bad = [tensors["bad0"], tensors["bad1"]]
        first, second = (
            {int(row): text for row, text in problems.items()}
            for problems in facts["problems"]
        )
        self._problems = first, second
        self.batches, self.skipped = facts["batches"], facts["skipped"]
        self.examples = facts["examples"]
        self._sums = metrics.MinibatchCKA(**sums, batches=self.batches)

    def is_stable(self, tolerance: float) -> bool:
        """Whether the largest standard error is below the tolerance.

        Never before eight batches, whose spread says too little. Waits for the device.
        """
        if self.batches < MIN_STABLE:
            return False
        stderr = self.stderr()
        known = stderr[~stderr.isnan()]
        return bool(len(known)) and bool(known.max() < tolerance)

    def note_stable(self, tolerance: float) -> None:
        """Say that the run ends because it is stable."""
        self.notes.append(
            f"Stopped after {counted(self.done, 'batch')}: the largest standard error "
            f"is below {tolerance:g}."
        )

    def add(self, grams1: LayerGrams, grams2: LayerGrams, examples: int) -> None:
        """Add one batch."""
        self.batches += 1
        self.examples += examples
        home = sums_device(grams1.packed.z.device)
        if self._sums is None:
            shape = len(self.layers1), len(self.layers2)
            self._sums = metrics.MinibatchCKA.empty(*shape, home)
        elif self._sums.xy.device != home:
            self._sums = self._sums.to(home)
        self._note_problems(grams1, grams2)
        with exact(home):
            xy, xx, yy = batch_products(grams1, grams2, home)
            self._sums.update(xy, xx, yy)
        if self.batches == 1:
            self.first = xx, yy

    def skip(self) -> None:
        """Count a batch that is too small for the unbiased estimate."""
        self.skipped += 1

    def finish(self) -> None:
        """Say what was skipped and whether batches were random, once.

        Raises:
            ValueError: If every batch was.
        """
        if self._finished:
            return
        self._finished = True
        if not self.batches:
            msg = (
                f"Expected batches of at least {MIN_EXAMPLES} examples, got "
                f"{self.skipped} smaller ones. The unbiased HSIC divides by n - 3: "
                "raise batch_size."
            )
            raise ValueError(msg)
        if self.skipped:
            self.notes.append(
                f"{counted(self.skipped, 'batch')} of fewer than {MIN_EXAMPLES} "
                "examples left out: the unbiased HSIC divides by n - 3."
            )
        not_random = note_on(self.scatters)
        if not_random is not None:
            self.notes.append(not_random)

    def _note_problems(self, *grams: LayerGrams) -> None:
        for side, given in enumerate(grams):
            known = self._problems[side]
            for row, problem in given.problems.items():
                known.setdefault(row, f"{problem} in batch {self.done}")
            traces, bad = given.packed.trace, self._bad[side]
            if bad is not None and traces.is_cpu and isfinite(traces.sum().item()):
                continue  # as nearly always; on a GPU a look would wait
            wrong = spread(~torch.isfinite(traces), given.index)
            if bad is None:
                bad = torch.full(wrong.shape, -1.0)
            bad = bad.to(wrong.device)
            self._bad[side] = torch.where(wrong & (bad < 0), float(self.done), bad)

    def _reasons(
        self, side: int, names: tuple[str, ...], norms: Tensor
    ) -> dict[str, str]:
        if not self.batches:
            return {}
        bad, norms = self._bad[side], norms.cpu()
        first = bad.cpu().tolist() if bad is not None else [-1] * len(names)
        reasons: dict[str, str] = {}
        for row, name in enumerate(names):
            if row in self._problems[side]:
                reasons[name] = self._problems[side][row]
            elif first[row] >= 0:
                reasons[name] = (
                    f"not finite in batch {int(first[row])} (NaN, Inf, or too large to "
                    "square)"
                )
            elif norms[row] == 0:
                reasons[name] = NO_VARIANCE
        return reasons


def _sentences(name: str, undefined: dict[str, str]) -> list[str]:
    """Notes on the undefined layers of one model, one for each reason."""
    layers: dict[str, list[str]] = {}
    for layer, reason in undefined.items():
        layers.setdefault(reason, []).append(layer)
    return [
        f"{name}: {_many(group)} undefined, {why}." for why, group in layers.items()
    ]


def _many(layers: list[str]) -> str:
    if len(layers) == 1:
        return f"{layers[0]!r} is"
    return f"{len(layers)} layers ({first_few(layers)}) are"
