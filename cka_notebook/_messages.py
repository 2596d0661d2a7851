"""Parts of messages: counts, lists of names, titles of measures, suggestions."""

import difflib
from collections.abc import Iterable, Sequence

SHOWN = 3
"""Maximum number of names that a message lists."""


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    Example:
        >>> counted(1, "batch"), counted(3, "batch"), counted(0, "layer")
        ('1 batch', '3 batches', '0 layers')
    """
    ending = "es" if noun.endswith("ch") else "s"
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{ending}"


def first_few(names: Sequence[str]) -> str:
    """The first few names, quoted.

    Example:
        >>> print(first_few(["a", "b"]), first_few("abcd"))
        'a', 'b' 'a', 'b', 'c', ...
    """
    listed = ", ".join(map(repr, names[:SHOWN]))
    return f"{listed}, ..." if len(names) > SHOWN else listed


def metric_title(metric: str) -> str:
    """Name of a measure in titles and hover texts.

    Example:
        >>> metric_title("cka difference")
        'CKA difference'
    """
    return metric.replace("cka", "CKA")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question that suggests the names most similar to a wrong one, or nothing.

    Example:
        >>> did_you_mean("fc1", ["fc", "conv", "fc2"])
        " Did you mean 'fc' or 'fc2'?"
        >>> did_you_mean("head", ["fc"])
        ''
    """
    candidates = list(dict.fromkeys(known))
    near = difflib.get_close_matches(name, candidates, n=3, cutoff=0.4)
    *first, last = map(repr, near or [""])
    choices = f"{', '.join(first)} or {last}" if first else last
    return f" Did you mean {choices}?" if near else ""
