"""What to do about an error of a model's forward pass, in words."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .examples import is_list_of_images
from .lines import Form, call_line, only_tensors, types_of

TYPE_ERROR = re.compile(
    r"dtype|scalar type|Input type|must have the same type|not implemented for '"
)
"""Words in torch's errors about tensors of different or unsuitable types."""

INDEX_ERROR = re.compile(r"'indices' to have one of|used as indices must be long")
"""Words in torch's errors about indices that are not integers."""

NO_GRADIENTS = re.compile(
    r"not require grad|requires_grad=False|grad\w*( \w+)? enabled|enable_grad",
    re.IGNORECASE,
)
"""Words in errors about gradients under `torch.no_grad`."""

NO_DEVICE = re.compile(r"compiled with CUDA|no NVIDIA driver|No CUDA GPUs|no HIP GPUs")
"""Words in torch's errors about a device that does not exist."""

OTHER_DEVICE = re.compile(r"on the same device|not on the expected device")
"""Words in torch's errors about tensors on different devices."""

TOO_LARGE = "index out of range in self"
"""What torch says of an index above the size of an embedding."""

NO_FORWARD = 'is missing the required "forward" function'

CASTABLE = {"float16", "bfloat16", "float32"}
"""Types that autocast casts."""


def remedies(
    error: Exception,
    model: nn.Module,
    label: str,
    inputs: Sequence[Any],
    form: Form | None,
    *,
    accepts: int = 1,
) -> Iterator[str]:
    """Sentences that help with an error.

    Args:
        error: What the model raised.
        model: The model.
        label: What messages call it.
        inputs: What it was called with, by position.
        form: How that was found in the batch; None if a user's ``forward`` did it.
        accepts: How many inputs the model takes.
    """
    text = str(error)
    if INDEX_ERROR.search(text):
        yield _no_indices(label, inputs, form)
    elif TYPE_ERROR.search(text):
        yield from _other_types(model, label, inputs, form)
    if NO_GRADIENTS.search(text):
        yield _no_gradients(label, form)
    if NO_DEVICE.search(text):
        yield (
            f"{label} asks for a GPU in its forward pass, and torch sees none here. "
            "Let it use the device of its inputs instead."
        )
    if OTHER_DEVICE.search(text):
        yield (
            f"{label} uses tensors on several devices. Those that its forward pass "
            "makes belong on the device of its inputs; those that it keeps, into "
            "buffers (register_buffer), which move with it."
        )
    if NO_FORWARD in text:
        yield (
            f"{label} has no forward of its own. Pass forward=, a function of (model, "
            "batch) that calls its parts."
        )
    of_list = _of_lists(label, inputs, form, accepts)
    if of_list and isinstance(error, TypeError):
        yield of_list
    elif TOO_LARGE in text:
        yield (
            f"An embedding in {label} has fewer rows than an index in its inputs "
            f"needs, which go up to {_largest(inputs)}: the tokens are of another "
            "vocabulary, or there are more of them than positions."
        )
    elif form is not None and _may_be_called_otherwise(error, form):
        yield _other_call(label, form, accepts)


def _of_lists(
    label: str, inputs: Sequence[Any], form: Form | None, accepts: int
) -> str:
    """What helps where a model of one tensor gets a list of them, or nothing."""
    if any(map(is_list_of_images, inputs)):
        return (
            f"If {label} takes one tensor instead of a list of images, make it in a "
            "collate_fn: torch.stack, after images of other sizes were resized."
        )
    if form is None or not any(map(_are_views, inputs)):
        return ""
    return (
        f"{label} got a list of tensors, such as several crops of each image. To "
        f"compare one of them, pass {call_line(form.inputs[:accepts])}."
    )


def _are_views(value: Any) -> bool:
    """Whether this is a list of batches of images or texts."""
    is_list = isinstance(value, list | tuple) and len(value) > 1
    return is_list and all(isinstance(x, Tensor) and x.ndim > 1 for x in value)


def _largest(inputs: Sequence[Any]) -> int:
    """The largest integer in the inputs."""
    found = only_tensors(inputs).values()
    return max((int(x.max()) for x in found if not x.is_floating_point()), default=0)


def _no_indices(label: str, inputs: Sequence[Any], form: Form | None) -> str:
    places = [i for i, x in only_tensors(inputs).items() if x.is_floating_point()]
    line = _cast(form, dict.fromkeys(places, ".long()"))
    return (
        f"An embedding in {label} takes integers. Cast its inputs in the loader{line}."
    )


