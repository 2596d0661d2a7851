"""The choice of layers that needs no argument: blocks, and what is around them."""

from collections import Counter

from torch import nn

from .nodes import Layer, Node, bare_name, has_weights, is_adapted, is_leaf, unwrap

AUTO_LIMIT = 64
"""More rows than this are hard to read, and rarely what `auto` is asked for."""

REPEATS = 3
"""So many modules of one class make that class the model's building block."""

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

PASSIVE = (nn.Dropout, nn.Identity, nn.Flatten, nn.Unflatten)
"""Leaves that hand on what they get, so they do not stand for a stem or a head."""


def thinned(count: int) -> list[int]:
    """Indices that ``auto`` keeps of so many layers: evenly spaced, and the last."""
    if count <= AUTO_LIMIT:
        return list(range(count))
    step = -(-(count - 1) // (AUTO_LIMIT - 1))
    return sorted({*range(0, count, step), count - 1})


def auto(layers: list[Layer], blocks: list[Layer]) -> list[Layer]:
    """Blocks and what is around them; else leaves with weights; else all."""
    if blocks:
        chosen = [*_around(layers, blocks), *blocks]
        return sorted(chosen, key=lambda layer: layer.output.order)
    return _with_weights(layers) or layers


def _with_weights(layers: list[Layer]) -> list[Layer]:
    """Leaves that have weights; an adapted one without its base and adapters."""
    adapted = [x for x in layers if is_adapted(x.module)]
    inside = tuple(bare_name(x.name) + "." for x in adapted)
    leaves = [x for x in layers if is_leaf(x.module) and not x.name.startswith(inside)]
    found = [x for x in [*leaves, *adapted] if has_weights(x.module)]
    return sorted(found, key=lambda layer: layer.output.order)


def find_blocks(nodes: list[Node], layers: list[Layer]) -> list[Layer]:
    """Layers that are the model's building blocks: the outermost repeated class.

    Where no class of blocks repeats, plain containers side by side are the blocks.
    """
    live = {bare_name(layer.name) for layer in layers}
    own = [n for n in nodes if n.name in live and n.alias is None]
    chosen = _repeated([n for n in own if _may_repeat(n.module)]) or _siblings(
        [n for n in own if type(n.module) in CONTAINERS]
    )
    return [layer for layer in layers if bare_name(layer.name) in chosen]


def _repeated(candidates: list[Node]) -> set[str]:
    """Names of the outermost modules of classes that repeat at that level.

    A class that is mostly a part of other blocks (the convolution of a stem that is
    also in each block) is none. Calls count, not modules: a block may be shared.
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
    counts: Counter[type] = Counter()
    for node in nodes:
        counts[type(node.module)] += len(node.outputs or [None])
    return {kind for kind, count in counts.items() if count >= REPEATS}


def _outermost(candidates: list[Node], kinds: set[type]) -> list[Node]:
    """Modules of these classes in no other; stages count as what they hold."""
    chosen: list[Node] = []
    for node in candidates:
        inside = chosen and node.name.startswith(chosen[-1].name + ".")
        right = type(node.module) in kinds and not _is_stage(node.module, kinds)
        if right and not inside:
            chosen.append(node)
    return chosen


def _siblings(containers: list[Node]) -> set[str]:
    """Names of the outermost plain containers with enough others beside them."""
    families: dict[str, list[str]] = {}
    for node in containers:
        families.setdefault(node.name.rpartition(".")[0], []).append(node.name)
    large = [names for names in families.values() if len(names) >= REPEATS]
    return set(large[0]) if large else set()


def _may_repeat(module: nn.Module) -> bool:
    """Whether a module can be a block: it has parts, and a class of its own."""
    simple = is_leaf(module) or is_adapted(module)
    return not simple and type(module) not in CONTAINERS


def _is_stage(module: nn.Module, repeated: set[type]) -> bool:
    """Whether a module only holds lists of one repeated class."""
    lists, others = [], []
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential | nn.ModuleList) and len(child) > 0:
            lists.append({type(unwrap(member)) for member in child})
        elif "sampl" not in name:
            others.append(name)
    kinds = [next(iter(kinds)) for kinds in lists if len(kinds) == 1]
    return any(kind in repeated for kind in kinds) and not others


def _around(layers: list[Layer], blocks: list[Layer]) -> list[Layer]:
    """Stems, norms, pools and heads: the outermost layers that hold no block.

    Of a run of them before a block, the last stands for all; behind the last block of
    the model or of a stack (an encoder, say), each that ends something counts.
    """
    marks = [(x, False) for x in _outer(layers, blocks)] + [(x, True) for x in blocks]
    marks.sort(key=lambda mark: mark[0].output.order)
    kept: list[Layer] = []
    run: list[Layer] = []
    before: Layer | None = None
    for layer, is_block in marks:
        if not is_block:
            run.append(layer)
            continue
        kept += _of_run(run, before, layer)
        run, before = [], layer
    return [*kept, *_of_run(run, before, None)]


def _outer(layers: list[Layer], blocks: list[Layer]) -> list[Layer]:
    """Layers outside of all blocks that hold none, without those inside of others."""
    names = {bare_name(layer.name) for layer in blocks}
    inside = tuple(name + "." for name in names)
    holders = {above for name in names for above in _ancestors(name)}
    free = [
        layer
        for layer in layers
        if bare_name(layer.name) not in names | holders
        and not layer.name.startswith(inside)
        and not isinstance(layer.module, PASSIVE)
    ]
    bare = {bare_name(layer.name) for layer in free}
    return [x for x in free if bare.isdisjoint(_ancestors(bare_name(x.name)))]


def _of_run(run: list[Layer], before: Layer | None, after: Layer | None) -> list[Layer]:
    """What to keep of the outer layers between two blocks."""
    if before is None:
        return run[-1:]
    if after is None:
        return [layer for layer in run if _ends(layer.module)]
    ends = [x for x in run if _shared(x, before) > _shared(x, after)]
    stems = [x for x in run if x not in ends and has_weights(x.module)]
    return [*(x for x in ends if _ends(x.module)), *stems[-1:]]


def _ancestors(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def _shared(layer: Layer, other: Layer) -> int:
    """Number of modules that hold both."""
    ancestors = set(_ancestors(bare_name(layer.name)))
    return len(ancestors.intersection(_ancestors(bare_name(other.name))))


def _ends(module: nn.Module) -> bool:
    return "pool" in type(module).__name__.lower() or has_weights(module)
