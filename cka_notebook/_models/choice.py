"""Which layers a choice means: presets, names, indices, patterns, classes, predicates.

Nothing here knows a model. The tree of a live model and the tree of a saved result
supply rows, so the same choice means the same layers whichever of them is asked.
"""

import fnmatch
import operator
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cka_notebook._messages import counted, did_you_mean, first_few

from .nodes import entry_name
from .patterns import matching

if TYPE_CHECKING:
    from torch import nn

Choice = str | int | type["nn.Module"] | re.Pattern[str]

Choices = Choice | Sequence[Choice] | Callable[[str, "nn.Module"], bool] | None

PRESETS = ("auto", "blocks", "leaves", "all")

WRAPPERS = ("module", "_orig_mod")
"""Attributes in which DistributedDataParallel and torch.compile keep a model."""

MOST_HINTS = 10
"""Number of wrong names for which similar ones are looked up, which takes time."""

KINDS = "names, indices, globs, compiled regular expressions"


class _UnmatchedError(ValueError):
    """One item of a choice that matches nothing.

    Args:
        text: What is wrong.
        help_: What could be chosen instead.
    """

    def __init__(self, text: str, help_: str) -> None:
        super().__init__(f"{text} {help_}")
        self.text, self.help = text, help_


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
            matches nothing is no error, since the calls of a module may match it.
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


def choose(rows: Rows, choices: Choices) -> list[str]:
    """Names of the chosen layers.

    A list keeps its order, each pattern in it is expanded in execution order, and
    nothing is named twice.

    Args:
        rows: What there is to choose from.
        choices: A preset, name, index, glob, compiled regular expression or module
            class, a list of these, or a predicate ``(name, module) -> bool``; None
            means ``"auto"``. The name "a:b" is the entry "b" of what "a" returns.

    Raises:
        ValueError: If a choice matches nothing, with the nearest names.
        TypeError: If an item is of no kind that can choose a layer, or needs modules
            that are not available.

    Example:
        >>> calls = [Row(f"act#{i}", "act", i) for i in (0, 1)]
        >>> rows = Rows(
        ...     [*calls, Row("head", "head", 2)],
        ...     title="Net",
        ...     argument="model1_layers",
        ...     preset={"auto": ["head"]}.__getitem__,
        ... )
        >>> choose(rows, "act"), choose(rows, [-1, "act#?"]), choose(rows, None)
        (['act#0', 'act#1'], ['head', 'act#0', 'act#1'], ['head'])
    """
    names = _names(rows, "auto" if choices is None else choices)
    if not names and rows.is_probed:
        msg = f"`{rows.argument}` matches no layer of {rows.title}. {_help(rows)}"
        raise ValueError(msg)
    return list(dict.fromkeys(names))


def check(rows: Rows, choices: Choices) -> None:
    """Raise what `choose` would raise whatever a probe finds: wrong kinds and names.

    Raises:
        ValueError: If there is no module of a name.
        TypeError: If an item is of no kind that can choose a layer.
    """
    items = list(_items(choices))
    for item in items:
        _check_kind(rows, item)
    _check_texts(rows, [item for item in items if isinstance(item, str)])


def _names(rows: Rows, choices: Any) -> list[str]:
    if isinstance(choices, str) and choices in PRESETS:
        return rows.preset(choices)
    if _is_predicate(choices):
        _check_modules(rows, choices)
        found = (row for row in rows.listed if choices(row.module_name, row.module))
        return [row.name for row in found]
    items = list(_items(choices))
    _check_texts(rows, [item for item in items if isinstance(item, str)])
    names = _expand_all(rows, items)
    if isinstance(choices, set | frozenset):  # which has no order of its own
        names.sort(key={name: i for i, name in enumerate(rows.names)}.get)  # type: ignore[arg-type]
    return names


def _expand_all(rows: Rows, items: list[Any]) -> list[str]:
    """Names of the layers that all items mean; one error for all that match nothing."""
    names: list[str] = []
    problems: list[_UnmatchedError] = []
    for item in items:
        try:
            names += _expand(rows, item)
        except _UnmatchedError as error:
            problems.append(error)
    if problems:
        texts = [error.text for error in problems]
        raise ValueError(
            " ".join(dict.fromkeys([*texts, *(error.help for error in problems)]))
        )
    return names


def _items(choices: Any) -> Iterable[Any]:
    """What a choice consists of; nothing for presets and predicates."""
    if choices is None or (isinstance(choices, str) and choices in PRESETS):
        return []
    if isinstance(choices, str | type) or _is_module(choices):
        return [choices]
    if callable(choices):
        return []
    items = choices if isinstance(choices, Iterable) else [choices]
    return map(_plain, items)


def _plain(item: Any) -> Any:
    """An integer of any kind as Python's."""
    try:
        return item if isinstance(item, bool) else operator.index(item)
    except TypeError:
        return item


def _is_predicate(choices: Any) -> bool:
    known = isinstance(choices, type) or _is_module(choices)
    return callable(choices) and not known


def _is_module(choice: Any) -> bool:
    """Whether this is a module, which is callable but is no predicate."""
    return not isinstance(choice, type) and hasattr(choice, "named_modules")


def _expand(rows: Rows, choice: Any) -> list[str]:
    """Names of the layers that one item of a choice means."""
    _check_kind(rows, choice)
    if isinstance(choice, str):
        return _by_text(rows, choice)
    if isinstance(choice, int):
        return _by_index(rows, choice)
    if isinstance(choice, type):
        _check_modules(rows, choice)
        found = [row.name for row in rows.listed if isinstance(row.module, choice)]
        return _matched(rows, choice.__name__, found)
    return _matched(rows, choice.pattern, _by_pattern(rows, choice))


