"""From loaders to pairs of batches, each loader iterated once."""

import copy
import itertools
import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from cka_notebook._messages import counted, with_article

from .nested import tensors

SHUFFLING = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
"""Samplers that draw examples in random order."""


SIZES = (
    "The loader cannot make one tensor of examples of different sizes. Resize or pad "
    "them, or pass it a collate_fn."
)

COLLATE_ERRORS = {
    "stack expects each tensor to be equal size": SIZES,
    "each element in list of batch should be of equal size": SIZES,
    "batch must contain tensors, numpy arrays, numbers, dicts or lists": (
        "The loader makes tensors of numbers and arrays only. Convert examples in the "
        "dataset, for instance images with a transform, leave out those that are None, "
        "or pass it a collate_fn."
    ),
}
"""Words in torch's errors about examples that make no batch, with what helps."""


def check_loaders(
    loader: Iterable[Any],
    loader2: Iterable[Any] | None,
    paired: bool,
    max_batches: int | None,
) -> None:
    """Check the loaders before any batch is taken.

    Raises:
        TypeError: If one of them is not an iterable of batches.
        ValueError: If `max_batches` is below 1, or if two loaders that should be paired
            differ in length or shuffle.
    """
    _check_number(max_batches)
    _check_loader(loader, "loader")
    if loader2 is not None:
        _check_loader(loader2, "loader2")
        if paired:
            _check_pair(loader, loader2)


def _check_number(max_batches: Any) -> None:
    if max_batches is None:
        return
    if isinstance(max_batches, bool) or not hasattr(max_batches, "__index__"):
        msg = f"Expected `max_batches` to be an integer or None, got {max_batches!r}."
        raise TypeError(msg)
    if max_batches < 1:
        msg = f"Expected `max_batches` to be at least 1, got {max_batches!r}."
        raise ValueError(msg)


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
    first = _named(iter(loader), "loader")
    if loader2 is None:
        return ((batch, batch) for batch in first)
    return _pairs(first, _named(iter(loader2), "loader2"), paired)


def _named(iterator: Iterator[Any], argument: str) -> Iterator[Any]:
    """The same batches; errors get a note that names the loader and the remedy."""
    for number in itertools.count(1):
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except Exception as error:
            error.add_note(f"`{argument}` raised this in batch {number}.")
            for words, remedy in COLLATE_ERRORS.items():
                if words in str(error):
                    error.add_note(remedy)
            raise
        yield batch


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


def drawing_from(loader: Iterable[Any], generator: torch.Generator) -> Iterable[Any]:
    """A loader whose order and workers draw from this generator.

    The user's loader is left alone: this is a copy, with the same data set. It gives
    the batches that the loader would give if the global stream were where the generator
    is. What has a generator already keeps it, and so does any other kind of loader.
    """
    if not isinstance(loader, DataLoader):
        return loader
    own: Any = object.__new__(type(loader))  # ``__init__`` may want anything.
    own.__dict__.update(loader.__dict__, _iterator=None)
    if loader.generator is None:
        own.generator = generator
    batch_sampler: Any = loader.batch_sampler
    if "sampler" in getattr(batch_sampler, "__dict__", {}):
        own.__dict__["batch_sampler"] = copy.copy(batch_sampler)
        own.batch_sampler.sampler = _drawing(batch_sampler.sampler, generator)
    own.__dict__["sampler"] = _drawing(loader.sampler, generator)
    return own  # type: ignore[no-any-return]


def _drawing(sampler: Any, generator: torch.Generator) -> Any:
    is_free = getattr(sampler, "generator", generator) is None
    return _Drawing(sampler, generator) if is_free else sampler


class _Drawing(Sampler[Any]):
    """A sampler that draws from a generator instead of the global stream."""

    def __init__(self, sampler: Sampler[Any], generator: torch.Generator) -> None:
        self._sampler = sampler
        self._generator = generator

    def __len__(self) -> int:
        return len(self._sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        sampler: Any = copy.copy(self._sampler)
        sampler.generator = self._generator
        if isinstance(sampler, RandomSampler):  # It takes only a seed from the stream.
            seed = torch.empty((), dtype=torch.int64, device="cpu")
            seed.random_(generator=self._generator)
            sampler.generator = torch.Generator("cpu").manual_seed(int(seed))
        yield from sampler


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
    is_one = isinstance(loader, Tensor | Mapping | str | np.ndarray)
    if is_one or not isinstance(loader, Iterable):
        is_data = isinstance(loader, Dataset)
        made = "DataLoader(dataset, batch_size=64)" if is_data else "a DataLoader"
        msg = (
            f"Expected `{argument}` to yield batches, got "
            f"{with_article(type(loader).__name__)}. Pass {made}, or a list of batches."
        )
        raise TypeError(msg)


def is_empty(batch: Any) -> bool:
    """Whether it is certain that a batch has no example."""
    found = list(tensors(batch))
    if found:
        return all(not x.is_nested and x.ndim and not len(x) for x in found)
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
