"""The call that repeats a comparison, as Python source."""

import builtins
import enum
import functools
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

TORCH = {
    "torch": torch,
    "torch.nn.functional": torch.nn.functional,
    "torch.nn": torch.nn,
    "torch.Tensor": torch.Tensor,
}
"""Where functions of torch are looked up."""

DEFAULTS = {"metric": "cka", "stop_when_stable": None}
"""Values of options that are left out."""


def call_around_layers(
    models: list[str],
    options: Mapping[str, Any],
    loaders: list[str],
    run: Mapping[str, Any],
) -> list[str]:
    """The source of a call of `CKA` and its `compare`, without its lists of layers.

    Values whose source cannot be known, such as lambdas, are names to fill in, and a
    comment says so.

    Returns:
        The text before, between and after the two lists. The page has the same three
        parts, and its own choice of layers.

    Example:
        >>> parts = call_around_layers(["model1"], {"pool": "cls"}, ["loader"], {})
        >>> print(with_layers(parts, ["0"], []))
        CKA(
            model1,
            pool='cls',
            model1_layers=[
                "0",
            ],
            model2_layers=[],
        ).compare(loader)
    """
    first = [*((model, "") for model in models), *_keywords(options)]
    second = [*loaders, *(text for text, _ in _keywords(run))]
    lines = [f"    {text},{comment}\n" for text, comment in first]
    needs = "from functools import partial\n\n" if "partial(" in "".join(lines) else ""
    return [
        "".join([needs, "CKA(\n", *lines, "    model1_layers="]),
        ",\n    model2_layers=",
        f",\n).compare({', '.join(second)})",
    ]


def with_layers(parts: list[str], layers1: list[str], layers2: list[str]) -> str:
    """The call with its lists of layers. ``copying.ts`` does the same."""
    before, between, after = parts
    return f"{before}{_list(layers1)}{between}{_list(layers2)}{after}"


def _list(names: list[str]) -> str:
    """A list as source, one name per line. JSON strings are valid Python."""
    lines = (f"        {json.dumps(name, ensure_ascii=False)},\n" for name in names)
    return f"[\n{''.join(lines)}    ]" if names else "[]"


def _keywords(options: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The source of each option, and a comment on what has none."""
    found = []
    for name, value in options.items():
        is_default = name in DEFAULTS and value == DEFAULTS[name]
        if not name.endswith("_layers") and not is_default:
            unknown: list[str] = []
            text = _text(value, name, unknown)
            comment = f"  # to fill in: {', '.join(unknown)}" if unknown else ""
            found.append((f"{name}={text}", comment))
    return found


def _text(value: Any, name: str, unknown: list[str]) -> str:
    """The source of a value; a name to fill in, added to `unknown`, if it has none."""

    def inner(part: Any) -> str:
        return _text(part, name, unknown)

    if isinstance(value, functools.partial):
        keywords = (f"{key}={inner(part)}" for key, part in value.keywords.items())
        return (
            f"partial({', '.join([*map(inner, (value.func, *value.args)), *keywords])})"
        )
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{inner(k)}: {inner(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(inner, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(inner, value))}{',' if len(value) == 1 else ''})"
    is_named = callable(value) or isinstance(value, enum.Enum)
    text = _name_of(value) if is_named else _constant(value)
    if text is None:
        text = f"{name}{len(unknown) + 1}" if unknown else name
        unknown.append(text)
    return text


def _constant(value: Any) -> str | None:
    """The source of a value without parts; None if it has none."""
    if isinstance(value, torch.device):
        return f"torch.device({str(value)!r})"
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    plain = str | bytes | int | float | complex | None | torch.dtype
    is_plain = isinstance(value, plain) and type(value).__module__ in (
        "builtins",
        "torch",
    )
    return repr(value) if is_plain else None


def _name_of(value: Any) -> str | None:
    """The name of a function, class or member of an enumeration.

    None of a lambda, of a function inside another, a bound method or an object.
    """
    if isinstance(value, enum.Enum):
        kind = _name_of(type(value))
        return f"{kind}.{value.name}" if kind and _is_name(value.name) else None
    name = getattr(value, "__name__", "")
    for title, owner in TORCH.items():
        if name and getattr(owner, name, None) is value:
            return f"{title}.{name}"
    full = getattr(value, "__qualname__", name)
    is_method = getattr(value, "__self__", builtins) is not builtins
    return full if _is_name(full) and not is_method else None


def _is_name(text: str | None) -> bool:
    """Whether this is a name, or attributes of one."""
    return bool(text) and all(part.isidentifier() for part in str(text).split("."))
