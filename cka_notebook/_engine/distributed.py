"""One result from many processes: `torch.distributed` adds up their sums.

Ranks tell each other through the group's store how they fare, so that none waits for
one that will not come: an error of one rank ends all of them, and so does a rank that
was killed. Only sums go through collectives, once all ranks are ready for them.
"""

import itertools
import pickle
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from cka_notebook._messages import Note, Reason, code_of, error_text, is_grave

from .facts import not_finite
from .state import RunState

BEAT = 1.0
"""Seconds between two signs of life."""

LOST = 40.0
"""Seconds without one after which a rank counts as lost."""

GOODBYE = 5.0
"""Seconds for which a rank that ends waits until the others know, at most."""

POLL = 0.05
"""Seconds between two checks of what others have sent."""

_T = TypeVar("_T")

_numbers = itertools.count()
"""Comparisons of this process; every rank makes the same ones."""


class OtherRankError(RuntimeError):
    """Another rank ended the comparison."""


class Ranks:
    """Messages between the ranks of one comparison.

    Args:
        store: A `torch.distributed.Store`: keys and values that all ranks see.
        rank: The number of this one.
        size: How many there are.
    """

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._store = store
        self._others = [x for x in range(size) if x != rank]
        self._seen: dict[int, tuple[bytes, float]] = {}
        self._trouble = ""
        self._lost: int | None = None
        self._beats = itertools.count()
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._live, name="cka-ranks", daemon=True
        )

    def __enter__(self) -> "Ranks":
        self._thread.start()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _: object) -> None:
        if error is not None and not isinstance(error, OtherRankError):
            kind = type(error).__name__
            text = kind if error_text(error) == kind else f"{kind}: {error_text(error)}"
            self._trying(lambda: self._store.set(f"failed/{self.rank}", text))
        self._ended.set()
        self._thread.join(BEAT)
        self._trying(self._leave)

    def check(self) -> None:
        """Raise OtherRankError if another rank has failed or is lost."""
        if self._trouble:
            raise OtherRankError(self._trouble)

    def exchange(self, name: str, value: Any) -> list[Any]:
        """What each rank has sent under this name, in their order.

        Raises:
            OtherRankError: If one of them will not send anything.
        """
        own, given = pickle.dumps(value), list[Any]()
        keys = [f"{name}/{rank}" for rank in range(self.size)]

        def complete() -> bool:
            if self._store.check(keys):
                given.extend(pickle.loads(self._store.get(key)) for key in keys)
            return bool(given)

        self._trying(lambda: self._store.set(f"{name}/{self.rank}", own))
        self._until(complete)
        return given

    def add_up(self, value: Tensor) -> Tensor:
        """The sum over ranks, which all of them are about to ask for."""
        home = _device()
        total = value.to(home, copy=True)
        work = dist.all_reduce(total, async_op=True)
        self._until(work.is_completed)
        try:
            work.wait()
        except RuntimeError as error:
            msg = f"A rank was lost while the sums were added up. {error_text(error)}"
            raise OtherRankError(msg) from error
        return total

    def _until(self, condition: Callable[[], bool]) -> None:
        """Wait, as long as the others live and those that are late may come."""
        end = time.monotonic() + self._store.timeout.total_seconds()
        while not self._trying(condition):
            self.check()
            late = [rank for rank in self._others if rank not in self._seen]
            if late and time.monotonic() > end:
                msg = (
                    f"Rank {late[0]} has not begun this comparison. Every rank must "
                    "make the same calls of compare, in the same order."
                )
                raise OtherRankError(msg)
            self._ended.wait(POLL)

    def _live(self) -> None:
        """Give signs of life, and check those of the others."""
        while not (self._ended.is_set() or self._trouble):
            self._trying(self._beat)
            self._ended.wait(BEAT)

    def _leave(self) -> None:
        """Tell that this rank is done with the store, often held by the first one."""
        self._store.set(f"left/{self.rank}", "")
        keys = [f"left/{rank}" for rank in self._others if rank != self._lost]
        end = time.monotonic() + GOODBYE * (self.rank == 0)
        while time.monotonic() < end and keys and not self._store.check(keys):
            time.sleep(POLL)

    def _beat(self) -> None:
        self._store.set(f"beat/{self.rank}", str(next(self._beats)))
        for rank in self._others:
            if self._store.check([f"failed/{rank}"]):
                text = self._store.get(f"failed/{rank}").decode()
                self._trouble = f"Rank {rank} failed, and so all ranks end. {text}"
            elif self._store.check([f"beat/{rank}"]):
                self._look_at(rank, self._store.get(f"beat/{rank}"))

    def _look_at(self, rank: int, beat: bytes) -> None:
        now = time.monotonic()
        last, since = self._seen.get(rank, (b"", now))
        if beat != last:
            self._seen[rank] = beat, now
        elif now - since > LOST:
            self._lost = rank
            self._trouble = (
                f"Rank {rank} has given no sign of life for {LOST:.0f} seconds, and so "
                "all ranks end. Its process was probably killed, for example for "
                "memory."
            )

    def _trying(self, step: Callable[[], _T]) -> _T | None:
        """Use the store, which is gone if the rank that holds it has ended."""
        try:
            return step()
        except Exception as error:
            self._trouble = self._trouble or (
                "The connection to the other ranks is lost, probably because the one "
                f"that holds their store was killed. {error_text(error)}"
            )
            return None


