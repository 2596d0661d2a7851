"""A run's sums on disk, from which a killed run continues."""

import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cka_notebook._capture.streams import RandomStreams
from cka_notebook._messages import counted
from cka_notebook._results import atomic, files

from . import saved_run
from .fingerprint import Print, of_batch
from .memory import Memory, within
from .state import RunState
from .totals import Totals

FORMAT = "cka_notebook.checkpoint/3"
SECONDS = 30.0
"""Time between two writes, and so the work that a kill can lose."""

KEPT = (
    "The batches so far are not lost: `result` of this CKA or explorer holds them, and "
    "its save() takes another path."
)
"""Where the sums are that could not be written."""

SHARE = 0.01
"""Of the time of a run, what keeping its state may take: it is kept after each batch
that is long enough, so an error in the middle of a batch costs little else."""

_END = object()

WAY_OUT = "Use another path, or delete the file to start over."


class Whole(NamedTuple):
    """All that a checkpoint needs of a run, at the end of a batch.

    An interrupt can leave the run itself in the middle of the next one.
    """

    state: RunState
    totals: Totals
    random: Mapping[str, Tensor]
    memory: Memory


class Checkpoint:
    """The file of one run: read before it starts, written while it runs.

    A later run must have the same `settings`: layers, models and their weights,
    functions, loader. The file also holds the random streams, so a shuffling loader
    yields the same batches again; those already done are skipped, if their fingerprints
    are those in the file.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If its folder does not exist.
        OSError: If it cannot be written there.
        ValueError: If it is not a checkpoint.
    """

    def __init__(self, path: atomic.PathLike) -> None:
        atomic.check(path)
        self._path = path
        self._written_at = time.monotonic()
        self._start: dict[str, Tensor] = {}
        self._done = -1
        self._whole: Whole | None = None
        self._keep_after = 0.0
        self._tensors: dict[str, Tensor] = {}
        self._facts: dict[str, Any] = {}
        # One attribute: an interrupt must not come between the two.
        self._prints: tuple[array[int], list[Callable[[], Print]]] = array("q"), []
        if Path(path).exists():
            self._tensors, self._facts = files.read(
                path, FORMAT, saved_run.check, saved_run.check_values
            )

    @property
    def exists(self) -> bool:
        """Whether there is a run to continue."""
        return bool(self._facts)

    def blamed(self) -> AbstractContextManager[None]:
        """Name the file in every error about its content."""
        return files.blamed(self._path, FORMAT)

    def begin(self, random: RandomStreams) -> None:
        """Set the random streams to where the first run began; remember them."""
        if self.exists:
            with self.blamed():
                random.load(within(self._tensors, "start."))
        self._start = random.save()

    def check(self, settings: Mapping[str, Any], max_batches: int | None) -> None:
        """Check that the file belongs to this comparison.

        Raises:
            ValueError: If it does not.
        """
        before = self._facts["settings"]
        differ = [key for key in settings if settings[key] != before.get(key)]
        if differ:
            key = differ[0]
            raise self._refused(key, repr(before.get(key)), repr(settings[key]))
        done = self._facts["run"]["batches"] + self._facts["run"]["skipped"]
        if max_batches is not None and max_batches < done:
            msg = (
                f"Expected `max_batches` to be at least {done}, the batches already in "
                f"checkpoint {str(self._path)!r}, got {max_batches}. {WAY_OUT}"
            )
            raise ValueError(msg)

    def resume(
        self, state: RunState, random: RandomStreams, batches: Iterator[Any]
    ) -> Memory:
        """Skip the batches done and load the sums; returns what was kept in memory.

        Args:
            state: Gets the sums.
            random: Gets the streams that follow these batches.
            batches: What the loader yields.

        Raises:
            ValueError: If the loader yields other batches, or fewer.
        """
        known = self._tensors["prints"].tolist()
        for number, row in enumerate(known, 1):
            batch = next(batches, _END)
            if batch is _END:
                done = counted(len(known), "batch")
                yielded = f"one that yields {counted(number - 1, 'batch')}"
                raise self._refused("loader", f"one of {done} or more", yielded)
            self.add(batch)
            self._compare(number, Print(*row))
        self._done = len(known)
        with self.blamed():
            state.load(within(self._tensors, "run."), self._facts["run"])
            random.load(within(self._tensors, "random."))
            return Memory.load(within(self._tensors, "memory."), self._facts["memory"])

    def add(self, batch: Any) -> None:
        """Take the fingerprint of the next batch."""
        known, waiting = self._prints
        made = of_batch(batch)
        if not isinstance(made, Print):
            waiting.append(made)
        elif waiting:
            waiting.append(lambda: made)
        else:
            known.extend(made)

    def is_due(self) -> bool:
        """Whether it is time for the next write."""
        return time.monotonic() - self._written_at >= SECONDS

    def must_keep(self) -> bool:
        """Whether to keep the state after this batch, or a later one is soon enough."""
        return time.perf_counter() >= self._keep_after

    def keep(self, make: Callable[[], Whole]) -> None:
        """Keep a state of the run, for the next `write`."""
        started = time.perf_counter()
        self._whole = make()
        now = time.perf_counter()
        self._keep_after = now + (now - started) / SHARE

    def write(self, settings: Mapping[str, Any]) -> None:
        """Write the state that was kept last, unless it is the one in the file.

        Args:
            settings: What a later run must have in common with it.
        """
        whole = self._whole
        if whole is None:
            return
        sums, run = whole.state.saved(whole.totals)
        done = run["batches"] + run["skipped"]
        if done in (0, self._done):
            return
        tensors, memory = whole.memory.save()
        parts = {
            "run.": sums,
            "start.": self._start,
            "random.": whole.random,
            "memory.": tensors,
        }
        named = {f"{k}{n}": t for k, part in parts.items() for n, t in part.items()}
        named["prints"] = self._settled()[:done]
        content = {"settings": settings, "run": run, "memory": memory}
        files.write(self._path, FORMAT, named, content, kept=KEPT)
        self._written_at, self._done = time.monotonic(), done

    def _settled(self) -> Tensor:
        """The fingerprints of all batches taken, ``(batches, 2)``."""
        known, waiting = self._prints
        if waiting:
            known = array("q", known)
            for made in waiting:
                known.extend(made())
            self._prints = known, []
        rows = torch.tensor(known, dtype=torch.int64, device="cpu")
        return rows.view(-1, 2)

    def _compare(self, number: int, before: Print) -> None:
        """Raise ValueError unless the last batch taken is the one in the file."""
        now = Print(*self._settled()[-1].tolist())
        for kind, what in (("layout", "shapes or types"), ("values", "values")):
            digests = [f"{getattr(x, kind) % 2**64:016x}" for x in (before, now)]
            if digests[0] != digests[1]:
                key = f"fingerprint of the {what} of batch {number}"
                raise self._refused(key, *digests)

    def _refused(self, key: str, before: str, now: str) -> ValueError:
        return ValueError(
            f"Expected checkpoint {str(self._path)!r} to belong to this comparison, "
            f"but its {key} is {before}, and this one has {now}. {WAY_OUT}"
        )


def layers_of(path: atomic.PathLike) -> tuple[list[str], list[str]] | None:
    """The layers of both models in a checkpoint; None if there is none."""
    if not Path(path).exists():
        return None
    facts = files.read(path, FORMAT, saved_run.check, saved_run.check_values)[1]
    settings = facts["settings"]
    return settings["layers1"], settings["layers2"]
