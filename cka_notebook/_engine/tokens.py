"""What a run knows about tokens: padding, and tokens that drown all others."""

import re
from collections.abc import Iterable, Sequence
from itertools import islice
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from cka_notebook._capture.hooks import hooked
from cka_notebook._capture.observer import MAX_TENSORS
from cka_notebook._capture.outputs import entries, usable
from cka_notebook._inputs.masks import MaskReader
from cka_notebook._inputs.pooling import Pooling, is_of_decoder, sides_of
from cka_notebook._inputs.sinks import Sinks, find_sinks, joined, without
from cka_notebook._messages import SHOWN, Note, counted, first_few
from cka_notebook._models.layer_tree import LayerTree
from cka_notebook._models.nodes import Layer, Path
from cka_notebook._undo import Undo

OF_IMAGES = re.compile(r"(vision|visual|image)(_(model|tower|encoder|backbone))?")
"""Parts of models of texts and images that no mask of a text concerns."""

ATTENTION = (
    nn.MultiheadAttention,
    nn.TransformerEncoderLayer,  # its fast path calls no attention
)
"""Modules of torch that take masks of padding, as keywords."""


class Tokens:
    """Watches the tokens of a model in the probe, and decides which ones count.

    The decision holds for the run, so that its batches can be compared.

    Args:
        tree: The layers of the model.
        pooling: What makes features of their activations.
        masks: What reads the masks of a call.

    Attributes:
        padded: Chosen layers from which padding is left out.
        unmasked: Chosen layers of tokens that no mask fits.
        padding: How many texts had padding, and how many had nothing else, if
            `look_for_padding` has looked.
    """

    def __init__(self, tree: LayerTree, pooling: Pooling, masks: MaskReader) -> None:
        self._tree, self._pooling, self._masks = tree, pooling, masks
        self._sinks: dict[tuple[nn.Module, int, Path], Sinks] = {}
        self._watched, self._pads_itself = 0, False
        self._left_out: dict[str, Sinks] = {}
        self._kept: dict[str, Sinks] = {}
        self._scattered: dict[str, Sinks] = {}
        self._padded_inside: list[str] = []
        self.padded: list[str] = []
        self.unmasked: list[str] = []
        self.padding: Tensor | None = None

    @property
    def left_out(self) -> dict[str, list[int]]:
        """Places of the tokens that are not in the mean, by layer."""
        return {name: list(sinks.places) for name, sinks in self._left_out.items()}

    def watch(self, examples: int, undo: Undo) -> None:
        """Compare the tokens of one forward pass; the one with most examples counts."""
        if examples < self._watched:
            return
        self._watched, self._sinks = examples, {}
        names = {node.module: node.name for node in reversed(list(self._tree.nodes))}
        calls: dict[nn.Module, int] = {}
        thread = get_ident()

        def watch(module: nn.Module, _: Any, output: Any) -> None:
            if get_ident() != thread:
                return
            call = calls[module] = calls.get(module, -1) + 1
            for path, value in islice(entries(output), MAX_TENSORS):
                sinks = self._find(names[module], usable(value), examples)
                if sinks is not None and sinks != Sinks():
                    self._sinks[module, call, path] = sinks

        def before(module: nn.Module, args: Any, given: dict[str, Any]) -> None:
            if get_ident() == thread and isinstance(module, ATTENTION):
                # Tokens of another text, such as the encoder's, may be padded, too.
                is_own = len(args) < 2 or args[0] is args[1]
                padded = is_own and any(map(_is_padding, given.items()))
                self._pads_itself = self._pads_itself or padded

        undo.enter(hooked(self._tree, watch, before))

    def decide(self, layers: Sequence[Layer]) -> None:
        """Which tokens the pooling takes of these layers, after the probe."""
        of_model = self._of_blocks() if self._sinks else {}
        every = {x.name: x.output.order for x in (*self._tree.layers, *layers)}
        self._pooling.sides = sides_of(list(every.items()))
        for layer in layers:
            choice = self._pooling.choice(layer.name)
            fits = self._fits(layer)
            if choice in ("auto", "mean", "cls", "last"):
                self.padded += [layer.name] if fits else []
                self.unmasked += [layer.name] if fits is False else []
            if self._pads_itself and not callable(choice) and self._is_of_tokens(layer):
                self._padded_inside.append(layer.name)
            own = self._sinks_of(layer)
            if own.elsewhere and fits and choice in ("auto", "mean"):
                self._scattered[layer.name] = Sinks(ratio=own.elsewhere)
            if choice == "auto" and fits:
                decoder = is_of_decoder(layer.name)
                sinks = joined([own, of_model.get(decoder, Sinks())])
                if sinks.places:
                    self._left_out[layer.name] = sinks
            elif own.places and _is_drowned(choice, own, has_mask=bool(fits)):
                self._kept[layer.name] = own
        self._pooling.left_out = {k: x.places for k, x in self._left_out.items()}

    def look_for_padding(self) -> None:
        """Count the texts with padding, on their device, which need not wait."""
        places = joined(self._left_out.values()).places
        for mask in self._pooling.masks:
            kept = without(mask, places) if places else mask > 0
            found = torch.stack([(mask <= 0).any(1).sum(), (~kept.any(1)).sum()])
            known = self.padding
            self.padding = found if known is None else known.to(found.device) + found

    def unmasked_note(self, model: str) -> Note | None:
        """What to say of layers that no mask fits, after a run with padding."""
        if not self.unmasked or self.padding is None or not bool(self.padding[0]):
            return None
        return _unmasked_note(model, self.unmasked, self._pooling.masks)

    def empty_note(self, model: str) -> Note | None:
        """What to say of texts that have no token that counts."""
        count = 0 if self.padding is None or not self.padded else int(self.padding[1])
        return _empty_note(model, count, self.padded) if count else None

    def notes(self, model: str) -> list[Note]:
        """What a reader should know about padding and long tokens."""
        notes = [_unused_note(model, *mask) for mask in self._masks.unused.items()]
        if self._left_out:
            notes.append(_left_out_note(model, self._left_out))
        if self._kept:
            notes.append(_kept_note(model, self._kept))
        if self._scattered:
            notes.append(_scattered_note(model, self._scattered))
        if self._padded_inside:
            notes.append(_inside_note(model, self._padded_inside))
        return notes

    def _sinks_of(self, layer: Layer) -> Sinks:
        key = layer.module, layer.call, layer.output.path
        return self._sinks.get(key, Sinks())

    def _is_of_tokens(self, layer: Layer) -> bool:
        """Whether a layer has tokens, and no mask is known."""
        is_known = bool(self._pooling.masks or self._masks.unused)
        return not is_known and len(_example_shape(layer)) == 2

    def _find(self, name: str, found: Any, examples: int) -> Sinks | None:
        if not isinstance(found, Tensor) or found.ndim != 3:
            return None
        # With batch_first=False, tokens come before examples.
        for x in (found, found.transpose(0, 1)):
            mask = self._pooling.mask_of(x.shape, name)
            if mask is not None:
                return find_sinks(x, mask.to(x.device))
        if self._pooling.choice(name) != "mean" or len(found) != examples:
            return None
        return find_sinks(found, torch.ones(found.shape[:2], device=found.device))

    def _of_blocks(self) -> dict[bool, Sinks]:
        """Tokens too long in any block, of the encoder and of the decoder.

        All layers leave out the same ones, so that they can be compared, whichever are
        chosen. Parts of blocks do not count: attention makes early tokens longer.
        """
        try:
            blocks = self._tree.find(self._tree.choose("auto"))
        except ValueError:
            return {}
        return {
            decoder: joined(
                self._sinks_of(x) for x in blocks if is_of_decoder(x.name) == decoder
            )
            for decoder in (False, True)
        }

    def _fits(self, layer: Layer) -> bool | None:
        """Whether a mask fits this layer; None if it need not."""
        masks = self._pooling.masks_of(layer.name)
        rest = _example_shape(layer)
        if not masks or len(rest) < 2:
            return None
        if self._pooling.mask_of((len(masks[0]), *rest), layer.name) is not None:
            return True
        # Maps of attention have tokens too, images have none.
        has_tokens = len(rest) == 2 or any(x.shape[1] in rest for x in masks)
        return False if has_tokens and not _is_of_images(layer.name) else None


