"""Which modules run, in what order, and where their outputs have the batch axis."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from cka_notebook._messages import Reason
from cka_notebook._models.layer_tree import LayerTree
from cka_notebook._models.nodes import Output
from cka_notebook._models.parameters import kind_of

from .hooks import hooked
from .outputs import tensor_of

PROBE_EXAMPLES = (3, 2)
"""The axis that changes with the number of examples is the batch axis."""


def probe(tree: LayerTree, run: Callable[[int | None], int]) -> None:
    """Learn which modules are called, in what order and with what outputs.

    Args:
        tree: Gets what was learned.
        run: ``run(count)`` runs the model on the first ``count`` examples of a batch,
            or on all with None, and returns how many there were.
    """
    try:
        seen = [_observe(tree, run, count) for count in PROBE_EXAMPLES]
    except Exception:  # some models refuse small batches; the full one decides
        seen = []
    (more, calls), (fewer, others) = seen if len(seen) == 2 else [(0, []), (0, [])]
    same_modules = [c.module for c in calls] == [c.module for c in others]
    # A batch of a class of its own may not have let itself be cut.
    unchanged = [c.shape for c in calls] == [c.shape for c in others]
    if not calls or more == fewer or not same_modules or unchanged:
        examples, calls = _observe(tree, run, None)
        outputs = [_by_size(call, examples) for call in calls]
    else:
        outputs = [
            _by_change(a, b, more, fewer) for a, b in zip(calls, others, strict=True)
        ]
    found: dict[nn.Module, list[Output]] = {}
    for order, (call, output) in enumerate(zip(calls, outputs, strict=True)):
        found.setdefault(call.module, []).append(
            replace(
                output, order=order, kind=call.kind, nbytes=_example_bytes(call, output)
            )
        )
    tree.learn(found)


@dataclass(slots=True)
class _Call:
    """One observed call: its tensor's shape and first rows, or what is wrong."""

    module: nn.Module
    shape: tuple[int, ...] = ()
    reason: Reason | None = None
    rows: Tensor | None = None
    kind: str = ""
    itemsize: int = 0


def _observe(
    tree: LayerTree, run: Callable[[int | None], int], count: int | None
) -> tuple[int, list[_Call]]:
    calls: list[_Call] = []
    thread = get_ident()

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if get_ident() == thread:
            calls.append(_describe(module, tensor_of(output), count))

    with hooked(tree, note):
        examples = run(count)
    return examples, calls


def _describe(module: nn.Module, found: Tensor | Reason, count: int | None) -> _Call:
    if isinstance(found, Reason):
        return _Call(module, reason=found)
    shape = tuple(found.shape)
    grouped = bool(count) and shape[0] != count and shape[0] % (count or 1) == 0
    # A copy: the probe runs few examples, and what follows may change the tensor.
    rows = found.detach().clone() if grouped else None
    return _Call(module, shape, rows=rows, kind=kind_of(found), itemsize=found.itemsize)


def _example_bytes(call: _Call, output: Output) -> int:
    """Size of what a call gives for one example; 0 where there is no batch axis."""
    if None not in output.shape:
        return 0
    sizes = [size for size in output.shape if size is not None]
    return prod(sizes) * output.groups * call.itemsize


def _by_change(call: _Call, other: _Call, more: int, fewer: int) -> Output:
    """Batch axis from two calls with different numbers of examples."""
    reason = call.reason or other.reason
    if reason is not None or len(call.shape) != len(other.shape):
        return Output(0, reason=reason or _no_axis("output of varying rank"))
    pairs = list(zip(call.shape, other.shape, strict=True))
    if (more, fewer) in pairs:
        axis = pairs.index((more, fewer))
        return Output(0, _open_shape(call.shape, axis), axis)
    if call.shape == other.shape:
        return Output(0, reason=_no_axis("output does not depend on the batch"))
    size, less = pairs[0]
    groups = size // more
    if size == groups * more and less == groups * fewer and _grouped(call, other):
        return Output(0, _open_shape(call.shape, 0), 0, groups)
    return Output(0, reason=_no_axis(f"no batch axis in output of shape {call.shape}"))


def _grouped(call: _Call, other: _Call) -> bool:
    """Whether rows of one example lie together: the first ones are then the same."""
    if call.rows is None or other.rows is None:
        return False
    first, same = other.rows.float(), call.rows[: len(other.rows)].float()
    tolerance = 1e-3 * float(first.abs().max())
    return first.shape == same.shape and bool(
        torch.allclose(first, same, rtol=1e-3, atol=tolerance)
    )


def _by_size(call: _Call, examples: int) -> Output:
    """Batch axis as the first of the right size, where small batches do not run."""
    if call.reason is not None:
        return Output(0, reason=call.reason)
    if examples not in call.shape:
        reason = _no_axis(f"no batch axis in output of shape {call.shape}")
        return Output(0, reason=reason)
    axis = call.shape.index(examples)
    return Output(0, _open_shape(call.shape, axis), axis)


def _no_axis(text: str) -> Reason:
    return Reason(text, "no_batch_axis")


def _open_shape(shape: tuple[int, ...], axis: int) -> tuple[int | None, ...]:
    return (*shape[:axis], None, *shape[axis + 1 :])
