"""A run's sums on disk, from which a killed run continues."""

import hashlib
import time
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cka_notebook._capture.streams import RandomStreams
from cka_notebook._inputs.nested import tensors
from cka_notebook._models.offloading import offloaded
from cka_notebook._results import files

from .state import RunState

FORMAT = "cka_notebook.checkpoint/2"
SECONDS = 30.0
"""Time between two writes, and so the work that a kill can lose."""


class Checkpoint:
    """The file of one run: read before it starts, written while it runs.

    A later run must have the same `settings`: layers, models and their weights, loader
    and first batch. The file also holds the random streams, so a shuffling loader
    yields the same batches again; those already done are skipped.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If its folder does not exist.
        ValueError: If it is not a checkpoint.
    """

    def __init__(self, path: files.PathLike) -> None:
        files.check_folder(path)
        self._path = path
        self._written_at = time.monotonic()
        self._start: dict[str, Tensor] = {}
        self._done = -1
        self._tensors: dict[str, Tensor] = {}
        self._facts: dict[str, Any] = {}
        if Path(path).exists():
            self._tensors, self._facts = files.read(path, FORMAT)

    @property
    def exists(self) -> bool:
        """Whether there is a run to continue."""
        return bool(self._facts)

    def begin(self, random: RandomStreams) -> None:
        """Set the random streams to where the first run began; remember them."""
        if self.exists:
            random.load(_within(self._tensors, "start."))
        self._start = random.save()

    def resume(
        self, state: RunState, random: RandomStreams, settings: dict[str, Any]
    ) -> dict[str, Any]:
        """Load the sums; returns the ``memory`` that `save` was given.

        Raises:
            ValueError: If the file belongs to another comparison.
        """
        before = self._facts["settings"]
        differ = [key for key in settings if settings[key] != before.get(key)]
        if differ:
            key = differ[0]
            msg = (
                f"Expected checkpoint {str(self._path)!r} to belong to this "
                f"comparison, but its {key} is {before.get(key)!r}, and this one has "
                f"{settings[key]!r}. Use another path, or delete the file to start "
                "over."
            )
            raise ValueError(msg)
        state.load(_within(self._tensors, "run."), self._facts["run"])
        random.load(_within(self._tensors, "random."))
        self._done = state.done
        memory: dict[str, Any] = self._facts["memory"]
        return memory

    def save(
        self,
        state: RunState,
        random: RandomStreams,
        settings: dict[str, Any],
        memory: dict[str, Any],
        *,
        now: bool = False,
    ) -> None:
        """Write the state if it is new, when it is time or ``now``.

        Args:
            state: The state of the run.
            random: Its random streams.
            settings: What a later run must have in common with it.
            memory: What else that run needs.
            now: Do not wait until the next write is due.
        """
        is_due = time.monotonic() - self._written_at >= SECONDS
        if state.done in (0, self._done) or not (is_due or now):
            return
        tensors, facts = state.save()
        parts = {"run.": tensors, "start.": self._start, "random.": random.save()}
        named = {f"{k}{n}": t for k, part in parts.items() for n, t in part.items()}
        content = {"settings": settings, "run": facts, "memory": memory}
        files.write(self._path, FORMAT, named, content)
        self._written_at, self._done = time.monotonic(), state.done


def digest(model: nn.Module) -> str:
    """Digest of a model's parameters and buffers, offloaded ones included.

    Those of which each rank of a group has a part (`DTensor`) are left out.
    """
    every = tensors(list(model.state_dict().values()))
    present = (x for x in every if not (x.is_meta or hasattr(x, "device_mesh")))
    return digest_tensors(chain(present, offloaded(model)))


def digest_tensors(values: Iterable[Any]) -> str:
    """Digest of shapes, dtypes and bits of tensors."""
    sha = hashlib.blake2b(digest_size=16)
    for value in values:
        if isinstance(value, Tensor):
            sha.update(f"{tuple(value.shape)}{value.dtype}".encode())
            raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            sha.update(raw.numpy().tobytes())
    return sha.hexdigest()


def _within(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    size = len(prefix)
    return {k[size:]: v for k, v in tensors.items() if k.startswith(prefix)}
