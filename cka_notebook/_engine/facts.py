"""Facts about a run: notes for the reader, reasons, and provenance."""

import platform
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from cka_notebook._grams.packing import MIN_EXAMPLES
from cka_notebook._inputs.loaders import loader_facts
from cka_notebook._messages import Note, Reason, counted, first_few
from cka_notebook._models.offloading import is_dispatched
from cka_notebook._version import __version__

if TYPE_CHECKING:
    from .side import LiveModel, Side

DOUBTS: dict[str, str] = {
    "given": "the tensor compared is one that the module was given, because nothing "
    "that it made itself has a row for each example.",
    "placed": "the values of an example depend on its place in the batch, as with "
    "experts of fixed capacity. A row may hold values of other examples.",
    "random": "values depend on random numbers, so only roughly could it be checked "
    "that each row is its example.",
}

UNCHECKED = (
    "nearly all examples of the probe had the same values, so their order could not "
    "be checked. If the layer reorders examples, its CKA is wrong. Shuffle the loader, "
    "so that the first batch is like the others."
)

NO_VARIANCE = Reason(
    "no shared variance: identical for all examples (but for rounding or less than "
    "1e-80), or each example differs in its own way",
    "no_variance",
)
"""U-centering makes the Gram matrix zero, or HSIC is below what float64 holds."""

TOO_LARGE = Reason("its HSIC exceeds float64", "not_finite")

TOO_SMALL = Reason(
    "its HSIC is too small for float64, as examples differ by less than 1e-70",
    "no_variance",
)

UNRELATED = Note(
    "The two loaders yield different examples (paired=False), so CKA compares "
    "unrelated rows and says nothing about the data. To compare data sets, compute "
    "CKA(model) on each and compare the two matrices, or use the same examples before "
    "and after a change.",
    grave=True,
)


TAKEN_BY_OTHERS = (
    "Another run took batches from the same iterator at the same time. Give each run "
    "a loader of its own, or run one after the other."
)

MANY_SIZES = (
    " Examples of different sizes do not fit into one tensor: resize or pad them in a "
    "collate_fn, or yield lists of images if the models take them, with pool= to make "
    "features of one size."
)


def not_finite(batch: int) -> Reason:
    """The reason of a layer whose Gram matrix is not finite in a batch."""
    text = f"not finite in batch {batch} (NaN, Inf or overflow)"
    return Reason(text, "not_finite")


def no_output(problem: Reason, batch: int) -> Reason:
    """The reason of a layer that a batch left without a Gram matrix."""
    return Reason(f"{problem} in batch {batch}", problem.code)


def run_notes(
    sides: Sequence["Side"],
    models: Sequence["LiveModel"],
    device: torch.device | None,
    *,
    unrelated: bool,
) -> list[Note]:
    """What is known before the first batch.

    Args:
        sides: The sides of the run, after the probe.
        models: The models that run.
        device: The device that was asked for, or None.
        unrelated: Whether the loaders yield different examples.
    """
    auto = [x.tree.auto_notes() for x in sides if x.spec.choices in (None, "auto")]
    auto += [
        x.tree.incomparable_notes(every=x.spec.choices == "all")
        for x in sides
        if _is_preset(x.spec.choices)
    ]
    axes = [x.tree.axis_note() for x in sides]
    notes = [
        *(Note(text) for texts in auto for text in texts),
        *(Note(text, grave=True) for text in axes if text),
        *(Note(x.caller.note) for x in models if x.caller.note),
        *(_change_note(x) for x in models if x.changed),
        *(_size_note(x) for x in models if x.by_size),
        *(_uncut_note(x) for x in models if x.uncut),
        *(_thread_note(x) for x in models if x.threaded),
        *chain.from_iterable(x.tokens.notes(x.name) for x in models),
        *chain.from_iterable(map(_doubt_notes, sides)),
        *(_placement_note(x) for x in models if _stays(x, device)),
        *([UNRELATED] if unrelated else []),
    ]
    return list(dict.fromkeys(notes))


def skip_note(skipped: int) -> Note:
    """The note on batches that were too small."""
    return Note(
        f"Skipped {counted(skipped, 'batch')} with fewer than {MIN_EXAMPLES} "
        "examples: the unbiased HSIC divides by n - 3."
    )


def stable_note(done: int, tolerance: float) -> Note:
    """The note on a run that ended because it was stable."""
    return Note(
        f"Stopped after {counted(done, 'batch')}: the largest standard error is below "
        f"{tolerance:g}."
    )


def short_note(done: int, promised: int, is_shared: bool) -> Note:
    """The note on a loader that yielded fewer batches than its length.

    Args:
        done: Batches taken from it.
        promised: Its length.
        is_shared: Whether another run took from the same iterator.
    """
    why = TAKEN_BY_OTHERS if is_shared else "Check what its data set and sampler yield."
    return Note(
        f"The loader has a length of {counted(promised, 'batch')}, but ended after "
        f"{done}, so this compares only a part of the data. {why}",
        grave=True,
    )


