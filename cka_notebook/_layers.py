"""The tree of a model's modules, and the choice of layers from it.

A *layer* is one call of one module: a module called once is a layer under its own
name, one called k times is the layers ``act#0`` ... ``act#k-1``. Which modules are
called, how often, in what order and with what output is known after a probe
(`_capture`); before it, every module counts as called once, in order of definition.
"""

import difflib
import fnmatch
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

Choice = str | int | type[nn.Module] | re.Pattern[str]
Choices = Choice | Sequence[Choice] | Callable[[str, nn.Module], bool] | None

PRESETS = ("auto", "blocks", "leaves", "all")
AUTO_LIMIT = 64
"""More rows than this are hard to read, and rarely what `auto` is asked for."""

REPEATS = 3
"""So many modules of one class make that class the model's building block."""

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
PASSIVE = (nn.Dropout, nn.Identity, nn.Flatten, nn.Unflatten)
"""Leaves that hand on what they get, so they do not stand for a stem or a head."""


@dataclass(frozen=True, slots=True)
class Output:
    """What one call of a module returned in the probe.

    Attributes:
        order: Position among all calls, by when they returned.
        shape: Output shape with None on the batch axis.
        axis: The batch axis.
        groups: Rows of that axis per example, for outputs of shape (n * groups, ...).
        reason: Why this output cannot be compared, or None.
    """

    order: int
    shape: tuple[int | None, ...] = ()
    axis: int = 0
    groups: int = 1
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """One comparable call of a module."""

    name: str
    module: nn.Module
    call: int
    output: Output


@dataclass(slots=True)
class Node:
    """One module under one name.

    Attributes:
        alias: The first name of a module that is registered under several, else None.
        outputs: What its calls returned in the probe; None before it.
    """

    name: str
    module: nn.Module
    depth: int
    position: int
    alias: str | None = None
    outputs: list[Output] | None = None

    @property
    def kind(self) -> str:
        """Class name."""
        return type(self.module).__name__


