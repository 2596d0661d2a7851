"""The default choice of layers: blocks, and the stems and heads around them."""

import re

from torch import nn

from .blocks import PASSIVE
from .nodes import Layer, is_adapted
from .parts import Part, above, is_innermost

AUTO_LIMIT = 64
"""Maximum number of layers that `auto` chooses: a larger map is hard to read."""

POSITIONS = re.compile(
    r"(^|_)(pos|position|positions|positional|rotary|rope|wpe)(\d|_?emb|_?enc|_|$)"
    r"|(^|_)rel(ative)?_(pos|bias|emb|att)|Position(?!wise)|Rotary|Sinusoid|RoPE"
)
"""Names and classes of position tables, which are not a stem."""


def thinned(count: int) -> list[int]:
    """Indices that ``auto`` keeps of `count` layers: evenly spaced, plus the last."""
    if count <= AUTO_LIMIT:
        return list(range(count))
    step = -(-(count - 1) // (AUTO_LIMIT - 1))
    return sorted({*range(0, count, step), count - 1})


def auto(parts: list[Part], layers: list[Layer], blocks: list[Layer]) -> list[Layer]:
    """Blocks and what surrounds them; without blocks, leaves with weights, or all."""
    if not blocks:
        return _with_weights(parts, layers) or layers
    chosen = [*_Surroundings(parts, layers, blocks).kept(), *blocks]
    return sorted(chosen, key=lambda layer: layer.output.order)


def is_position_table(part: Part) -> bool:
    """Whether this gives the positions of tokens, not their content."""
    return bool(POSITIONS.search(part.key) or POSITIONS.search(part.node.kind))


def _with_weights(parts: list[Part], layers: list[Layer]) -> list[Layer]:
    """Leaves with weights; PEFT's adapted layers without their parts.

    What runs without calling its parts, such as an exported model, is a leaf, too.
    """
    adapted = {x.position for x in layers if is_adapted(x.module)}
    return [
        layer
        for layer in layers
        if parts[layer.position].has_weights
        and (layer.position in adapted or is_innermost(parts, layer.position))
        and adapted.isdisjoint(above(parts, layer.position) if adapted else ())
    ]


class _Surroundings:
    """Stems, norms, pools and heads: the outermost layers without blocks in them."""

    def __init__(
        self, parts: list[Part], layers: list[Layer], blocks: list[Layer]
    ) -> None:
        self._parts, self._blocks = parts, blocks
        self._around = {x for layer in blocks for x in above(parts, layer.position)}
        self._outer = self._outermost(layers)

    def kept(self) -> list[Layer]:
        """The layers to show beside the blocks.

        Of consecutive ones before a block, one is kept. After the last block of the
        model, or of a stack such as an encoder, all norms, pools and heads are kept.
        """
        marked = [(x, False) for x in self._outer] + [(x, True) for x in self._blocks]
        marked.sort(key=lambda mark: mark[0].output.order)
        kept: list[Layer] = []
        outer: list[Layer] = []
        before: Layer | None = None
        for layer, is_block in marked:
            if not is_block:
                outer.append(layer)
                continue
            kept += self._between(outer, before, layer) if outer else []
            outer, before = [], layer
        return [*kept, *self._between(outer, before, None)]

    def _outermost(self, layers: list[Layer]) -> list[Layer]:
        """Layers neither inside a block nor around one, without the parts of others."""
        parts = self._parts
        closed = {layer.position for layer in self._blocks}
        live = {layer.position for layer in layers} - self._around
        closed |= {x for x in live if not isinstance(parts[x].module, PASSIVE)}
        outer = {
            place for place in closed if closed.isdisjoint(above(parts, place))
        } - {layer.position for layer in self._blocks}
        return [layer for layer in layers if layer.position in outer]

    def _between(
        self, outer: list[Layer], before: Layer | None, after: Layer | None
    ) -> list[Layer]:
        """Which of the outer layers between two blocks to keep."""
        if before is None:
            outside = [x for x in outer if not self._in_stage(x)]
            return self._stem(outside or outer, after)
        if after is None:
            return self._last(outer)
        last = [x for x in outer if self._shared(x, before) > self._shared(x, after)]
        rest = [x for x in outer if x not in last]
        if not self._shared(before, after):
            # A projection between two towers belongs to the first one.
            near = max((self._shared(x, after) for x in rest), default=0)
            last += [x for x in rest if self._shared(x, after) < near]
            rest = [x for x in rest if x not in last]
        stems = [x for x in rest if self._parts[x.position].has_weights]
        return [*self._last(last), *self._stem(stems, after)]

    def _last(self, outer: list[Layer]) -> list[Layer]:
        """All norms, pools and heads of these, but one of each stage."""
        found = [x for x in outer if self._may_be_last(x)]
        inside = [x for x in found if self._in_stage(x)]
        return [x for x in found if x not in inside[:-1]]

    def _in_stage(self, layer: Layer) -> bool:
        """Whether a layer is part of one of several modules that hold blocks."""
        outer = self._around.intersection(above(self._parts, layer.position))
        return any(self._parts[place].key[-1:].isdigit() for place in outer)

    def _stem(self, outer: list[Layer], after: Layer | None) -> list[Layer]:
        """The embedding, or else the last layer, but no table of positions.

        Of several embeddings, that of the tokens: the block has its shape, tables of
        segments or speakers are smaller, and those of times are one vector each.
        """
        shape = () if after is None else after.output.shape
        deep = [x for x in outer if len(x.output.shape) > 2 or len(shape) < 3] or outer
        found = [x for x in deep if not is_position_table(self._parts[x.position])]
        # Patches may be embedded together with their positions.
        found = found or [x for x in deep if self._parts[x.position].kernels]
        embeddings = [x for x in found if self._is_embedding(x)]
        alike = [x for x in embeddings if x.output.shape == shape] or embeddings
        largest = max(map(_rows_of_table, alike), default=0)
        kept = [x for x in alike if _rows_of_table(x) in (0, largest)]
        return (kept or found)[-1:]

    def _is_embedding(self, layer: Layer) -> bool:
        name = f"{self._parts[layer.position].key} {type(layer.module).__name__}"
        return "embed" in name.lower()

    def _shared(self, layer: Layer, other: Layer) -> int:
        """Number of modules that contain both."""
        mine = set(above(self._parts, layer.position))
        return len(mine.intersection(above(self._parts, other.position)))

    def _may_be_last(self, layer: Layer) -> bool:
        """Whether this can be the norm, pool or head after a stack of blocks."""
        part = self._parts[layer.position]
        named = re.search("pool|norm", type(layer.module).__name__.lower())
        return bool(named or part.has_weights) and not is_position_table(part)


def _rows_of_table(layer: Layer) -> int:
    """How many entries a table of embeddings has; 0 of other layers."""
    module = layer.module
    return module.num_embeddings if isinstance(module, nn.Embedding) else 0