def _other_types(
    model: nn.Module, label: str, inputs: Sequence[Any], form: Form | None
) -> Iterator[str]:
    """A sentence on inputs of another type than the weights."""
    floating = [x for x in model.parameters() if x.is_floating_point()]
    weights = types_of(floating) or {"float32"}
    given = types_of(inputs)
    found = f"The inputs are {_listed(given)} and the weights of {label} are "
    found += f"{_listed(weights)}." if floating else "quantized."
    if any(name.startswith("complex") for name in given - weights):
        yield f"{found} Make them real in the loader, as torch.view_as_real does."
    elif len(weights) > 1:
        dtype = min(weights & {"float16", "bfloat16"}, default="")
        auto = f"pass autocast=torch.{dtype}, or " if dtype else ""
        yield f"{found} To use one type, {auto}convert the model with .float()."
    elif not weights <= CASTABLE | {"float64"}:
        yield f"{found} Convert the model, for instance with .to(torch.bfloat16)."
    elif given - weights:
        yield f"{found} {_cast_to(min(weights), inputs, given, form)}"


def _cast_to(
    dtype: str, inputs: Sequence[Any], given: set[str], form: Form | None
) -> str:
    """How to cast inputs to the type of the weights."""
    found = only_tensors(inputs)
    places = [i for i, x in found.items() if x.is_floating_point()] or list(found)[:1]
    others = [i for i in places if types_of(found[i]) != {dtype}]
    line = _cast(form, dict.fromkeys(others, f".to(torch.{dtype})"))
    mixed = {"float32": "bfloat16"}.get(dtype, dtype)
    is_castable = given | {dtype} <= CASTABLE
    auto = (
        f", or autocast=torch.{mixed} for models of mixed types."
        if is_castable
        else f"; autocast= leaves {_listed(given | {dtype}, CASTABLE)} as it is."
    )
    return f"Cast the inputs in the loader{line}{auto}"


def _cast(form: Form | None, changes: dict[int, str]) -> str:
    """The line that casts some arguments; empty if they are not in the batch."""
    if form is None:
        return " or in your forward="
    arguments = form.changed(changes)
    return "" if "..." in "".join(arguments) else f", or pass {call_line(arguments)}"


def _no_gradients(label: str, form: Form | None) -> str:
    line = "Call it in your forward= under torch.enable_grad()."
    if form is not None:
        line = f"Pass {call_line(form.given, 'torch.enable_grad()(model)')}."
    return (
        f"Models run under torch.no_grad(), and {label} needs gradients in its forward "
        f"pass. {line}"
    )


def _may_be_called_otherwise(error: Exception, form: Form) -> bool:
    is_other_kind = isinstance(error, TypeError | AttributeError | LookupError)
    return is_other_kind or "values to unpack" in str(error) or bool(form.unused)


def _other_call(label: str, form: Form, accepts: int) -> str:
    """Other ways to call a model on the batch."""
    whole = [] if form.given == ["batch"] else [f"{call_line(['batch'])} for the whole"]
    names = form.inputs[:accepts] if accepts > 1 else form.unused or form.inputs
    names = names[:accepts]
    is_new = bool(names) and names not in (form.given, ["batch"])
    other = ", ".join(names)
    text = f"If {label} takes its inputs in another way, pass forward="
    if whole:
        also = f", or model({other})" if is_new else ""
        return f"{text}, such as {whole[0]} batch{also}."
    return (
        f"{text}lambda model, batch: model({other})."
        if is_new
        else (f"{text}, a function of (model, batch).")
    )


def _listed(types: set[str], without: set[str] = frozenset()) -> str:  # type: ignore[assignment]
    return " and ".join(sorted(types - without))


def known_device(device: Any) -> torch.device | None:
    """The device that an argument means.

    Raises:
        ValueError: If torch has no device of this name.
    """
    if device is None or isinstance(device, torch.device):
        return device
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        reason = str(error).split(". ", 1)[0]
        is_short = isinstance(device, int | str) and "Expected one of" not in reason
        why = f" ({reason})" if is_short and reason else ""
        msg = (
            "Expected `device` to be a device of torch, such as 'cpu', 'cuda', "
            f"'cuda:1' or 'mps', got {device!r}{why}."
        )
        raise ValueError(msg) from error


def check_device(device: torch.device) -> None:
    """Raise ValueError if torch has no such device here."""
    if device.type in ("cpu", "meta"):
        return
    count = _count(device)
    if (device.index or 0) < count:
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


def _count(device: torch.device) -> int:
    """How many devices of this type torch sees."""
    backend = getattr(torch, device.type, None)
    count = getattr(backend, "device_count", None)
    if count is not None:
        return int(count())
    try:  # a back end of another package without a module in torch
        torch.empty(0, device=device)
    except (RuntimeError, ImportError, AssertionError):
        return 0
    return (device.index or 0) + 1
