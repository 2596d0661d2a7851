"""Finds which modules run, in which order, and which tensors hold their examples.

The model runs twice, on a few examples and on some of these in another order. The axis
whose size changes is that of the examples, and its rows must follow them (`rows`).
"""

from dataclasses import replace
from math import prod
from typing import NamedTuple

import torch
from torch import nn

from cka_notebook._messages import Reason
from cka_notebook._models.layer_tree import LayerTree
from cka_notebook._models.nodes import Doubt, Output, expects_tokens_first
from cka_notebook._undo import Undo

from .hooks import can_be_hooked
from .observer import Call, Calls, Entry
from .passes import Passes, Run
from .rows import Match, Reading, differences, equal, follow, shuffled

COMPILED = Reason("compiled by TorchScript, which lets no hook in", "no_tensor")

OTHER_ROWS = "rows are not the examples in the batch's order"

ENOUGH = 3
"""Examples that must differ from the others for their order to be seen: two of nine are
where they belong by chance in one of 36 orders."""

NOISE = 2
"""Noise takes examples this many times as far as other noise at the same place."""


class Probed(NamedTuple):
    """What a probe learned about a model as a whole.

    Attributes:
        state: What the model keeps from one call to the next, by name.
        by_size: Number of examples by whose size alone the batch axes were found, or 0.
        refused: Number of outputs whose rows are not the examples.
        threaded: Names of modules that it calls in threads of its own, and whether
            they are in training mode there.
        draws: Whether it draws random numbers.
    """

    state: list[str]
    by_size: int
    refused: int
    threaded: dict[str, bool]
    draws: bool


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
        own, draws = passes.threaded, passes.drew
        threaded = {x.title: own[x.module] for x in tree.nodes if x.module in own}
        return Probed(passes.state(), by_size, refused, threaded, draws)


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
    outputs = []
    for entry in found.entries:
        fewer = None if few is None else few.get(entry.path, Entry(()))
        output = _judged(module, call, entry, fewer, passes)
        outputs.append(_with_facts(output, entry, found))
    output = _most_likely(found.entries, outputs)
    named = tuple(outputs) if any(entry.path for entry in found.entries) else ()
    return replace(output, entries=named)


def _most_likely(entries: list[Entry], outputs: list[Output]) -> Output:
    """The tensor that counts as the output, unless the user names another one."""
    constant: Output | None = None
    pairs = zip(entries, outputs, strict=True)
    for entry, output in sorted(pairs, key=lambda pair: pair[0].rank):
        if output.reason is not None and not _is_of_rows(output.reason):
            continue
        if output.reason is not None or _varies(entry):
            return output
        constant = constant or output
    return constant or outputs[0]


def _judged(
    module: nn.Module, call: int, entry: Entry, few: Entry | None, passes: Passes
) -> Output:
    """How one tensor of an output is read, or why it cannot be."""
    reason = entry.reason if few is None else entry.reason or few.reason
    readings = [x for x in entry.prints if few is None or x in few.prints]
    if passes.is_blind:
        # A size alone cannot tell the examples from features, or heads of attention.
        axes = range(min(2 if passes.may_be_turned else 1, len(entry.shape) - 1) or 1)
        readings = [x for x in readings if x.groups == 1 and x.axis in axes]
    if reason is not None or not readings:
        return Output(0, reason=reason or _without_axis(entry, few))
    if passes.is_blind:
        return _read(entry, readings[0])
    reading, match, moved = _followed(module, call, entry, few, readings, passes)
    redrawn = None
    if match is not Match.EXACTLY:
        redrawn = _same_entry(passes.redrawn, module, call, entry)
    if match is Match.NO and few is not None:
        match = _is_random(entry, moved, redrawn, reading, passes)
    if match is Match.NO:
        return replace(_read(entry, reading), reason=_no_axis(OTHER_ROWS))
    doubts = _doubts(entry, redrawn, reading, match)
    if not doubts and _are_always_alike(module, call, entry, reading, passes):
        doubts = ("alike",)
    return replace(_read(entry, reading), doubts=doubts)


def _followed(
    module: nn.Module,
    call: int,
    entry: Entry,
    few: Entry | None,
    readings: list[Reading],
    passes: Passes,
) -> tuple[Reading, Match, Entry | None]:
    """The reading in which rows follow best, and the entry with all examples moved."""
    match = Match.NO
    if few is not None:
        reading, match = _best(entry, few, readings, passes.order, mixed=False)
        is_seen = few.prints[reading].varied > 1 and not _needs_more(entry, reading)
        is_seen |= not entry.prints[reading].varied
        if match is Match.EXACTLY and is_seen and not passes.are_few:
            return reading, match, None
    moved = _same_entry(passes.moved, module, call, entry)
    if match and moved is None:
        return reading, match, None
    readings = [reading] if match else readings
    if moved is None or (passes.part is None and not _varies(entry)):
        return readings[0], Match.NO, moved
    reading, match = _best(entry, moved, readings, passes.all_moved, mixed=True)
    if match and (passes.are_few or _needs_more(entry, reading)):
        match = min(match, _followed_again(module, call, entry, reading, passes))
    return reading, match, moved