@contextmanager
def all_ranks() -> Iterator[Ranks | None]:
    """The ranks of a comparison; None if this process is alone."""
    if not is_distributed():
        yield None
        return
    default = dist.distributed_c10d._get_default_store()  # noqa: SLF001 torch shows it nowhere else
    store = dist.distributed_c10d.PrefixStore(f"cka_notebook/{next(_numbers)}", default)
    with Ranks(store, dist.get_rank(), dist.get_world_size()) as ranks:
        yield ranks


def is_distributed() -> bool:
    """Whether this process belongs to an initialized group of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def check_settings(ranks: Ranks, settings: dict[str, Any]) -> None:
    """Refuse a comparison that is not the same on every rank.

    Raises:
        ValueError: If any of the settings differs, on all ranks.
    """
    every = ranks.exchange("settings", settings)
    for name in dict.fromkeys(chain.from_iterable(every)):
        values = [repr(each.get(name)) for each in every]
        usual = Counter(values).most_common(1)[0][0]
        odd = [rank for rank, value in enumerate(values) if value != usual]
        if odd:
            msg = (
                f"Expected the same {name} on every rank, but rank {odd[0]} has "
                f"{values[odd[0]]}, and rank {values.index(usual)} has {usual}."
                f"{REMEDIES.get(name.rstrip('12'), '')}"
            )
            raise ValueError(msg)


REMEDIES = {
    "layers": " Choose them by name with model1_layers and model2_layers.",
    "model": (
        " These are digests of its weights and code: load the same weights on every "
        "rank, or set the same seed before making it."
    ),
}


def merge_ranks(ranks: Ranks, state: RunState) -> None:
    """Give every rank the state of all of them together.

    Raises:
        OtherRankError: If one of them has failed.
    """
    tensors, facts = state.save()
    bad = [tensors.pop(f"bad{number}").cpu() for number, _ in enumerate(state.axes)]
    facts["bad"] = [values.tolist() for values in bad]
    facts |= {"notes": state.local_notes(), "sizes vary": state.sizes_vary}
    every = ranks.exchange("facts", facts)
    merged = {name: ranks.add_up(value) for name, value in tensors.items()}
    for number, values in enumerate(bad):
        merged[f"bad{number}"] = torch.full_like(values, -1)  # They are problems now.
    state.load(merged, _together(every))
    state.notes[:] = _all_notes([each["notes"] for each in every])
    state.sizes_vary = any(each["sizes vary"] for each in every)
    state.provenance["ranks"] = ranks.size


def _together(every: list[dict[str, Any]]) -> dict[str, Any]:
    """The facts of all ranks as those of one run."""
    counts = {
        key: sum(each[key] for each in every)
        for key in ("batches", "skipped", "examples")
    }
    axes = range(len(every[0]["problems"]))
    return counts | {"problems": [_problems(every, axis) for axis in axes]}


def _problems(every: list[dict[str, Any]], axis: int) -> dict[str, str]:
    """Why layers are undefined, by row; the first rank with a problem names it."""
    found: dict[str, str] = {}
    for rank, facts in enumerate(every):
        own = dict(facts["problems"][axis])
        for row, batch in enumerate(facts["bad"][axis]):
            if batch >= 0:
                own.setdefault(str(row), not_finite(int(batch)))
        for row, reason in own.items():
            found.setdefault(row, _on_rank(reason, rank))
    return found


def _on_rank(reason: str, rank: int) -> str:
    text, code = f"{reason}, on rank {rank}", code_of(reason)
    return text if code is None else Reason(text, code)


def _all_notes(every: list[list[str]]) -> list[str]:
    """The notes of all ranks; one that only some of them have names these."""
    found: list[str] = []
    for note in dict.fromkeys(chain.from_iterable(every)):
        where = [rank for rank, notes in enumerate(every) if note in notes]
        if len(where) < len(every):
            ranks = "Rank" if len(where) == 1 else "Ranks"
            numbers = ", ".join(map(str, where))
            found.append(Note(f"{ranks} {numbers}: {note}", grave=is_grave(note)))
        else:
            found.append(note)
    return found


def _device() -> torch.device:
    """The device on which the group's backend expects tensors."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