def _by_pattern(rows: Rows, pattern: re.Pattern[str]) -> list[str]:
    try:
        return matching(pattern, rows.names)
    except TimeoutError as error:
        msg = (
            f"`{rows.argument}` {pattern.pattern!r} {error}. A repeat within a repeat "
            "tries too many ways: write it without, or use a glob."
        )
        raise ValueError(msg) from None


def _check_texts(rows: Rows, texts: list[str]) -> None:
    """Raise ValueError for all names at once that do not exist."""
    unknown = [text for text in texts if not _is_known(rows, text)]
    if unknown:
        raise ValueError(unknown_layer(rows, *unknown))


def _is_known(rows: Rows, text: str) -> bool:
    """Whether a text may mean layers, as far as known before a probe."""
    text = _unwrapped(rows, text)
    is_glob = any(mark in text for mark in "*?[")
    may_be_call = not rows.is_probed and _may_be_a_call(rows, text)
    is_layer = bool(rows.named(text) or _entries(rows, text))
    return is_glob or may_be_call or is_layer


def _unwrapped(rows: Rows, text: str) -> str:
    """A name without the prefixes of torch's wrappers, which the tree leaves out."""
    if rows.named(text) or rows.owner(text)[0]:
        return text
    parts = text.split(".")
    while parts[0] in WRAPPERS and len(parts) > 1:
        parts = parts[1:]
        if rows.named(".".join(parts)) or rows.owner(".".join(parts))[0]:
            break
    return ".".join(parts)


def _by_text(rows: Rows, text: str) -> list[str]:
    text = _unwrapped(rows, text)
    exact = rows.named(text)
    if exact:
        return _comparable(rows, text, exact)
    entries = _entries(rows, text)
    if entries:
        return _comparable(rows, text, entries)
    if any(mark in text for mark in "*?["):
        found = _globbed(rows, text)
        # Calls are known only after a probe; until then, the text stands for them.
        return _matched(rows, text, found) or [text]
    if not rows.is_probed and _may_be_a_call(rows, text):
        return [text]
    raise ValueError(unknown_layer(rows, text))


def _globbed(rows: Rows, glob: str) -> list[str]:
    """Names of the layers that a glob means; of entries only if it means no layer."""
    found = [name for name in rows.names if fnmatch.fnmatchcase(name, glob)]
    return found or [
        name
        for row in rows.listed
        for name, reason in _named_entries(row)
        if reason is None and fnmatch.fnmatchcase(name, glob)
    ]


def _named_entries(row: Row) -> Iterable[tuple[str, str | None]]:
    """Names of the entries of a layer's output, with the reasons against them."""
    entries = (row.entries or {}).items()
    return [(entry_name(row.name, key), reason) for key, reason in entries]


def _entries(rows: Rows, text: str) -> list[Row]:
    """The entry of a layer's output that a text such as "layer:entry" names.

    Of a module that is called several times, one a call. Before a probe, outputs are
    unknown, and the text stands for what may be one of their entries.
    """
    owners, key = rows.owner(text)
    known = [(row, row.entries or {}) for row in owners]
    return [
        row._replace(name=entry_name(row.name, key), reason=entries.get(key))
        for row, entries in known
        if not rows.is_probed or key in entries
    ]


def _may_be_a_call(rows: Rows, text: str) -> bool:
    stem = text.rstrip("0123456789")
    marks = len(stem) - len(stem.rstrip("#"))
    modules = [stem[: len(stem) - i] for i in range(1, marks + 1)]
    return stem != text and any(map(rows.has_module, filter(None, modules)))


def _comparable(rows: Rows, name: str, found: list[Row]) -> list[str]:
    names = [row.name for row in found if row.reason is None]
    if not names:
        msg = (
            f"`{rows.argument}` contains {name!r}, but this layer of {rows.title} "
            f"cannot be compared: {found[0].reason}."
        )
        raise _UnmatchedError(msg, _help(rows, name))
    return names


def _by_index(rows: Rows, index: int) -> list[str]:
    names = rows.names
    if -len(names) <= index < len(names):
        return [names[index]]
    if not rows.is_probed:
        return []
    msg = f"`{rows.argument}` index {index} is out of range for {rows.title}."
    raise _UnmatchedError(msg, _help(rows))


def _matched(rows: Rows, pattern: str, names: list[str]) -> list[str]:
    """These names; an error if there are none, though all calls are known."""
    if not names and rows.is_probed:
        msg = f"`{rows.argument}` {pattern!r} matches no layer of {rows.title}."
        raise _UnmatchedError(msg, _help(rows))
    return names


def _check_kind(rows: Rows, choice: Any) -> None:
    known = isinstance(choice, str | int | type | re.Pattern)
    if not known or isinstance(choice, bool):
        msg = (
            f"Expected `{rows.argument}` to contain {KINDS} or module classes, got "
            f"{_described(rows, choice)}."
        )
        raise TypeError(msg)


def _check_modules(rows: Rows, choice: Any) -> None:
    if not rows.has_modules:
        msg = (
            f"Expected `{rows.argument}` to contain {KINDS}, got {choice!r}. Module "
            "classes and predicates need the model: use them before or during a run."
        )
        raise TypeError(msg)


def _described(rows: Rows, choice: Any) -> str:
    """A wrong item in words; a module with the name to pass instead."""
    if not _is_module(choice):
        return reprlib.repr(choice)
    kind = f"a {type(choice).__name__}"
    if not rows.has_modules:
        return f"{kind} (pass its name)"
    own = [row.module_name or row.name for row in rows.rows if row.module is choice]
    if not own:
        return f"{kind} that is not part of {rows.title}"
    return f"{kind} (pass its name, {own[0]!r})"


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


def _help(rows: Rows, container: str = "") -> str:
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
