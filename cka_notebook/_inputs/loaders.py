"""From loaders to pairs of batches, each loader iterated once."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.utils.data import (
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

SHUFFLING = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


def check_loaders(
    loader: Iterable[Any],
    loader2: Iterable[Any] | None,
    paired: bool,
    max_batches: int | None,
) -> None:
    """Raise for what is wrong with the loaders before any batch is taken.

    Raises:
        TypeError: If one of them is no iterable of batches.
        ValueError: If two that are said to be paired cannot be.
    """
    if max_batches is not None and max_batches < 1:
        msg = f"Expected `max_batches` to be at least 1, got {max_batches!r}."
        raise ValueError(msg)
    _check_loader(loader, "loader")
    if loader2 is None:
        return
    _check_loader(loader2, "loader2")
    if not paired:
        return
    lengths = length(loader), length(loader2)
    if None not in lengths and lengths[0] != lengths[1]:
        msg = (
            f"Expected paired loaders of equal length, got {lengths[0]} and "
            f"{lengths[1]} batches. Use the same batch_size in both, or pass "
            "paired=False if they hold different examples."
        )
        raise ValueError(msg)
    for each, argument in ((loader, "loader"), (loader2, "loader2")):
        if shuffles(each):
            msg = (
                "Expected paired loaders in the same order, got a shuffling "
                f"`{argument}`. Pass shuffle=False to both, or paired=False if they "
                "hold different examples."
            )
            raise ValueError(msg)


def batches(
    loader: Iterable[Any], loader2: Iterable[Any] | None, paired: bool
) -> Iterator[tuple[Any, Any]]:
    """Pairs of batches; each loader is iterated once."""
    first = iter(loader)
    if loader2 is None:
        return ((batch, batch) for batch in first)
    return _pairs(first, iter(loader2), paired)


def _pairs(
    first: Iterator[Any], second: Iterator[Any], paired: bool
) -> Iterator[tuple[Any, Any]]:
    ended = object()
    number = 0
    while True:
        batch1, batch2 = next(first, ended), next(second, ended)
        if batch1 is ended or batch2 is ended:
            if paired and batch1 is not batch2:
                which = "loader" if batch1 is ended else "loader2"
                msg = (
                    f"Expected paired loaders of equal length, but `{which}` ended "
                    f"after {number} batches. Pass paired=False if they hold different "
                    "examples."
                )
                raise ValueError(msg)
            return
        number += 1
        yield batch1, batch2


def loader_facts(loader: Iterable[Any]) -> dict[str, Any]:
    """What a result should tell of a loader."""
    dataset = getattr(loader, "dataset", None)
    return {
        "class": type(loader).__name__,
        "dataset": type(dataset).__name__ if dataset is not None else "",
        "batches": length(loader),
        "batch_size": getattr(loader, "batch_size", None),
        "shuffled": shuffles(loader),
    }


def shuffles(loader: Iterable[Any]) -> bool:
    """Whether the loader is known to draw its examples in random order."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    samplers = [
        getattr(loader, "sampler", None),
        getattr(batch_sampler, "sampler", None),
    ]
    return any(
        isinstance(sampler, SHUFFLING) or getattr(sampler, "shuffle", False) is True
        for sampler in samplers
    )


def length(loader: Iterable[Any]) -> int | None:
    """Number of batches, or None if the loader does not know."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None


def _check_loader(loader: Any, argument: str) -> None:
    """Raise TypeError if ``loader`` cannot be iterated, or is one batch."""
    if isinstance(loader, Tensor | Mapping | str) or not isinstance(loader, Iterable):
        msg = (
            f"Expected `{argument}` to yield batches, got a {type(loader).__name__}. "
            "Pass a DataLoader, or a list of batches."
        )
        raise TypeError(msg)


def empty_loader(argument: str) -> ValueError:
    """The error for a loader that yields nothing."""
    return ValueError(
        f"Expected `{argument}` to yield at least one batch, got none. It is empty, or "
        "a generator that was used up before: pass a DataLoader or a list, or make a "
        "new generator for each run."
    )
