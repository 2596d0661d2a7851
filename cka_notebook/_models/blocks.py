"""The default choice of layers: blocks, and what surrounds them."""

from collections import Counter

from torch import nn

from .nodes import Layer, Node, bare_name, has_weights, is_adapted, is_leaf, unwrap

AUTO_LIMIT = 64
"""Maximum number of layers that `auto` chooses: a larger map is hard to read."""

REPEATS = 3
"""Minimum number of modules of one class that makes it a building block."""

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

PASSIVE = (nn.Dropout, nn.Identity, nn.Flatten, nn.Unflatten)
"""Leaves that pass on their input, so they are no stem and no head."""


def thinned(count: int) -> list[int]:
    """Indices that ``auto`` keeps of `count` layers: evenly spaced, plus the last."""
    if count <= AUTO_LIMIT:
        return list(range(count))
    step = -(-(count - 1) // (AUTO_LIMIT - 1))
    return sorted({*range(0, count, step), count - 1})


def auto(layers: list[Layer], blocks: list[Layer]) -> list[Layer]:
    """Blocks and what surrounds them; without blocks, leaves with weights, or all."""
    if blocks:
        chosen = [*_around(layers, blocks), *blocks]
        return sorted(chosen, key=lambda layer: layer.output.order)
    return _with_weights(layers) or layers


def _with_weights(layers: list[Layer]) -> list[Layer]:
    """Leaves with weights; PEFT's adapted layers without their parts."""
    adapted = [x for x in layers if is_adapted(x.module)]
    inside = tuple(bare_name(x.name) + "." for x in adapted)
    leaves = [x for x in layers if is_leaf(x.module) and not x.name.startswith(inside)]
    found = [x for x in [*leaves, *adapted] if has_weights(x.module)]
    return sorted(found, key=lambda layer: layer.output.order)


def find_blocks(nodes: list[Node], layers: list[Layer]) -> list[Layer]:
    """The model's building blocks: the outermost modules of repeated classes.

    If no class repeats, sibling containers such as `nn.Sequential` are the blocks.
    """
    live = {bare_name(layer.name) for layer in layers}
    own = [n for n in nodes if n.name in live and n.alias is None]
    chosen = _repeated([n for n in own if _may_repeat(n.module)]) or _siblings(
        [n for n in own if type(n.module) in CONTAINERS]
    )
    return [layer for layer in layers if bare_name(layer.name) in chosen]


def _repeated(candidates: list[Node]) -> set[str]:
    """Names of the outermost modules of classes that repeat at that level.

    A class that occurs mostly inside other blocks (a convolution of the stem that each
    block contains, too) does not count. Calls are counted, since blocks can be shared.
    """
    kinds = _frequent(candidates)
    while kinds:
        chosen = _outermost(candidates, kinds)
        rare = {type(node.module) for node in chosen} - _frequent(chosen)
        if not rare:
            return {node.name for node in chosen}
        kinds -= rare
    return set()


def _frequent(nodes: list[Node]) -> set[type]:
    """Classes with enough calls to be building blocks."""
    counts: Counter[type] = Counter()
    for node in nodes:
        counts[type(node.module)] += len(node.outputs or [None])
    return {kind for kind, count in counts.items() if count >= REPEATS}


def _outermost(candidates: list[Node], kinds: set[type]) -> list[Node]:
    """Modules of these classes inside no other; of stages, the blocks in them."""
    chosen: list[Node] = []
    for node in candidates:
        inside = chosen and node.name.startswith(chosen[-1].name + ".")
        is_block = type(node.module) in kinds and not _is_stage(node.module, kinds)
        if is_block and not inside:
            chosen.append(node)
    return chosen


def _siblings(containers: list[Node]) -> set[str]:
    """Names of the outermost plain containers with enough siblings."""
    families: dict[str, list[str]] = {}
    for node in containers:
        families.setdefault(node.name.rpartition(".")[0], []).append(node.name)
    large = [names for names in families.values() if len(names) >= REPEATS]
    return set(large[0]) if large else set()


def _may_repeat(module: nn.Module) -> bool:
    """Whether a module can be a block: it has children and is no plain container."""
    simple = is_leaf(module) or is_adapted(module)
    return not simple and type(module) not in CONTAINERS


def _is_stage(module: nn.Module, repeated: set[type]) -> bool:
    """Whether a module only contains lists of one repeated class, and resampling."""
    lists, others = [], []
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential | nn.ModuleList) and len(child) > 0:
            lists.append({type(unwrap(member)) for member in child})
        elif "sampl" not in name:
            others.append(name)
    kinds = [next(iter(kinds)) for kinds in lists if len(kinds) == 1]
    return any(kind in repeated for kind in kinds) and not others


def _around(layers: list[Layer], blocks: list[Layer]) -> list[Layer]:
    """Stems, norms, pools and heads: the outermost layers without blocks in them.

    Of consecutive ones before a block, only the last is kept. After the last block of
    the model, or of a stack such as an encoder, all norms, pools and heads are kept.
    """
    marked = [(x, False) for x in _outer(layers, blocks)] + [(x, True) for x in blocks]
    marked.sort(key=lambda mark: mark[0].output.order)
    kept: list[Layer] = []
    outer: list[Layer] = []
    before: Layer | None = None
    for layer, is_block in marked:
        if not is_block:
            outer.append(layer)
            continue
        kept += _between(outer, before, layer)
        outer, before = [], layer
    return [*kept, *_between(outer, before, None)]


def _outer(layers: list[Layer], blocks: list[Layer]) -> list[Layer]:
    """Layers neither inside a block nor around one, without the parts of others."""
    names = {bare_name(layer.name) for layer in blocks}
    inside = tuple(name + "." for name in names)
    around = {above for name in names for above in _ancestors(name)}
    outside = [
        layer
        for layer in layers
        if bare_name(layer.name) not in names | around
        and not layer.name.startswith(inside)
        and not isinstance(layer.module, PASSIVE)
    ]
    bare = {bare_name(layer.name) for layer in outside}
    return [x for x in outside if bare.isdisjoint(_ancestors(bare_name(x.name)))]


def _between(
    outer: list[Layer], before: Layer | None, after: Layer | None
) -> list[Layer]:
    """Which of the outer layers between two blocks to keep."""
    if before is None:
        return outer[-1:]
    if after is None:
        return [layer for layer in outer if _may_be_last(layer.module)]
    last = [x for x in outer if _shared(x, before) > _shared(x, after)]
    stems = [x for x in outer if x not in last and has_weights(x.module)]
    return [*(x for x in last if _may_be_last(x.module)), *stems[-1:]]


def _ancestors(name: str) -> list[str]:
    """Names of all modules that contain this one, except the model."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def _shared(layer: Layer, other: Layer) -> int:
    """Number of modules that contain both."""
    ancestors = set(_ancestors(bare_name(layer.name)))
    return len(ancestors.intersection(_ancestors(bare_name(other.name))))


def _may_be_last(module: nn.Module) -> bool:
    """Whether this can be the norm, pool or head after a stack of blocks."""
    return "pool" in type(module).__name__.lower() or has_weights(module)
