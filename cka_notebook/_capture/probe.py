"""Finds which modules run, in which order, and the batch axis of their outputs."""

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
"""The axis whose size changes with the number of examples is the batch axis."""

SAME_ROWS = 1e-3
"""Relative tolerance for rows of the same example in both probes. They differ by
rounding, about 1e-6 in float32 and 1e-3 in float16; rows of different examples differ
by about as much as their values."""


def probe(tree: LayerTree, run: Callable[[int | None], int]) -> None:
    """Learn which modules are called, in which order and with which outputs.

    Args:
        tree: Receives the outputs (`LayerTree.learn`).
        run: ``run(count)`` runs the model on the first ``count`` examples of a batch,
            or on all if None, and returns their number.
    """
    found: dict[nn.Module, list[Output]] = {}
    for order, (call, output) in enumerate(_outputs(tree, run)):
        nbytes = _example_bytes(call, output)
        complete = replace(output, order=order, kind=call.kind, nbytes=nbytes)
        found.setdefault(call.module, []).append(complete)
    tree.learn(found)


@dataclass(slots=True)
class _Call:
    """One observed call of a module: its tensor, or why that cannot be compared.

    Attributes:
        shape: Shape of the tensor.
        reason: Why there is none.
        rows: A copy of the tensor if its first axis may hold several rows per example.
        kind: See `Output`.
        itemsize: Bytes of a number.
    """

    module: nn.Module
    shape: tuple[int, ...] = ()
    reason: Reason | None = None
    rows: Tensor | None = None
    kind: str = ""
    itemsize: int = 0


def _outputs(
    tree: LayerTree, run: Callable[[int | None], int]
) -> list[tuple[_Call, Output]]:
    """All calls, in order, each with its batch axis."""
    try:
        more, calls = _observe(tree, run, PROBE_EXAMPLES[0])
        fewer, others = _observe(tree, run, PROBE_EXAMPLES[1])
    except Exception:  # some models refuse small batches, so a full one must do
        more, fewer, calls, others = 0, 0, [], []
    same_modules = [c.module for c in calls] == [c.module for c in others]
    # A batch of an unknown class may not have been cut to fewer examples.
    unchanged = [c.shape for c in calls] == [c.shape for c in others]
    if more == fewer or not same_modules or unchanged:
        examples, calls = _observe(tree, run, None)
        return [(call, _by_size(call, examples)) for call in calls]
    pairs = zip(calls, others, strict=True)
    return [(call, _by_change(call, other, more, fewer)) for call, other in pairs]


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
    # A copy, because later modules may change the tensor in place.
    rows = found.detach().clone() if grouped else None
    return _Call(module, shape, rows=rows, kind=kind_of(found), itemsize=found.itemsize)


def _example_bytes(call: _Call, output: Output) -> int:
    """Bytes of the output for one example; 0 if it has no batch axis."""
    if None not in output.shape:
        return 0
    sizes = [size for size in output.shape if size is not None]
    return prod(sizes) * output.groups * call.itemsize


def _by_change(call: _Call, other: _Call, more: int, fewer: int) -> Output:
    """Batch axis of a call, from its outputs for two numbers of examples."""
    reason = call.reason or other.reason
    if reason is not None or len(call.shape) != len(other.shape):
        return Output(
            0, reason=reason or _no_axis("number of output dimensions varies")
        )
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
    return Output(0, reason=_no_axis_in(call.shape))


def _grouped(call: _Call, other: _Call) -> bool:
    """Whether rows of one example are adjacent: then both calls start with the same."""
    if call.rows is None or other.rows is None:
        return False
    first, same = other.rows.float(), call.rows[: len(other.rows)].float()
    tolerance = SAME_ROWS * float(first.abs().max())
    return first.shape == same.shape and bool(
        torch.allclose(first, same, rtol=SAME_ROWS, atol=tolerance)
    )


def _by_size(call: _Call, examples: int) -> Output:
    """Batch axis of a call as the first axis whose size is the number of examples."""
    if call.reason is not None:
        return Output(0, reason=call.reason)
    if examples not in call.shape:
        return Output(0, reason=_no_axis_in(call.shape))
    axis = call.shape.index(examples)
    return Output(0, _open_shape(call.shape, axis), axis)


def _open_shape(shape: tuple[int, ...], axis: int) -> tuple[int | None, ...]:
    return (*shape[:axis], None, *shape[axis + 1 :])


def _no_axis_in(shape: tuple[int, ...]) -> Reason:
    return _no_axis(f"no batch axis in output of shape {shape}")


def _no_axis(text: str) -> Reason:
    return Reason(text, "no_batch_axis")
