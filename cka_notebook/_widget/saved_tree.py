"""The rows of a layer tree whose model is gone, and how layers are chosen of them."""

import fnmatch
import re
from collections.abc import Callable, Mapping
from typing import Any

from cka_notebook._messages import did_you_mean
from cka_notebook._models.layer_tree import items_of

Side = str
SIDES = ("layers1", "layers2")
"""The two traits that hold choices of layers: rows, columns."""
Columns = Mapping[str, Any]


def columns_of(title: str, layers: list[str]) -> Columns:
    """The tree that the names of layers span, when there is no model.

    Args:
        title: What the model is called.
        layers: Names, in the order in which they were called.

    Example:
        >>> columns_of("Net", ["stem", "block.0"])["name"]
        ['', 'stem', 'block', 'block.0']
    """
    names = {"": None}
    for layer in layers:
        parts = layer.split(".")
        names |= {".".join(parts[: i + 1]): None for i in range(len(parts))}
    order = {layer: place for place, layer in enumerate(layers)}
    rows = sorted(names, key=_in_order_of(list(names)))
    chosen = [row for row, name in enumerate(rows) if name in order]
    return {
        "name": rows,
        "type": [title if not n else "layer" if n in order else "" for n in rows],
        "depth": [name.count(".") + 1 if name else 0 for name in rows],
        "params": [0] * len(rows),
        "shape": [None] * len(rows),
        "reason": [None if n in order else "not in the result" for n in rows],
        "order": [order.get(name) for name in rows],
        "presets": dict.fromkeys(("auto", "blocks", "leaves", "all"), chosen),
    }


def _in_order_of(names: list[str]) -> Callable[[str], list[int]]:
    """A key that sorts children below their parents, siblings as they first came."""
    place = {name: i for i, name in enumerate(names)}

    def key(name: str) -> list[int]:
        parts = name.split(".") if name else []
        return [place[".".join(parts[: i + 1])] for i in range(len(parts))]

    return key


def side_of(trees: Mapping[str, Columns], side: Side) -> Columns:
    """The columns of the model that this side's layers belong to."""
    return trees["model1" if side == "layers1" else "model2"]


def choose_rows(columns: Columns, choices: Any, side: Side) -> list[str]:
    """Choose layers from a tree's columns, when there is no model to ask.

    Args:
        columns: The tree.
        choices: A preset, or a name, glob, index or regular expression, or several of
            these.
        side: Which choice it is, for messages.

    Raises:
        ValueError: If a name or pattern matches nothing, with the nearest names.
        TypeError: If an item is of another kind: what looks at modules needs a model.

    Example:
        >>> columns = columns_of("Net", ["stem", "block.0", "block.1"])
        >>> choose_rows(columns, "block.*", "layers1")
        ['block.0', 'block.1']
    """
    names, reasons = columns["name"], columns["reason"]
    if choices is None:
        choices = "auto"
    if isinstance(choices, str) and choices in columns["presets"]:
        return [names[row] for row in columns["presets"][choices]]
    rows = zip(columns["order"], names, reasons, strict=True)
    order = sorted((o, n) for o, n, reason in rows if reason is None and o is not None)
    known = [name for _, name in order]
    wanted = [choices] if callable(choices) else items_of(choices)
    found = [name for choice in wanted for name in _matches(choice, known, side)]
    return list(dict.fromkeys(found))


def _matches(choice: object, known: list[str], side: Side) -> list[str]:
    """Which of the known layers one item of a choice means."""
    if isinstance(choice, bool) or not isinstance(choice, str | int | re.Pattern):
        msg = (
            f"Expected `{side}` to hold names, globs, indices or compiled regular "
            f"expressions while no run goes on, got {choice!r}."
        )
        raise TypeError(msg)
    if isinstance(choice, re.Pattern):
        found = [name for name in known if choice.search(name)]
    elif isinstance(choice, int):
        found = [known[choice]] if -len(known) <= choice < len(known) else []
    elif choice in known:
        found = [choice]
    else:
        found = [name for name in known if fnmatch.fnmatchcase(name, choice)]
    if not found:
        text = choice.pattern if isinstance(choice, re.Pattern) else str(choice)
        raise ValueError(unknown_layer(text, known, side))
    return found


def unknown_layer(name: str, known: list[str], what: str) -> str:
    """The message for a layer that does not exist."""
    return (
        f"`{what}` names {name!r}, which is none of the {len(known)} layers to choose "
        f"from.{did_you_mean(name, known)}"
    )
