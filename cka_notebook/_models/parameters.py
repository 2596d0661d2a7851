"""Parameters of each module of a layer tree: how many, their types and devices."""

from collections.abc import Iterable, Iterator
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
    found: list[dict[int, _Weight]] = []
    own: list[int] = []
    open_nodes: list[tuple[int, dict[int, _Weight]]] = []
    for node in nodes:
        weights = dict(_weights(node.module))
        own.append(sum(weight.size for weight in weights.values()))
        if node.alias is not None:
            # The children of a module have no rows below its other names.
            weights |= {k: w for m in node.module.modules() for k, w in _weights(m)}
        while open_nodes and open_nodes[-1][0] >= node.depth:
            open_nodes.pop()
        for _, above in open_nodes:
            above.update(weights)
        found.append(weights)
        open_nodes.append((node.depth, weights))
    return [_summed(n, each.values()) for n, each in zip(own, found, strict=True)]


def kind_of(tensor: Tensor) -> str:
    """Type and device of a tensor, such as "float32 on cpu"."""
    return f"{_type_name(tensor)} on {tensor.device}"


def _summed(own: int, weights: Iterable[_Weight]) -> Parameters:
    every = list(weights)
    return Parameters(
        own,
        sum(weight.size for weight in every),
        sum(weight.size for weight in every if weight.trainable),
        ", ".join(sorted({weight.kind for weight in every})),
    )


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
