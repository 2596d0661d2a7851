"""The tree of a model's modules, and the choice of layers from it.

A *layer* is one call of one module: a module called once is a layer under its own
name, one called k times is the layers ``act#0`` ... ``act#k-1``. Which modules are
called, how often, in what order and with what output is known after a probe
(`_capture`); before it, every module counts as called once, in order of definition.
"""

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from torch import nn

from cka_notebook._messages import Reason, counted, did_you_mean, first_few

from .blocks import auto, find_blocks, thinned
from .nodes import (
    Layer,
    Node,
    Output,
    bare_name,
    expects_tokens_first,
    is_leaf,
    layers_of,
    unwrap,
    walk,
)
from .parameters import Parameters, parameters_of

Choice = str | int | type[nn.Module] | re.Pattern[str]

Choices = Choice | Sequence[Choice] | Callable[[str, nn.Module], bool] | None

PRESETS = ("auto", "blocks", "leaves", "all")


class _Row(NamedTuple):
    """What one row of the tree says; the output only of what was called once."""

    name: str
    kind: str
    depth: int
    weights: Parameters
    output: Output | None
    reason: Reason | None
    calls: int | None


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
        self.nodes = list(walk(self.model))
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
            for layer in layers_of(node)
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
        elif callable(choices) and not isinstance(choices, type | nn.Module):
            layers = self.layers
            names = [x.name for x in layers if choices(bare_name(x.name), x.module)]
        else:
            names = [name for item in items_of(choices) for name in self._expand(item)]
        if not names:
            msg = f"`{self.argument}` chose no layer of {self._title}. {self._help()}"
            raise ValueError(msg)
        return list(dict.fromkeys(names))

    def check(self, choices: Choices) -> None:
        """Raise as `choose` would for what is wrong before any probe: names, kinds."""
        for item in items_of(choices):
            if not isinstance(item, str):
                self._check_kind(item)
            elif bare_name(item) not in self._by_name and not _is_glob(item):
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
        blocks = find_blocks(self.nodes, layers)
        if preset == "blocks" and blocks:
            return [layer.name for layer in blocks]
        chosen = auto(layers, blocks)
        return [chosen[i].name for i in thinned(len(chosen))]

    def auto_note(self) -> str | None:
        """What to say if ``auto`` leaves layers out because there are too many."""
        count = len(auto(self.layers, find_blocks(self.nodes, self.layers)))
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
                and expects_tokens_first(node.module)
            ):
                return (
                    f"{self._title}: {node.name!r} ({node.kind}) has "
                    "batch_first=False, but got the examples on its first axis. If the "
                    "loader yields (tokens, examples, ...), tokens are compared here: "
                    "yield examples first, and pass forward=lambda model, batch: "
                    "model(batch.transpose(0, 1)). If not, the model mixes examples."
                )
        return None

    @property
    def calls(self) -> int:
        """How many times modules were called in the probe."""
        return sum(len(node.outputs or ()) for node in self.nodes)

    def columns(self) -> dict[str, Any]:
        """The tree as columns, one row a module or call, for the page."""
        rows: list[_Row] = []
        for node, weights in zip(self.nodes, parameters_of(self.nodes), strict=True):
            rows.append(self._row(node, weights))
            if node.alias is None and node.outputs and len(node.outputs) > 1:
                rows += _calls(node, weights)
        index = {row.name: i for i, row in enumerate(rows)}
        presets = {p: [index[name] for name in self.preset(p)] for p in PRESETS}
        return {
            "name": [row.name for row in rows],
            "type": [row.kind for row in rows],
            "depth": [row.depth for row in rows],
            "params": [row.weights.total for row in rows],
            "shape": [list(row.output.shape) if row.output else None for row in rows],
            "reason": [row.reason for row in rows],
            "order": [row.output.order if row.output else None for row in rows],
            "facts": _facts(rows),
            "presets": presets,
        }

    def _row(self, node: Node, weights: Parameters) -> "_Row":
        once = node.outputs[0] if node.outputs and len(node.outputs) == 1 else None
        reason = once.reason if once else None
        if node.alias is not None:
            reason = Reason(f"the same module as {node.alias!r}", "alias")
        elif node.outputs is not None and not node.outputs:
            reason = Reason("never called", "not_called")
        elif node.outputs is not None and len(node.outputs) > 1:
            times = f"called {len(node.outputs)} times"
            reason = Reason(times, "called_repeatedly")
        elif reason is None and not node.name and node.module not in self._modules():
            reason = Reason("the model itself", "model")
        calls = None if node.outputs is None else len(node.outputs)
        return _Row(node.name, node.kind, node.depth, weights, once, reason, calls)

    def _modules(self) -> set[nn.Module]:
        return {layer.module for layer in self.layers}

    def _named(self, name: str) -> list[Layer]:
        """Layers called exactly this, whatever is wrong with them."""
        bare, _, call = name.partition("#")
        node = self._by_name.get(bare)
        if node is None:
            return []
        layers = list(layers_of(node))
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
                f"regular expressions or module classes, got {self._told(choice)}."
            )
            raise TypeError(msg)

    def _told(self, choice: object) -> str:
        if not isinstance(choice, nn.Module):
            return repr(choice)
        own = [node.name for node in self.nodes if node.module is choice]
        name = f": pass its name, {own[0]!r}" if own else f" that {self._title} lacks"
        return f"a {type(choice).__name__}{name}"

    def _expand_text(self, text: str) -> list[str]:
        exact = self._named(text)
        if exact:
            reasons = [x.output.reason for x in exact if x.output.reason]
            if len(reasons) == len(exact):
                msg = (
                    f"`{self.argument}` names {text!r} of {self._title}, which cannot "
                    f"be compared: {reasons[0]}. {self._help(text)}"
                )
                raise ValueError(msg)
            return [x.name for x in exact if x.output.reason is None]
        if text in self._by_name:
            msg = (
                f"`{self.argument}` names {text!r} of {self._title}, which was never "
                f"called. {self._help(text)}"
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
                f"`{self.argument}` index {index} is out of range for {self._title}. "
                f"{self._help()}"
            )
            raise ValueError(msg) from None

    def _unknown(self, name: str) -> str:
        known = [node.name for node in self.nodes if node.name]
        return (
            f"`{self.argument}` names {name!r}, which {self._title} does not have."
            f"{did_you_mean(name, [*known, *self.names])} "
            f"`[n for n, _ in model.named_modules()]` lists all {len(known)}."
        )

    def _help(self, container: str = "") -> str:
        """What could be chosen instead: something inside of it, if there is."""
        names = self.names
        inside = [name for name in names if name.startswith(f"{container}.")]
        if inside:
            return f"It holds {counted(len(inside), 'layer')}: {first_few(inside)}."
        if names:
            layers = counted(len(names), "layer")
            return f"It has {layers} to choose from: {first_few(names)}."
        reasons = [
            f"{node.name or node.kind!r}: {output.reason}"
            for node in self.nodes
            for output in node.outputs or []
            if output.reason is not None
        ]
        why = f" ({'; '.join(reasons[:3])})" if reasons else ""
        return f"It has no layer that can be compared{why}."

    @property
    def _title(self) -> str:
        return type(self.model).__name__


