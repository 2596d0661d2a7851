"""The random streams of the process: torch's, numpy's and Python's.

All code shares them, so only this module sets them. A run in the main thread with
nothing beside it has them to itself: its own streams replace them while it computes,
and they are put back afterwards. Beside anybody else who may draw, a run is shared: it
draws from the global streams like any other code, and nothing is ever put back, since
that would repeat the others' numbers and undo their seeds. What takes a generator draws
from the run's own (`RandomStreams.generator`) even then.
"""

import random
import site
import sys
import sysconfig
import threading
from collections.abc import Iterable
from threading import get_ident
from types import FrameType
from typing import Any

import numpy as np
import torch

from cka_notebook._undo import Undo, undoing


class RandomStreams:
    """The random streams of one run.

    They start from the global streams, so seeding works as expected. Enter it around
    whatever draws; nested blocks cost nothing, and `lent` interrupts them.

    Args:
        devices: The devices that the models compute on.

    Attributes:
        generator: The run's own stream of torch's, for what takes a generator.
        is_shared: Whether others may draw beside the run, or could once.
    """

    def __init__(self, devices: Iterable[torch.device]) -> None:
        self.generator = torch.Generator("cpu")
        self.is_shared = not _is_alone()
        self._cuda = sorted({d.index or 0 for d in devices if d.type == "cuda"})
        self._depth = 0
        self._global: list[Any] | None = None
        self._in_place = False
        self._thread = 0
        self._continue_from(_states(self._cuda))

    def __enter__(self) -> None:
        self._depth += 1
        if self._depth == 1:
            self.take()

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.give_back()

    def take(self) -> None:
        """Start drawing. Runs in other threads are shared from now on."""
        with _lock:
            others = [run for run in _at_work if run is not self]
            for run in others:
                run.share()
            self._thread = get_ident()
            if self not in _at_work:
                _at_work.append(self)
            if others or not _is_alone():
                self.is_shared = True
            if not self.is_shared:
                if self._global is None:
                    self._global = _states(self._cuda)
                _set(self._own, self._cuda)
                self._in_place = True

    def give_back(self) -> None:
        """Stop drawing; the global streams are those of the user again.

        Call it once more in any case, before `take` if possible: an interrupt may
        strike in the middle of either.
        """
        with _lock:
            self._note_own()
            self._restore()
            if self in _at_work:
                _at_work.remove(self)

    def share(self) -> None:
        """Draw from the user's streams from now on, because others may draw too."""
        with _lock:
            self.is_shared = True
            self._restore()

    def save(self) -> dict[str, torch.Tensor]:
        """The run's own streams, as tensors."""
        with _lock:
            self._note_own(in_place=self._in_place)
        version, words, gauss = self._own[0]
        name, keys, position, has_gauss, cached = self._own[1]
        del version, name  # There is only one kind of each.
        own = self._own[2:]
        if self.is_shared:
            own[0] = self.generator.get_state()
        return {
            "python": torch.tensor(words, device="cpu"),
            "python_gauss": _numbers([float("nan") if gauss is None else gauss])[0],
            "numpy": torch.from_numpy(keys.astype(np.int64)),
            "numpy_rest": _numbers([position, has_gauss, cached]),
            **{f"torch{i}": state for i, state in enumerate(own)},
        }

    def load(self, saved: dict[str, torch.Tensor]) -> None:
        """Continue from streams that `save` gave."""
        gauss = float(saved["python_gauss"])
        python = 3, tuple(saved["python"].tolist()), None if gauss != gauss else gauss  # noqa: PLR0124 NaN
        position, has_gauss, cached = saved["numpy_rest"].tolist()
        keys = saved["numpy"].numpy().astype(np.uint32)
        state = "MT19937", keys, int(position), int(has_gauss), cached
        torches = self._own[2:]
        torches = [saved.get(f"torch{i}", now) for i, now in enumerate(torches)]
        self._continue_from([python, state, *torches])

    def _continue_from(self, states: list[Any]) -> None:
        with _lock:
            self._own = states
            self.generator.set_state(states[2])
            if self._in_place:
                _set(states, self._cuda)

    def _note_own(self, *, in_place: bool = False) -> None:
        """Remember where the run's own streams are, if these are the global ones."""
        if self._in_place:
            self._own, self._in_place = _states(self._cuda), in_place

    def _restore(self) -> None:
        if self._global is not None:
            _set(self._global, self._cuda)
            self._global, self._in_place = None, False


