"""Parameters of each module of a layer tree: how many, their types and devices."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .nodes import Node


class Parameters(NamedTuple):
    """Number and kinds of the parameters of one module.

    Attributes:
        own: Number of the module's own parameters, without those of its children.
        total: Number of all parameters of it and its children, shared ones counted
            once.
        trainable: Number of the total that require a gradient.
        kinds: Types and devices of all of them, such as "float32 on cpu".
    """

    own: int
    total: int
    trainable: int
    kinds: str


class _Weight(NamedTuple):
    """One parameter, or the packed weights of a quantised module."""

    size: int
    trainable: bool
    kind: str


def parameters_of(nodes: list[Node]) -> list[Parameters]:
    """The parameters of each module."""
    parents = _parents(nodes)
    sums = [_Sum() for _ in nodes]
    last: dict[int, int] = {}
    for place, node in enumerate(nodes):
        own = dict(_weights(node.module))
        sums[place].own = sum(weight.size for weight in own.values())
        if node.alias is not None:
            # The children of a module have no rows below its other names.
            own |= {k: w for m in node.module.modules() for k, w in _weights(m)}
        for key, weight in own.items():
            sums[place].add(weight)
            if key in last:
                # What contains both places counts it once.
                sums[_common(parents, nodes, last[key], place)].remove(weight)
            last[key] = place
    for place in range(len(nodes) - 1, 0, -1):
        sums[parents[place]].include(sums[place])
    return [each.parameters() for each in sums]


@dataclass(slots=True)
class _Sum:
    """What adds up to the parameters of a module."""

    own: int = 0
    total: int = 0
    trainable: int = 0
    kinds: set[str] = field(default_factory=set)

    def add(self, weight: "_Weight") -> None:
        self.total += weight.size
        self.trainable += weight.size * weight.trainable
        self.kinds.add(weight.kind)

    def remove(self, weight: "_Weight") -> None:
        self.total -= weight.size
        self.trainable -= weight.size * weight.trainable

    def include(self, other: "_Sum") -> None:
        self.total += other.total
        self.trainable += other.trainable
        self.kinds |= other.kinds

    def parameters(self) -> Parameters:
        kinds = ", ".join(sorted(self.kinds))
        return Parameters(self.own, self.total, self.trainable, kinds)


def _parents(nodes: list[Node]) -> list[int]:
    """The place of the module that contains each; 0 for the model."""
    path: list[int] = []
    parents = []
    for place, node in enumerate(nodes):
        del path[node.depth :]
        parents.append(path[-1] if path else 0)
        path.append(place)
    return parents


def _common(parents: list[int], nodes: list[Node], one: int, other: int) -> int:
    """The place of the innermost module that contains both."""
    while one != other:
        if nodes[one].depth >= nodes[other].depth:
            one, other = other, one
        other = parents[other]
    return one


def kind_of(tensor: Tensor) -> str:
    """Type and device of a tensor, such as "float32 on cpu"."""
    return f"{_type_name(tensor)} on {tensor.device}"


def _weights(module: nn.Module) -> Iterator[tuple[int, _Weight]]:
    """The module's own parameters with their identities, equal for shared ones."""
    for parameter in module.parameters(recurse=False):
        kind = kind_of(parameter)
        yield id(parameter), _Weight(_size(parameter), parameter.requires_grad, kind)
    if "_packed_params" in module.__dict__:
        # Their number is unknown: counting packed weights would mean unpacking them.
        kind = _dtype_name(getattr(module, "dtype", torch.qint8))
        yield id(module), _Weight(0, trainable=False, kind=f"{kind} on cpu")


def _size(parameter: Any) -> int:
    """Number of values that a parameter represents."""
    if is_lazy(parameter):
        return 0
    if _is_four_bit(parameter):
        return 2 * int(parameter.numel()) * int(parameter.element_size())
    return int(parameter.numel())


def _type_name(tensor: Tensor) -> str:
    return "4-bit" if _is_four_bit(tensor) else _dtype_name(tensor.dtype)


def _dtype_name(dtype: torch.dtype) -> str:
    """Name of a type, for a quantised one that of its storage: "int8" for qint8."""
    name = str(dtype).removeprefix("torch.")
    return name.removeprefix("q") if name.startswith(("qint", "quint")) else name


def _is_four_bit(tensor: Tensor) -> bool:
    """Whether this is a bitsandbytes parameter with two values per byte."""
    return type(tensor).__name__ == "Params4bit" and bool(
        getattr(tensor, "bnb_quantized", False)
    )
