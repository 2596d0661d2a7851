"""What to do about an error of a model's forward pass, in words."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .nested import tensors

TYPE_ERROR = re.compile(
    r"dtype|scalar type|Input type|must have the same type|not implemented for '"
)
"""Words in torch's errors about tensors of different or unsuitable types."""

NO_GRADIENTS = "does not require grad"
"""Words in torch's errors about gradients under `torch.no_grad`."""


def remedies(
    error: Exception, model: nn.Module, label: str, inputs: Any, *, is_custom: bool
) -> Iterator[str]:
    """Sentences that help with an error.

    Args:
        error: What the model raised.
        model: The model.
        label: What messages call it.
        inputs: What it was called with.
        is_custom: Whether a user's ``forward`` called it.
    """
    text = str(error)
    if TYPE_ERROR.search(text):
        yield from _other_types(model, label, inputs)
    if NO_GRADIENTS in text:
        yield (
            f"Models run under torch.no_grad(), and {label} needs gradients in its "
            "forward pass. Pass forward= with a function that calls it under "
            "torch.enable_grad()."
        )
    is_other_kind = isinstance(error, TypeError | AttributeError | LookupError)
    if not is_custom and (is_other_kind or "values to unpack" in text):
        yield (
            f"If {label} takes its inputs in another way, pass forward=, such as "
            "forward=lambda model, batch: model(batch) for the whole batch, or "
            "model(batch[0], batch[1]) for two inputs."
        )


def _other_types(model: nn.Module, label: str, inputs: Any) -> Iterator[str]:
    """A sentence on inputs of another type than the weights."""
    weights = _types(x for x in model.parameters() if x.is_floating_point())
    given = _types(tensors(inputs))
    if weights and not given & weights:
        dtype = min(weights)
        yield (
            f"The inputs are {_listed(given)} and the weights of {label} are "
            f"{_listed(weights)}. Cast the inputs in the loader, or pass "
            f"forward=lambda model, batch: model(batch.to(torch.{dtype})), or "
            f"autocast=torch.{dtype if 'float16' in dtype else 'bfloat16'} for models "
            "of mixed types."
        )


def _types(values: Iterable[Tensor]) -> set[str]:
    return {str(value.dtype).removeprefix("torch.") for value in values}


def _listed(types: set[str]) -> str:
    return " and ".join(sorted(types))


def check_device(device: torch.device) -> None:
    """Raise ValueError if torch has no such device here."""
    if device.type in ("cpu", "meta"):
        return
    backend = getattr(torch, device.type, None)
    count = getattr(backend, "device_count", lambda: None)()
    if count is None or (device.index or 0) < count:
        return
    devices = f"{count} of that type" if count else "no device of that type"
    built = "" if torch.version.cuda else ", a build without CUDA,"
    note = built if device.type == "cuda" and not count else ""
    msg = (
        f"Expected `device` to be one that torch can use here, got {str(device)!r}, "
        f"and torch {torch.__version__}{note} sees {devices}. Leave `device` out to "
        "run the models where they are, or pass device='cpu'."
    )
    raise ValueError(msg)