_at_work: list[RandomStreams] = []
"""Runs that may be drawing now."""

_lock = threading.RLock()
"""Held while the global streams are set, and while `_at_work` changes."""


@undoing
def lent(undo: Undo) -> None:
    """The user's random streams, while the user's code runs between two batches."""
    own = _here()
    if own is not None and not own.is_shared:
        undo.add(own.take)
        own.give_back()


@undoing
def idle(undo: Undo) -> None:
    """For waiting: the run of this thread draws nothing, so others have the streams."""
    own = _here()
    if own is not None:
        undo.add(own.take)
        own.give_back()


class Rewinding:
    """Repeats random numbers: the streams as they are now, to be put back later.

    In a shared run they stay where they are, and so each pass draws other numbers.

    Args:
        devices: Devices whose streams count too.
    """

    def __init__(self, devices: Iterable[torch.device]) -> None:
        self._cuda = sorted({d.index or 0 for d in devices if d.type == "cuda"})
        self._states = _states(self._cuda)

    @property
    def drew(self) -> bool:
        """Whether anybody has drawn random numbers since."""
        return not all(map(_same, self._states, _states(self._cuda)))

    def rewind(self) -> None:
        """Put the streams back."""
        with _lock:
            if _may_set():
                _set(self._states, self._cuda)

    def seed(self, number: int) -> None:
        """Seed them with this number, until they are put back."""
        with _lock:
            if _may_set():
                random.seed(number)
                np.random.seed(number % 2**32)  # noqa: NPY002 as below
                torch.default_generator.manual_seed(number)
                for index in self._cuda:
                    torch.cuda.default_generators[index].manual_seed(number)

    def skip(self) -> None:
        """Move on from there, so that other numbers are drawn."""
        self.rewind()
        if _may_set():
            torch.rand(997, device="cpu")


@undoing
def seeded(undo: Undo, number: int, devices: Iterable[torch.device]) -> None:
    """Random streams seeded here; those outside of the block do not move.

    Not in a shared run.

    Args:
        undo: Restores these.
        number: Where to begin.
        devices: Devices whose streams count too.
    """
    outside = Rewinding(devices)
    undo.add(outside.rewind)
    outside.seed(number)


def _may_set() -> bool:
    """Whether this thread may set the global streams: it is in no shared run."""
    own = _here()
    return own is None or not own.is_shared


def _here() -> RandomStreams | None:
    """The run at work in this thread."""
    with _lock:
        mine = [run for run in _at_work if run._thread == get_ident()]  # noqa: SLF001 this module's
        return mine[-1] if mine else None


def _is_alone() -> bool:
    """Whether this is the main thread, and no other one is in code of the user's.

    Threads of a kernel, a progress bar or a logger run libraries alone and do not
    count: there are always some in a notebook.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    frames = sys._current_frames()  # noqa: SLF001 documented, for purposes such as this
    return not any(_is_users(f) for i, f in frames.items() if i != get_ident())


def _is_users(frame: FrameType | None) -> bool:
    """Whether any code on the stack is neither a library's nor this package's."""
    while frame is not None:
        name = str(frame.f_globals.get("__name__"))
        file = frame.f_code.co_filename
        is_library = file.startswith(_LIBRARIES) or name.startswith(_PACKAGE)
        if name == "__main__" or not is_library:
            return True
        frame = frame.f_back
    return False


_PACKAGE = f"{__name__.split('.', maxsplit=1)[0]}."
_PATHS = "stdlib", "platstdlib", "purelib", "platlib"
_LIBRARIES = (
    *(sysconfig.get_paths()[name] for name in _PATHS),
    *site.getsitepackages(),
    site.getusersitepackages(),
    "<",  # Generated code, as of dataclasses, or frozen, as of importlib.
)


def _states(cuda: list[int]) -> list[Any]:
    own = np.random.get_state()  # noqa: NPY002 the global stream, which transforms use
    on_gpus = [torch.cuda.get_rng_state(index) for index in cuda]
    return [random.getstate(), own, torch.get_rng_state(), *on_gpus]


def _set(states: list[Any], cuda: list[int]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002 as above
    torch.set_rng_state(states[2])
    for index, state in zip(cuda, states[3:], strict=True):
        torch.cuda.set_rng_state(state, index)


def _same(one: Any, other: Any) -> bool:
    """Whether two states of a random stream are the same."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other))
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _numbers(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, device="cpu")
