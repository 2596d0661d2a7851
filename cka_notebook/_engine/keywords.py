"""Errors for arguments that do not exist, with what may be meant instead."""

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import ParamSpec, TypeVar

from cka_notebook._messages import did_you_mean

P = ParamSpec("P")
T = TypeVar("T")

OTHER_NAMES = {
    "dataloader": "loader",
    "dataloader1": "loader",
    "dataloader2": "loader2",
    "dataloader_1": "loader",
    "dataloader_2": "loader2",
    "loader1": "loader",
    "layers": "model1_layers",
    "layers1": "model1_layers",
    "layers2": "model2_layers",
    "name1": "model1_name",
    "name2": "model2_name",
}
"""Arguments of other tools, with what they are called here."""

OTHER_METHODS = {
    "plot_results": "plot_cka_heatmap(result) draws what compare() returns.",
    "plot": "plot_cka_heatmap(result) draws what compare() returns.",
    "calculate_cka_matrix": "compare(loader) does it.",
}
"""Methods of other tools, with what there is here."""


def explains_keywords(function: Callable[P, T]) -> Callable[P, T]:
    """Let a method refuse unknown keywords by `check_keywords`."""
    own = [name for name in inspect.signature(function).parameters if name != "self"]
    title = function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        check_keywords(title, kwargs, own)
        return function(*args, **kwargs)

    return call


def check_keywords(function: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Refuse unknown keywords, all at once.

    Args:
        function: What was called.
        given: The keywords it was called with.
        known: Those that it takes.

    Raises:
        TypeError: With what they may have meant.
    """
    unknown = [name for name in given if name not in known]
    if unknown:
        hints = "".join(_hint(name, known) for name in unknown)
        listed = ", ".join(map(repr, unknown))
        many = len(unknown) > 1
        msg = (
            f"{function} got {'' if many else 'an '}unexpected keyword "
            f"argument{'s' if many else ''} {listed}.{hints} It takes "
            f"{', '.join(known)}."
        )
        raise TypeError(msg)


def _hint(name: str, known: Sequence[str]) -> str:
    meant = OTHER_NAMES.get(name)
    if meant in known:
        return f" {name!r} is called {meant!r} here."
    if "loader" in (name, meant) and "loader" not in known:
        return f" {name!r} goes to compare: CKA(model1, model2).compare(loader)."
    return did_you_mean(name, known)
