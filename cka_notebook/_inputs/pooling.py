"""From activations to features: pooling over tokens and positions."""

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from cka_notebook._grams.precision import undisturbed
from cka_notebook._grams.products import working_dtype
from cka_notebook._messages import first_few

from .sinks import without

Pool = str | Callable[[Tensor], Tensor]
Pools = Pool | Mapping[str, Pool]

Resampled = Callable[[Tensor, int], Tensor | None]
"""Converts a mask (n, samples) to n masks of that many tokens, or None if uncertain."""

TextSide = Literal["encoder", "decoder", "any"]
"""Whose tokens a layer has; ``"any"`` where there are not both in the model."""

OF_ENCODER = re.compile(
    r"(encoder_attn|EncDecAttention|cross_?att\w*)(\.self)?\.(k|v|key|value)(_proj)?",
    re.IGNORECASE,
)
"""Parts of a decoder that see the encoder's tokens."""

POOLS = ("auto", "flatten", "mean", "cls", "last")


class Pooling:
    """Turns activations (n, ...) into features (n, ...), with the masks of a batch.

    ``"auto"`` averages sequences over the tokens that their attention mask keeps,
    without those in `left_out`, and flattens everything else. ``"mean"`` averages over
    tokens of (n, tokens, p) and over positions of (n, channels, ...); ``"cls"`` and
    ``"last"`` take one token.

    Args:
        pool: One choice for all layers, or a dict from layer names or globs to choices;
            the first match counts, and layers without a match get ``"auto"``.
        resampled: What makes a mask of audio samples one of tokens.

    Attributes:
        masked: Whether padding was left out of any layer.
        left_out: Places of the tokens that ``"auto"`` leaves out of the mean, by layer.
        sides: Which layers of a model with both have the tokens of the encoder, and
            which those of the decoder.

    Raises:
        ValueError: If a choice is unknown.
    """

    def __init__(
        self, pool: Pools = "auto", resampled: Resampled = lambda *_: None
    ) -> None:
        self._choices = dict(pool) if isinstance(pool, Mapping) else {"*": pool}
        keys: list[object] = list(self._choices)
        for pattern in keys:
            if not isinstance(pattern, str):
                msg = (
                    f"Expected `pool` to have names or globs as keys, got {pattern!r}."
                )
                raise TypeError(msg)
        for choice in self._choices.values():
            if not callable(choice) and choice not in POOLS:
                known = ", ".join(repr(name) for name in POOLS)
                msg = f"Expected `pool` to be {known} or a callable, got {choice!r}."
                raise ValueError(msg)
        self._resample = resampled
        self._functions: dict[Any, Callable[[Tensor], Tensor]] = {}
        self._masks: list[tuple[Tensor | None, Tensor | None]] = []
        self._made: dict[Any, tuple[Tensor, Tensor | None]] = {}
        self.masked = False
        self.left_out: dict[str, tuple[int, ...]] = {}
        self.sides: dict[str, TextSide] = {}

    def check(self, layers: Sequence[str]) -> None:
        """Raise ValueError if a key of the dict matches none of these layers."""
        for pattern in self._choices:
            if pattern != "*" and not any(
                fnmatch.fnmatchcase(layer, pattern) for layer in layers
            ):
                chosen = list(dict.fromkeys(layers))
                msg = (
                    f"`pool` key {pattern!r} matches none of the chosen layers: "
                    f"{first_few(chosen)}."
                )
                raise ValueError(msg)

    def begin(self, mask: Tensor | None, decoder_mask: Tensor | None) -> None:
        """Start a batch with these attention masks."""
        self._masks = [(mask, decoder_mask)]
        self._made = {}

    def learn(self, mask: Tensor | None, decoder_mask: Tensor | None) -> None:
        """Add the masks of a call inside the model, which take precedence."""
        self._masks.insert(0, (mask, decoder_mask))

    def features(self, layer: str) -> Callable[[Tensor], Tensor]:
        """The function for this layer, the same object for layers pooled alike."""
        choice, side = self.choice(layer), self._side(layer)
        left_out = self.left_out.get(layer, ()) if choice == "auto" else ()
        key = choice, side, left_out
        if key not in self._functions:
            self._functions[key] = self._function(*key)
        return self._functions[key]

    def mask_of(self, shape: Sequence[int], layer: str) -> Tensor | None:
        """The mask of activations of this shape in this batch, or None."""
        return self._mask_for(shape, self._side(layer))

    def _side(self, layer: str) -> TextSide:
        """Whose tokens this layer has."""
        return self.sides.get(layer, "decoder" if is_of_decoder(layer) else "any")

    @property
    def masks(self) -> list[Tensor]:
        """The masks of this batch, at most one of inputs and one of a decoder's."""
        by_kind = zip(*self._masks, strict=True)
        first = (next((x for x in kind if x is not None), None) for kind in by_kind)
        return [mask for mask in first if mask is not None]

    def masks_of(self, layer: str) -> list[Tensor]:
        """Those of `masks` that may be of the tokens of this layer."""
        if self._side(layer) == "encoder":
            return [x for x in self.masks if any(x is y for y, _ in self._masks)]
        return self.masks

    def describe(self) -> dict[str, str]:
        """The choices as text, for the record of a result."""
        return {
            pattern: _name(choice) if callable(choice) else choice
            for pattern, choice in self._choices.items()
        }

    @property
    def functions(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """The choices that are functions."""
        choices = self._choices.items()
        return {pattern: choice for pattern, choice in choices if callable(choice)}

    def choice(self, layer: str) -> Pool:
        """What the user has chosen for this layer."""
        for pattern, choice in self._choices.items():
            if fnmatch.fnmatchcase(layer, pattern):
                return choice
        return "auto"

    def _function(
        self, choice: Pool, side: TextSide, left_out: tuple[int, ...]
    ) -> Callable[[Tensor], Tensor]:
        if callable(choice):
            return _checked(_explained(choice))

        def make(x: Tensor) -> Tensor:
            mask = self._mask_for(x.shape, side)
            if mask is None:
                return x if choice in ("auto", "flatten") else _pooled(choice, x)
            mask = mask.to(x.device)
            if left_out:
                mask = self._once(mask, left_out, without)
            self.masked |= choice != "flatten"
            return _pooled("mean" if choice == "auto" else choice, x, mask)

        return make

    def _mask_for(self, shape: Sequence[int], side: TextSide) -> Tensor | None:
        """The mask of these tokens, which in a decoder may be the encoder's."""
        if len(shape) != 3:
            return None
        inputs = [x for x, _ in self._masks if x is not None]
        of_decoder = [x for _, x in self._masks if x is not None]
        masks = {
            "encoder": inputs,
            "decoder": [*of_decoder, *inputs],
            "any": [*inputs, *of_decoder],
        }[side]
        for mask in masks:
            if mask.shape == shape[:2]:
                return mask
        longer = (x for x in masks if len(x) == shape[0] and x.shape[1] > shape[1])
        resampled = (self._once(mask, shape[1], self._resample) for mask in longer)
        return next((mask for mask in resampled if mask is not None), None)

    def _once(self, mask: Tensor, how: Any, change: Callable[..., Any]) -> Any:
        """What a function makes of a mask, once per batch."""
        key = id(mask), how
        if key not in self._made:
            self._made[key] = mask, change(mask, how)
        return self._made[key][1]


def is_of_decoder(layer: str) -> bool:
    """Whether this layer is in the decoder of a model that also has an encoder."""
    return ".decoder." in f".{layer}"


def sides_of(layers: Sequence[tuple[str, int]]) -> dict[str, TextSide]:
    """Whose tokens layers have, if there are both an encoder and a decoder.

    What is in neither, such as a head, has the decoder's after the encoder's last call.

    Args:
        layers: All layers, each with its place in the order of calls.
    """
    encoder = {name: place for name, place in layers if ".encoder." in f".{name}"}
    crossed = {name for name, _ in layers if OF_ENCODER.search(name)}
    last = max(encoder.values(), default=None)
    if last is None or not any(is_of_decoder(name) for name, _ in layers):
        return {}
    return {
        name: "encoder"
        if name in encoder
        or name in crossed
        or (place < last and not is_of_decoder(name))
        else "decoder"
        for name, place in layers
    }


def _pooled(choice: str, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Features of tokens (n, tokens, p) or positions (n, channels, ...)."""
    if choice == "flatten" or x.ndim < 3:
        return x
    if choice == "mean":
        if mask is not None:
            return _masked_mean(x, mask)
        dtype = working_dtype(x.dtype)
        positions = x.flatten(2) if x.ndim > 3 else x
        return positions.mean(2 if x.ndim > 3 else 1, dtype=dtype)
    if mask is None:
        return x[:, 0 if choice == "cls" else -1]
    place = torch.arange(1, x.shape[1] + 1, device=x.device)
    order = place if choice == "last" else place.flip(0)
    token = (order * (mask > 0)).argmax(1)
    return x[torch.arange(len(x), device=x.device), token]


def _name(pool: Callable[[Tensor], Tensor]) -> str:
    """Name of a function, the same in every process."""
    while isinstance(pool, partial):
        pool = pool.func
    return getattr(pool, "__name__", type(pool).__name__)


def _masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    weights = (mask > 0).unsqueeze(-1)
    # `where` instead of a product: padding may contain NaN or Inf.
    kept = torch.where(weights, x.to(working_dtype(x.dtype)), 0.0)
    return kept.sum(1) / weights.sum(1).clamp_min(1)


def _explained(pool: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Any]:
    """The same function, whose errors name it rather than a model."""

    def call(x: Tensor) -> Any:
        try:
            features: Any = pool(x)
        except Exception as error:
            shape = tuple(x.shape)
            error.add_note(f"`pool` raised this for activations of shape {shape}.")
            raise
        if isinstance(features, Tensor) and not features.is_floating_point():
            got = features.dtype
            msg = f"Expected `pool` to return floating-point features, got {got}."
            raise TypeError(msg)
        return features

    return call


def _checked(pool: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def make(x: Tensor) -> Tensor:
        with undisturbed(x.device):  # the model may compute under autocast
            features: object = pool(x)
        rows = features.shape[:1] if isinstance(features, Tensor) else None
        if not isinstance(features, Tensor) or rows != x.shape[:1]:
            got = (
                f"shape {tuple(features.shape)}"
                if isinstance(features, Tensor)
                else type(features).__name__
            )
            msg = (
                f"Expected `pool` to return a tensor of {len(x)} rows for activations "
                f"of shape {tuple(x.shape)}, got {got}."
            )
            raise ValueError(msg)
        if len(x) and not features.numel():
            msg = (
                "Expected `pool` to return a tensor with features, got shape "
                f"{tuple(features.shape)} for activations of shape {tuple(x.shape)}."
            )
            raise ValueError(msg)
        # A new object even for `x` itself: the capture no longer pools a layer whose
        # output is its features, but this function may change the next batch.
        return features.unsqueeze(1) if features.ndim == 1 else features[:]

    return make