def items_of(choices: Any) -> Iterable[Any]:
    """What a choice consists of; nothing for presets and predicates."""
    if choices is None or (isinstance(choices, str) and choices in PRESETS):
        return []
    if isinstance(choices, type | nn.Module | str):
        return [choices]
    if callable(choices):
        return []
    return choices if isinstance(choices, Iterable) else [choices]


def _calls(node: Node, weights: Parameters) -> list[_Row]:
    """A row for each call of a module that is called several times."""
    return [
        _Row(f"{node.name}#{i}", "call", node.depth + 1, weights, out, out.reason, 1)
        for i, out in enumerate(node.outputs or ())
    ]


FACTS = ("own", "trainable", "weights", "output", "nbytes", "calls")
"""Fields of what a row says beside its columns."""


def _facts(rows: list[_Row]) -> dict[str, Any]:
    """What else the rows say: what differs once, and for each row which of it.

    Repeated blocks say the same, so this weighs hardly more than a number a row.
    """
    each = [
        (
            row.weights.own,
            row.weights.trainable,
            row.weights.kinds,
            row.output.kind if row.output else "",
            row.output.nbytes if row.output else 0,
            row.calls,
        )
        for row in rows
    ]
    distinct = list(dict.fromkeys(each))
    place = {facts: i for i, facts in enumerate(distinct)}
    table = zip(FACTS, zip(*distinct, strict=True), strict=True)
    return {
        "of_row": [place[facts] for facts in each],
        **{field: list(values) for field, values in table},
    }


def _is_glob(text: str) -> bool:
    return any(mark in text for mark in "*?[")


def _ordinal(number: int) -> str:
    teens = number % 100 in (11, 12, 13)
    ending = "th" if teens else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
