"""From loaders to pairs of batches, each loader iterated once."""

import itertools
import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.utils.data import RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from cka_notebook._messages import counted

from .nested import tensors

SHUFFLING = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
"""Samplers that draw examples in random order."""


def check_loaders(
    loader: Iterable[Any],
    loader2: Iterable[Any] | None,
    paired: bool,
    max_batches: int | None,
) -> None:
    """Check the loaders before any batch is taken.

    Raises:
        TypeError: If one of them is no iterable of batches.
        ValueError: If `max_batches` is below 1, or if two loaders that should be paired
            differ in length or shuffle.
    """
    if max_batches is not None and max_batches < 1:
        msg = f"Expected `max_batches` to be at least 1, got {max_batches!r}."
        raise ValueError(msg)
    _check_loader(loader, "loader")
    if loader2 is not None:
        _check_loader(loader2, "loader2")
        if paired:
            _check_pair(loader, loader2)


def _check_pair(loader: Iterable[Any], loader2: Iterable[Any]) -> None:
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
                "Expected paired loaders in the same order, but "
                f"`{argument}` shuffles. Pass shuffle=False to both, or paired=False "
                "if they hold different examples."
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
    end = object()
    for number in itertools.count():
        batch1, batch2 = next(first, end), next(second, end)
        if paired and (batch1 is end) != (batch2 is end):
            raise _ended_early("loader" if batch1 is end else "loader2", number)
        if batch1 is end or batch2 is end:
            return
        yield batch1, batch2


def _ended_early(argument: str, number: int) -> ValueError:
    return ValueError(
        f"Expected paired loaders of equal length, but `{argument}` ended after "
        f"{number} batches. Pass paired=False if they hold different examples."
    )


def loader_facts(loader: Iterable[Any]) -> dict[str, Any]:
    """Facts about a loader, for the record of a result."""
    dataset = getattr(loader, "dataset", None)
    return {
        "class": type(loader).__name__,
        "dataset": type(dataset).__name__ if dataset is not None else "",
        "batches": length(loader),
        "batch_size": batch_size(loader),
        "shuffled": shuffles(loader),
    }


def batch_size(loader: Iterable[Any]) -> int | None:
    """The batch size that a loader states, whatever kind of integer it is, or None."""
    try:
        return operator.index(getattr(loader, "batch_size", None))  # type: ignore[arg-type]
    except TypeError:
        return None


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


def is_empty(batch: Any) -> bool:
    """Whether it is certain that a batch has no example."""
    found = list(tensors(batch))
    if found:
        return all(x.ndim and not len(x) for x in found)
    items = list(batch.values()) if isinstance(batch, Mapping) else batch
    is_list = isinstance(items, list | tuple)
    return is_list and all(isinstance(x, list | tuple) and not x for x in items)


def empty_loader(argument: str, empty: int, before: int) -> ValueError:
    """The error for a loader that yields no example.

    Args:
        argument: Which loader it is.
        empty: How many batches without an example it has yielded.
        before: How many batches earlier runs have taken from it.
    """
    if empty:
        got = f"{counted(empty, 'batch')} without any. Check its data set"
    elif before:
        got = f"none: an earlier run took {counted(before, 'batch')} from this iterator"
    else:
        got = "none. It is empty or an exhausted generator"
    return ValueError(
        f"Expected `{argument}` to yield at least one batch of examples, got {got}. "
        "Pass a DataLoader or a list, or a new generator for each run."
    )
