"""A model's building blocks: what a researcher of its architecture would call so.

A kind of module is a block if it repeats. It is none if it is a stage, which repeats
other blocks, or a helper, most instances of which lie inside other blocks.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from math import prod
from typing import Any

from torch import nn

from .nodes import Layer, Output, is_adapted, is_leaf
from .parts import Part, above

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

PASSIVE = (nn.Dropout, nn.Identity, nn.Flatten, nn.Unflatten)
"""Leaves that pass on their input, so they are neither stem nor head."""

REPEATS = 3
"""Calls that make a kind a block; two do if their modules are numbered."""

PARALLEL = re.compile("expert|branch|head")
"""Names of lists whose members work side by side, not one after the other."""

Kind = Any
"""The class of a module, or the pattern and content of equal containers: hashable."""


def find_blocks(parts: list[Part], layers: list[Layer]) -> list[Layer]:
    """The layers that are building blocks, in the order of the layers.

    Without any, sibling containers such as `nn.Sequential` are the blocks.
    """
    live = sorted({layer.position for layer in layers} - {0})
    live = [place for place in live if parts[place].node.alias is None]
    candidates = _Candidates(parts, live)
    blocks = candidates.blocks()
    blocks |= candidates.odd_ones(blocks)
    blocks = blocks or _siblings(parts, live)
    return [layer for layer in layers if layer.position in blocks]


class _Candidates:
    """The modules that may be blocks, by kind."""

    def __init__(self, parts: list[Part], live: list[int]) -> None:
        self.parts, self.live = parts, live
        classes: dict[int, Kind] = {
            place: type(parts[place].module)
            for place in live
            if _may_repeat(parts[place].module)
        }
        self.repeated = self._repeating(classes)
        own = {x: kind for x, kind in classes.items() if kind in self.repeated}
        self.units = _units(parts, live, own)
        self.kinds = dict(sorted((own | self.units).items()))

    def blocks(self) -> set[int]:
        """Places of the outermost modules of kinds that repeat at that level."""
        kinds = set(self.kinds.values()) - self._stages()
        chosen = self._outermost(kinds)
        while (kind := self._unfit(chosen)) is not None:
            kinds.discard(kind)
            chosen = self._outermost(kinds)
        levels = self._levels()
        inside = {x for place in levels for x in range(place, self.parts[place].end)}
        chosen = [place for place in chosen if place not in inside]
        if self._are_enough([*levels, *chosen]):
            return {*levels, *(self._large(chosen) if chosen else ())}
        return set()

    def _levels(self) -> list[int]:
        """The levels of a U-Net: stages that go down and up again in resolution."""
        large = self._large_classes()
        found: list[int] = []
        for place in self.live:
            end = self.parts[found[-1]].end if found else 0
            module = self.parts[place].module
            if place >= end and _may_repeat(module) and self._repeats(place, large):
                found.append(place)
        return found if self._is_u_shaped(found) else []

    def _is_u_shaped(self, places: list[int]) -> bool:
        """Whether sizes shrink, and end where they began, in the order of calls."""
        calls = [x for place in places for x in self.parts[place].node.outputs or ()]
        calls = [x for x in calls if len(x.shape) > 3 and None not in x.shape[2:]]
        sizes = [prod(filter(None, x.shape[2:])) for x in sorted(calls, key=_order)]
        return len(sizes) > 2 and min(sizes) < sizes[0] <= sizes[-1]

    def _large(self, chosen: list[int]) -> list[int]:
        """Blocks without the small layers of a stem, neck or head, if any are large."""
        large = [place for place in chosen if self._is_large(place)]
        kinds = {self.kinds[place] for place in large}
        beside = {self._pattern(place) for place in large}
        return [
            place
            for place in chosen
            if self.kinds[place] in kinds or self._pattern(place) in beside
        ] or chosen

    def odd_ones(self, blocks: set[int]) -> set[int]:
        """Places of single modules that stand in a list, or in lists, of blocks."""
        patterns = {self._pattern(place) for place in blocks}
        patterns = {x for x in patterns if x.endswith(".*") and x.strip(".*")}
        taken = blocks | {x for block in blocks for x in above(self.parts, block)}
        return {
            place
            for place in self.live
            if self._pattern(place) in patterns
            and _may_repeat(self.parts[place].module)
            and type(self.parts[place].module) not in self.repeated
            and place not in taken
            and blocks.isdisjoint(above(self.parts, place))
        }

    def _repeating(self, kinds: dict[int, Kind]) -> set[Kind]:
        return {
            kind
            for kind, places in _by_kind(kinds, kinds).items()
            if self._repeat(places)
        }

    def _repeat(self, places: list[int]) -> bool:
        """Whether modules of one kind are called often enough, or are numbered."""
        calls = sum(_calls(self.parts[place]) for place in places)
        return calls >= REPEATS or (
            calls > 1
            and all(re.search(r"\d", self.parts[place].key) for place in places)
        )

    def _outermost(self, kinds: set[Kind]) -> list[int]:
        """Places of the modules of these kinds inside no other of these kinds."""
        chosen: list[int] = []
        for place, kind in self.kinds.items():
            inside = chosen and place < self.parts[chosen[-1]].end
            if kind in kinds and not inside:
                chosen.append(place)
        return chosen

    def _unfit(self, chosen: list[int]) -> Kind | None:
        """A kind that is not a block: the largest rare one, or the smallest helper."""
        groups = _by_kind(chosen, self.kinds)
        size = {kind: self.parts[places[0]].kernels for kind, places in groups.items()}
        rare = [kind for kind, places in groups.items() if not self._repeat(places)]
        if rare:
            return max(rare, key=size.__getitem__)
        inside = self._inside(chosen)
        helpers = [kind for kind in groups if inside[kind] > len(groups[kind])]
        helpers = [kind for kind in helpers if not self._alternates(kind, groups)]
        return min(helpers, key=size.__getitem__, default=None)

    def _alternates(self, kind: Kind, groups: dict[Kind, list[int]]) -> bool:
        """Whether large modules of this kind stand in lists with blocks of others."""
        own = {self._pattern(place) for place in groups[kind] if self._is_large(place)}
        others = {
            self._pattern(place)
            for other, places in groups.items()
            for place in places
            if other != kind
        }
        return any(pattern.endswith(".*") for pattern in own & others)

    def _pattern(self, place: int) -> str:
        return pattern_of(self.parts[place].node.name)

    def _is_large(self, place: int) -> bool:
        return self.parts[place].kernels > 1

    def _inside(self, chosen: list[int]) -> Counter[Kind]:
        """How many modules of each kind lie inside chosen ones of other kinds."""
        count: Counter[Kind] = Counter()
        block = 0
        for place, kind in self.kinds.items() if chosen else ():
            while block + 1 < len(chosen) and chosen[block + 1] <= place:
                block += 1
            if chosen[block] < place < self.parts[chosen[block]].end:
                count[kind] += kind != self.kinds[chosen[block]]
        return count

    def _are_enough(self, chosen: list[int]) -> bool:
        """Whether two calls make up so much of the model that they are its blocks.

        Two gates beside a stack of convolutions are not.
        """
        if sum(_calls(self.parts[place]) for place in chosen) > 2:
            return True
        listed = all(self.parts[place].key.isdigit() for place in chosen)
        inside = sum(self.parts[place].kernels for place in chosen)
        share = 3 if listed else 2
        return share * inside >= self._kernels()

    def _kernels(self) -> int:
        """Number of kernels in modules that run: a tower may have no input."""
        total = end = 0
        for place, after in pairwise([*self.live, len(self.parts)]):
            part = self.parts[place]
            is_innermost = part.end <= after or is_adapted(part.module)
            if is_innermost and place >= end:
                total, end = total + part.kernels, part.end
        return total

    def _stages(self) -> set[Kind]:
        """The classes whose instances repeat another kind of block."""
        large = self._large_classes()
        own = {x: kind for x, kind in self.kinds.items() if x not in self.units}
        groups = _by_kind(own, own)
        varied = {kind for kind, places in groups.items() if self._vary(places, large)}
        stages = {
            kind
            for kind, places in groups.items()
            if any(self._repeats(x, large, kind in varied) for x in places)
        }
        blocks = large - stages
        mixed = (kind for kind in stages if self._joins_blocks(groups[kind], blocks))
        return stages - set(mixed)

    def _large_classes(self) -> set[type]:
        """The classes of large modules that repeat."""
        return {
            type(self.parts[place].module)
            for place in self.kinds
            if self._is_large(place) and place not in self.units
        }

    def _joins_blocks(self, places: list[int], blocks: set[Kind]) -> bool:
        """Whether modules stand beside blocks of another class, as stages never do."""
        parts = self.parts
        parents = {parts[place].parent for place in places}
        lists = [x for x in parents if type(parts[x].module) in CONTAINERS]
        beside = (child for x in lists for child in parts[x].children)
        return any(type(parts[child].module) in blocks for child in beside)

    def _vary(self, places: list[int], large: set[type]) -> bool:
        """Whether instances of a class differ in the number of numbered blocks."""
        if issubclass(type(self.parts[places[0]].module), nn.ModuleDict):
            return False  # its members are joined, as in DenseNet
        counts = {len(self._numbered(place, large)) for place in places}
        return len(counts) > 1 and max(counts) >= REPEATS

    def _numbered(self, place: int, large: set[type]) -> list[int]:
        """The children that are blocks with numbered names, such as ``b1``, ``b2``."""
        return [
            child
            for child in self.parts[place].children
            if type(self.parts[child].module) in large
            and self.parts[child].key[-1:].isdigit()
        ]

    def _repeats(self, place: int, large: set[type], varied: bool = False) -> bool:
        """Whether a module is a list of blocks with no more than resampling around."""
        found = set(self._numbered(place, large) if varied else ())
        for child in self.parts[place].children:
            part = self.parts[child]
            if child in found or "sampl" in part.key:
                continue
            if self._lists(child, large):
                found.add(child)
            elif part.kernels > 1:
                return False
        return bool(found)

    def _lists(self, place: int, large: set[type]) -> bool:
        """Whether this is a list that repeats a class, or has members of one alone."""
        part = self.parts[place]
        is_list = isinstance(part.module, nn.Sequential | nn.ModuleList)
        if not is_list or PARALLEL.search(part.key):
            return False
        members = [self.parts[x] for x in _members(self.parts, place)]
        kinds = [type(x.module) for x in members if re.search(r"\d", x.key)]
        known = Counter(kind for kind in kinds if kind in large)
        return bool(known) and (len(set(kinds)) == 1 or max(known.values()) > 1)


def pattern_of(name: str) -> str:
    """The name with each number replaced, equal for modules in like places.

    Example:
        >>> pattern_of("blocks.10.conv1")
        'blocks.*.conv*'
    """
    return re.sub(r"\d+", "*", name)


def _units(parts: list[Part], live: list[int], own: dict[int, Kind]) -> dict[int, Kind]:
    """Equal numbered `nn.Sequential` that join a repeated class with other layers."""
    groups: dict[Kind, list[int]] = {}
    for place in live:
        part = parts[place]
        if type(part.module) is nn.Sequential and part.key.isdigit():
            content = tuple(type(parts[child].module) for child in part.children)
            kind = pattern_of(part.node.name), content
            groups.setdefault(kind, []).append(place)
    return {
        place: kind
        for kind, places in groups.items()
        if _are_equal(parts, places) and _joins(parts, places[0], own)
        for place in places
    }


def _are_equal(parts: list[Part], places: list[int]) -> bool:
    """Whether there are two with the same content in one place."""
    forms = [(parts[place].parent, parts[place].form) for place in places]
    return len(set(forms)) < len(forms)


def _joins(parts: list[Part], place: int, own: dict[int, Kind]) -> bool:
    """Whether a container holds different layers, and a repeated class in them."""
    members = [x for x in parts[place].children if not _is_passive(parts[x])]
    forms = [parts[x].form for x in members if parts[x].has_weights]
    is_repeating = len(set(forms)) < len(forms)
    inside = range(place + 1, parts[place].end)
    return len(members) > 1 and not is_repeating and any(x in own for x in inside)


def _is_passive(part: Part) -> bool:
    return isinstance(part.module, PASSIVE)


def _members(parts: list[Part], place: int) -> Iterator[int]:
    """What a list holds; lists in it are opened."""
    for child in parts[place].children:
        if type(parts[child].module) in CONTAINERS:
            yield from _members(parts, child)
        elif not _is_passive(parts[child]):
            yield child


def _siblings(parts: list[Part], live: list[int]) -> set[int]:
    """Places of the outermost plain containers with enough siblings."""
    families: dict[int, list[int]] = {}
    for place in live:
        if type(parts[place].module) in CONTAINERS:
            families.setdefault(parts[place].parent, []).append(place)
    total = parts[0].kernels
    large = [
        places
        for places in families.values()
        if len(places) >= REPEATS
        and 2 * sum(parts[place].kernels for place in places) >= total
    ]
    return set(large[0]) if large else set()


def _may_repeat(module: nn.Module) -> bool:
    """Whether a module can be a block: it has children and is not a plain container."""
    simple = is_leaf(module) or is_adapted(module)
    return not simple and type(module) not in CONTAINERS


def _order(output: Output) -> int:
    return output.order


def _calls(part: Part) -> int:
    outputs = part.node.outputs
    return 1 if outputs is None else len(outputs)


def _by_kind(places: Iterable[int], kinds: dict[int, Kind]) -> dict[Kind, list[int]]:
    groups: dict[Kind, list[int]] = {}
    for place in places:
        groups.setdefault(kinds[place], []).append(place)
    return groups
