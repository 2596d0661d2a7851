"""What the caller's variables call a model."""

import inspect
import os
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from types import FrameType
from typing import Any

PACKAGE = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")  # noqa: PTH118, PTH120 as `co_filename` spells it


def names_of(*models: object) -> list[str | None]:
    """For each model, the name of the one variable of the caller that holds it.

    The caller is the innermost function, cell or module that is not of this package.
    None where no variable holds the model, several do, or its name begins with "_".
    Keeps no reference to the models or to the caller's frame.
    """
    frame = _caller()
    if frame is None:
        return [None] * len(models)
    variables = frame.f_locals
    found = [_names_of(variables, model) for model in models]
    if variables is not frame.f_globals:
        if frame.f_code.co_flags & inspect.CO_OPTIMIZED:
            _forget(variables, models)
        globals_ = [_names_of(frame.f_globals, model) for model in models]
        found = [own or shared for own, shared in zip(found, globals_, strict=True)]
    return [names[0] if len(names) == 1 else None for names in found]


def _caller() -> FrameType | None:
    """The innermost frame that is not of this package."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 the documented way
    while frame is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    return frame


def _names_of(variables: Mapping[str, Any], model: object) -> list[str]:
    held = [name for name, value in list(variables.items()) if value is model]
    return [name for name in held if name.isidentifier() and name[0] != "_"]


def _forget(snapshot: MutableMapping[str, Any], models: Iterable[object]) -> None:
    """Drop the models from a function's variables as Python had copied them for us.

    Before Python 3.13 that copy lives as long as the function's frame, and would keep
    a model that the function deletes.
    """
    if sys.version_info >= (3, 13):
        return
    for name, value in list(snapshot.items()):
        if any(value is model for model in models):
            del snapshot[name]
