"""What a module consists of, as far as the choice of layers asks: found in one pass."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .nodes import WEIGHTS, Node, is_adapted, is_leaf


@dataclass(slots=True)
class Part:
    """One module and what it contains.

    Attributes:
        node: The module.
        parent: Place of the module that contains it, -1 for the model.
        end: One past the place of the last module that it contains.
        children: Places of its children.
        has_weights: Whether it or a module in it has parameters, or packed weights.
        kernels: Number of matrices in it that map features: of linear layers and
            convolutions, without depthwise ones, norms and tables of embeddings.
        form: Equal for modules of the same classes and shapes, inside, too.
    """

    node: Node
    parent: int
    end: int
    children: list[int] = field(default_factory=list)
    has_weights: bool = False
    kernels: int = 0
    form: int = 0

    @property
    def module(self) -> nn.Module:
        """The module."""
        return self.node.module

    @property
    def key(self) -> str:
        """Its name in the module that contains it."""
        return self.node.name.rpartition(".")[2]


def parts_of(nodes: list[Node]) -> list[Part]:
    """The parts of a model, in the order of its nodes."""
    parts = _linked(nodes)
    forms: dict[Any, int] = {}
    for part in reversed(parts):
        _describe(part, [parts[child] for child in part.children], forms)
    first = {part.node.title: part for part in parts}
    for part in parts:
        if part.node.alias is not None:
            _share(parts, part, first[part.node.alias])
    return parts


def above(parts: list[Part], place: int) -> Iterable[int]:
    """Places of the modules that contain this one, from the inside, not the model."""
    place = parts[place].parent
    while place > 0:
        yield place
        place = parts[place].parent


def is_innermost(parts: list[Part], place: int) -> bool:
    """Whether a module is a leaf, or uses all weights inside it by itself.

    So does a module that was exported, or a block of which only activations are
    modules.
    """
    part = parts[place]
    computes_weights = not set(WEIGHTS).isdisjoint(part.node.name.split("."))
    if is_leaf(part.module) or computes_weights:
        return is_leaf(part.module)
    inside = parts[place + 1 : part.end]
    counted = [x.node for x in inside if x.has_weights or not part.has_weights]
    return all(node.outputs == [] and node.alias is None for node in counted)


def _linked(nodes: list[Node]) -> list[Part]:
    """Parts that know their parents, children and ends."""
    parts: list[Part] = []
    path: list[int] = []
    for place, node in enumerate(nodes):
        while len(path) > node.depth:
            parts[path.pop()].end = place
        parts.append(Part(node, path[-1] if path else -1, len(nodes)))
        if path:
            parts[path[-1]].children.append(place)
        path.append(place)
    return parts


def _describe(part: Part, children: list[Part], forms: dict[Any, int]) -> None:
    """Fill in what follows from the module's own weights and from its children."""
    own: list[Any] = list(part.module.parameters(recurse=False))
    is_packed = "_packed_params" in part.module._modules  # noqa: SLF001 no public test
    part.has_weights = bool(own) or is_packed or any(x.has_weights for x in children)
    inside = [x for x in children if x.key == "base_layer"]
    counted = inside if is_adapted(part.module) and inside else children
    part.kernels = _kernels(part.module, own) + is_packed
    part.kernels += sum(child.kernels for child in counted)
    shapes = tuple(() if is_lazy(x) else tuple(x.shape) for x in own)
    form = type(part.module), shapes, tuple(child.form for child in children)
    part.form = forms.setdefault(form, len(forms))


def _share(parts: list[Part], part: Part, first: Part) -> None:
    """Tell a module under another name, and what contains it, of its weights."""
    part.has_weights, part.form = first.has_weights, first.form
    place = part.parent
    while first.has_weights and place >= 0 and not parts[place].has_weights:
        parts[place].has_weights = True
        place = parts[place].parent


def _kernels(module: nn.Module, own: list[nn.Parameter]) -> int:
    """Number of the module's own matrices that map features to features."""
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return 0
    return sum(_is_kernel(module, parameter) for parameter in own)


def _is_kernel(module: nn.Module, parameter: Tensor) -> bool:
    if is_lazy(parameter) or not parameter.is_floating_point():
        return True  # not made yet, or packed: no norm is
    shape = tuple(parameter.shape)
    is_depthwise = getattr(module, "groups", 1) != 1 and shape[1:2] == (1,)
    is_map = isinstance(module, nn.Linear) or prod(shape) > max(shape, default=1)
    return len(shape) > 1 and is_map and not is_depthwise