class LayerTree:
    """Modules of one model in order of definition, and the layers made of them.

    Args:
        model: Wrapped models (`torch.compile`, data parallel) are looked through.
        argument: Name of the argument that chooses its layers, for messages.

    Example:
        >>> tree = LayerTree(nn.Sequential(nn.Linear(4, 3), nn.ReLU()))
        >>> tree.names
        ['0', '1']
        >>> tree.choose([nn.Linear])
        ['0']
    """

    def __init__(self, model: nn.Module, argument: str = "model1_layers") -> None:
        self.model = unwrap(model)
        self.argument = argument
        self.nodes = list(_walk(self.model))
        self._by_name = {node.name: node for node in self.nodes}
        self.probed = False

    def learn(self, outputs: dict[nn.Module, list[Output]]) -> None:
        """Take what a probe saw: the outputs of every call of every module."""
        for node in self.nodes:
            node.outputs = outputs.get(node.module, [])
        self.probed = True

    @property
    def layers(self) -> list[Layer]:
        """All comparable layers, in the order in which they return."""
        found = [
            layer
            for node in self.nodes
            if node.alias is None
            for layer in _layers_of(node)
            if layer.output.reason is None
        ]
        # The root repeats its last layer, so it counts only if it is all there is.
        inner = [layer for layer in found if layer.module is not self.model]
        return sorted(inner or found, key=lambda layer: layer.output.order)

    @property
    def names(self) -> list[str]:
        """Names of all comparable layers, in the order in which they return."""
        return [layer.name for layer in self.layers]

    def choose(self, choices: Choices = None) -> list[str]:
        """Names of the chosen layers.

        A list keeps its order, each pattern in it is expanded in execution order, and
        nothing is named twice.

        Raises:
            ValueError: If a name or pattern matches nothing, with the nearest names.
            TypeError: If an item is of no kind that can choose a layer.
        """
        if choices is None:
            choices = "auto"
        if isinstance(choices, str) and choices in PRESETS:
            names = self.preset(choices)
        elif isinstance(choices, str | int | type | re.Pattern):
            names = self._expand(choices)
        elif callable(choices):
            layers = self.layers
            names = [x.name for x in layers if choices(_bare(x.name), x.module)]
        else:
            names = [name for item in choices for name in self._expand(item)]
        if not names:
            msg = f"`{self.argument}` chose no layer of {self._title}. {self._help()}"
            raise ValueError(msg)
        return list(dict.fromkeys(names))

    def check(self, choices: Choices) -> None:
        """Raise as `choose` would for what is wrong before any probe: unknown names."""
        if isinstance(choices, str | int | type | re.Pattern) or choices is None:
            choices = [] if choices is None or choices in PRESETS else [choices]
        if callable(choices):
            return
        for item in choices:
            if not isinstance(item, str):
                self._check_kind(item)
            elif _bare(item) not in self._by_name and not _is_glob(item):
                raise ValueError(self._unknown(item))

    def find(self, names: Iterable[str]) -> list[Layer]:
        """The layers of these names, which `choose` has returned."""
        return [layer for name in names for layer in self._named(name)]

    def preset(self, preset: str) -> list[str]:
        """Names of the layers of one of the presets, in execution order."""
        layers = self.layers
        if preset == "all":
            return [layer.name for layer in layers]
        if preset == "leaves":
            return [layer.name for layer in layers if is_leaf(layer.module)]
        blocks = _blocks(self.nodes, layers)
        if preset == "blocks" and blocks:
            return [layer.name for layer in blocks]
        chosen = _auto(layers, blocks)
        return [chosen[i].name for i in thinned(len(chosen))]

    def auto_note(self) -> str | None:
        """What to say if ``auto`` leaves layers out because there are too many."""
        count = len(_auto(self.layers, _blocks(self.nodes, self.layers)))
        kept = thinned(count)
        if len(kept) == count:
            return None
        step = kept[1] - kept[0]
        last = "" if kept[-1] == kept[-2] + step else " and the last"
        return (
            f"{self._title}: `auto` shows {len(kept)} of {count} layers, every "
            f"{_ordinal(step)}{last}."
        )

    def axis_note(self) -> str | None:
        """What to say if a layer that expects tokens first got examples first."""
        for node in self.nodes:
            first = node.outputs[0] if node.outputs else None
            if (
                first is not None
                and (first.axis, len(first.shape)) == (0, 3)
                and _expects_tokens_first(node.module)
            ):
                return (
                    f"{self._title}: {node.name!r} ({node.kind}) has "
                    "batch_first=False, but got the examples on its first axis. If the "
                    "loader yields (tokens, examples, ...), tokens are compared here: "
                    "yield examples first, and pass forward=lambda model, batch: "
                    "model(batch.transpose(0, 1)). If not, the model mixes examples."
                )
        return None

    def columns(self) -> dict[str, Any]:
        """The tree as columns, one row a module or call, for the page."""
        rows: list[tuple[str, str, int, int, Output | None, str | None]] = []
        params = _parameter_counts(self.nodes)
        for node, count in zip(self.nodes, params, strict=True):
            rows.append(self._row(node, count))
            if node.alias is None and node.outputs and len(node.outputs) > 1:
                rows += [
                    (f"{node.name}#{i}", "call", node.depth + 1, count, out, out.reason)
                    for i, out in enumerate(node.outputs)
                ]
        index = {row[0]: i for i, row in enumerate(rows)}
        presets = {p: [index[name] for name in self.preset(p)] for p in PRESETS}
        names, kinds, depths, counts, outputs, reasons = zip(*rows, strict=True)
        return {
            "name": list(names),
            "type": list(kinds),
            "depth": list(depths),
            "params": list(counts),
            "shape": [list(out.shape) if out else None for out in outputs],
            "reason": list(reasons),
            "order": [out.order if out else None for out in outputs],
            "presets": presets,
        }

    def _row(
        self, node: Node, params: int
    ) -> tuple[str, str, int, int, Output | None, str | None]:
        once = node.outputs[0] if node.outputs and len(node.outputs) == 1 else None
        reason = once.reason if once else None
        if node.alias is not None:
            reason = f"the same module as {node.alias!r}"
        elif node.outputs is not None and not node.outputs:
            reason = "never called"
        elif node.outputs is not None and len(node.outputs) > 1:
            reason = f"called {len(node.outputs)} times"
        elif reason is None and not node.name and node.module not in self._modules():
            reason = "the model itself"
        return node.name, node.kind, node.depth, params, once, reason

    def _modules(self) -> set[nn.Module]:
        return {layer.module for layer in self.layers}

    def _named(self, name: str) -> list[Layer]:
        """Layers called exactly this, whatever is wrong with them."""
        bare, _, call = name.partition("#")
        node = self._by_name.get(bare)
        if node is None:
            return []
        layers = list(_layers_of(node))
        return [x for x in layers if x.name == name] if call else layers

    def _expand(self, choice: Choice) -> list[str]:
        self._check_kind(choice)
        if isinstance(choice, str):
            return self._expand_text(choice)
        layers = self.layers
        if isinstance(choice, int):
            return [self._at(choice, layers).name]
        if isinstance(choice, type):
            names = [x.name for x in layers if isinstance(x.module, choice)]
        else:
            names = [x.name for x in layers if choice.search(x.name)]
        if not names:
            what = choice.__name__ if isinstance(choice, type) else choice.pattern
            msg = f"`{self.argument}` {what!r} matches no layer of {self._title}."
            raise ValueError(f"{msg} {self._help()}")
        return names

    def _check_kind(self, choice: object) -> None:
        known = isinstance(choice, str | int | type | re.Pattern)
        if not known or isinstance(choice, bool):
            msg = (
                f"Expected `{self.argument}` to hold names, indices, globs, compiled "
                f"regular expressions or module classes, got {choice!r}."
            )
            raise TypeError(msg)

    def _expand_text(self, text: str) -> list[str]:
        exact = self._named(text)
        if exact:
            reasons = [x.output.reason for x in exact if x.output.reason]
            if len(reasons) == len(exact):
                msg = (
                    f"`{self.argument}` names {text!r} of {self._title}, which cannot "
                    f"be compared: {reasons[0]}. {self._help()}"
                )
                raise ValueError(msg)
            return [x.name for x in exact if x.output.reason is None]
        if text in self._by_name:
            msg = (
                f"`{self.argument}` names {text!r} of {self._title}, which was never "
                f"called. {self._help()}"
            )
            raise ValueError(msg)
        if _is_glob(text):
            names = [n for n in self.names if fnmatch.fnmatchcase(n, text)]
            if names:
                return names
            msg = f"`{self.argument}` {text!r} matches no layer of {self._title}."
            raise ValueError(f"{msg} {self._help()}")
        raise ValueError(self._unknown(text))

    def _at(self, index: int, layers: list[Layer]) -> Layer:
        try:
            return layers[index]
        except IndexError:
            msg = (
                f"`{self.argument}` index {index} is out of range: {self._title} has "
                f"{len(layers)} layers. {self._help()}"
            )
            raise ValueError(msg) from None

    def _unknown(self, name: str) -> str:
        known = [node.name for node in self.nodes if node.name]
        candidates = list(dict.fromkeys([*known, *self.names]))
        near = difflib.get_close_matches(name, candidates, n=3, cutoff=0.4)
        hint = f" Did you mean {_either(near)}?" if near else ""
        return (
            f"`{self.argument}` names {name!r}, which {self._title} does not have."
            f"{hint} `[n for n, _ in model.named_modules()]` lists all {len(known)}."
        )

    def _help(self) -> str:
        names = self.names
        some = ", ".join(repr(name) for name in names[:3])
        if names:
            more = ", ..." if len(names) > 3 else ""
            return f"It has {len(names)} layers to choose from: {some}{more}."
        reasons = [
            f"{node.name or node.kind!r}: {output.reason}"
            for node in self.nodes
            for output in node.outputs or []
            if output.reason is not None
        ]
        why = f" ({'; '.join(reasons[:3])})" if reasons else ""
        return f"None of its {len(self.nodes)} modules can be compared{why}."

    @property
    def _title(self) -> str:
        return type(self.model).__name__


