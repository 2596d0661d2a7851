"""The rows of a model's tree, among which layers are chosen, and messages about them.

Nothing here knows a model: the tree of a live model and the tree of a saved result
supply rows.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from cka_notebook._messages import counted, did_you_mean, first_few

PRESETS = ("auto", "blocks", "leaves", "all")

MOST_HINTS = 10
"""Number of wrong names for which similar ones are looked up, which takes time."""


class Row(NamedTuple):
    """One call of a module, or a module that was never called.

    Attributes:
        name: Name of the layer, "act#1" for the second of several calls of "act".
        module_name: Name of the module, "act".
        order: Position among all calls, None if there was no call.
        reason: Why it cannot be compared, or None.
        is_listed: Whether indices, patterns, classes and predicates find it; other rows
            are chosen by name only (a shared module's second name, the whole model).
        module: The module, None if the model is not available.
        entries: What its output consists of, each with the reason why it cannot be
            compared, or None: empty if it is one tensor, None if that is unknown.
    """

    name: str
    module_name: str
    order: int | None
    reason: str | None = None
    is_listed: bool = True
    module: Any = None
    entries: Mapping[str, str | None] | None = None


class Rows:
    """All rows of one model's tree.

    Args:
        rows: In any order.
        title: Name of the model in messages.
        argument: What the user sets to choose layers, for messages.
        preset: Names of the layers of a preset.
        all_names: A sentence that tells how to list all names.
        is_probed: Whether calls and outputs are known. Before that, a choice that
            matches nothing is not an error, since the calls of a module may match it.
        has_modules: Whether classes and predicates can be applied.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        *,
        title: str,
        argument: str,
        preset: Callable[[str], list[str]],
        all_names: str = "",
        is_probed: bool = True,
        has_modules: bool = False,
    ) -> None:
        self.rows = list(rows)
        self.title, self.argument, self.all_names = title, argument, all_names
        self.preset = preset
        self.is_probed, self.has_modules = is_probed, has_modules
        listed = [row for row in self.rows if row.is_listed and row.order is not None]
        self.listed = sorted(listed, key=lambda row: row.order or 0)
        self._by_name = {row.name: row for row in self.rows}
        self._by_module: dict[str, list[Row]] = {}
        for row in self.rows:
            self._by_module.setdefault(row.module_name, []).append(row)

    @property
    def names(self) -> list[str]:
        """Names that can be chosen, in the order in which the layers return."""
        return [row.name for row in self.listed]

    @property
    def known_names(self) -> list[str]:
        """Names of all modules and layers, whether they can be chosen or not."""
        return [name for name in {**self._by_module, **self._by_name} if name]

    def named(self, name: str) -> list[Row]:
        """The layer of this name, or all calls of the module of this name."""
        row = self._by_name.get(name)
        return [row] if row is not None else self._by_module.get(name, [])

    def owner(self, text: str) -> tuple[list[Row], str]:
        """The rows before a colon in a text, and the entry behind it; [] if none.

        Modules may have colons in their names, and keys of an output, too.
        """
        found: tuple[list[Row], str] = [], ""
        for place, mark in enumerate(text):
            rows = self.named(text[:place]) if mark == ":" else []
            if any(text[place + 1 :] in (row.entries or ()) for row in rows):
                return rows, text[place + 1 :]
            found = (rows, text[place + 1 :]) if rows else found
        return found

    def has_module(self, name: str) -> bool:
        """Whether there is a module of this name."""
        return name in self._by_module

    def without_modules(self) -> "Rows":
        """The same rows without a reference to the model."""
        presets = {preset: self.preset(preset) for preset in PRESETS}
        return Rows(
            [row._replace(module=None) for row in self.rows],
            title=self.title,
            argument=self.argument,
            preset=presets.__getitem__,
            all_names=self.all_names,
            is_probed=self.is_probed,
        )


def unknown_layer(rows: Rows, *names: str) -> str:
    """The message for names that do not exist."""
    hints = [_hint(rows, name) for name in names[:MOST_HINTS]]
    many = len(names) > 1
    if many:
        hints = [
            f"{hint} (for {name!r})" if hint.endswith("?") else hint
            for name, hint in zip(names, hints, strict=False)
        ]
    return (
        f"`{rows.argument}` contains {', '.join(map(repr, names))}, but {rows.title} "
        f"has no such layer{'s' if many else ''}.{''.join(hints)} {rows.all_names}"
    ).rstrip()


def _hint(rows: Rows, name: str) -> str:
    """What a name that does not exist may mean, or nothing."""
    module, _, own = name.rpartition(".")
    if rows.has_module(module) and own in ("weight", "bias"):
        return f" {name!r} is a parameter of layer {module!r}."
    owners, _ = rows.owner(name)
    entries = owners[0].entries if owners else None
    if entries is None:
        return did_you_mean(name, rows.known_names)
    if not entries:
        return f" The output of {owners[0].name!r} is one tensor."
    return (
        f" The output of {owners[0].name!r} has the entries "
        f"{', '.join(map(repr, entries))}."
    )


def alternatives(rows: Rows, container: str = "") -> str:
    """What could be chosen instead: layers inside the container, if there are any."""
    names = rows.names
    inside = [name for name in names if name.startswith(f"{container}.")]
    if inside:
        return f"It contains {counted(len(inside), 'layer')}: {first_few(inside)}."
    if names:
        layers = counted(len(names), "layer")
        return f"It has {layers} to choose from: {first_few(names)}."
    called = [row for row in rows.rows if row.order is not None and row.reason]
    reasons = [f"{row.name!r}: {row.reason}" for row in called]
    why = f" ({'; '.join(reasons[:3])})" if reasons else ""
    return f"None of its layers can be compared{why}."
