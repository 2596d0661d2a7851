"""The layer tree of a saved result, of which only the layers' names are left."""

from collections.abc import Callable, Mapping
from typing import Any

from cka_notebook._messages import Reason, did_you_mean
from cka_notebook._models.tree_rows import PRESETS, Row, Rows

Side = str
SIDES = ("layers1", "layers2")
"""The two traits that hold choices of layers: rows, columns."""
Columns = Mapping[str, Any]

MISSING = Reason("not in the result", "not_in_result")
"""Why a module that only contains layers of the result cannot be chosen."""


def columns_of(title: str, layers: list[str]) -> Columns:
    """The tree that the names of layers span, as columns for the page.

    Args:
        title: Name of the model.
        layers: Names, in the order in which the layers were called.

    Example:
        >>> columns_of("Net", ["stem", "block.0"])["name"]
        ['', 'stem', 'block', 'block.0']
    """
    order = {layer: place for place, layer in enumerate(layers)}
    names = _names_of(title, layers)
    chosen = [row for row, name in enumerate(names) if name in order]
    return {
        "name": names,
        "type": [title, *("layer" if n in order else "" for n in names[1:])],
        "depth": [0, *(len(_path(name)) for name in names[1:])],
        "params": [0] * len(names),
        "shape": [None] * len(names),
        "reason": [None if name in order else MISSING for name in names],
        "code": [None if name in order else MISSING.code for name in names],
        "order": [order.get(name) for name in names],
        "presets": dict.fromkeys(PRESETS, chosen),
    }


def rows_of(title: str, layers: list[str], side: Side) -> Rows:
    """What there is to choose from in a saved result.

    Args:
        title: Name of the model.
        layers: Names, in the order in which the layers were called.
        side: Which of the two choices it is, for messages.

    Example:
        >>> from cka_notebook._models.choice import choose
        >>> rows = rows_of("Net", ["stem", "block.0", "block.1"], "layers1")
        >>> choose(rows, "block.*")
        ['block.0', 'block.1']
    """
    order = {layer: place for place, layer in enumerate(layers)}
    rows = [
        Row(
            name,
            "" if [name] == layers == [title] else _module_name(name),
            order.get(name),
            None if name in order else MISSING,
        )
        for name in _names_of(title, layers)
    ]
    return Rows(
        rows,
        title=title,
        argument=side,
        preset=dict.fromkeys(PRESETS, layers).__getitem__,
        all_names=f"`result.{side}` lists all {len(layers)}.",
    )


def _names_of(title: str, layers: list[str]) -> list[str]:
    """Names of all rows; the only layer may be the model itself."""
    return layers if layers == [title] else _spanned_by(layers)


def _spanned_by(layers: list[str]) -> list[str]:
    """Names of the layers and of what contains them, parents before their children."""
    names = {"": None}
    for layer in layers:
        names |= dict.fromkeys(_path(layer))
    return sorted(names, key=_in_order_of(list(names)))


def _path(name: str) -> list[str]:
    """Names of what contains a layer, and its own; "a.b:1.0" is an entry of "a.b"."""
    module, is_entry, _ = name.partition(":")
    parts = module.split(".")
    path = [".".join(parts[: i + 1]) for i in range(len(parts))]
    return [*path, name] if is_entry else path


def _module_name(layer: str) -> str:
    """The module whose call this layer is: "act" for "act#1"."""
    module, _, call = layer.rpartition("#")
    return module if call.isdigit() else layer


def _in_order_of(names: list[str]) -> Callable[[str], list[int]]:
    """A key that sorts children below their parents, siblings as they first came."""
    place = {name: i for i, name in enumerate(names)}

    def key(name: str) -> list[int]:
        return [place[part] for part in _path(name)] if name else []

    return key


def side_of(trees: Mapping[str, Columns], side: Side) -> Columns:
    """The columns of the model that this side's layers belong to."""
    return trees["model1" if side == "layers1" else "model2"]


def unknown_layer(name: str, known: list[str], what: str) -> str:
    """The message for a layer that does not exist."""
    return (
        f"`{what}` contains {name!r}, which is not one of the {len(known)} available "
        f"layers.{did_you_mean(name, known)}"
    )
