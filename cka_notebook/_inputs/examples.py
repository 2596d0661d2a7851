"""How many examples a batch has, on which axis, and a batch of only the first few."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pad_packed_sequence,
)

from .nested import (
    as_mapping,
    attributes,
    list_length,
    mapped,
    tensors,
)

MIN_LIST = 4
"""Shorter lists are taken for several inputs, rather than for examples."""


def input_axis(model: nn.Module) -> int:
    """Batch axis of the model's inputs: 1 where torch documents (L, N, E)."""
    if isinstance(model, nn.RNNBase | nn.MultiheadAttention | nn.Transformer):
        return 0 if model.batch_first else 1
    if isinstance(model, nn.TransformerEncoder | nn.TransformerDecoder):
        model = model.layers[0]
    if isinstance(model, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        return 0 if model.self_attn.batch_first else 1
    return 0


def count_items(batch: Any) -> int | None:
    """Number of examples of a batch without tensors, such as texts; None if unknown."""
    is_sized = not isinstance(batch, str | bytes | Mapping | Sequence)
    own = len(batch) if is_sized and hasattr(batch, "__len__") else None
    return list_length(batch) or own or None


def count_attributes(batch: Any, axis: int) -> int | None:
    """Number of examples of an object, if all its tensors agree on it."""
    sizes = set(sizes_of(attributes(batch), axis).values())
    return sizes.pop() if len(sizes) == 1 else None


def sizes_of(values: Any, axis: int) -> dict[str, int]:
    """How many examples each part of a nested value could have, by its name.

    Args:
        values: What a model is called with, or a batch.
        axis: Batch axis of the tensors.

    Example:
        >>> sizes_of({"ids": np.zeros((8, 5)), "words": [{"a": 1}] * 8}, 0)
        {'ids': 8, 'words': 8}
    """
    if is_list_of_images(values) or is_list_of_dicts(values):
        return {"the list": len(values)}
    found = dict(_sizes(values, axis, ""))
    # Sizes of 1 are broadcast, such as one time step for all examples.
    return {name: size for name, size in found.items() if size > 1} or found


def index_sizes(values: Any) -> dict[str, int]:
    """Numbers of groups, from tensors that give the group of each row or its start.

    Graph libraries put the nodes of all graphs into one tensor, beside the number of
    each node's graph, or where each graph begins.
    """
    found = {}
    for name, tensor in _named_tensors(values, ""):
        is_index = tensor.ndim == 1 and len(tensor) > 1 and not tensor.is_complex()
        if is_index and not tensor.is_floating_point() and int(tensor[0]) == 0:
            steps = tensor.long().diff()
            if bool((steps >= 0).all()):
                found[f"{name} (its maximum + 1)"] = int(tensor[-1]) + 1
            if bool((steps > 0).all()):
                found[f"{name} (its length - 1)"] = len(steps)
    return found


def list_sizes(values: Any) -> dict[str, int]:
    """Lengths of lists of tensors, each of which may be an example, such as a bag."""
    return dict(_list_sizes(values, ""))


def chosen_examples(
    value: Any,
    rows: Sequence[int],
    *,
    examples: int,
    axes: Sequence[int],
    grouped: bool = False,
) -> Any:
    """A nested value with copies of these examples of everything that has all of them.

    Args:
        value: Tensors, lists, arrays and packed sequences, nested in any way.
        rows: Which examples, in this order.
        examples: How many there are.
        axes: Batch axis of the tensors, and another one for those that do not have it.
        grouped: Whether tensors may have several rows for each example.

    Raises:
        ValueError: If a list could be one of the examples or one of inputs.
    """

    def pick(tensor: Tensor) -> Tensor:
        axis, each = _rows_each(tensor, examples, axes, grouped)
        if not each:
            return tensor
        if tensor.is_nested:
            items = [tensor.unbind()[row] for row in rows]
            return torch.nested.as_nested_tensor(items, layout=tensor.layout)
        places = [row * each + i for row in rows for i in range(each)]
        index = torch.tensor(places, device="cpu").to(tensor.device)
        picked = tensor.index_select(axis, index)
        return picked.coalesce() if tensor.layout == torch.sparse_coo else picked

    def pick_items(items: Any) -> Any:
        if isinstance(items, PackedSequence):
            return _pick_packed(items, rows, examples)
        if len(items) != examples:
            return None
        found = [_rows_each(x, examples, axes, grouped)[1] for x in tensors(items)]
        if any(found) and not (is_list_of_dicts(items) or is_ragged(items)):
            if all(found) and examples > MIN_LIST and _are_alike(items):
                msg = f"Each of {examples} tensors has {examples} rows."
                raise ValueError(msg)
            return None
        if isinstance(items, np.ndarray):
            return items[list(rows)]
        return type(items)(items[i] for i in rows)

    return mapped(value, pick, pick_items)


def _rows_each(
    tensor: Tensor, examples: int, axes: Sequence[int], grouped: bool
) -> tuple[int, int]:
    """The batch axis of a tensor and its rows for each example, 0 if there are none."""
    sizes = [size_of(tensor, axis) for axis in axes]
    if examples in sizes:
        return axes[sizes.index(examples)], 1
    whole = grouped and sizes[0] % examples == 0
    return axes[0], sizes[0] // examples if whole else 0


def size_of(tensor: Tensor | np.ndarray, axis: int) -> int:
    """Size of an axis; 0 if there is none."""
    if isinstance(tensor, Tensor) and tensor.is_nested:
        return 0 if axis else tensor.size(0)
    return tensor.shape[axis] if tensor.ndim > axis else 0


def _are_alike(items: Any) -> bool:
    """Whether these are tensors of one type and shape, with features."""
    is_list = isinstance(items, list | tuple)
    if not is_list or not all(isinstance(x, Tensor) and x.ndim > 1 for x in items):
        return False
    return len({(x.dtype, x.shape) for x in items}) == 1


def _pick_packed(
    items: PackedSequence, rows: Sequence[int], examples: int
) -> PackedSequence:
    padded, lengths = pad_packed_sequence(items, batch_first=True)
    if len(lengths) != examples:
        return items
    chosen = padded[list(rows)], lengths[list(rows)]
    return pack_padded_sequence(*chosen, batch_first=True, enforce_sorted=False)


def is_list_of_images(value: Any) -> bool:
    """Whether this is a list of images (channels, h, w), as detectors take them."""
    is_list = isinstance(value, list | tuple) and bool(value)
    return is_list and all(map(_is_image, value))


def is_list_of_dicts(value: Any) -> bool:
    """Whether this is a list of examples that were not collated: dicts of one kind."""
    if not isinstance(value, list | tuple) or len(value) < MIN_LIST:
        return False
    items = [as_mapping(item) for item in value]
    are_dicts = all(isinstance(item, Mapping) for item in items)
    return are_dicts and all(set(item) == set(items[0]) for item in items)


def is_ragged(value: Any) -> bool:
    """Whether this is a list of examples of many sizes, rather than one of inputs.

    Bags have other numbers of rows of the same features; signals and images have as
    many channels, and other lengths.
    """
    if not isinstance(value, list | tuple) or len(value) < MIN_LIST:
        return False
    if not all(isinstance(x, Tensor) and x.ndim > 1 for x in value):
        return False
    shapes = {tuple(x.shape) for x in value}
    if len(shapes) == 1 or len({(x.dtype, x.ndim) for x in value}) > 1:
        return False
    same_features = len({shape[1:] for shape in shapes}) == 1
    same_channels = len({shape[0] for shape in shapes}) == 1 and value[0].ndim == 3
    return same_features or same_channels


def _sizes(value: Any, axis: int, name: str) -> Iterator[tuple[str, int]]:
    """Names and sizes of all parts of a nested value."""
    value = as_mapping(value)
    if isinstance(value, PackedSequence):
        yield name or "the input", int(value.batch_sizes[0])
    elif isinstance(value, Tensor | np.ndarray):
        if value.ndim > axis and not (axis and getattr(value, "is_nested", False)):
            yield name or "the input", size_of(value, axis)
    elif name and _has_item_per_example(value):
        yield name, len(value)
    else:
        for key, item in _parts(value, name):
            yield from _sizes(item, axis, key)


def _list_sizes(value: Any, name: str) -> Iterator[tuple[str, int]]:
    value = as_mapping(value)
    is_long = isinstance(value, list | tuple) and len(value) >= MIN_LIST
    if is_long and all(isinstance(item, Tensor) for item in value):
        yield f"{name or 'the list'} (its length)", len(value)
    for key, item in _parts(value, name):
        yield from _list_sizes(item, key)


def _named_tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    value = as_mapping(value)
    if isinstance(value, Tensor):
        yield name, value
    else:
        for key, item in _parts(value, name):
            yield from _named_tensors(item, key)


def _parts(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Items of a container with their names in messages."""
    if isinstance(value, Mapping):
        yield from (
            (f"{name}.{key}" if name else str(key), value[key]) for key in value
        )
    elif isinstance(value, list | tuple):
        yield from ((f"{name}[{i}]", item) for i, item in enumerate(value))


def _has_item_per_example(value: Any) -> bool:
    """Whether a list has one item for each example, rather than one for each input."""
    if not isinstance(value, list | tuple) or len(value) < 2:
        return is_list_of_images(value)
    if all(isinstance(item, Tensor) and item.ndim for item in value):
        is_of_sizes = len({size_of(item, 0) for item in value}) > 1
        return is_of_sizes or is_ragged(value) or is_list_of_images(value)
    return all(isinstance(as_mapping(item), Mapping) for item in value)


def _is_image(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 3 and value.shape[0] in (1, 3)
