"""Finds which modules run, in which order, and which tensors hold their examples.

The model runs twice, on a few examples and on some of these in another order. The axis
whose size changes is that of the examples, and its rows must follow them (`rows`).
"""

from dataclasses import replace
from math import prod
from typing import NamedTuple

from torch import nn

from cka_notebook._messages import Reason
from cka_notebook._models.layer_tree import LayerTree
from cka_notebook._models.nodes import Output, expects_tokens_first
from cka_notebook._undo import Undo

from .hooks import can_be_hooked
from .observer import Call, Calls, Entry
from .passes import Passes, Run
from .rows import Reading, equal, follow, shuffled, spread

COMPILED = Reason("compiled by TorchScript, which lets no hook in", "no_tensor")

OTHER_ROWS = "rows are not the examples in the batch's order"


class Probed(NamedTuple):
    """What a probe learned about a model as a whole.

    Attributes:
        state: What the model keeps from one call to the next, by name.
        by_size: Number of examples by whose size alone the batch axes were found, or 0.
        refused: Number of outputs whose rows are not the examples.
        draws: Whether it draws random numbers.
    """

    state: list[str]
    by_size: int = 0
    refused: int = 0
    draws: bool = False


def probe(tree: LayerTree, run: Run, examples: int) -> Probed:
    """Learn which modules are called, in which order and with which outputs.

    Afterwards the model and the random streams are what they were.

    Args:
        tree: Receives the outputs (`LayerTree.learn`).
        run: Runs the model.
        examples: How many examples the batch has.
    """
    passes, undo = Passes(tree, run), Undo()
    with undo, undo:
        undo.add(passes.rewinder.rewind)
        by_size = passes.begin(examples)
        outputs = _outputs(tree, passes)
        tree.learn(outputs)
        reasons = [x.reason for each in outputs.values() for x in each if x.reason]
        refused = sum(map(_is_of_rows, reasons))
        draws = passes.drew
        return Probed(passes.state(), by_size, refused, draws)


def _outputs(tree: LayerTree, passes: Passes) -> dict[nn.Module, list[Output]]:
    """The outputs of all calls of all modules."""
    found = {
        module: _outputs_of(module, calls, passes)
        for module, calls in passes.first.items()
    }
    _admit_tokens_first(found)
    compiled = [x.module for x in tree.nodes if not can_be_hooked(x.module)]
    return {**found, **{module: [Output(-1, reason=COMPILED)] for module in compiled}}


def _admit_tokens_first(found: dict[nn.Module, list[Output]]) -> None:
    """Compare rows that depend on those before, as after an RNN over the examples.

    The loader may yield tokens first, and then a note says so (`axis_note`).
    """
    suspects = [
        output
        for module, outputs in found.items()
        if expects_tokens_first(module)
        for output in outputs[:1]
        if output.axis == 0 and len(output.shape) == 3
    ]
    for module, outputs in found.items() if suspects else ():
        found[module] = [
            replace(x, reason=None) if x.reason and _is_of_rows(x.reason) else x
            for x in outputs
        ]


def _outputs_of(module: nn.Module, calls: list[Call], passes: Passes) -> list[Output]:
    """The outputs of the calls of one module."""
    part = None if passes.part is None else passes.part.get(module, [])
    if part is None or len(part) == len(calls):
        others = [None] * len(calls) if part is None else part
        pairs = zip(calls, others, strict=True)
        return [
            _output(module, i, call, other, passes)
            for i, (call, other) in enumerate(pairs)
        ]
    outputs = [_output(module, i, call, None, passes) for i, call in enumerate(calls)]
    if all(output.reason is None for output in outputs):
        return outputs
    text = (
        f"the number of its calls depends on the batch: {len(calls)} for "
        f"{passes.examples} examples, {len(part)} for {len(passes.order)}"
    )
    return [replace(outputs[0], reason=_no_axis(text))]


def _output(
    module: nn.Module, call: int, found: Call, other: Call | None, passes: Passes
) -> Output:
    """The output of one call: its most likely tensor whose rows are the examples."""
    few = {entry.path: entry for entry in other.entries} if other is not None else None
    constant: Output | None = None
    problems: list[Output] = []
    for entry in sorted(found.entries, key=lambda entry: entry.rank):
        fewer = None if few is None else few.get(entry.path, Entry(()))
        output = _judged(module, call, entry, fewer, passes)
        output = _with_facts(output, entry, found)
        if output.reason is not None and not _is_of_rows(output.reason):
            problems.append(output)
        elif output.reason is not None or _varies(entry):
            return output
        else:
            constant = constant or output
    return constant or _first(problems, found)


