"""The tree of a model's modules, and the layers made of them.

A *layer* is one call of one module: a module called once is a layer under its own
name, one called k times is the layers ``act#0`` ... ``act#k-1``. Which modules are
called, how often, in what order and with what output is known after a probe
(`_capture`); before it, every module counts as called once, in order of definition.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from .auto import AUTO_LIMIT, auto, thinned
from .blocks import find_blocks
from .choice import Choices, check, choose
from .columns import columns_of
from .left_out import incomparable_notes, left_out_notes
from .nodes import (
    Layer,
    Node,
    Output,
    entries_of,
    entry_key,
    expects_tokens_first,
    layers_of,
    nodes_of,
    unwrap,
)
from .parts import Part, is_innermost, parts_of
from .tree_rows import PRESETS, Row, Rows

Outputs = dict[str, list[Output] | None]
"""What the calls of each module returned, by its name; None before a probe."""


class LayerTree:
    """Modules of one model in order of definition, and the layers made of them.

    Args:
        model: Wrapped models (`torch.compile`, data parallel) are unwrapped.
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
        self.nodes = nodes_of(self.model)
        self._title = self.nodes[0].kind
        self._forget()
        self.probed = False

    def learn(self, outputs: dict[nn.Module, list[Output]]) -> None:
        """Take the result of a probe: the outputs of every call of every module."""
        for node in self.nodes:
            node.outputs = outputs.get(node.module, [])
        self._forget()
        self.probed = True

    @property
    def outputs(self) -> Outputs:
        """The result of the probe, without a reference to the model."""
        return {node.name: node.outputs for node in self.nodes}

    def recall(self, outputs: Outputs) -> None:
        """Take the result of an earlier probe, unless modules were added or removed."""
        if list(outputs) == [node.name for node in self.nodes]:
            for node in self.nodes:
                node.outputs = outputs[node.name]
            self._forget()
            self.probed = None not in outputs.values()

    def _forget(self) -> None:
        """Drop what was derived from the outputs."""
        self._layers: list[Layer] | None = None
        self._parts: list[Part] | None = None
        self._presets: dict[str, list[Layer]] = {}
        self._entries: dict[str, Layer] = {}

    @property
    def layers(self) -> list[Layer]:
        """All comparable layers, in the order in which they return."""
        if self._layers is None:
            self._layers = self._comparable()
        return self._layers

    def _comparable(self) -> list[Layer]:
        found = [
            layer
            for node in self.nodes
            if node.alias is None
            for layer in layers_of(node)
            if layer.output.reason is None
        ]
        # The root repeats its last layer, so it counts only if it is the only one.
        inner = [layer for layer in found if layer.module is not self.model]
        return sorted(inner or found, key=lambda layer: layer.output.order)

    @property
    def parts(self) -> list[Part]:
        """What each module consists of."""
        if self._parts is None:
            self._parts = parts_of(self.nodes)
        return self._parts

    @property
    def names(self) -> list[str]:
        """Names of all comparable layers, in the order in which they return."""
        return [layer.name for layer in self.layers]

    def choose(self, choices: Choices = None) -> list[str]:
        """Names of the chosen layers, as `choice.choose` finds them.

        Raises:
            ValueError: If a name or pattern matches nothing, with the nearest names.
            TypeError: If an item is of no kind that can choose a layer.
        """
        return choose(self.rows(), choices)

    def check(self, choices: Choices) -> None:
        """Raise as `choose` would for what is wrong before any probe: names, kinds."""
        check(self.rows(), choices)

    def rows(self, argument: str = "") -> Rows:
        """What there is to choose from.

        Args:
            argument: What messages name as the place of the choice, if it is not the
                tree's own argument.
        """
        count = sum(bool(node.name) for node in self.nodes)
        return Rows(
            self._rows(),
            title=self._title,
            argument=argument or self.argument,
            preset=self.preset,
            all_names=f"`[n for n, _ in model.named_modules()]` lists all {count}.",
            is_probed=self.probed,
            has_modules=True,
        )

    def _rows(self) -> Iterator[Row]:
        listed = set(self.names)
        for node in self.nodes:
            if node.outputs == []:
                yield Row(
                    node.title, node.name, None, "never called", module=node.module
                )
            for layer in layers_of(node):
                yield Row(
                    layer.name,
                    node.name,
                    layer.output.order,
                    layer.output.reason,
                    is_listed=layer.name in listed,
                    module=layer.module,
                    entries=_entries_of(layer) if self.probed else None,
                )

    def find(self, names: Iterable[str]) -> list[Layer]:
        """The layers of these names, which `choose` has returned.

        Entries of outputs are in the tree of the page from then on.
        """
        layers = {x.name: x for node in self.nodes for x in layers_of(node)}
        # "a:b:c" is read with the shorter layer name, if both exist.
        owners = sorted(layers.values(), key=lambda layer: -len(layer.name))
        entries = {x.name: x for layer in owners for x in entries_of(layer)}
        found = [layers[x] if x in layers else entries[x] for x in names]
        self._entries |= {x.name: x for x in found if x.is_entry}
        return found

    def preset(self, preset: str) -> list[str]:
        """Names of the layers of one of the presets, in execution order."""
        return [layer.name for layer in self._of_preset(preset)]

    def _of_preset(self, preset: str) -> list[Layer]:
        if preset not in self._presets:
            self._presets[preset] = self._find_preset(preset)
        return self._presets[preset]

    def _find_preset(self, preset: str) -> list[Layer]:
        if preset == "all":
            return self.layers
        if preset == "leaves":
            return [x for x in self.layers if is_innermost(self.parts, x.position)]
        if preset == "blocks":
            return find_blocks(self.parts, self.layers) or self._of_preset("auto")
        chosen = self._unthinned()
        return [chosen[i] for i in thinned(len(chosen))]

    def _unthinned(self) -> list[Layer]:
        """What ``auto`` chooses before it leaves layers out."""
        return auto(self.parts, self.layers, find_blocks(self.parts, self.layers))

    def auto_notes(self) -> list[str]:
        """What ``auto`` leaves out: too many layers, and what has no layer."""
        notes = [self._thinned_note()] if len(self.layers) > AUTO_LIMIT else []
        if self.probed:
            notes += left_out_notes(self.parts, self.layers)
        return [f"{self._title}: {note}" for note in notes if note]

    def incomparable_notes(self, *, every: bool) -> list[str]:
        """What was called and cannot be compared, for other choices than ``auto``.

        Args:
            every: Whether all modules were asked for, whatever is in them.
        """
        if not self.probed:
            return []
        notes = incomparable_notes(self.parts, self.layers, every=every)
        return [f"{self._title}: {note}" for note in notes]

    def _thinned_note(self) -> str | None:
        count = len(self._unthinned())
        kept = thinned(count)
        if len(kept) == count:
            return None
        step = kept[1] - kept[0]
        last = "" if kept[-1] == kept[-2] + step else ", plus the last"
        return (
            f"`auto` chose {len(kept)} of {count} layers: every {_ordinal(step)}{last}."
        )

    def axis_note(self) -> str | None:
        """A note if a layer that expects tokens first got examples first."""
        node = next(filter(_has_examples_first, self.nodes), None)
        if node is None:
            return None
        return (
            f"{self._title}: {node.title!r} ({node.kind}) has batch_first=False, but "
            "its first axis holds the examples. If the loader yields (tokens, "
            "examples, ...), tokens are being compared instead of examples: yield "
            "examples first and pass forward=lambda model, batch: "
            "model(batch.transpose(0, 1)). Otherwise the model itself mixes examples."
        )

    @property
    def calls(self) -> int:
        """Number of calls of all modules in the probe."""
        return sum(len(node.outputs or ()) for node in self.nodes)

    def columns(self) -> dict[str, Any]:
        """The tree as columns, one row a module or call, for the page."""
        is_root_listed = any(layer.module is self.model for layer in self.layers)
        presets = {preset: self.preset(preset) for preset in PRESETS}
        return columns_of(
            self.nodes,
            presets,
            list(self._entries.values()),
            is_root_listed=is_root_listed,
        )


def _entries_of(layer: Layer) -> dict[str, str | None]:
    """What a layer's output consists of, with the reasons against comparing it."""
    return {entry_key(x.path): x.reason for x in layer.output.entries}


def _has_examples_first(node: Node) -> bool:
    """Whether this module expects tokens first and got examples there."""
    first = node.outputs[0] if node.outputs else None
    return (
        first is not None
        and (first.axis, len(first.shape)) == (0, 3)
        and expects_tokens_first(node.module)
    )


def _ordinal(number: int) -> str:
    teens = number % 100 in (11, 12, 13)
    ending = "th" if teens else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
