"""The modules of a model, and their calls, which are the layers."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from cka_notebook._messages import Reason


@dataclass(frozen=True, slots=True)
class Output:
    """What one call of a module returned in the probe.

    Attributes:
        order: Position among all calls in the order in which they returned.
        shape: Output shape with None on the batch axis.
        axis: The batch axis.
        groups: Rows per example on that axis, for outputs of shape (n * groups, ...).
        reason: Why this output cannot be compared, or None.
        kind: Its type and device, such as "float32 on cpu".
        nbytes: Bytes of one example.
    """

    order: int
    shape: tuple[int | None, ...] = ()
    axis: int = 0
    groups: int = 1
    reason: Reason | None = None
    kind: str = ""
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class Layer:
    """One call of a module."""

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


WEIGHTS = ("parametrizations", "_packed_params")
"""Children that hold the weights of a module and are given no activations."""


def is_leaf(module: nn.Module) -> bool:
    """Whether a module has no children except those that hold its own weights."""
    parts = module._modules.items()  # noqa: SLF001 nn.Module offers no cheap public test
    return not any(child is not None and key not in WEIGHTS for key, child in parts)


def walk(model: nn.Module) -> Iterator[Node]:
    """All modules, each before its children, shared ones under each of their names."""
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


def layers_of(node: Node) -> Iterator[Layer]:
    """The calls of a module; before a probe, one call in order of definition."""
    if node.outputs is None:
        yield Layer(node.name, node.module, 0, Output(node.position))
        return
    several = len(node.outputs) > 1
    for call, output in enumerate(node.outputs):
        name = f"{node.name}#{call}" if several else node.name
        yield Layer(name, node.module, call, output)


def bare_name(name: str) -> str:
    """Name of the module whose call this layer is: "act" for "act#1"."""
    return name.partition("#")[0]


def has_weights(module: nn.Module) -> bool:
    """Whether a module or a part of it has parameters, or packed int8 weights."""
    found = next(module.parameters(), None) is not None
    return found or any("_packed_params" in x._modules for x in module.modules())  # noqa: SLF001 as above


def is_adapted(module: nn.Module) -> bool:
    """Whether this is PEFT's sum of a layer and its adapters, compared as one layer."""
    return "base_layer" in module._modules  # noqa: SLF001 as above


def expects_tokens_first(module: nn.Module) -> bool:
    """Whether torch documents the first axis of this module's tensors as tokens."""
    if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        module = module.self_attn
    kinds = nn.RNNBase, nn.MultiheadAttention
    return isinstance(module, kinds) and not module.batch_first