def _first(problems: list[Output], found: Call) -> Output:
    """The problem of the tensor that comes first in the output."""
    paths = [entry.path for entry in found.entries]
    return min(problems, key=lambda output: paths.index(output.path))


def _judged(
    module: nn.Module, call: int, entry: Entry, few: Entry | None, passes: Passes
) -> Output:
    """How one tensor of an output is read, or why it cannot be."""
    reason = entry.reason if few is None else entry.reason or few.reason
    readings = [x for x in entry.prints if few is None or x in few.prints]
    if passes.is_blind:
        readings = [x for x in readings if x.groups == 1]
    if reason is not None or not readings:
        return Output(0, reason=reason or _without_axis(entry, few))
    reading = readings[0] if passes.is_blind else None
    if few is not None:
        reading = _unmixed(entry, few, readings, passes)
        if reading is not None and passes.are_few:
            readings, reading = [reading], None
    if reading is None:
        moved = _same_entry(passes.moved, module, call, entry)
        reading = _mixed(entry, moved, readings, passes)
    if reading is None and few is not None:
        redrawn = _same_entry(passes.redrawn, module, call, entry)
        reading = readings[0] if _is_random(entry, redrawn, readings[0]) else None
    if reading is not None:
        return _read(entry, reading)
    return replace(_read(entry, readings[0]), reason=_no_axis(OTHER_ROWS))


def _unmixed(
    entry: Entry, few: Entry, readings: list[Reading], passes: Passes
) -> Reading | None:
    """The reading in which each example has the same values in a smaller batch."""
    for reading in readings:
        found, part = entry.prints[reading], few.prints[reading]
        if follow(found, part, passes.order, mixed=False):
            return reading
    return None


def _mixed(
    entry: Entry, moved: Entry | None, readings: list[Reading], passes: Passes
) -> Reading | None:
    """The reading in which rows follow when all examples are moved."""
    if moved is None or (passes.part is None and not _varies(entry)):
        return None
    for reading in readings:
        found, other = entry.prints[reading], moved.prints.get(reading)
        if other is not None and follow(found, other, passes.all_moved, mixed=True):
            return reading
    return None


def _is_random(entry: Entry, redrawn: Entry | None, reading: Reading) -> bool:
    """Whether other random numbers give the examples other values.

    Each example may draw its own, and then nothing follows it to its new place. The
    size of the axis has to do.
    """
    other = None if redrawn is None else redrawn.prints.get(reading)
    if other is None or reading.groups > 1:
        return False
    found = entry.prints[reading]
    return not equal(found, other) and not shuffled(found, other)


def _same_entry(
    calls: Calls | None, module: nn.Module, call: int, entry: Entry
) -> Entry | None:
    """The same tensor of the same call in another pass."""
    found = (calls or {}).get(module, [])[call : call + 1]
    same = [x for each in found for x in each.entries if x.path == entry.path]
    return same[0] if same else None


def _read(entry: Entry, reading: Reading) -> Output:
    axis = reading.axis
    shape = (*entry.shape[:axis], None, *entry.shape[axis + 1 :])
    return Output(
        0,
        shape,
        axis,
        reading.groups,
        groups_first=reading.groups_first,
    )


def _with_facts(output: Output, entry: Entry, found: Call) -> Output:
    """An output with what is known about its tensor."""
    nbytes = 0
    if None in output.shape:
        sizes = [size for size in output.shape if size is not None]
        nbytes = prod(sizes) * output.groups * entry.itemsize
    kind = entry.kind
    if len([x for x in found.entries if x.shape]) > 1:
        kind += f", entry {'.'.join(map(str, entry.path))!r} of its output"
    return replace(output, order=found.order, kind=kind, nbytes=nbytes, path=entry.path)


def _varies(entry: Entry) -> bool:
    """Whether examples differ; None of the tensors of an output may."""
    return any(spread(found) > 1e-6 for found in entry.prints.values())


def _without_axis(entry: Entry, few: Entry | None) -> Reason:
    """Why no axis holds the examples."""
    if few is not None and len(entry.shape) != len(few.shape):
        return _no_axis("number of output dimensions varies")
    if few is not None and entry.shape == few.shape:
        return _no_axis("output does not depend on the batch")
    return _no_axis(f"no batch axis in output of shape {entry.shape}")


def _is_of_rows(reason: Reason) -> bool:
    """Whether a tensor has the right shape, and its rows are something else."""
    return reason.startswith(OTHER_ROWS)


def _no_axis(text: str) -> Reason:
    return Reason(text, "no_batch_axis")
