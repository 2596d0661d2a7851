"""Checks of what a user passes to `CKA` and its `compare`."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from math import inf
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from cka_notebook import metrics
from cka_notebook._messages import shortened, with_article

HALF = (torch.float16, torch.bfloat16)
"""What `torch.autocast` casts to."""


def check_model(model: object, argument: str) -> None:
    """Raise TypeError if this is not a model, or one that cannot be hooked."""
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        msg = (
            f"Expected `{argument}` to be a torch.nn.Module, got {kind}."
            f"{_about_model(model)}"
        )
        raise TypeError(msg)
    if isinstance(model, torch.jit.ScriptModule):
        msg = (
            f"Expected `{argument}` to be a Python module, got a compiled "
            f"{type(model).__name__}, whose layers cannot be inspected. Pass the "
            "original model, before scripting or tracing."
        )
        raise TypeError(msg)


def _about_model(model: object) -> str:
    """What to do with something that was passed as a model."""
    if isinstance(model, DataLoader):
        return " Batches go to compare: CKA(model1, model2).compare(loader)."
    if isinstance(model, type):
        return f" Make an instance first: {model.__name__}(...)."
    if isinstance(model, Mapping):
        return " Load weights into a model first: model.load_state_dict(...)."
    if isinstance(model, list | tuple) and any(isinstance(x, nn.Module) for x in model):
        return " Pass each model by itself: CKA(model1, model2)."
    if isinstance(model, torch.export.ExportedProgram):
        return " Pass the original model, before export."
    return ""


def check_names(*names: object) -> None:
    """Raise TypeError for names of models that are none, such as a loader."""
    for number, name in enumerate(names, 1):
        if name is not None and not isinstance(name, str):
            msg = (
                f"Expected `model{number}_name` to be a string, got "
                f"{with_article(type(name).__name__)}. {_about_name(name, number)}"
            )
            raise TypeError(msg)


def _about_name(name: object, number: int) -> str:
    if isinstance(name, nn.Module):
        return "CKA compares two models: run it for each pair."
    names = name if isinstance(name, list | tuple) else []
    if names and all(isinstance(x, str | int) for x in names):
        return f"Layers go to model{number}_layers."
    return "Batches go to compare: CKA(model1, model2).compare(loader)."


def check_no_loader(**arguments: object) -> None:
    """Raise TypeError for a loader among the arguments of the constructor."""
    for name, value in arguments.items():
        if isinstance(value, DataLoader):
            msg = (
                f"Expected other values for `{name}`, got a DataLoader. Batches go to "
                "compare: CKA(model1, model2).compare(loader)."
            )
            raise TypeError(msg)


def check_metric(metric: object) -> None:
    """Raise ValueError if the measure does not exist."""
    if metric not in metrics.names():
        msg = f"Expected `metric` to be one of {metrics.names()}, got {metric!r}."
        raise ValueError(msg)


def check_autocast(autocast: object) -> None:
    """Raise an error if autocast does not take this."""
    if autocast is None or autocast in HALF:
        return
    msg = (
        "Expected `autocast` to be a dtype such as torch.bfloat16 or torch.float16, or "
        f"None, got {autocast!r}."
    )
    raise (ValueError if isinstance(autocast, torch.dtype) else TypeError)(msg)


def check_tolerance(stop_when_stable: object) -> float | None:
    """A standard error at which a run can stop, as a float.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is not a finite number above 0.
    """
    if stop_when_stable is None:
        return None
    is_number = hasattr(stop_when_stable, "__float__")
    is_number = is_number and not isinstance(stop_when_stable, bool)
    with suppress(TypeError, ValueError, OverflowError, RuntimeError):
        number = float(stop_when_stable)  # type: ignore[arg-type]
        if 0 < number < inf and is_number:
            return number
    msg = (
        "Expected `stop_when_stable` to be None or a standard error above 0, got "
        f"{shortened(stop_when_stable)}."
    )
    raise (ValueError if is_number else TypeError)(msg)


def check_callback(callback: object) -> None:
    """Raise TypeError if this cannot be called after a batch."""
    if callback is not None and not _takes(callback, 3):
        msg = (
            "Expected `callback` to be a function of (batch, total, matrix), or None, "
            f"got {callback!r}{_parameters(callback)}."
        )
        raise TypeError(msg)


def pair(argument: str, takes: str, count: int, given: Any) -> tuple[Any, Any]:
    """One function of ``count`` arguments for each model, or None.

    Raises:
        TypeError: If they are not such functions.
    """
    both = given if isinstance(given, tuple) else (given, given)
    if len(both) != 2 or not all(f is None or callable(f) for f in both):
        msg = (
            f"Expected `{argument}` to be a function of {takes} or a pair of such "
            f"functions, got {given!r}."
        )
        raise TypeError(msg)
    for each in both:
        if each is not None and not _takes(each, count):
            msg = (
                f"Expected `{argument}` to be a function of {takes}, got "
                f"{each!r}{_parameters(each)}."
            )
            raise TypeError(msg)
    return both[0], both[1]


def for_each(steps: Iterable[Callable[[], object]]) -> None:
    """Take a step for each side; one ValueError tells what is wrong on all."""
    problems: list[ValueError] = []
    for step in steps:
        try:
            step()
        except ValueError as error:
            problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ValueError(" ".join(map(str, problems)))


def as_list(choices: Any) -> Any:
    """A choice of layers that can be read more than once."""
    return list(choices) if isinstance(choices, Iterator) else choices


def _takes(function: object, count: int) -> bool:
    """Whether this accepts ``count`` arguments, as far as Python can tell."""
    if not callable(function):
        return False
    try:
        _signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # Python does not know its parameters.
        return True
    return True


def _parameters(function: object) -> str:
    """The parameters of a function in words, for messages."""
    return f", which takes {_signature(function)}" if callable(function) else ""


def _signature(function: Callable[..., object]) -> inspect.Signature:
    return inspect.signature(function)
