"""Selects the tensor to compare in a module's output, and brings it to ``(n, p)``."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cka_notebook._messages import Reason
from cka_notebook._models.nodes import Output

OUTPUT_KEYS = ("last_hidden_state", "logits")
"""Keys of Hugging Face outputs that hold what the next layer receives."""

EMPTY = Reason("empty output", "no_tensor")


def tensor_of(output: Any) -> Tensor | Reason:
    """The tensor to compare in a module's output, or why there is none."""
    if isinstance(output, Tensor):
        return _usable(output)
    if output is None:
        return Reason("no output", "no_tensor")
    if isinstance(output, Mapping):
        first = [output[key] for key in OUTPUT_KEYS if output.get(key) is not None]
        items = [*first, *output.values()]
    elif isinstance(output, list | tuple):
        items = list(output)
    else:
        return Reason(f"output of type {type(output).__name__}", "no_tensor")
    found = [tensor_of(item) for item in items]
    tensor = next((item for item in found if isinstance(item, Tensor)), None)
    reasons = [item for item in found if isinstance(item, Reason)]
    return tensor if tensor is not None else (reasons or [EMPTY])[0]


def batch_first(activations: Tensor, output: Output) -> Tensor:
    """Activations as (n, ...), with the batch axis first."""
    rows = activations.movedim(output.axis, 0) if output.axis else activations
    if output.groups > 1 and len(rows) % output.groups == 0:
        rows = rows.reshape(-1, output.groups, *rows.shape[1:])
    return rows.unsqueeze(1) if rows.ndim == 1 else rows


def as_rows(features: Tensor) -> Tensor:
    """Features as (n, p), in memory order if that saves a copy.

    The order of the columns does not change the Gram matrix.
    """
    if features.ndim == 4 and features.is_contiguous(memory_format=torch.channels_last):
        features = features.permute(0, 2, 3, 1)
    return features.flatten(1)


def _usable(tensor: Tensor) -> Tensor | Reason:
    if tensor.layout != torch.strided or tensor.is_nested:
        return Reason("sparse or nested output", "no_tensor")
    if tensor.is_complex():
        return Reason("complex output", "no_tensor")
    if not tensor.is_floating_point():
        return Reason("integer output", "no_tensor")
    if not tensor.ndim:
        return Reason("scalar output", "no_tensor")
    return tensor
