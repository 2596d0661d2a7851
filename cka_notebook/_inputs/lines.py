"""How a model can be called on a batch, as lines of Python for messages."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from .examples import is_list_of_images
from .nested import as_mapping, describe, tensors

LABELS = ("labels", "label", "label_ids", "target", "targets")
"""Keys that are not inputs, and make Hugging Face models compute a loss."""

LONGEST = 8
"""Maximum length of a list of inputs; longer ones hold examples."""


def call_line(arguments: Iterable[str], how: str = "model") -> str:
    """The option that calls a model with these arguments.

    Example:
        >>> print(call_line(["batch[0]", "t=batch[1]"]))
        forward=lambda model, batch: model(batch[0], t=batch[1])
    """
    return f"forward=lambda model, batch: {how}({', '.join(arguments)})"


class Form:
    """How a model's arguments are found in a batch, as Python; it keeps no tensors.

    Args:
        batch: What the loader yielded.
        args: Positional arguments that were made of it.
        kwargs: Keyword arguments.

    Attributes:
        given: The arguments as they were passed, with their expressions; ``"..."`` for
            those that are not in the batch.
        inputs: Expressions of all tensors other than labels.
    """

    def __init__(
        self, batch: Any, args: Iterable[Any] = (), kwargs: Mapping[str, Any] = {}
    ) -> None:
        parts = list(_parts(batch, "batch"))
        names: dict[int, str] = {}
        for name, value in parts:
            names.setdefault(id(value), name)
        pairs = [("", value) for value in args]
        pairs += [(f"{key}=", value) for key, value in kwargs.items()]
        self.given = [start + names.get(id(value), "...") for start, value in pairs]
        found = [(name, value) for name, value in parts if isinstance(value, Tensor)]
        first = next((value for _, value in found), None)
        self.inputs = [
            name
            for name, value in found
            if not (looks_like_labels(first, value) or _is_called_label(name))
        ]

    @property
    def unused(self) -> list[str]:
        """Inputs that were not passed."""
        used = [argument.split("=", 1)[-1] for argument in self.given]
        return [
            name
            for name in self.inputs
            if not any(name == x or name.startswith((f"{x}[", f"{x}.")) for x in used)
        ]

    def changed(self, changes: Mapping[int, str]) -> list[str]:
        """The arguments as they were passed, some with a method call."""
        return [x + changes.get(i, "") for i, x in enumerate(self.given)]


def no_examples(label: str, batch: Any, number: int) -> TypeError:
    """The error for a batch in which no examples are found.

    Args:
        label: What messages call the model.
        batch: What the loader yielded.
        number: Which batch it is, from 1.
    """
    remedy = _made_tensors(batch)
    inputs = [] if remedy else [x for x in Form(batch).inputs if x != "batch"]
    line = call_line(inputs[:1]) if inputs else "forward=, a function of (model, batch)"
    return TypeError(
        f"Expected a batch that contains a tensor of examples for {label}, got "
        f"{describe(batch)} in batch {number}. {remedy}Yield a tensor, (inputs, "
        f"labels) or a dict of tensors, or pass {line}."
    )


def _made_tensors(batch: Any) -> str:
    """Code that converts the items of a batch to tensors."""
    items = list(batch.values()) if isinstance(batch, Mapping) else batch
    first = items[0] if isinstance(items, list | tuple) and items else items
    if isinstance(first, list | tuple) and first:
        first = first[0]
    if isinstance(first, np.ndarray | np.generic):
        return "torch.as_tensor makes tensors of arrays. "
    if isinstance(first, str) and not Form(batch).inputs:
        return "Texts have to be tokenized first. "
    if first is not batch and isinstance(as_mapping(first), Mapping):
        return "torch.utils.data.default_collate makes a batch of a list of examples. "
    return ""


def _is_called_label(name: str) -> bool:
    return name.endswith(tuple(f"[{key!r}]" for key in LABELS))


def looks_like_labels(inputs: Any, value: Any) -> bool:
    """Whether a tensor next to the inputs holds one class, or several, per example."""
    if value is inputs or not (
        isinstance(inputs, Tensor) and isinstance(value, Tensor)
    ):
        return False
    try:
        return value.ndim > 0 and _has_classes(inputs, value)
    except RuntimeError:  # nested, sparse or without numbers
        return False


def _has_classes(inputs: Tensor, value: Tensor) -> bool:
    if value.is_complex() or value.shape[:1] != inputs.shape[:1]:
        return False
    is_single = value.shape[1:].numel() == 1
    if not (is_single or value.ndim == 2) or value.shape == inputs.shape[:2]:
        return False
    sample = value[:64].detach()
    if is_single:
        return not value.is_floating_point() or bool((sample == sample.round()).all())
    return bool(((sample == 0) | (sample == 1)).all())


def _parts(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """All parts of a nested value, each before its own, with their expressions."""
    yield name, value
    by_key = as_mapping(value)
    if isinstance(by_key, Mapping):
        is_object = not hasattr(value, "keys")
        for key, item in by_key.items():
            inner = f".{key}" if is_object else f"[{key!r}]"
            yield from _parts(item, name + inner)
    elif isinstance(value, list | tuple) and len(value) <= LONGEST:
        if is_list_of_images(value):
            return
        for i, item in enumerate(value):
            yield from _parts(item, f"{name}[{i}]")


def only_tensors(values: Iterable[Any]) -> dict[int, Tensor]:
    """Those values that are tensors, by their place."""
    return {i: x for i, x in enumerate(values) if isinstance(x, Tensor)}


def types_of(values: Any) -> set[str]:
    """Types of all tensors in a nested value, by name."""
    return {str(x.dtype).removeprefix("torch.") for x in tensors(values)}
