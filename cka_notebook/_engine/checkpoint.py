"""A run's sums on disk, so that a killed run goes on where it was."""

import hashlib
import time
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cka_notebook._inputs.nested import tensors
from cka_notebook._models.offloading import offloaded
from cka_notebook._results import files

from .borrowed import RandomStreams
from .state import RunState

FORMAT = "cka_notebook.checkpoint/2"
SECONDS = 30.0
"""Between two writes; a kill loses at most so much work."""


class Checkpoint:
    """The file of one run: read before it starts, written while it works.

    What a later run must have in common with it is its `settings`: layers, models and
    their weights, the loader, and the first batch. The random streams are kept too, so
    a shuffling loader gives the same batches again; those done are passed over.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no folder for it.
        ValueError: If it is a file of another kind.
    """

    def __init__(self, path: files.PathLike) -> None:
        files.check_folder(path)
        self._path = path
        self._written = time.monotonic()
        self._start: dict[str, Tensor] = {}
        self._done = -1
        self._tensors: dict[str, Tensor] = {}
        self._facts: dict[str, Any] = {}
        if Path(path).exists():
            self._tensors, self._facts = files.read(path, FORMAT)

    @property
    def found(self) -> bool:
        """Whether there is a run to go on with."""
        return bool(self._facts)

    def begin(self, random: RandomStreams) -> None:
        """Put the random streams where the first run began, or note where they are."""
        if self.found:
            random.load(_within(self._tensors, "start."))
        self._start = random.save()

    def resume(
        self, running: RunState, random: RandomStreams, settings: dict[str, Any]
    ) -> dict[str, Any]:
        """Take up the sums; returns what the run itself had to remember.

        Raises:
            ValueError: If the file is of another comparison.
        """
        before = self._facts["settings"]
        differ = [key for key in settings if settings[key] != before.get(key)]
        if differ:
            key = differ[0]
            msg = (
                f"Expected checkpoint {str(self._path)!r} to be of this comparison, "
                f"but its {key} was {before.get(key)!r}, now {settings[key]!r}. "
                "Use another path, or delete the file to start again."
            )
            raise ValueError(msg)
        running.load(_within(self._tensors, "run."), self._facts["run"])
        random.load(_within(self._tensors, "random."))
        self._done = running.done
        memory: dict[str, Any] = self._facts["memory"]
        return memory

    def save(
        self,
        running: RunState,
        random: RandomStreams,
        settings: dict[str, Any],
        memory: dict[str, Any],
        *,
        now: bool = False,
    ) -> None:
        """Write the state if it is time to, or ``now`` if anything is new."""
        late = time.monotonic() - self._written >= SECONDS
        if running.done in (0, self._done) or not (late or now):
            return
        tensors, facts = running.save()
        parts = {"run.": tensors, "start.": self._start, "random.": random.save()}
        named = {f"{k}{n}": t for k, part in parts.items() for n, t in part.items()}
        content = {"settings": settings, "run": facts, "memory": memory}
        files.write(self._path, FORMAT, named, content)
        self._written, self._done = time.monotonic(), running.done


def digest(model: nn.Module) -> str:
    """Digest of a model's parameters and buffers, wherever they are."""
    held = tensors(list(model.state_dict().values()))
    return digest_tensors(chain((x for x in held if not x.is_meta), offloaded(model)))


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
