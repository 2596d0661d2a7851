"""The layer tree as columns, one row a module or call, for the page."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from cka_notebook._messages import Reason, code_of

from .nodes import Layer, Node, Output, call_name
from .parameters import Parameters, parameters_of

FACTS = ("own", "trainable", "weights", "output", "nbytes", "calls")
"""Fields of a row that are sent once for all rows that share them."""


class _Row(NamedTuple):
    """One row of the tree; `output` is set for what was called once."""

    name: str
    kind: str
    depth: int
    weights: Parameters
    output: Output | None
    reason: Reason | None
    calls: int | None


def columns_of(
    nodes: list[Node],
    presets: dict[str, list[str]],
    entries: Sequence[Layer] = (),
    *,
    is_root_listed: bool,
) -> dict[str, Any]:
    """The columns of a tree.

    Args:
        nodes: Its modules, in order of definition.
        presets: Names of the layers of each preset.
        entries: Entries of outputs that the user has chosen.
        is_root_listed: Whether the model itself is one of its layers.
    """
    rows: list[_Row] = []
    for node, weights in zip(nodes, parameters_of(nodes), strict=True):
        rows.append(_row(node, weights, is_root_listed=is_root_listed))
        if node.alias is None and node.outputs and len(node.outputs) > 1:
            rows += _calls(node, weights)
        rows += [
            _entry(layer, node, weights)
            for layer in entries
            if layer.position == node.position
        ]
    index = {row.name: i for i, row in enumerate(rows)}
    return {
        "name": [row.name for row in rows],
        "type": [row.kind for row in rows],
        "depth": [row.depth for row in rows],
        "params": [row.weights.total for row in rows],
        "shape": [list(row.output.shape) if row.output else None for row in rows],
        "reason": [row.reason for row in rows],
        "code": [code_of(row.reason) for row in rows],
        "order": [row.output.order if row.output else None for row in rows],
        "facts": _facts(rows),
        "presets": {k: [index[name] for name in names] for k, names in presets.items()},
    }


def _row(node: Node, weights: Parameters, *, is_root_listed: bool) -> _Row:
    calls = None if node.outputs is None else len(node.outputs)
    once = node.outputs[0] if node.outputs and calls == 1 else None
    reason = _reason(node, is_root_listed=is_root_listed)
    return _Row(node.title, node.kind, node.depth, weights, once, reason, calls)


def _reason(node: Node, *, is_root_listed: bool) -> Reason | None:
    """Why this row cannot be chosen, or None."""
    if node.alias is not None:
        return Reason(f"the same module as {node.alias!r}", "alias")
    if node.outputs is not None and not node.outputs:
        return Reason("never called", "not_called")
    if node.outputs is not None and len(node.outputs) > 1:
        return Reason(f"called {len(node.outputs)} times", "called_repeatedly")
    reason = node.outputs[0].reason if node.outputs else None
    if reason is None and not node.name and not is_root_listed:
        return Reason("the model itself", "model")
    return reason


def _calls(node: Node, weights: Parameters) -> list[_Row]:
    """A row for each call of a module that is called several times."""
    return [
        _Row(call_name(node, i), "call", node.depth + 1, weights, out, out.reason, 1)
        for i, out in enumerate(node.outputs or ())
    ]


def _entry(layer: Layer, node: Node, weights: Parameters) -> _Row:
    """A row for an entry of a module's output."""
    depth, output = node.depth + 1, layer.output
    return _Row(layer.name, "entry", depth, weights, output, output.reason, 1)


def _facts(rows: list[_Row]) -> dict[str, Any]:
    """The other fields of the rows: distinct ones once, and which each row has.

    Repeated blocks share them, so this adds hardly more than a number a row.
    """
    each = [_facts_of(row) for row in rows]
    distinct = list(dict.fromkeys(each))
    place = {facts: i for i, facts in enumerate(distinct)}
    table = zip(FACTS, zip(*distinct, strict=True), strict=True)
    return {
        "of_row": [place[facts] for facts in each],
        **{field: list(values) for field, values in table},
    }


def _facts_of(row: _Row) -> tuple[Any, ...]:
    """The fields that `FACTS` names."""
    output, weights = row.output, row.weights
    of_output = (output.kind, output.nbytes) if output else ("", 0)
    return (weights.own, weights.trainable, weights.kinds, *of_output, row.calls)
