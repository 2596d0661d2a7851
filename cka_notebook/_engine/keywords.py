"""Errors for arguments that do not exist, with what may be meant instead."""

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from typing import ParamSpec, TypeVar

from cka_notebook._messages import did_you_mean
from cka_notebook._results.result import CKAResult

P = ParamSpec("P")
T = TypeVar("T")

OTHER_NAMES = {
    "loader": "dataloader dataloaders dataloader1 loader1 trainloader testloader data",
    "loader2": "dataloader2",
    "progress": "verbose showprogress progressbar disabletqdm quiet",
    "autocast": "dtype amp mixedprecision useamp",
    "device": "gpu usegpu cuda usecuda",
    "forward": "forwardfn forwardfunc inputfn fextract fargs modelforward",
    "max_batches": "numbatches nbatches maxsteps numsteps nsamples numsamples",
    "pool": "pooling hookfn tokenpooling aggregation featuretransform",
    "callback": "callbacks onbatch onbatchend",
}
"""Arguments, with what other tools call them, in small letters without underscores."""

SIDE = re.compile(
    r"(first|second)?(model|net|network)?([12ab])?(layers?|layernames?|names?)?([12ab])?"
)
"""Arguments of other tools for one of two models, such as ``net1`` or ``layers_b``."""

REMARKS = {
    "batchsize numworkers shuffle droplast": "is set in the DataLoader.",
    "epochs numepochs": "is not needed: each batch is read once.",
    "kernel sigma unbiased debiased estimator method": (
        "cannot be chosen: CKA is linear and unbiased here. hsic.cka has others."
    ),
    "hooklayertypes layertypes moduletypes": (
        "is not needed: model1_layers takes module classes, such as [nn.Linear]."
    ),
}
"""What to say of other arguments of other tools."""

COMPARES = "compare(loader) does it."
PLOTS = "plot_cka_heatmap(result) draws what compare() returns."

OTHER_METHODS = {
    **dict.fromkeys(("plot_results", "plot", "plot_cka", "heatmap", "show"), PLOTS),
    **dict.fromkeys(
        ("calculate_cka_matrix", "compute", "compute_cka", "calculate", "run", "fit"),
        COMPARES,
    ),
    "hsic_matrix": "compare() returns a result, which has `matrix`.",
    "cka_matrix": "compare() returns a result, which has `matrix`.",
    "reset": "Nothing has to be reset: each compare() starts from scratch.",
    "model1_info": "The names are `name1` and `name2`, the layers in the result.",
    "model2_info": "The names are `name1` and `name2`, the layers in the result.",
}
"""Methods and attributes of other tools, with their counterparts here."""

_taken: dict[str, list[str]] = {}
"""The arguments of each function that explains its keywords."""


def explains_keywords(function: Callable[P, T]) -> Callable[P, T]:
    """Let a method refuse what `check_missing` and `check_keywords` refuse.

    One that takes any keywords checks these itself.
    """
    parameters = list(inspect.signature(function).parameters.values())[1:]
    own = [x.name for x in parameters if x.kind is not x.VAR_KEYWORD]
    needed = [x.name for x in parameters if x.default is x.empty and x.name in own]
    title = function.__qualname__.removesuffix(".__init__")
    takes_any = len(own) < len(parameters)
    if not takes_any:
        _taken[title] = own

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if not takes_any:
            check_keywords(title, kwargs, own)
        check_missing(title, kwargs, needed, len(args) - 1)
        return function(*args, **kwargs)

    return call


def check_missing(
    function: str, given: Iterable[str], needed: Sequence[str], positional: int
) -> None:
    """Refuse a call without what is needed.

    Args:
        function: What was called.
        given: The keywords it was called with.
        needed: What it needs, in the order of its arguments.
        positional: How many arguments were given by position.

    Raises:
        TypeError: With the call to write, and what other names may have meant.
    """
    missing = [name for name in needed[positional:] if name not in given]
    if not missing:
        return
    meant = {x: _translated(x.lower().replace("_", "")) for x in given}
    hints = [
        f" {x!r} is called {own!r} here." for x, own in meant.items() if own in missing
    ]
    alone = " None as model2 compares model1 with itself." if "model2" in needed else ""
    msg = (
        f"{function} needs {' and '.join(map(repr, missing))}.{''.join(hints)} Call "
        f"{function}({', '.join(needed)}).{alone}"
    )
    raise TypeError(msg)


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
        hints = "".join(_hint(name, known, len(unknown)) for name in unknown)
        listed = ", ".join(map(repr, unknown))
        many = len(unknown) > 1
        msg = (
            f"{function} got {'' if many else 'an '}unexpected keyword "
            f"argument{'s' if many else ''} {listed}.{hints} It takes "
            f"{', '.join(known)}."
        )
        raise TypeError(msg)


def other_method(name: str) -> str:
    """The counterpart of an attribute that a `CKA` does not have, or nothing."""
    if name in OTHER_METHODS:
        return f" {OTHER_METHODS[name]}"
    is_of_result = name in {x.name for x in fields(CKAResult)} | {*vars(CKAResult)}
    if is_of_result and not name.startswith("_"):
        return f" What compare() returns has {name!r}."
    return ""


def _hint(name: str, known: Sequence[str], unknown: int) -> str:
    """What an unknown argument may have meant, if many are similar."""
    plain = name.lower().replace("_", "")
    for names, remark in REMARKS.items():
        if plain in names.split():
            return f" {name!r} {remark}"
    meant = _translated(plain) or name
    if meant in known:
        return f" {name!r} is called {meant!r} here."
    if meant == "loader":
        return f" {name!r} goes to compare: CKA(model1, model2).compare(loader)."
    for title, own in _taken.items():
        if meant in own:
            called = f", as {meant!r}" if meant != name else ""
            return f" {name!r} is an argument of {title}{called}."
    question = did_you_mean(name, known)
    return f" For {name!r}:{question}" if question and unknown > 1 else question


def _translated(plain: str) -> str | None:
    """What an argument of another tool is called here."""
    for own, names in OTHER_NAMES.items():
        if plain == own.replace("_", "") or plain in names.split():
            return own
    found = SIDE.fullmatch(plain)
    first, model, before, what, after = found.groups() if found else (None,) * 5
    if not (model or what):
        return None
    is_second = first == "second" or "2" in (before, after) or "b" in (before, after)
    kind = "" if what is None else "_layers" if "layer" in what else "_name"
    return f"model{2 if is_second else 1}{kind}"
