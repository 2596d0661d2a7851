"""Nested values such as batches: tensors and lists in dicts, tuples, dataclasses."""

import copy
import dataclasses
from collections import UserDict, UserList, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from types import (
    BuiltinFunctionType,
    FunctionType,
    MethodType,
    ModuleType,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from cka_notebook._messages import with_article

CODE = (type, ModuleType, nn.Module, FunctionType, MethodType, BuiltinFunctionType)
"""Has attributes but is not data. Batches of graphs may be callable."""

CONTAINERS = (list, dict, set, deque, bytearray, UserDict, UserList)
"""Types that are always copied, as arrays and dataclasses are."""

MAX_OBJECTS = 1000
"""Objects without numbers, such as tokenizers, are searched no further than this."""


def move(value: Any, device: torch.device) -> Any:
    """The same nested value with its tensors on ``device``; itself if they all are."""
    if all(tensor.device == device for tensor in tensors(value)):
        return value

    def move_packed(items: Any) -> Any:
        # The lengths of a packed sequence have to stay on the CPU.
        is_packed = isinstance(items, PackedSequence)
        return items.to(device) if is_packed else None

    # On the way to a CPU torch would return before the copy is complete.
    is_async = device.type == "cuda"
    return mapped(
        value, lambda tensor: tensor.to(device, non_blocking=is_async), move_packed
    )


def private(value: Any) -> Any:
    """A copy of a nested value, for code that may change what it is given.

    Tensors, arrays and containers are copied, and so are dataclasses, and other objects
    that hold tensors or arrays, by their attributes. Anything else is shared, since a
    batch may also hold images, tokenizers or open files. What occurs twice in the value
    occurs twice in the copy.
    """
    return _private(value, {})


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in a nested value."""
    value = as_mapping(value)
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)


def describe(value: Any) -> str:
    """A short description of a value, for messages."""
    if isinstance(value, Tensor):
        nested = value.is_nested and value.layout == torch.strided  # has no shape
        return f"a tensor of shape {'(n, ...)' if nested else tuple(value.shape)}"
    if isinstance(value, Mapping):
        keys = f" with keys {list(value)}"
        return with_article(type(value).__name__) + keys if value else "an empty dict"
    if isinstance(value, list | tuple) and not value:
        return f"an empty {type(value).__name__}"
    if isinstance(value, list | tuple):
        kinds = ", ".join(type(item).__name__ for item in value[:4])
        return f"a {type(value).__name__} of {len(value)} ({kinds})"
    return with_article(type(value).__name__)


def as_mapping(batch: Any) -> Any:
    """Dataclasses and dict-likes (BatchEncoding) as mappings, the rest unchanged."""
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type | Mapping):
        names = [item.name for item in dataclasses.fields(batch)]
        return {name: getattr(batch, name) for name in names}
    if not isinstance(batch, Mapping) and hasattr(batch, "keys"):
        return {key: batch[key] for key in batch.keys()}  # noqa: SIM118 only keys() is promised
    return batch


def attributes(value: Any) -> dict[str, Any]:
    """Attributes of an object, those in slots included; none of a module or class."""
    if isinstance(value, (*CODE, partial)):
        return {}
    slots = (getattr(kind, "__slots__", ()) for kind in type(value).__mro__)
    names = [n for own in slots for n in ([own] if isinstance(own, str) else own)]
    found = {name: getattr(value, name) for name in names if hasattr(value, name)}
    return found | getattr(value, "__dict__", {})


def mapped(
    value: Any,
    change: Callable[[Tensor], Tensor],
    other: Callable[[Any], Any] | None = None,
) -> Any:
    """The same nested value with each tensor changed.

    Args:
        value: Dicts, lists, tuples, dataclasses; anything else stays as it is.
        change: Applied to each tensor.
        other: Applied to each list, tuple and array; returns None for those whose items
            are to be changed instead.
    """
    if isinstance(value, Tensor):
        return change(value)
    if other is not None and isinstance(value, list | tuple | np.ndarray):
        changed = other(value)
        if changed is not None:
            return changed
    if isinstance(value, list | tuple):
        items = [mapped(item, change, other) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    by_key = as_mapping(value)
    if isinstance(by_key, Mapping):
        new = {key: mapped(item, change, other) for key, item in by_key.items()}
        return _rebuilt(value, new)
    return value


def _private(value: Any, copies: dict[int, Any]) -> Any:
    """A copy; ``copies`` has those that exist, by the identity of the original."""
    if id(value) in copies:
        return copies[id(value)]
    if isinstance(value, tuple):
        items = [_private(item, copies) for item in value]
        is_named = hasattr(value, "_fields")
        return type(value)(*items) if is_named else type(value)(items)
    if isinstance(value, Tensor):
        # Its own elements only: the base of a view may be a whole data set.
        copies[id(value)] = value.detach().clone().requires_grad_(value.requires_grad)
    elif isinstance(value, np.ndarray):
        copies[id(value)] = new = value.copy()
        for index in np.ndindex(value.shape) if value.dtype == object else ():
            new[index] = _private(value[index], copies)
    elif _is_container(value) or _holds_numbers(value, set()):
        _copy_object(value, copies)
    return copies.get(id(value), value)


def _is_container(value: Any) -> bool:
    is_data = dataclasses.is_dataclass(value) and not isinstance(value, type)
    return is_data or isinstance(value, CONTAINERS)


def _copy_object(value: Any, copies: dict[int, Any]) -> None:
    """Copy an object with its items and its attributes, if it can be copied."""
    try:
        new = copy.copy(value)
    except Exception:  # its class does not allow it
        return
    copies[id(value)] = new  # before its parts, which may refer to it
    if isinstance(new, list | deque):
        for place, item in enumerate(value):
            new[place] = _private(item, copies)
    if isinstance(new, dict):
        for key, item in value.items():
            new[key] = _private(item, copies)
    for name, item in attributes(new).items():
        # Not by its class, which may be frozen.
        object.__setattr__(new, name, _private(item, copies))


def _holds_numbers(value: Any, seen: set[int]) -> bool:
    """Whether there is a tensor or array at any depth of an object."""
    if isinstance(value, Tensor | np.ndarray):
        return True
    if id(value) in seen or len(seen) > MAX_OBJECTS or isinstance(value, str | bytes):
        return False
    seen.add(id(value))
    items = [*attributes(value).values()]
    items += islice(value.values(), MAX_OBJECTS) if isinstance(value, dict) else ()
    items += value[:MAX_OBJECTS] if isinstance(value, list | tuple) else ()
    return any(_holds_numbers(item, seen) for item in items)


def _rebuilt(value: Any, items: dict[str, Any]) -> Any:
    """A copy of this mapping or dataclass with these items; else a plain dict."""
    if type(value) is dict:
        return items
    try:
        if dataclasses.is_dataclass(value) and not isinstance(value, Mapping | type):
            return dataclasses.replace(value, **items)
        new = copy.copy(value)
        for name, item in attributes(new).items():
            if isinstance(item, dict):  # such as the one in which it has its items
                object.__setattr__(new, name, item.copy())
        for key, item in items.items():
            new[key] = item
    except Exception:  # the class cannot be rebuilt from its items
        return items
    return new


def _is_plain_list(value: Any) -> bool:
    """Whether this is a list or array of examples that are not tensors."""
    is_list = isinstance(value, list | tuple) and not hasattr(value, "_fields")
    is_array = isinstance(value, np.ndarray) and value.ndim > 0
    return is_array or (is_list and not has_tensor(value) and not _has_list(value))


def _has_list(value: Sequence[Any]) -> bool:
    return any(isinstance(item, list | tuple | np.ndarray) for item in value)


def list_length(value: Any) -> int | None:
    """Length of the first list of examples that are not tensors, or None."""
    if _is_plain_list(value):
        return len(value) or None
    value = as_mapping(value)
    items = value.values() if isinstance(value, Mapping) else value
    if not isinstance(value, Mapping | list | tuple):
        return None
    lengths = (list_length(item) for item in items)
    return next((length for length in lengths if length is not None), None)


def has_tensor(value: Any) -> bool:
    """Whether there is a tensor in a nested value."""
    return next(tensors(value), None) is not None
