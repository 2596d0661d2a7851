"""How many examples a batch has, on which axis, and a batch of only the first few."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .nested import as_mapping, describe, list_length, mapped, tensors


def input_axis(model: nn.Module) -> int:
    """Batch axis of the model's inputs: 1 where torch documents (L, N, E)."""
    if isinstance(model, nn.RNNBase | nn.MultiheadAttention | nn.Transformer):
        return 0 if model.batch_first else 1
    if isinstance(model, nn.TransformerEncoder | nn.TransformerDecoder):
        model = model.layers[0]
    if isinstance(model, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        return 0 if model.self_attn.batch_first else 1
    return 0


def count_examples(values: Any, axis: int) -> int | None:
    """Number of examples, by the first tensor that has the axis; None without one."""
    first = next((t for t in tensors(values) if t.ndim > axis), None)
    if first is None:
        return None
    return _count_images(values) or first.shape[axis]


def count_items(batch: Any) -> int | None:
    """Number of examples of a batch without tensors, such as texts; None if unknown."""
    is_sized = not isinstance(batch, str | bytes | Mapping | Sequence)
    own = len(batch) if is_sized and hasattr(batch, "__len__") else None
    return list_length(batch) or own or None


def first_examples(value: Any, count: int, *, examples: int, axis: int) -> Any:
    """A nested value with only the first examples of everything that has all of them.

    Args:
        value: Tensors, lists and arrays, nested in any way.
        count: How many examples to keep.
        examples: How many there are.
        axis: Batch axis of the tensors.
    """

    def has_all(tensor: Tensor) -> bool:
        return tensor.ndim > axis and tensor.shape[axis] == examples

    def cut(tensor: Tensor) -> Tensor:
        return tensor.narrow(axis, 0, count) if has_all(tensor) else tensor

    def cut_list(items: Any) -> Any:
        is_batch = len(items) == examples and not any(map(has_all, tensors(items)))
        return items[:count] if is_batch else None

    return mapped(value, cut, cut_list)


def no_examples(label: str, batch: Any, number: int) -> TypeError:
    """The error for a batch in which no examples are found.

    Args:
        label: What messages call the model.
        batch: What the loader yielded.
        number: Which batch it is, from 1.
    """
    return TypeError(
        f"Expected a batch that contains a tensor of examples for {label}, got "
        f"{describe(batch)} in batch {number}. Yield a tensor, (inputs, labels) or a "
        "dict of tensors, or pass forward=lambda model, batch: ..."
    )


def _count_images(values: Any) -> int:
    """Length of a list of images (3, h, w), as detectors take them; 0 if none."""
    values = as_mapping(values)
    if not isinstance(values, Mapping | list | tuple):
        return 0
    items = values.values() if isinstance(values, Mapping) else values
    first = next((item for item in items if isinstance(item, list | tuple)), ())
    return len(first) if all(map(_is_image, first)) else 0


def _is_image(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 3 and value.shape[0] in (1, 3)
