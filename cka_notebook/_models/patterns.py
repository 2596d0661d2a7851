"""Regular expressions of users, in bounded time.

Python's `re` tries one way after the other. ``(a+)+b`` doubles its time with every
letter, and neither an interrupt nor another thread can end it outside of the main
thread. What could take long is therefore matched in a process of its own.
"""

import functools
import json
import re
import subprocess
import sys

MOST_STEPS = 1e8
"""Up to about two seconds of `re`: fewer are matched at once."""

PATIENCE = 10.0
"""Seconds for all names. Starting the process takes 0.05 s of them, more under load."""

PROGRAM = """
import json, re, sys
source, flags, names = json.load(sys.stdin)
pattern = re.compile(source, flags)
print(json.dumps([bool(pattern.search(name)) for name in names]))
"""


def matching(pattern: re.Pattern[str], names: list[str]) -> list[str]:
    r"""The names in which the pattern is found.

    Raises:
        TimeoutError: If that takes more than `PATIENCE`.

    Example:
        >>> matching(re.compile(r"\.\d$"), ["a.0", "a.b", "b.1"])
        ['a.0', 'b.1']
    """
    if _most_steps(pattern, names) <= MOST_STEPS:
        return [name for name in names if pattern.search(name)]
    return list(_apart(pattern, tuple(names)))


def _most_steps(pattern: re.Pattern[str], names: list[str]) -> float:
    """An upper bound of the steps that `re` takes for all names.

    A repeat of single letters can end at every character of a name, and an option in
    two ways. Repeats of groups may be nested, for which there is no such bound.
    Escaped signs count as well, which only makes the bound larger.
    """
    source = str(pattern.pattern)  # One of bytes will refuse text.
    if re.search(r"\)[*+?{]", source):
        return float("inf")
    longest = 1.0 + max(map(len, names), default=0)
    repeats = len(re.findall(r"[*+{]", source))
    options = len(re.findall(r"[?|]", source))
    if repeats + options > 100:
        return float("inf")
    return len(names) * len(source) * longest ** (1 + repeats) * 2.0**options


@functools.lru_cache(32)
def _apart(pattern: re.Pattern[str], names: tuple[str, ...]) -> tuple[str, ...]:
    """The same in another process; here, if none can be started."""
    given = json.dumps([pattern.pattern, pattern.flags & ~re.DEBUG, names])
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", PROGRAM],
            input=given,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        found = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        msg = f"takes more than {PATIENCE:g} s for {len(names)} names"
        raise TimeoutError(msg) from None
    except (OSError, ValueError, subprocess.SubprocessError):
        found = [pattern.search(name) for name in names]
    return tuple(name for name, is_found in zip(names, found, strict=True) if is_found)