def _is_padding(given: tuple[str, Any]) -> bool:
    """Whether this argument is a mask with some padding."""
    name, mask = given
    is_mask = name.endswith("key_padding_mask") and isinstance(mask, Tensor)
    if not is_mask or name.startswith("memory"):
        return False
    return bool(mask.any() if mask.dtype is torch.bool else (mask < 0).any())


def _is_of_images(name: str) -> bool:
    """Whether a layer is in the part of a model that sees images alone."""
    return any(map(OF_IMAGES.fullmatch, name.split(".")))


def left_out_of(models: Iterable[Tokens]) -> list[dict[str, list[int]]] | None:
    """The tokens left out of each model; None if there are none."""
    found = [tokens.left_out for tokens in models]
    return found if any(found) else None


def _example_shape(layer: Layer) -> tuple[int, ...]:
    """Shape of what a layer gives for one example; empty if that is unknown."""
    output = layer.output
    if output.reason is not None or None not in output.shape:
        return ()
    rest = tuple(size for size in output.shape if size is not None)
    return (output.groups, *rest) if output.groups > 1 else rest


def _is_drowned(choice: Any, sinks: Sinks, *, has_mask: bool) -> bool:
    """Whether a choice other than leaving out gives mostly these tokens."""
    if choice == "cls":
        return 0 in sinks.places
    if choice == "last":
        return -1 in sinks.places
    return choice == "mean" or (has_mask and choice != "auto")


