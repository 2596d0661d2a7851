"""What a run knows about tokens: padding, and tokens that drown all others."""

from collections.abc import Iterable, Sequence
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from cka_notebook._capture.hooks import hooked
from cka_notebook._capture.outputs import tensor_of
from cka_notebook._inputs.masks import MaskReader
from cka_notebook._inputs.pooling import Pooling, is_of_decoder
from cka_notebook._inputs.sinks import Sinks, find_sinks, joined
from cka_notebook._messages import SHOWN, Note, counted, first_few
from cka_notebook._models.layer_tree import LayerTree
from cka_notebook._models.nodes import Layer
from cka_notebook._undo import Undo


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
        padding: Whether a batch had any padding, if `look_for_padding` has looked.
    """

    def __init__(self, tree: LayerTree, pooling: Pooling, masks: MaskReader) -> None:
        self._tree, self._pooling, self._masks = tree, pooling, masks
        self._sinks: dict[tuple[nn.Module, int], Sinks] = {}
        self._watched = 0
        self._left_out: dict[str, Sinks] = {}
        self._kept: dict[str, Sinks] = {}
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

        def look(module: nn.Module, _: Any, output: Any) -> None:
            if get_ident() == thread:
                call = calls[module] = calls.get(module, -1) + 1
                sinks = self._find(names[module], tensor_of(output), examples)
                if sinks is not None and sinks.places:
                    self._sinks[module, call] = sinks

        undo.enter(hooked(self._tree, look))

    def decide(self, layers: Sequence[Layer]) -> None:
        """Which tokens the pooling takes of these layers, after the probe."""
        of_model = self._of_blocks() if self._sinks else {}
        for layer in layers:
            choice = self._pooling.choice(layer.name)
            fits = self._fits(layer)
            if choice in ("auto", "mean", "cls", "last"):
                self.padded += [layer.name] if fits else []
                self.unmasked += [layer.name] if fits is False else []
            own = self._sinks.get((layer.module, layer.call), Sinks())
            if choice == "auto" and fits:
                decoder = is_of_decoder(layer.name)
                sinks = joined([own, of_model.get(decoder, Sinks())])
                if sinks.places:
                    self._left_out[layer.name] = sinks
            elif own.places and _is_drowned(choice, own, has_mask=bool(fits)):
                self._kept[layer.name] = own
        self._pooling.left_out = {k: x.places for k, x in self._left_out.items()}

    def look_for_padding(self) -> None:
        """Remember whether this batch has any; on its device, which need not wait."""
        for mask in self._pooling.masks:
            found = (mask <= 0).any()
            known = self.padding
            self.padding = found if known is None else known.to(found.device) | found

    def unmasked_note(self, model: str) -> Note | None:
        """What to say of layers that no mask fits, after a run with padding."""
        if self.padding is None or not bool(self.padding):
            return None
        return _unmasked_note(model, self.unmasked, self._pooling.masks)

    def notes(self, model: str) -> list[Note]:
        """What a reader should know about padding and long tokens."""
        notes = [_unused_note(model, *mask) for mask in self._masks.unused.items()]
        if self._left_out:
            notes.append(_left_out_note(model, self._left_out))
        if self._kept:
            notes.append(_kept_note(model, self._kept))
        return notes

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
                self._sinks.get((x.module, x.call), Sinks())
                for x in blocks
                if is_of_decoder(x.name) == decoder
            )
            for decoder in (False, True)
        }

    def _fits(self, layer: Layer) -> bool | None:
        """Whether a mask fits this layer; None if it need not."""
        masks = self._pooling.masks
        rest = _example_shape(layer)
        if not masks or len(rest) < 2:
            return None
        if self._pooling.mask_of((len(masks[0]), *rest), layer.name) is not None:
            return True
        # Maps of attention have tokens too, images have none.
        has_tokens = len(rest) == 2 or any(x.shape[1] in rest for x in masks)
        return False if has_tokens else None


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
    return choice == "mean" or (has_mask and choice not in ("auto", "last"))


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


def _long_tokens(layers: dict[str, Sinks]) -> tuple[str, str, str]:
    """Which tokens are too long in which layers, and two verbs that go with it."""
    every, names = joined(layers.values()), list(layers)
    if every.places == (0,):
        subject, *verbs = "the first token is", "outweighs", "it is"
    elif len(every.places) == 1:
        subject, *verbs = f"token {every.places[0] + 1} is", "outweighs", "it is"
    else:
        numbers = [str(place + 1) for place in every.places]
        listed = ", ".join(numbers[:SHOWN]) + (", ..." if numbers[SHOWN:] else "")
        subject, *verbs = f"tokens {listed} are", "outweigh", "they are"
    where = first_few(names) + (f" ({len(names)} layers)" if names[1:] else "")
    times = f"up to {every.ratio:.0f} times as long as the others"
    return f"{subject} {times} in {where}", verbs[0], verbs[1]
