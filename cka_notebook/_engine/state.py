"""The state of a run: running sums, and what was skipped or is undefined."""

import time
from collections.abc import Mapping
from itertools import chain
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from cka_notebook import metrics
from cka_notebook._capture.shuffling import Scatter, note_on
from cka_notebook._grams.packing import MIN_EXAMPLES
from cka_notebook._grams.pairs import LayerGrams, batch_products, sums_device
from cka_notebook._grams.precision import undisturbed
from cka_notebook._grams.readback import Readback
from cka_notebook._messages import Note
from cka_notebook._results.chance import floor_of
from cka_notebook._results.result import CKAResult

from .facts import (
    MANY_SIZES,
    skip_note,
    stable_note,
    unchecked_note,
    undefined_notes,
)
from .totals import Axis, Faults, Totals

if TYPE_CHECKING:
    from collections.abc import Callable

    from .estimate import Estimate

TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%z"

MIN_STABLE = 8
"""Standard errors over fewer batches are too uncertain to end a run."""


class RunView(Protocol):
    """What loops over a run, pages and widgets read of its state.

    `RunState` documents the members.
    """

    @property
    def catching_up(self) -> bool: ...
    @property
    def layers1(self) -> tuple[str, ...]: ...
    @property
    def layers2(self) -> tuple[str, ...]: ...
    @property
    def names(self) -> tuple[str, str]: ...
    @property
    def metric(self) -> str: ...
    @property
    def total(self) -> int | None: ...
    @property
    def batches(self) -> int: ...
    @property
    def skipped(self) -> int: ...
    @property
    def examples(self) -> int: ...
    @property
    def done(self) -> int: ...
    @property
    def notes(self) -> list[str]: ...
    @property
    def undefined1(self) -> dict[str, str]: ...
    @property
    def undefined2(self) -> dict[str, str]: ...
    @property
    def estimate(self) -> "Estimate | None": ...
    @property
    def device(self) -> torch.device: ...
    @property
    def activity(self) -> str: ...
    def matrix(self) -> Tensor: ...
    def stderr(self) -> Tensor: ...
    def floor(self) -> Tensor: ...
    def result(self) -> CKAResult: ...
    def is_stable(self, tolerance: float) -> bool: ...
    def note_stable(self, tolerance: float) -> None: ...
    def finish(self) -> None: ...