def _unused_note(model: str, name: str, shape: tuple[int, ...]) -> Note:
    return Note(
        f"{model}: mask {name!r} of shape {shape} is not used, because it is unclear "
        "whether it marks tokens or padding. Padding may be in the numbers. Name it "
        "'attention_mask' (1 for tokens) or 'src_key_padding_mask' (True for padding).",
        grave=True,
    )


def _unmasked_note(model: str, layers: list[str], masks: list[Tensor]) -> Note:
    tokens = " or ".join(str(mask.shape[1]) for mask in masks)
    count = f" ({counted(len(layers), 'layer')})" if len(layers) > 1 else ""
    return Note(
        f"{model}: the mask of {tokens} tokens does not fit the output of "
        f"{first_few(layers)}{count}, so any padding in it is in the numbers. To leave "
        "it out, pass a function as `pool`."
    )


def _empty_note(model: str, count: int, layers: list[str]) -> Note:
    are = "is" if count == 1 else "are"
    return Note(
        f"{model}: all tokens of {counted(count, 'text')} {are} left out as padding or "
        f"as too long, so {'it is a row' if count == 1 else 'they are rows'} of zeros "
        f"in {_some(layers)}, all alike. Yield no empty texts.",
        grave=True,
    )


def _left_out_note(model: str, layers: dict[str, Sinks]) -> Note:
    text, _, it = _long_tokens(layers)
    return Note(
        f"{model}: {text}, and would drown them in the mean over tokens, so {it} left "
        "out of it. pool='mean' keeps all tokens."
    )


def _kept_note(model: str, layers: dict[str, Sinks]) -> Note:
    text, outweigh, _ = _long_tokens(layers)
    return Note(
        f"{model}: {text}, and {outweigh} them in the features. pool='auto' leaves "
        "such tokens out of the mean, where a mask tells which tokens count."
    )


def _scattered_note(model: str, layers: dict[str, Sinks]) -> Note:
    ratio = joined(layers.values()).ratio
    return Note(
        f"{model}: single tokens, at other places in each text, are up to {ratio:.0f} "
        f"times as long as the others in {_some(list(layers))}, and outweigh them in "
        "the mean over tokens. Compare other tokens with pool='last', or pass a "
        "function as `pool`.",
        grave=True,
    )


def _inside_note(model: str, layers: list[str]) -> Note:
    return Note(
        f"{model} makes a mask of padding itself, so padding is in the numbers of "
        f"{_some(layers)}. To leave it out, yield a mask as 'attention_mask' (1 for "
        "tokens) in batches that are dicts, or pass a function as `pool`.",
        grave=True,
    )


def _some(names: list[str]) -> str:
    return first_few(names) + (f" ({len(names)} layers)" if names[1:] else "")


def _long_tokens(layers: dict[str, Sinks]) -> tuple[str, str, str]:
    """Which tokens are too long in which layers, and two verbs that go with it."""
    every = joined(layers.values())
    if len(every.places) == 1:
        subject, *verbs = f"{_place(*every.places)} is", "outweighs", "it is"
    else:
        numbers = [str(x + 1) for x in every.places if x >= 0]
        numbers += [f"{-x} from the end" for x in every.places if x < 0]
        listed = ", ".join(numbers[:SHOWN]) + (", ..." if numbers[SHOWN:] else "")
        subject, *verbs = f"tokens {listed} are", "outweigh", "they are"
    times = f"up to {every.ratio:.0f} times as long as the others"
    return f"{subject} {times} in {_some(list(layers))}", verbs[0], verbs[1]


def _place(place: int) -> str:
    """One token in words."""
    ends = {0: "the first token", -1: "the last token"}
    counted_on = f"token {place + 1}" if place > 0 else f"token {-place} from the end"
    return ends.get(place, counted_on)
