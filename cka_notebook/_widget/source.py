"""The call that repeats a comparison, as Python source."""

import json
from collections.abc import Mapping
from typing import Any

DEFAULTS = {"metric": "cka", "stop_when_stable": None}
"""Values of options that are left out."""


def call_around_layers(
    models: list[str],
    options: Mapping[str, Any],
    loaders: list[str],
    run: Mapping[str, Any],
) -> list[str]:
    """The source of a call of `CKA` and its `compare`, without its lists of layers.

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
    first = [*models, *_keywords(options)]
    second = [*loaders, *_keywords(run)]
    return [
        "".join(["CKA(\n", *(f"    {a},\n" for a in first), "    model1_layers="]),
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


def _keywords(options: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}={_text(value)}"
        for name, value in options.items()
        if not name.endswith("_layers")
        and not (name in DEFAULTS and value == DEFAULTS[name])
    ]


def _text(value: Any) -> str:
    """Source of an option's value; the name of a function or class."""
    return getattr(value, "__name__", None) or repr(value)
