"""What a layer tree says of each module: its parameters, their type and device."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .nodes import Node


class Parameters(NamedTuple):
    """Parameters of one module.

    Attributes:
        own: How many are the module's own, not those of its children.
        total: How many there are in it and below, shared ones counted once.
        trainable: How many of the total a training would change.
        kinds: Types and devices of all of them in words, "float32 on cpu".
    """

    own: int
    total: int
    trainable: int
    kinds: str


class _Weight(NamedTuple):
    """One parameter, or what a quantised module holds in its place."""

    size: int
    trainable: bool
    kind: str


def parameters_of(nodes: list[Node]) -> list[Parameters]:
    """The parameters of each module."""
    found: list[dict[int, _Weight]] = []
    own: list[int] = []
    open_nodes: list[tuple[int, dict[int, _Weight]]] = []
    for node in nodes:
        held = dict(_held(node.module))
        own.append(sum(weight.size for weight in held.values()))
        if node.alias is not None:
            # What is below another name of a module has no rows of its own.
            held |= {k: w for m in node.module.modules() for k, w in _held(m)}
        while open_nodes and open_nodes[-1][0] >= node.depth:
            open_nodes.pop()
        for _, above in open_nodes:
            above.update(held)
        found.append(held)
        open_nodes.append((node.depth, held))
    return [
        _summed(count, held.values()) for count, held in zip(own, found, strict=True)
    ]


def kind_of(tensor: Tensor) -> str:
    """Type and device of a tensor in words, "float32 on cpu"."""
    return f"{_type_word(tensor)} on {tensor.device}"


def _summed(own: int, weights: Iterable[_Weight]) -> Parameters:
    held = list(weights)
    return Parameters(
        own,
        sum(weight.size for weight in held),
        sum(weight.size for weight in held if weight.trainable),
        ", ".join(sorted({weight.kind for weight in held})),
    )


def _held(module: nn.Module) -> Iterator[tuple[int, _Weight]]:
    """The module's own parameters, by what tells shared ones."""
    for parameter in module.parameters(recurse=False):
        kind = kind_of(parameter)
        yield id(parameter), _Weight(_size(parameter), parameter.requires_grad, kind)
    if "_packed_params" in module.__dict__:
        # How many numbers torch has packed only unpacking them would tell.
        kind = _word(getattr(module, "dtype", torch.qint8))
        yield id(module), _Weight(0, trainable=False, kind=f"{kind} on cpu")


def _size(parameter: Any) -> int:
    """How many numbers a parameter stands for."""
    if is_lazy(parameter):
        return 0
    if _is_four_bit(parameter):
        return 2 * int(parameter.numel()) * int(parameter.element_size())
    return int(parameter.numel())


def _type_word(tensor: Tensor) -> str:
    return "4-bit" if _is_four_bit(tensor) else _word(tensor.dtype)


def _word(dtype: torch.dtype) -> str:
    """A type without its module, a quantised one by what it is stored in."""
    word = str(dtype).removeprefix("torch.")
    return word.removeprefix("q") if word.startswith(("qint", "quint")) else word


def _is_four_bit(tensor: Tensor) -> bool:
    """Whether this is a parameter of bitsandbytes that holds two numbers a byte."""
    return type(tensor).__name__ == "Params4bit" and bool(
        getattr(tensor, "bnb_quantized", False)
    )
