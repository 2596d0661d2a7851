"""Which layers a choice means: presets, names, indices, patterns, classes, predicates.

The tree of a live model and that of a saved result supply the same kind of rows, so a
choice means the same layers in both.
"""

import fnmatch
import operator
import re
import reprlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .nodes import entry_name
from .patterns import matching
from .tree_rows import PRESETS, Row, Rows, alternatives, unknown_layer

if TYPE_CHECKING:
    from torch import nn

Choice = str | int | type["nn.Module"] | re.Pattern[str]

Choices = Choice | Sequence[Choice] | Callable[[str, "nn.Module"], bool] | None

WRAPPERS = ("module", "_orig_mod")
"""Attributes in which DistributedDataParallel and torch.compile keep a model."""

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
        msg = (
            f"`{rows.argument}` matches no layer of {rows.title}. {alternatives(rows)}"
        )
        raise ValueError(msg)
    return list(dict.fromkeys(names))


def check(rows: Rows, choices: Choices) -> None:
    """Raise what `choose` would raise whatever a probe finds: wrong kinds and names.

    Raises:
        ValueError: If a name does not exist.
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
    """Whether this is a module, which is callable but not a predicate."""
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
        raise _UnmatchedError(msg, alternatives(rows, name))
    return names


def _by_index(rows: Rows, index: int) -> list[str]:
    names = rows.names
    if -len(names) <= index < len(names):
        return [names[index]]
    if not rows.is_probed:
        return []
    msg = f"`{rows.argument}` index {index} is out of range for {rows.title}."
    raise _UnmatchedError(msg, alternatives(rows))


def _matched(rows: Rows, pattern: str, names: list[str]) -> list[str]:
    """These names; an error if there are none, though all calls are known."""
    if not names and rows.is_probed:
        msg = f"`{rows.argument}` {pattern!r} matches no layer of {rows.title}."
        raise _UnmatchedError(msg, alternatives(rows))
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