def shared_note(done: int) -> Note:
    """The note on an iterator from which another run took, too."""
    return Note(
        f"This compares {counted(done, 'batch')}, not all of the data. "
        f"{TAKEN_BY_OTHERS}",
        grave=True,
    )


def used_note(before: int, done: int) -> Note:
    """The note on an iterator from which earlier runs have taken."""
    return Note(
        f"Earlier runs took {counted(before, 'batch')} from this iterator, so this "
        f"compares only the {done} after these. Pass a DataLoader or a list, or a new "
        "generator for each run.",
        grave=True,
    )


def unchecked_note(
    name: str, unchecked: Iterable[str], undefined: Mapping[str, str]
) -> Note | None:
    """The note on layers whose rows the probe could not check, and that have values."""
    layers = [layer for layer in unchecked if layer not in undefined]
    return _note_on(name, layers, UNCHECKED) if layers else None


def undefined_notes(name: str, undefined: Mapping[str, str]) -> list[Note]:
    """Notes on the undefined layers of one model, one for each reason."""
    layers: dict[str, list[str]] = {}
    for layer, reason in undefined.items():
        layers.setdefault(reason, []).append(layer)
    return [
        Note(f"{name}: {_many(group)} {_are(group)} undefined, {reason}.")
        for reason, group in layers.items()
    ]


def run_provenance(
    sides: Sequence["Side"], loaders: Sequence[Any], *, paired: bool
) -> dict[str, Any]:
    """What a result records about its origin.

    Args:
        sides: The sides of the run.
        loaders: One loader, or one for each side.
        paired: Whether they yield the same examples.
    """
    models = [side.model for side in sides]
    facts = [loader_facts(loader) for loader in loaders]
    return {
        "cka_notebook": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "pool": models[0].pooling.describe(),
        "masked": False,
        "padding_left_out": _by_model(x.tokens.padded for x in models),
        "tokens_left_out": _by_model(x.tokens.left_out for x in models),
        **{f"model{i}": _model_facts(x.tree.model) for i, x in enumerate(models, 1)},
        "loader1": facts[0],
        "loader2": facts[1] if len(facts) > 1 else None,
        "paired": paired,
        "doubts": _by_model(side.doubts for side in sides),
    }


def _by_model(facts: Iterable[Any]) -> dict[str, Any]:
    return {f"model{number}": fact for number, fact in enumerate(facts, 1)}


def _many(layers: list[str]) -> str:
    if len(layers) == 1:
        return repr(layers[0])
    return f"{len(layers)} layers ({first_few(layers)})"


def _are(layers: list[str]) -> str:
    return "is" if len(layers) == 1 else "are"


def _note_on(name: str, layers: list[str], text: str) -> Note:
    return Note(f"{name}: in {_many(layers)}, {text}")


def _doubt_notes(side: "Side") -> list[Note]:
    return [
        _note_on(side.name, layers, DOUBTS[doubt])
        for doubt, layers in side.doubts.items()
        if doubt in DOUBTS
    ]


def _change_note(model: "LiveModel") -> Note:
    return Note(
        f"{model.name} changes {first_few(model.changed)} in its forward pass, even in "
        "evaluation mode. The comparison therefore changes the model, and each batch "
        "depends on the ones before. Pass copy.deepcopy(model) to keep the original "
        "unchanged."
    )


def _is_preset(choices: Any) -> bool:
    return isinstance(choices, str) and choices in ("all", "leaves", "blocks")


def _size_note(model: "LiveModel") -> Note:
    return Note(
        f"{model.name} could not be tried on a part of the batch, so the first axis of "
        f"size {model.by_size} of each output was taken for the examples. Where it is "
        "not, values are wrong. Yield batches of tensors, which can be cut."
    )


def _uncut_note(model: "LiveModel") -> Note:
    return Note(
        f"{model.name}: an input of shape {model.uncut[0]} has no row for each "
        "example, so the probe could not cut it as it cuts the others. Layers that mix "
        "both are refused, as if their rows were not the examples, even if they are. "
        "Pad such inputs in a collate_fn to (examples, rows, ...)."
    )


def _thread_note(model: "LiveModel") -> Note:
    trains = any(model.threaded.values())
    mode = (
        " There a run cannot leave training mode, so values of later layers are "
        "those of training. Call model.eval() before."
    )
    what = _many(list(model.threaded))
    text = f"{model.name} calls {what} in threads of its own, which are not compared."
    return Note(text + mode * trains, grave=trains)


def _stays(model: "LiveModel", device: torch.device | None) -> bool:
    """Whether a model does not go to the device that was asked for."""
    if device is None or not is_dispatched(model.tree.model):
        return False
    here = model.device
    return here.type != device.type or device.index not in (None, here.index)


def _placement_note(model: "LiveModel") -> Note:
    return Note(
        f"{type(model.tree.model).__name__} stays where its device map or offloading "
        f"put it, and computes on '{model.device}': `device` only moves models that "
        "are on a single device."
    )


def _model_facts(model: nn.Module) -> dict[str, Any]:
    parameters = list(model.parameters())
    return {
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "parameters": sum(p.numel() for p in parameters),
        "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in parameters}),
        "devices": sorted({str(p.device) for p in parameters}),
    }