class RunState:
    """The state of a run: sums so far, and what was skipped or undefined.

    Args:
        rows: The layers of model 1.
        columns: The layers of model 2.
        total: Number of batches of the whole run, or None if unknown.
        metric: Name of the measure.

    Attributes:
        catching_up: Whether added layers repeat the batches already done.
        activity: What is being done other than an ordinary run, for the page, or "".
        totals: What has been added up.
        notes: Sentences a reader should know.
        provenance: What a result records about its origin.
        scatters: Model, name and scatter of the layers watched for random batches.
        last_notes: What is known only at the end, or None.
        sizes_vary: Whether examples of skipped batches had different shapes.
        start: The random streams with which the run began, by which it can be repeated.
        estimate: Expected memory and time; None if not estimated.
    """

    catching_up = False
    activity = ""

    def __init__(
        self, rows: Axis, columns: Axis, total: int | None, metric: str = "cka"
    ) -> None:
        self.rows, self.columns = rows, columns
        self.total = total
        self.metric = metric
        self.totals = Totals()
        self.notes: list[str] = []
        self.provenance: dict[str, Any] = {}
        self.scatters: list[tuple[str, str, Scatter]] = []
        self.last_notes: list[Callable[[], Note | None]] = []
        self.start: dict[str, Tensor] = {}
        self.sizes_vary = False
        self.estimate: Estimate | None = None
        self._finished = False
        self._reading: Readback | None = None

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """Rows and columns."""
        return self.rows, self.columns

    @property
    def layers1(self) -> tuple[str, ...]:
        """Names of the rows."""
        return self.rows.layers

    @property
    def layers2(self) -> tuple[str, ...]:
        """Names of the columns."""
        return self.columns.layers

    @property
    def names(self) -> tuple[str, str]:
        """Names of the two models."""
        return self.rows.name, self.columns.name

    @property
    def batches(self) -> int:
        """Batches in the sums."""
        return self.totals.batches

    @property
    def skipped(self) -> int:
        """Batches that were too small."""
        return self.totals.skipped

    @property
    def examples(self) -> int:
        """Examples in the sums."""
        return self.totals.examples

    @property
    def done(self) -> int:
        """Batches taken from the loader."""
        return self.totals.batches + self.totals.skipped

    def matrix(self) -> Tensor:
        """CKA so far, ``(L1, L2)`` float64 on the device of the Gram matrices."""
        return self.sums.compute()

    def stderr(self) -> Tensor:
        """Its standard error, in the same form."""
        return self.sums.stderr()

    def floor(self) -> Tensor:
        """What unrelated layers reach by chance, in the same form."""
        return floor_of(self.sums.null_sd(), self.batches)

    @property
    def sums(self) -> metrics.MinibatchCKA:
        """The running sums; zeros before the first batch."""
        return self._sums_of(self.totals)

    def _sums_of(self, totals: Totals) -> metrics.MinibatchCKA:
        if totals.sums is None:
            return metrics.MinibatchCKA.empty(len(self.layers1), len(self.layers2))
        return totals.sums

    @property
    def device(self) -> torch.device:
        """Where the sums are, and the Gram matrices were."""
        return self.sums.xy.device

    @property
    def undefined1(self) -> dict[str, str]:
        """Why rows are undefined, by layer. Waits for the device."""
        if not self.batches:
            return {}
        return self.rows.undefined(self.totals.rows, self.sums.xx)

    @property
    def undefined2(self) -> dict[str, str]:
        """Why columns are undefined, by layer. Waits for the device."""
        if not self.batches:
            return {}
        return self.columns.undefined(self.totals.columns, self.sums.yy)

    def result(self) -> CKAResult:
        """The result of the batches so far, on the CPU."""
        undefined = self.undefined1, self.undefined2
        reasons = map(undefined_notes, self.names, undefined)
        return CKAResult(
            matrix=self.matrix().cpu(),
            stderr=self.stderr().cpu(),
            null_sd=self.sums.null_sd().cpu(),
            layers1=self.layers1,
            layers2=self.layers2,
            name1=self.rows.name,
            name2=self.columns.name,
            metric=self.metric,
            examples=self.examples,
            batches=self.batches,
            skipped=self.skipped,
            notes=[*self.notes, *dict.fromkeys(chain(*reasons))],
            undefined1=undefined[0],
            undefined2=undefined[1],
            provenance={
                **self.provenance,
                "doubts": _of_values(self.provenance.get("doubts", {}), undefined),
                "finished": time.strftime(TIME_FORMAT),
            },
            sums=self.sums.to("cpu", copy=True),
        )

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and facts from which `load` continues."""
        return self.saved(self.totals)

    def saved(self, totals: Totals) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The same for totals that this state had earlier."""
        faults = totals.rows, totals.columns
        pairs = zip(self.axes, faults, strict=True)
        bad = {f"bad{number}": axis.bad(x) for number, (axis, x) in enumerate(pairs)}
        return {**self._sums_of(totals).tensors(), **bad}, {
            "batches": totals.batches,
            "skipped": totals.skipped,
            "examples": totals.examples,
            "problems": [{str(k): v for k, v in x.problems.items()} for x in faults],
        }

    def load(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Restore what `save` gave."""
        sums = {name: value for name, value in tensors.items() if name[:3] != "bad"}
        batches = facts["batches"]
        faults = [
            Faults({int(k): v for k, v in problems.items()}, tensors[f"bad{number}"])
            for number, problems in enumerate(facts["problems"])
        ]
        self.totals = Totals(
            batches,
            facts["skipped"],
            facts["examples"],
            metrics.MinibatchCKA.from_tensors(sums, batches),
            rows=faults[0],
            columns=faults[1],
        )

    def is_stable(self, tolerance: float) -> bool:
        """Whether the largest standard error is below the tolerance.

        Never before eight batches, whose spread is too uncertain. On a GPU the answer
        may be that of the batch before, because nothing waits for the device.
        """
        if self.batches < MIN_STABLE:
            return False
        reading, self._reading = self._reading or self._read_largest(), None
        if not reading.is_ready:
            self._reading = reading
            return False
        [largest] = reading.values()
        if -inf < float(largest) < tolerance:
            return True
        if self.device.type == "cuda":
            self._reading = self._read_largest()
        return False

    def _read_largest(self) -> Readback:
        """The largest standard error that is known, on its way from the device."""
        return Readback(self.stderr().nan_to_num(nan=-inf).amax())

    def note_stable(self, tolerance: float) -> None:
        """Note that the run ends because it is stable."""
        self.notes.append(stable_note(self.done, tolerance))

    def add(self, rows: LayerGrams, columns: LayerGrams, examples: int) -> None:
        """Add one batch: as a whole, or not at all if something interrupts it."""
        before, number = self.totals, self.done + 1
        home = sums_device(rows.packed.z.device)
        sums, spare = self.sums, before.spare
        if sums.xy.device != home:
            sums, spare = sums.to(home), None
        with undisturbed(home):
            xy, xx, yy = batch_products(rows, columns, home)
            new = sums.with_batch(xy, xx, yy, examples, spare)
        if not before.batches:
            self.rows.first, self.columns.first = xx, yy
        self.totals = Totals(
            before.batches + 1,
            before.skipped,
            before.examples + examples,
            new,
            before.rows.with_batch(rows, number),
            before.columns.with_batch(columns, number),
            spare=sums,
        )

    def skip(self) -> None:
        """Count a batch that is too small for the unbiased estimate."""
        self.totals = self.totals._replace(skipped=self.totals.skipped + 1)

    def finish(self) -> None:
        """Note what is known at the end, such as skipped batches; once.

        Raises:
            ValueError: If every batch was skipped.
        """
        if self._finished:
            return
        if not self.batches:
            msg = (
                f"Expected batches of at least {MIN_EXAMPLES} examples, but all "
                f"{self.skipped} were smaller. The unbiased HSIC divides by n - 3: "
                f"increase batch_size.{MANY_SIZES if self.sizes_vary else ''}"
            )
            raise ValueError(msg)
        skipped = [skip_note(self.skipped)] if self.skipped else []
        self.notes = [*self.notes, *skipped, *self._local_notes()]
        self._finished = True

    def local_notes(self) -> list[str]:
        """The notes so far, and those on the batches of this process.

        `finish` then adds only what is known of all processes.
        """
        self.notes = [*self.notes, *self._local_notes()]
        self.scatters, self.last_notes = [], []
        for axis in self.axes:
            axis.unchecked = []
        return self.notes

    def _local_notes(self) -> list[str]:
        not_random = note_on(self.scatters)
        notes: list[str] = []
        if not_random is not None:
            notes.append(Note(not_random, grave=True))
        found = [make() for make in self.last_notes]
        undefined = self.undefined1, self.undefined2
        for axis, reasons in zip(self.axes, undefined, strict=True):
            found.append(unchecked_note(axis.name, axis.unchecked, reasons))
        return [*notes, *dict.fromkeys(note for note in found if note is not None)]


def _of_values(
    doubts: Mapping[str, Mapping[str, list[str]]], undefined: tuple[Any, Any]
) -> dict[str, dict[str, list[str]]]:
    """The doubts about each model's layers that have values."""
    found = {}
    for (model, kinds), reasons in zip(doubts.items(), undefined, strict=False):
        own = {k: [x for x in each if x not in reasons] for k, each in kinds.items()}
        found[model] = {kind: layers for kind, layers in own.items() if layers}
    return found
