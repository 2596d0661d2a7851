"""What a run will take: memory, by what it holds, and time, by what its probe took."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cka_notebook._grams.buffer import buffer_bytes

FLOAT64 = 8

SLOW_CALL = 3e-4
"""Seconds. Below, calling a module costs as much as its work on two examples, and the
time of a batch cannot be told from it."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a forward pass of the probe took.

    Attributes:
        examples: Examples that went through.
        calls: Modules that were called.
        seconds: Its time.
    """

    examples: int
    calls: int
    seconds: float

    def of_batch(self, examples: int) -> float | None:
        """Seconds for a batch of so many examples, or None if they cannot be told."""
        if examples > self.examples and self.seconds < SLOW_CALL * self.calls:
            return None
        return self.seconds * examples / self.examples


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will take.

    Memory is that of one batch's packed Gram matrices, of those that are not packed
    yet, and of the running sums: all that grows with the layers chosen. The models,
    their activations, and the pieces in which features are multiplied come on top.
    Time is that of the forward passes and of loading the batches, without the Gram
    matrices.

    Attributes:
        layers: Layers whose Gram matrices are held at once.
        examples: Examples in a batch.
        nbytes: Memory, see above.
        seconds: Time, see above; None if unknown.
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
        *,
        on_cpu: bool,
    ) -> "Estimate":
        """Of so many layers of both models, and of a grid of pairs."""
        rows, columns = grid
        grams = buffer_bytes(examples, layers, on_cpu=on_cpu)
        sums = 5 * rows * columns + 2 * (rows + columns)
        return cls(layers, examples, grams + FLOAT64 * sums)

    def with_time(
        self, batches: int | None, loading: float, passes: Sequence[Timing]
    ) -> "Estimate":
        """The same with the time of so many batches, if it can be told.

        Args:
            batches: How many, or None if unknown.
            loading: Seconds that loading one took.
            passes: The probe's forward pass of each model.
        """
        times = [timing.of_batch(self.examples) for timing in passes]
        known = [time for time in times if time is not None]
        if batches is None or not times or len(known) < len(times):
            return self
        return replace(self, seconds=batches * (loading + sum(known)))

    def __str__(self) -> str:
        """In words.

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
    """A number of bytes in words.

    Example:
        >>> size(400_000), size(12_300_000), size(1_100_000_000)
        ('0.4 MB', '12 MB', '1.1 GB')
    """
    unit, name = (1e9, "GB") if nbytes >= 999.5e6 else (1e6, "MB")
    number = max(nbytes / unit, 0.1)
    return f"{number:.0f} {name}" if number >= 9.95 else f"{number:.1f} {name}"
