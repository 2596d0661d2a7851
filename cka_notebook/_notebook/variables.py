"""Names of models, taken from the caller's variables."""

import inspect
import os
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from types import FrameType
from typing import Any

PACKAGE = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")  # noqa: PTH118, PTH120 as `co_filename` spells it


def names_of(*models: object) -> list[str | None]:
    """For each model, the name of the one variable of the caller that holds it.

    The caller is the innermost function, cell or module outside this package. The name
    is None if no variable holds the model, if several do, or if it starts with "_".
    Keeps no reference to the models or to the caller's frame.
    """
    frame = _caller()
    if frame is None:
        return [None] * len(models)
    variables = frame.f_locals
    names = [_names_of(variables, model) for model in models]
    if variables is not frame.f_globals:
        if frame.f_code.co_flags & inspect.CO_OPTIMIZED:
            _remove(variables, models)
        globals_ = [_names_of(frame.f_globals, model) for model in models]
        names = [local or shared for local, shared in zip(names, globals_, strict=True)]
    return [found[0] if len(found) == 1 else None for found in names]


def _caller() -> FrameType | None:
    """The innermost frame outside this package."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 the documented way
    while frame is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    return frame


def _names_of(variables: Mapping[str, Any], model: object) -> list[str]:
    names = [name for name, value in list(variables.items()) if value is model]
    return [name for name in names if name.isidentifier() and name[0] != "_"]


def _remove(copied: MutableMapping[str, Any], models: Iterable[object]) -> None:
    """Remove the models from the copy of the caller's locals that Python made for us.

    Before Python 3.13 that copy lives as long as the function's frame, and would keep
    a model that the function deletes.
    """
    if sys.version_info >= (3, 13):
        return
    for name, value in list(copied.items()):
        if any(value is model for model in models):
            del copied[name]
