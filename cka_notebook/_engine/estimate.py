"""How much memory and time a run needs, estimated from its layers and its probe."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cka_notebook._grams.buffer import buffer_bytes

FLOAT64 = 8

MEMORY = Path("/proc/meminfo")
GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
"""Where Linux tells the memory of the machine, and the limits of containers."""

SLOW_CALL = 3e-4
"""Seconds. In shorter calls the overhead outweighs the work on two examples, so they do
not predict the time of a batch."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a forward pass of the probe took.

    Attributes:
        examples: Examples in the pass.
        calls: Number of module calls.
        seconds: Duration.
    """

    examples: int
    calls: int
    seconds: float

    def of_batch(self, examples: int) -> float | None:
        """Seconds for a batch of ``examples``, or None if too uncertain."""
        if examples > self.examples and self.seconds < SLOW_CALL * self.calls:
            return None
        return self.seconds * examples / self.examples


@dataclass(frozen=True, slots=True)
class Estimate:
    """How much memory and time a run needs.

    Memory counts all that grows with the chosen layers: the Gram matrices of one batch,
    packed or not yet packed, and the running sums. Models, activations and the pieces
    in which features are multiplied come on top. Time counts forward passes and loading
    of batches, not the Gram matrices.

    Attributes:
        layers: Layers whose Gram matrices are in memory at once.
        examples: Examples in a batch.
        nbytes: Memory in bytes.
        seconds: Time; None if unknown.
    """

    layers: int
    examples: int
    nbytes: int
    seconds: float | None = None

    @classmethod
    def of_memory(
        cls,
        layers: int,
        grid: tuple[int, int],
        examples: int,
        device: torch.device,
        widest: int = 0,
    ) -> "Estimate":
        """The estimate of memory alone.

        Args:
            layers: Number of captured layers of all models.
            grid: Number of rows and columns of the matrix.
            examples: Examples in a batch.
            device: Where the Gram matrices are.
            widest: Features of the widest layer.
        """
        rows, columns = grid
        grams = buffer_bytes(examples, layers, device, widest)
        # Twice: those of the next batch are made beside those that count.
        sums = 2 * (6 * rows * columns + 2 * (rows + columns))
        return cls(layers, examples, grams + FLOAT64 * sums)

    def with_time(
        self, batches: int | None, loading: float, passes: Sequence[Timing]
    ) -> "Estimate":
        """The same with the time of the run, if it can be estimated.

        Args:
            batches: Number of batches, or None if unknown.
            loading: Seconds to load one batch.
            passes: The probe's forward pass of each model.
        """
        times = [timing.of_batch(self.examples) for timing in passes]
        known = [time for time in times if time is not None]
        if batches is None or not times or len(known) < len(times):
            return self
        return replace(self, seconds=batches * (loading + sum(known)))

    def __str__(self) -> str:
        """The estimate in words.

        Example:
            >>> str(Estimate(30, 64, 1_100_000_000, 40.0))
            'about 40 s, 1.1 GB of Gram matrices'
            >>> str(Estimate(30, 64, 400_000))
            '0.4 MB of Gram matrices'
        """
        memory = f"{size(self.nbytes)} of Gram matrices"
        return memory if self.seconds is None else f"{about(self.seconds)}, {memory}"


def about(seconds: float) -> str:
    """A duration in words.

    Example:
        >>> about(0.3), about(40), about(840), about(9000)
        ('about 1 s', 'about 40 s', 'about 14 min', 'about 2.5 h')
    """
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    minutes = seconds / 60
    return f"about {minutes:.0f} min" if minutes < 90 else f"about {minutes / 60:.1f} h"


def size(nbytes: float) -> str:
    """A number of bytes, rounded, with its unit.

    Example:
        >>> size(400_000), size(12_300_000), size(1_100_000_000)
        ('0.4 MB', '12 MB', '1.1 GB')
    """
    unit, name = (1e9, "GB") if nbytes >= 999.5e6 else (1e6, "MB")
    number = max(nbytes / unit, 0.1)
    return f"{number:.0f} {name}" if number >= 9.95 else f"{number:.1f} {name}"


def free_bytes(device: torch.device | None) -> int | None:
    """Free memory of a device in bytes, None if unknown.

    Args:
        device: None means the CPU, where a container may have less than its machine.
    """
    if device is not None and device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = [_free_of_machine(), *map(_free_of_group, _groups())]
    known = [nbytes for nbytes in free if nbytes is not None]
    return min(known, default=None)


def _free_of_machine() -> int | None:
    with contextlib.suppress(OSError, StopIteration):
        lines = MEMORY.read_text(encoding="ascii").splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        return 1024 * int(line.split()[1])
    return None


def _groups() -> list[Path]:
    """Folders of the control groups that limit this process, its own and outer ones."""
    own = [GROUPS, GROUPS / "memory"]
    with contextlib.suppress(OSError):
        for line in OWN_GROUPS.read_text(encoding="utf-8").splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds in ("", "memory"):
                root = GROUPS / kinds
                inner = root / path.lstrip("/")
                own += [x for x in (inner, *inner.parents) if x.is_relative_to(root)]
    return own


def _free_of_group(folder: Path) -> int | None:
    """Memory that a control group of version 2 or 1 has left; None without a limit."""
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file "),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "),
    ):
        with contextlib.suppress(OSError, ValueError):  # "max" is no limit
            free = int((folder / limit).read_text()) - int((folder / used).read_text())
            return max(0, free + _reclaimable(folder, cache))
    return None


def _reclaimable(folder: Path, name: str) -> int:
    """Memory of a group that holds files only, and is given up when needed."""
    with contextlib.suppress(OSError, ValueError):
        lines = (folder / "memory.stat").read_text().splitlines()
        return sum(int(x.removeprefix(name)) for x in lines if x.startswith(name))
    return 0
