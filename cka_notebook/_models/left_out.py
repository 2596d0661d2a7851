"""What a comparison does not see of a model: modules with weights and no layer."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import nn

from cka_notebook._messages import counted, first_few

from .auto import is_position_table
from .blocks import CONTAINERS
from .nodes import WEIGHTS, Layer, is_leaf
from .parts import Part, above

HOLDERS = (nn.ParameterList, nn.ParameterDict)
"""Modules that only hold weights of others."""


def left_out_notes(parts: list[Part], layers: list[Layer]) -> list[str]:
    """What is not compared although it has weights, and what to do about it."""
    return [
        *_in_plain_lists(parts),
        *_never_called(parts),
        *_called_by_forward(parts),
        *incomparable_notes(parts, layers),
    ]


def incomparable_notes(
    parts: list[Part], layers: list[Layer], *, every: bool = False
) -> list[str]:
    """Notes on modules that were called, and have no output that can be compared.

    Args:
        parts: All modules.
        layers: All layers.
        every: Whether to name those without weights, and those in other layers, too.
    """
    seen = {layer.position for layer in layers}
    silent = [
        place
        for place, part in enumerate(parts)
        if place > 0
        and part.node.outputs
        and part.node.alias is None
        and place not in seen
        and set(WEIGHTS).isdisjoint(part.node.name.split("."))
        and (every or _is_missed(parts, place, seen))
    ]
    found: dict[int, str] = {}
    for place in silent:
        if not any(x in found for x in above(parts, place)):
            found[place] = str((parts[place].node.outputs or [])[0].reason)
    return [
        f"{_not_compared(*counts)} ({reason}): {first_few(names)}."
        for reason, counts, names in _by_reason(parts, found)
    ]


def _in_plain_lists(parts: list[Part]) -> Iterator[str]:
    """Notes on modules in Python lists, which torch does not see."""
    known = {id(part.module) for part in parts}
    for part in parts:
        for name, value in vars(part.module).items():
            modules = [] if name.startswith("_") else _hidden(value, known)
            if modules:
                path = f"{part.node.name}.{name}".removeprefix(".")
                yield _plain_list_note(path, value, len(modules))


def _plain_list_note(path: str, value: Any, count: int) -> str:
    it, they_are = ("it", "it is") if count == 1 else ("them", "they are")
    better = "nn.ModuleDict" if isinstance(value, dict) else "nn.ModuleList"
    return (
        f"{_not_compared(count)}: {path!r} is a plain {type(value).__name__}, so "
        f"{they_are} no part of the model, for its optimizer, too. Put {it} into an "
        f"{better}."
    )


def _hidden(value: Any, known: set[int], depth: int = 3) -> list[nn.Module]:
    """Modules with weights in a list or dict that are not registered anywhere."""
    if not isinstance(value, list | tuple | dict):
        return []
    members = value.values() if isinstance(value, dict) else value
    lists = [x for x in members if isinstance(x, list | tuple | dict)] if depth else []
    inner = [x for each in lists for x in _hidden(each, known, depth - 1)]
    modules = [x for x in members if isinstance(x, nn.Module) and id(x) not in known]
    return [x for x in modules if next(x.parameters(), None) is not None] + inner


def _never_called(parts: list[Part]) -> Iterator[str]:
    """A note on modules that no forward pass has called, nor what contains them."""
    called = _with_calls(parts)
    used = {
        id(weight)
        for part in parts
        if part.node.outputs
        for weight in part.module.parameters(recurse=False)
    }
    found = dict.fromkeys(
        _outermost(parts, place, called)
        for place, part in enumerate(parts)
        if place > 0 and _is_idle(part) and _owns_weights(parts, part, used)
        if not any(parts[x].node.outputs for x in above(parts, place))
    )
    if found:
        names = [parts[place].node.title for place in found]
        yield (
            f"{_not_compared(len(names))}, because the model never called "
            f"{'it' if len(names) == 1 else 'them'} in evaluation mode: "
            f"{first_few(names)}. A module has a layer if the model calls it, "
            "block(x): not by block.forward(x), and not inside a scripted part."
        )


def _called_by_forward(parts: list[Part]) -> Iterator[str]:
    """A note on blocks that were not called, although their parts were."""
    called = _with_calls(parts)
    idle = [
        part
        for place, part in enumerate(parts)
        if place > 0 and _is_idle(part) and called[place] and part.kernels > 1
        if not is_leaf(part.module) and type(part.module) not in CONTAINERS
        if part.key[-1:].isdigit()
    ]
    kinds = Counter(type(part.module) for part in idle)
    names = [part.node.title for part in idle if kinds[type(part.module)] > 1]
    if names:
        yield (
            f"{counted(len(names), 'block')} cannot be compared as a whole, because "
            f"the model called only the modules in them: {first_few(names)}. Call "
            "block(x), not block.forward(x)."
        )


def _is_missed(parts: list[Part], place: int, seen: set[int]) -> bool:
    """Whether a module has weights, and no layer around it shows what it does."""
    part = parts[place]
    if not part.has_weights or any(x in seen for x in above(parts, place)):
        return False
    return not (isinstance(part.module, nn.Embedding) or is_position_table(part))


def _by_reason(
    parts: list[Part], found: dict[int, str]
) -> Iterator[tuple[str, tuple[int, bool], list[str]]]:
    """Each reason, with how many modules it has and whether these have weights."""
    for reason in dict.fromkeys(found.values()):
        places = [x for x in found if found[x] == reason]
        weighty = all(parts[x].has_weights for x in places)
        names = [parts[x].node.title for x in places]
        yield reason, (len(places), weighty), names


def _with_calls(parts: list[Part]) -> list[bool]:
    """For each module, whether it or a module in it was called."""
    called = [bool(part.node.outputs) for part in parts]
    for place in range(len(parts) - 1, 0, -1):
        called[parts[place].parent] |= called[place]
    return called


def _is_idle(part: Part) -> bool:
    return part.node.outputs == [] and part.node.alias is None


def _owns_weights(parts: list[Part], part: Part, used: set[int]) -> bool:
    """Whether a module has weights of its own that are not those of another module.

    Args:
        parts: All modules.
        part: The module.
        used: Identities of the weights of modules that were called, tied ones, too.
    """
    holder = parts[part.parent].module
    is_weight = part.key in WEIGHTS or isinstance(holder, nn.MultiheadAttention)
    if is_weight or isinstance(part.module, HOLDERS) or not part.has_weights:
        return False
    own = [id(weight) for weight in part.module.parameters(recurse=False)]
    return not used.issuperset(own) if own else is_leaf(part.module)


def _outermost(parts: list[Part], place: int, called: list[bool]) -> int:
    """The largest module around this one in which nothing was called."""
    for outer in above(parts, place):
        if called[outer] or type(parts[outer].module) in CONTAINERS:
            break
        place = outer
    return place


def _not_compared(count: int, weighty: bool = True) -> str:
    verb = "is" if count == 1 else "are"
    kind = " with weights" if weighty else ""
    return f"{counted(count, 'module')}{kind} {verb} not compared"