def _followed_again(
    module: nn.Module, call: int, entry: Entry, reading: Reading, passes: Passes
) -> Match:
    """How rows follow into a third order: few of them follow into one by chance."""
    again = _same_entry(passes.moved_again, module, call, entry)
    if again is None:
        return Match.NEARLY
    return _best(entry, again, [reading], passes.all_moved_again, mixed=True)[1]


def _needs_more(entry: Entry, reading: Reading) -> bool:
    """Whether two of the examples could change places unseen, as both are alike."""
    found = entry.prints[reading]
    return found.has_pairs and found.varied >= ENOUGH


def _best(
    entry: Entry,
    other: Entry,
    readings: list[Reading],
    order: list[int],
    *,
    mixed: bool,
) -> tuple[Reading, Match]:
    """The first of the readings in which rows follow best."""

    def match(reading: Reading) -> Match:
        moved = other.prints.get(reading)
        if moved is None:
            return Match.NO
        return follow(entry.prints[reading], moved, order, mixed=mixed)

    matches = list(map(match, readings))
    best = max(matches)
    return readings[matches.index(best)], best


def _is_random(
    entry: Entry,
    moved: Entry | None,
    redrawn: Entry | None,
    reading: Reading,
    passes: Passes,
) -> Match:
    """Whether other random numbers give the examples other values.

    Each example may draw its own, and then nothing follows it to its new place but what
    noise leaves. The size of the axis has to do.
    """
    other = None if redrawn is None else redrawn.prints.get(reading)
    if other is None or reading.groups > 1:
        return Match.NO
    found = entry.prints[reading]
    if equal(found, other) or shuffled(found, other):
        return Match.NO
    elsewhere = None if moved is None else moved.prints.get(reading)
    if elsewhere is None:
        return Match.NEARLY
    noise = differences(found, other, list(range(passes.examples)))
    distance = differences(found, elsewhere, passes.all_moved)
    return Match.NEARLY if distance <= NOISE * noise else Match.NO


def _doubts(
    entry: Entry, redrawn: Entry | None, reading: Reading, match: Match
) -> tuple[Doubt, ...]:
    """What two passes could not tell about the rows."""
    found = entry.prints[reading]
    doubts: list[Doubt] = []
    if found.varied < ENOUGH:
        doubts.append("alike")
    if match is Match.NEARLY:
        other = None if redrawn is None else redrawn.prints.get(reading)
        drawn = other is not None and not torch.equal(found.rows, other.rows)
        doubts.append("random" if drawn else "placed")
    return tuple(doubts)


def _are_always_alike(
    module: nn.Module, call: int, entry: Entry, reading: Reading, passes: Passes
) -> bool:
    """Whether the examples at two places are alike in whatever order they come."""
    found = entry.prints[reading]
    if not found.has_pairs:
        return False
    alike = found.alike
    for calls in (passes.moved, passes.moved_again):
        other = _same_entry(calls, module, call, entry)
        moved = None if other is None else other.prints.get(reading)
        alike = alike if moved is None else alike & moved.alike
    return int(alike.sum()) > len(alike)


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
    doubts = output.doubts
    if entry.is_given and any(x.is_given is False for x in found.entries):
        doubts = *doubts, "given"
    return replace(
        output,
        order=found.order,
        kind=kind,
        nbytes=nbytes,
        path=entry.path,
        doubts=doubts,
        is_rewritten=entry.is_rewritten,
    )


def _varies(entry: Entry) -> bool:
    """Whether examples differ; None of the tensors of an output may."""
    return any(found.varied for found in entry.prints.values())


def _without_axis(entry: Entry, few: Entry | None) -> Reason:
    """Why no axis holds the examples."""
    if few is not None and len(entry.shape) != len(few.shape):
        return _no_axis("number of output dimensions varies")
    if few is not None and entry.shape == few.shape:
        return _no_axis("shape of the output does not depend on the batch")
    return _no_axis(f"no batch axis in output of shape {entry.shape}")


def _is_of_rows(reason: Reason) -> bool:
    """Whether a tensor has the right shape, and its rows are something else."""
    return reason.startswith(OTHER_ROWS)


def _no_axis(text: str) -> Reason:
    return Reason(text, "no_batch_axis")