def unwrap(module: nn.Module) -> nn.Module:
    """The module inside `torch.compile`, DataParallel or DistributedDataParallel."""
    while True:
        parts = module.__dict__.get("_modules", {})
        inner = parts["_orig_mod"] if "_orig_mod" in parts else None  # noqa: SIM401 a scripted module's parts know no get
        if inner is None and isinstance(module, DataParallel | DistributedDataParallel):
            inner = module.module
        if inner is None:
            return module
        module = inner


def is_leaf(module: nn.Module) -> bool:
    """Whether a module has no children."""
    return not any(child is not None for child in module._modules.values())  # noqa: SLF001 nn.Module offers no cheap public test


def _expects_tokens_first(module: nn.Module) -> bool:
    """Whether torch documents tokens as the first axis of this module's tensors."""
    if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        module = module.self_attn
    kinds = nn.RNNBase, nn.MultiheadAttention
    return isinstance(module, kinds) and not module.batch_first


def thinned(count: int) -> list[int]:
    """Indices that ``auto`` keeps of so many layers: evenly spaced, and the last."""
    if count <= AUTO_LIMIT:
        return list(range(count))
    step = -(-(count - 1) // (AUTO_LIMIT - 1))
    return sorted({*range(0, count, step), count - 1})


def _walk(model: nn.Module) -> Iterator[Node]:
    """Modules before their children, shared ones under each of their names."""
    first: dict[int, str] = {}
    stack: list[tuple[str, nn.Module, int]] = [("", model, 0)]
    position = -1
    while stack:
        position += 1
        name, module, depth = stack.pop()
        alias = first.get(id(module))
        first.setdefault(id(module), name)
        yield Node(name, module, depth, position, alias)
        if alias is not None:
            continue
        children = [(k, m) for k, m in module._modules.items() if m is not None]  # noqa: SLF001 named_children() drops shared children
        stack += [
            (f"{name}.{key}" if name else key, unwrap(child), depth + 1)
            for key, child in reversed(children)
        ]


def _layers_of(node: Node) -> Iterator[Layer]:
    if node.outputs is None:
        yield Layer(node.name, node.module, 0, Output(node.position))
        return
    several = len(node.outputs) > 1
    for call, output in enumerate(node.outputs):
        name = f"{node.name}#{call}" if several else node.name
        yield Layer(name, node.module, call, output)


def _is_glob(text: str) -> bool:
    return any(mark in text for mark in "*?[")


def _bare(name: str) -> str:
    return name.partition("#")[0]


def _has_own(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None


def _auto(layers: list[Layer], blocks: list[Layer]) -> list[Layer]:
    """Blocks and what is around them; else leaves with parameters; else all."""
    if blocks:
        chosen = [*_around(layers, blocks), *blocks]
        return sorted(chosen, key=lambda layer: layer.output.order)
    return [x for x in layers if is_leaf(x.module) and _has_own(x.module)] or layers


def _blocks(nodes: list[Node], layers: list[Layer]) -> list[Layer]:
    """Layers that are the model's building blocks: the outermost repeated class.

    Where no class of blocks repeats, plain containers side by side are the blocks.
    """
    live = {_bare(layer.name) for layer in layers}
    own = [n for n in nodes if n.name in live and n.alias is None]
    chosen = _repeated([n for n in own if _may_repeat(n.module)]) or _siblings(
        [n for n in own if type(n.module) in CONTAINERS]
    )
    return [layer for layer in layers if _bare(layer.name) in chosen]


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
    return not is_leaf(module) and type(module) not in CONTAINERS


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
    names = {_bare(layer.name) for layer in blocks}
    inside = tuple(name + "." for name in names)
    holders = {above for name in names for above in _ancestors(name)}
    free = [
        layer
        for layer in layers
        if _bare(layer.name) not in names | holders
        and not layer.name.startswith(inside)
        and not isinstance(layer.module, PASSIVE)
    ]
    bare = {_bare(layer.name) for layer in free}
    return [x for x in free if bare.isdisjoint(_ancestors(_bare(x.name)))]


def _of_run(run: list[Layer], before: Layer | None, after: Layer | None) -> list[Layer]:
    """What to keep of the outer layers between two blocks."""
    if before is None:
        return run[-1:]
    if after is None:
        return [layer for layer in run if _ends(layer.module)]
    ends = [x for x in run if _shared(x, before) > _shared(x, after)]
    stems = [x for x in run if x not in ends and _has_parameters(x.module)]
    return [*(x for x in ends if _ends(x.module)), *stems[-1:]]


def _ancestors(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def _shared(layer: Layer, other: Layer) -> int:
    """Number of modules that hold both."""
    ancestors = set(_ancestors(_bare(layer.name)))
    return len(ancestors.intersection(_ancestors(_bare(other.name))))


def _ends(module: nn.Module) -> bool:
    return "pool" in type(module).__name__.lower() or _has_parameters(module)


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _parameter_counts(nodes: list[Node]) -> list[int]:
    """Parameters of each module and below, shared ones once."""
    sizes: list[dict[int, int]] = []
    open_nodes: list[tuple[int, dict[int, int]]] = []
    for node in nodes:
        own = (
            {id(p): p.numel() for p in node.module.parameters()}
            if node.alias
            else {id(p): p.numel() for p in node.module.parameters(recurse=False)}
        )
        while open_nodes and open_nodes[-1][0] >= node.depth:
            open_nodes.pop()
        for _, above in open_nodes:
            above.update(own)
        sizes.append(own)
        open_nodes.append((node.depth, own))
    return [sum(own.values()) for own in sizes]


def _either(names: list[str]) -> str:
    quoted = [repr(name) for name in names]
    return (
        quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"
    )


def _ordinal(number: int) -> str:
    teens = number % 100 in (11, 12, 13)
    ending = "th" if teens else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
