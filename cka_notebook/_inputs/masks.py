"""Which tokens are padding: masks of all names and kinds, as 1 for a token, 0 for none.

What a mask means is decided when it is first seen, by its name, its values and the
inputs that it masks, and holds for the whole run. A mask of unknown meaning is not
used, and `MaskReader.unused` names it.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from cka_notebook._messages import is_out_of_memory

from .nested import as_mapping

Meaning = Literal["token", "padding", "additive", "unknown"]
"""What nonzero values mark; an additive mask has 0 at tokens, and large negative
numbers at padding."""

ENCODER = {
    "attention_mask": "token",
    "input_mask": "token",
    "src_key_padding_mask": "padding",
    "key_padding_mask": "padding",
    "encoder_padding_mask": "padding",
}
MEMORY = {"encoder_attention_mask": "token", "memory_key_padding_mask": "padding"}
DECODER = {
    "decoder_attention_mask": "token",
    "tgt_key_padding_mask": "padding",
    "decoder_padding_mask": "padding",
}
DECODER_INPUTS = ("decoder_input_ids", "decoder_inputs_embeds")
KNOWN: dict[str, Any] = {**ENCODER, **MEMORY, **DECODER}
"""Names in torch and transformers, those to be preferred first."""

NO_PADDING = (
    "global_attention_mask",
    "special_tokens_mask",
    "head_mask",
    "decoder_head_mask",
    "cross_attn_head_mask",
    "mask_time_indices",
    "mask_labels",
    "bool_masked_pos",
    "loss_mask",
)
"""Masks in transformers that mark something else."""

ATTENTION = ("mask", "attn_mask", "src_mask", "tgt_mask", "memory_mask", "causal_mask")
"""Masks that may say which token attends to which, the same for all examples."""

ADDED = -100.0
"""Values below this, added to attention scores, leave no attention."""


class Masks(NamedTuple):
    """Attention masks (n, tokens) of the model's and of its decoder's inputs."""

    inputs: Tensor | None = None
    decoder: Tensor | None = None


class MaskReader:
    """Finds the masks among the arguments of a model, and translates them.

    Args:
        model: The model. Not modified.

    Attributes:
        unused: Shapes of the masks of unknown meaning, by name.
    """

    def __init__(self, model: nn.Module) -> None:
        self._meanings: dict[str, Meaning] = {}
        self._unnamed: dict[str, bool] = {}
        self._of_pairs: dict[str, bool] = {}
        # Models of transformers: True is a token in all of them.
        self._is_fixed = hasattr(model, "main_input_name")
        self._frames = _frame_counter(model)
        self.unused: dict[str, tuple[int, ...]] = {}

    def read(self, arguments: Mapping[str, Any], more: Any = None) -> Masks:
        """The masks of one call.

        Args:
            arguments: What the model gets, by name.
            more: The batch. Its masks count even if the model does not take them.
        """
        given = {**_known(more), **arguments}
        names = [*self._named(given), *self._others(given)]
        read = {
            name: mask
            for name in names
            if (mask := self._translated(name, given[name], arguments)) is not None
        }
        inputs = next((x for name, x in read.items() if not _of_decoder(name)), None)
        decoder = next((x for name, x in read.items() if _of_decoder(name)), None)
        if (
            decoder is not None
            and set(read) & set(MEMORY)
            and not set(read) & set(ENCODER)
        ):
            inputs = decoder  # a decoder alone, with the mask of what it attends to
        if inputs is not None and decoder is None:
            decoder = _all_tokens(arguments)
        return Masks(inputs, decoder)

    def resampled(self, mask: Tensor, frames: int) -> Tensor | None:
        """A mask of audio samples as one of frames, if the model has that many."""
        if self._frames is None:
            return None
        try:
            total = mask.new_tensor([mask.shape[1]], dtype=torch.long)
            if int(self._frames(total)) != frames:
                return None
            counts = self._frames((mask > 0).sum(1))
        except Exception as error:  # a private method, which may have changed
            if is_out_of_memory(error):
                raise
            return None
        return torch.arange(frames, device=mask.device) < counts[:, None]

    def _named(self, arguments: Mapping[str, Any]) -> Iterator[str]:
        """Names of masks of padding, known ones first."""
        names = [name for name in KNOWN if name in arguments]
        names += [name for name in arguments if "mask" in name and name not in KNOWN]
        for name in names:
            mask = arguments[name]
            if isinstance(mask, Tensor) and mask.ndim > 1 and name not in NO_PADDING:
                if name not in self._of_pairs:
                    found = _is_the_same_for_all(name, mask, arguments)
                    self._of_pairs[name] = found
                if not self._of_pairs[name]:
                    yield name

    def _others(self, arguments: Mapping[str, Any]) -> Iterator[str]:
        """Names of masks that do not say so.

        Their first values decide; without padding there, it is not a mask.
        """
        for name, value in arguments.items():
            if isinstance(value, Tensor) and "mask" not in name and value.ndim:
                if name not in self._unnamed:
                    self._unnamed[name] = _is_unnamed(name, value, arguments)
                if self._unnamed[name]:
                    yield name

    def _translated(
        self, name: str, mask: Tensor, arguments: Mapping[str, Any]
    ) -> Tensor | None:
        """This mask as (n, tokens), or None if it is not used."""
        if mask.ndim == 3 and mask.shape[2] == 1 < mask.shape[1]:
            mask = mask[..., 0]
        meaning = self._meanings.get(name)
        if meaning is None:
            inputs = _masked_inputs(mask, arguments)
            meaning = _meaning(name, mask, inputs, is_fixed=self._is_fixed)
            self._meanings[name] = meaning
            if meaning == "unknown" and not _is_uniform(mask):
                self.unused[name] = tuple(mask.shape)
        if meaning == "unknown":
            return None
        if meaning == "token" and mask.ndim == 2:
            return mask
        return _by_key(_tokens(mask, meaning))


def _known(batch: Any) -> dict[str, Tensor]:
    """Masks of known names in a batch, or in the first item of a pair."""
    batch = as_mapping(batch)
    if isinstance(batch, list | tuple) and batch:
        batch = as_mapping(batch[0])
    if not isinstance(batch, Mapping):
        return {}
    return {k: v for k, v in batch.items() if k in KNOWN and isinstance(v, Tensor)}


def _is_the_same_for_all(name: str, mask: Tensor, arguments: Mapping[str, Any]) -> bool:
    """Whether a mask says which token attends to which, in every text."""
    size = mask.shape[-1]
    if mask.shape[-2] != size:
        return False
    first = mask.reshape(-1, size, size)[0]
    if not bool((mask == first).all()):
        return False
    if name in ATTENTION and (mask.ndim > 2 or not _masked_inputs(mask, arguments)):
        return True
    marked = first < 0 if bool((first < 0).any()) else first > 0
    return any(torch.equal(x, x.new_ones(x.shape).tril()) for x in (marked, ~marked))


def _is_unnamed(name: str, value: Tensor, arguments: Mapping[str, Any]) -> bool:
    """Whether a tensor marks padding, although its name does not say so."""
    is_flag = value.dtype is torch.bool and value.ndim == 2 and value.numel() > 0
    if not is_flag or _is_uniform(value) or not _masked_inputs(value, arguments):
        return False
    return _is_padding(value) and not _is_the_same_for_all(name, value, arguments)


def _all_tokens(arguments: Mapping[str, Any]) -> Tensor | None:
    """A mask of all tokens that a decoder is given, which has none of its own."""
    found = (arguments.get(name) for name in DECODER_INPUTS)
    tokens = next((x for x in found if isinstance(x, Tensor) and x.ndim > 1), None)
    return (
        None if tokens is None else tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
    )


def _of_decoder(name: str) -> bool:
    return name in DECODER or (
        name not in KNOWN and name.startswith(("decoder", "tgt", "target"))
    )


def _meaning(
    name: str, mask: Tensor, inputs: list[Tensor], *, is_fixed: bool
) -> Meaning:
    """What a mask marks, when it is first seen.

    Args:
        name: The name of the argument.
        mask: Any shape.
        inputs: The inputs that it masks.
        is_fixed: Whether known names mean what they should.
    """
    known: Meaning | None = KNOWN.get(name)
    if mask.is_floating_point() and bool((mask <= 0).all()):
        is_added = bool(((mask == 0) | (mask < ADDED)).all())
        return "additive" if is_added else "unknown"
    if known == "padding" and mask.is_floating_point():
        return "unknown"
    if known is not None and is_fixed:
        return known
    if not _is_padding(mask):
        return known or "unknown"
    by_values, by_texts = _by_values(mask, inputs), _by_whole_texts(mask)
    if known is None:
        return by_values or by_texts or "unknown"
    is_doubtful = by_values is None and by_texts not in (None, known)
    return "unknown" if is_doubtful else by_values or known


def _is_padding(mask: Tensor) -> bool:
    """Whether what is marked, or what is not, lies at one end of each text."""
    if mask.ndim > 2 and max(mask.shape[1:-1]) > 1:
        return False
    changes = _by_key(mask > 0).int().diff(dim=1)
    same_end = not (bool((changes > 0).any()) and bool((changes < 0).any()))
    return same_end and bool((changes.abs().sum(1) <= 1).all())


def _by_values(mask: Tensor, inputs: list[Tensor]) -> Meaning | None:
    """What a mask marks, as padding holds one value; None if that is unclear."""
    rows = _by_key(mask > 0)
    for x in [] if _is_uniform(mask) else inputs:
        marked, others = _is_constant(x[rows]), _is_constant(x[~rows])
        if marked != others:
            return "padding" if marked else "token"
    return None


def _by_whole_texts(mask: Tensor) -> Meaning | None:
    """What a mask marks, as no text is padding only; None if that is unclear."""
    rows = _by_key(mask > 0)
    all_marked, none_marked = bool(rows.all(1).any()), bool((~rows).all(1).any())
    if all_marked == none_marked:
        return None
    return "token" if all_marked else "padding"


def _is_constant(values: Tensor) -> bool:
    return len(values) > 1 and bool((values == values[0]).all())


def _masked_inputs(mask: Tensor, arguments: Mapping[str, Any]) -> list[Tensor]:
    """Inputs, as (n, tokens, ...), that have the tokens of a mask."""
    n, tokens = mask.shape[0], mask.shape[-1]
    found = []
    for value in _inputs(arguments):
        axes = [a for a in _token_axes(value, n) if value.shape[a] == tokens]
        found += [value.movedim(axis, 1 if axis else 0) for axis in axes[:1]]
    return [x if x.shape[0] == n else x.transpose(0, 1) for x in found]


def _inputs(arguments: Mapping[str, Any]) -> list[Tensor]:
    """Inputs that may have a mask."""
    return [
        value
        for name, value in arguments.items()
        if isinstance(value, Tensor) and not value.is_nested and value.ndim > 1
        if "mask" not in name and value.dtype is not torch.bool
    ]


def _token_axes(x: Tensor, n: int) -> list[int]:
    """Axes of an input that may hold tokens: after the examples, or before them."""
    axes = list(dict.fromkeys([1, x.ndim - 1])) if x.shape[0] == n else []
    return axes + ([0] if x.shape[1] == n != x.shape[0] else [])


def _tokens(mask: Tensor, meaning: Meaning) -> Tensor:
    if meaning == "additive":
        return mask >= ADDED
    return mask == 0 if meaning == "padding" else mask > 0


def _by_key(attended: Tensor) -> Tensor:
    """From (n, ..., tokens) to (n, tokens): tokens that any other attends to."""
    return attended if attended.ndim == 2 else attended.flatten(1, -2).any(1)


def _is_uniform(mask: Tensor) -> bool:
    return bool((mask == mask.flatten()[0]).all())


def _frame_counter(model: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Counts the frames that a speech model of transformers makes of samples."""
    for module in model.modules():
        counter = getattr(module, "_get_feat_extract_output_lengths", None)
        if callable(counter):
            return counter  # type: ignore[no-any-return]
    return None
