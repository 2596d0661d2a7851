"""The modules of a model, and their calls, which are the layers."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from cka_notebook._messages import Reason

Path = tuple[str | int, ...]
"""Keys, names of attributes and indices that lead to a tensor in an output."""

Doubt = Literal[
    "alike",  # too many examples had the same values for their order to be seen
    "given",  # the module was given this tensor; what it made cannot be compared
    "placed",  # the values of an example depend on its place in the batch
    "random",  # they depend on random numbers
]
"""What remains uncertain about a tensor that is compared."""


@dataclass(frozen=True, slots=True)
class Output:
    """What one call of a module returned in the probe.

    Attributes:
        order: Position among all calls in the order in which they returned.
        shape: Output shape with None on the batch axis.
        axis: The batch axis.
        groups: Rows per example on that axis, for outputs of shape (n * groups, ...).
        groups_first: Whether those rows are (groups, n), such as two views of all
            examples one after the other, and not (n, groups).
        reason: Why this output cannot be compared, or None.
        kind: Its type and device, such as "float32 on cpu".
        nbytes: Bytes of one example.
        path: Where its tensor is in what the module returned.
        entries: All tensors of a container that the module returned, this one, too.
        doubts: What remains uncertain about it.
        is_rewritten: Whether its numbers may be others than when another call returned
            it, with no sign of a change, as when ``.data`` is written to.
    """

    order: int
    shape: tuple[int | None, ...] = ()
    axis: int = 0
    groups: int = 1
    reason: Reason | None = None
    kind: str = ""
    nbytes: int = 0
    groups_first: bool = False
    path: Path = ()
    entries: "tuple[Output, ...]" = ()
    doubts: tuple[Doubt, ...] = ()
    is_rewritten: bool = False

    @property
    def features(self) -> int:
        """Numbers of one example."""
        return self.groups * prod(size for size in self.shape if size is not None)


@dataclass(frozen=True, slots=True)
class Layer:
    """One call of a module, or one entry of what it returned.

    Attributes:
        position: Place of its module among all modules of the tree.
        is_entry: Whether the user has named the tensor of the output to compare.
    """

    name: str
    module: nn.Module
    call: int
    output: Output
    position: int
    is_entry: bool = False


@dataclass(slots=True)
class Node:
    """One module under one name.

    Attributes:
        name: Its path in the model, "" for the model.
        title: The same, but for the model the name of its class.
        position: Its place among all modules, each before its children.
        alias: The first name of a module that is registered under several, else None.
        mark: What separates the name from the number of a call.
        outputs: What its calls returned in the probe; None before it.
    """

    name: str
    module: nn.Module
    depth: int
    position: int
    alias: str | None = None
    title: str = ""
    mark: str = "#"
    outputs: list[Output] | None = None

    @property
    def kind(self) -> str:
        """Class name."""
        return type(self.module).__name__


def unwrap(module: nn.Module) -> nn.Module:
    """The module inside `torch.compile`, DataParallel or DistributedDataParallel."""
    while True:
        parts = module.__dict__.get("_modules", {})
        # torch.compile's wrapper has one part; a scripted module's parts know no get.
        is_compiled = "_orig_mod" in parts and len(parts) == 1
        inner = parts["_orig_mod"] if is_compiled else None
        if inner is None and isinstance(module, DataParallel | DistributedDataParallel):
            inner = module.module
        if inner is None:
            return module
        module = inner


WEIGHTS = ("parametrizations", "_packed_params")
"""Children that hold the weights of a module and are given no activations."""


def is_leaf(module: nn.Module) -> bool:
    """Whether a module has no children except those that hold its own weights.

    Children of a compiled module are never called as modules.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return True
    parts = module._modules.items()  # noqa: SLF001 nn.Module offers no cheap public test
    return not any(child is not None and key not in WEIGHTS for key, child in parts)


def nodes_of(model: nn.Module) -> list[Node]:
    """All modules, each before its children, shared ones under each of their names."""
    nodes = list(_walk(model))
    names = {node.name for node in nodes}
    nodes[0].title = _free_name(nodes[0].kind, names)
    for node in nodes:
        if node.alias == "":  # a module that holds the model
            node.alias = nodes[0].title
    _set_marks(nodes)
    return nodes


def _walk(model: nn.Module) -> Iterator[Node]:
    first: dict[int, str] = {}
    stack: list[tuple[str, nn.Module, int]] = [("", model, 0)]
    position = -1
    while stack:
        position += 1
        name, module, depth = stack.pop()
        alias = first.get(id(module))
        first.setdefault(id(module), name)
        yield Node(name, module, depth, position, alias, name)
        if alias is not None:
            continue
        children = [(k, m) for k, m in module._modules.items() if m is not None]  # noqa: SLF001 named_children() drops shared children
        stack += [
            (f"{name}.{key}" if name else key, unwrap(child), depth + 1)
            for key, child in reversed(children)
        ]


def _free_name(kind: str, names: set[str]) -> str:
    """The name of the model among its layers: its class, unless a child has it."""
    return kind if kind not in names else _free_name(f"{kind} (model)", names)


def _set_marks(nodes: list[Node]) -> None:
    """Give no call the name of another module, or of another module's call."""
    digits = "0123456789"
    numbered = [node.name for node in nodes if "#" in node.name]
    taken = {name.rstrip(digits) for name in numbered if name[-1] in digits}
    for node in nodes if numbered else ():
        while node.title + node.mark in taken:
            node.mark += "#"
        taken.add(node.title + node.mark)


def layers_of(node: Node) -> Iterator[Layer]:
    """The calls of a module; before a probe, one call in order of definition."""
    place = node.position
    if node.outputs is None:
        yield Layer(node.title, node.module, 0, Output(place), place)
        return
    several = len(node.outputs) > 1
    for call, output in enumerate(node.outputs):
        name = call_name(node, call) if several else node.title
        yield Layer(name, node.module, call, output, place)


def entries_of(layer: Layer) -> Iterator[Layer]:
    """Each tensor of a layer's output as a layer of its own: "encoder:pooled"."""
    for output in layer.output.entries:
        name = entry_name(layer.name, entry_key(output.path))
        yield replace(layer, name=name, output=output, is_entry=True)


def entry_key(path: Path) -> str:
    """A place in an output as users write it: "1.0" for ``output[1][0]``."""
    return ".".join(map(str, path))


def entry_name(layer: str, key: str) -> str:
    """Name of one entry of a layer's output."""
    return f"{layer}:{key}"


def call_name(node: Node, call: int) -> str:
    """Name of one of several calls of a module: "act#1" for the second of "act"."""
    return f"{node.title}{node.mark}{call}"


def is_adapted(module: nn.Module) -> bool:
    """Whether this is PEFT's sum of a layer and its adapters, compared as one layer."""
    return "base_layer" in module._modules  # noqa: SLF001 as above


def expects_tokens_first(module: nn.Module) -> bool:
    """Whether torch documents the first axis of this module's tensors as tokens."""
    if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        module = module.self_attn
    kinds = nn.RNNBase, nn.MultiheadAttention
    return isinstance(module, kinds) and not module.batch_first
