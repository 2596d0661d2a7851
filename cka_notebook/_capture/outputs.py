"""Finds the tensors in a module's output, and brings the chosen one to ``(n, p)``."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from cka_notebook._messages import Reason
from cka_notebook._models.nodes import Output, Path, entry_key

OUTPUT_KEYS = ("last_hidden_state", "logits")
"""Keys of Hugging Face outputs that hold what the next layer receives."""

EMPTY = Reason("empty output", "no_tensor")

OTHER_FORM = Reason(
    "several tensors, none of them where the first batch had the one to compare",
    "no_tensor",
)

MAX_DEPTH, MAX_ENTRIES = 4, 64
"""Outputs are searched this deep, and no container is searched further than this."""


def tensor_of(output: Any, path: Path | None = None) -> Tensor | Reason:
    """The tensor to compare in a module's output, or why there is none.

    Args:
        output: What the module returned.
        path: Where the probe found the tensor; None without a probe, and then the
            first comparable tensor counts. A module may return it in another way
            later, if no other one could be meant.
    """
    if isinstance(output, Tensor):
        return usable(output)
    if path and _has_entry(output, path):
        return usable(entry(output, path))
    found = [usable(value) for _, value in entries(output)]
    tensors = [item for item in found if isinstance(item, Tensor)]
    if path is not None and len(tensors) > 1:
        return OTHER_FORM
    return (tensors or found or [EMPTY])[0]


def entries(output: Any, path: Path = (), depth: int = 0) -> Iterator[tuple[Path, Any]]:
    """All tensors in an output, and what else it consists of, with their paths.

    The most likely come first: keys that Hugging Face uses, then the order of the
    output.
    """
    items = None if depth > MAX_DEPTH else _items(output)
    if items is None:
        yield path, output
        return
    for key, item in islice(items, MAX_ENTRIES):
        yield from entries(item, (*path, key), depth + 1)


def named_entry(output: Any, path: Path) -> Tensor | Reason:
    """The tensor that the user has named, or why there is none; never another one."""
    if _has_entry(output, path):
        return usable(entry(output, path))
    key = entry_key(path)
    return Reason(f"no entry {key!r} in the output", "no_tensor")


def entry(output: Any, path: Path) -> Any:
    """What an output holds at a path."""
    for key in path:
        indexed = isinstance(output, Mapping) or isinstance(key, int)
        output = output[key] if indexed else getattr(output, str(key))
    return output


def usable(value: Any) -> Tensor | Reason:
    """A value as a tensor that can be compared, or why it is none."""
    if type(value) is Tensor and _problem(value) is None:
        return value  # the common case: this runs for each layer in each batch
    if isinstance(value, PackedSequence):
        return usable(pad_packed_sequence(value, batch_first=True)[0])
    if not isinstance(value, Tensor):
        kind = type(value).__name__
        text = "no output" if value is None else f"output of type {kind}"
        return Reason(text, "no_tensor")
    if value.is_quantized:
        return usable(value.dequantize())
    distributed = type(value).__name__ == "DTensor"
    problem = (
        "output of several processes (DTensor)" if distributed else _problem(value)
    )
    return value if problem is None else Reason(problem, "no_tensor")


def batch_first(activations: Tensor, output: Output) -> Tensor:
    """Activations as (n, ...), with the batch axis first."""
    rows = activations.movedim(output.axis, 0) if output.axis else activations
    if output.groups > 1 and len(rows) % output.groups == 0:
        if output.groups_first:
            rows = rows.reshape(output.groups, -1, *rows.shape[1:]).transpose(0, 1)
        else:
            rows = rows.reshape(-1, output.groups, *rows.shape[1:])
    return rows.unsqueeze(1) if rows.ndim == 1 else rows


def as_rows(features: Tensor) -> Tensor:
    """Features as (n, p), in memory order if that saves a copy.

    The order of the columns does not change the Gram matrix.
    """
    if features.ndim == 4 and features.is_contiguous(memory_format=torch.channels_last):
        features = features.permute(0, 2, 3, 1)
    return features.flatten(1)


def _items(output: Any) -> Iterable[tuple[str | int, Any]] | None:
    """What a container or object holds; None of a tensor or a plain value."""
    if isinstance(output, Tensor | PackedSequence | nn.Module | type | str):
        return None
    if isinstance(output, Mapping):
        first = [key for key in OUTPUT_KEYS if output.get(key) is not None]
        keys = [*first, *(key for key in output if key not in first)]
        return [(key, output[key]) for key in keys]
    if isinstance(output, list | tuple):
        return zip(getattr(output, "_fields", range(len(output))), output, strict=True)
    if dataclasses.is_dataclass(output):
        names = [field.name for field in dataclasses.fields(output)]
        return [(name, getattr(output, name, None)) for name in names]
    public = [x for x in getattr(output, "__dict__", {}).items() if x[0][0] != "_"]
    return public if any(_holds_tensor(value, 0) for _, value in public) else None


def _holds_tensor(value: Any, depth: int) -> bool:
    """Whether a value is a tensor, or a container with one."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple) and depth < MAX_DEPTH:
        return any(_holds_tensor(item, depth + 1) for item in value[:MAX_ENTRIES])
    return isinstance(value, Tensor)


def _has_entry(output: Any, path: Path) -> bool:
    try:
        return isinstance(entry(output, path), Tensor | PackedSequence)
    except (AttributeError, IndexError, KeyError, TypeError):
        return False


def _problem(tensor: Tensor) -> str | None:
    """Why a tensor cannot be compared, or None."""
    if tensor.layout != torch.strided or tensor.is_nested:
        return "sparse or nested output"
    if not tensor.is_floating_point():
        return "complex output" if tensor.is_complex() else "integer output"
    if not tensor.ndim:
        return "scalar output"
    return None if tensor.numel() else "output without features"
