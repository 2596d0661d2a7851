"""From activations to features: what becomes of tokens and positions."""

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from cka_notebook._messages import first_few

Pool = str | Callable[[Tensor], Tensor]
Pools = Pool | Mapping[str, Pool]

POOLS = ("auto", "flatten", "mean", "cls", "last")


class Pooling:
    """Makes features (n, ...) of activations (n, ...), with the masks of a batch.

    ``"auto"`` averages sequences over the tokens that their attention mask keeps, and
    flattens everything else. ``"mean"`` averages over tokens of (n, tokens, p) and over
    positions of (n, channels, ...); ``"cls"`` and ``"last"`` take one token.

    Args:
        pool: One choice for all layers, or a dict from layer names or globs to choices;
            the first match counts, and ``"auto"`` where there is none.

    Raises:
        ValueError: If a choice is unknown.
    """

    def __init__(self, pool: Pools = "auto") -> None:
        self._choices = dict(pool) if isinstance(pool, Mapping) else {"*": pool}
        for choice in self._choices.values():
            if not callable(choice) and choice not in POOLS:
                known = ", ".join(repr(name) for name in POOLS)
                msg = f"Expected `pool` to be {known} or a callable, got {choice!r}."
                raise ValueError(msg)
        self._made: dict[tuple[Pool, bool], Callable[[Tensor], Tensor]] = {}
        self._masks: list[tuple[Tensor | None, Tensor | None]] = []
        self.masked = False
        """Whether a mask has left padding out of any layer."""

    def check(self, layers: Sequence[str]) -> None:
        """Raise ValueError if a choice is for none of these layers."""
        for pattern in self._choices:
            if pattern != "*" and not any(
                fnmatch.fnmatchcase(layer, pattern) for layer in layers
            ):
                chosen = list(dict.fromkeys(layers))
                msg = (
                    f"`pool` names {pattern!r}, which matches no chosen layer. Chosen: "
                    f"{first_few(chosen)}."
                )
                raise ValueError(msg)

    def begin(self, mask: Tensor | None, decoder_mask: Tensor | None) -> None:
        """Take the attention masks of the batch that comes."""
        self._masks = [(mask, decoder_mask)]

    def learn(self, mask: Tensor | None, decoder_mask: Tensor | None) -> None:
        """Take those of a call inside of the model, which count more from now on."""
        self._masks.insert(0, (mask, decoder_mask))

    def features(self, layer: str) -> Callable[[Tensor], Tensor]:
        """What makes this layer's features; the same object for equal treatment."""
        choice = self._choice(layer)
        decoder = layer.startswith("decoder.") or ".decoder." in layer
        key = choice, decoder
        if key not in self._made:
            self._made[key] = self._maker(choice, decoder)
        return self._made[key]

    def describe(self) -> dict[str, str]:
        """The choices in words, for the record."""
        return {
            pattern: _name(choice) if callable(choice) else choice
            for pattern, choice in self._choices.items()
        }

    def _choice(self, layer: str) -> Pool:
        for pattern, choice in self._choices.items():
            if fnmatch.fnmatchcase(layer, pattern):
                return choice
        return "auto"

    def _maker(self, choice: Pool, decoder: bool) -> Callable[[Tensor], Tensor]:
        if callable(choice):
            return _checked(choice)

        def make(x: Tensor) -> Tensor:
            mask = self._mask_for(x, decoder)
            if mask is None and choice in ("auto", "flatten"):
                return x
            return self._pooled(choice, x, mask)

        return make

    def _pooled(self, choice: str, x: Tensor, mask: Tensor | None) -> Tensor:
        if choice == "auto":
            choice = "flatten" if mask is None else "mean"
        if choice == "flatten" or x.ndim < 3:
            return x
        self.masked |= mask is not None
        if choice == "mean":
            if mask is not None:
                return _masked_mean(x, mask)
            return x.flatten(2).mean(2) if x.ndim > 3 else x.mean(1)
        if choice == "last" and mask is not None:
            tokens = torch.arange(x.shape[1], device=x.device)
            last = (tokens * (mask > 0)).argmax(1)
            return x[torch.arange(len(x), device=x.device), last]
        return x[:, 0 if choice == "cls" else -1]

    def _mask_for(self, x: Tensor, decoder: bool) -> Tensor | None:
        """The mask of these tokens; a decoder may attend to the encoder's, too."""
        pairs = [pair[::-1] if decoder else pair for pair in self._masks]
        masks = (mask for pair in pairs for mask in pair if mask is not None)
        fitting = (mask for mask in masks if mask.shape == x.shape[:2])
        mask = next(fitting, None) if x.ndim == 3 else None
        return mask.to(x.device) if mask is not None else None


def _name(pool: Callable[[Tensor], Tensor]) -> str:
    """What a function is called, the same in every process."""
    while isinstance(pool, partial):
        pool = pool.func
    return getattr(pool, "__name__", type(pool).__name__)


def _masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    weights = (mask > 0).to(torch.float32).unsqueeze(-1)
    # where, not a product: padding may hold NaN or Inf
    kept = torch.where(weights > 0, x.to(torch.float32), 0.0)
    return kept.sum(1) / weights.sum(1).clamp_min(1)


def _checked(pool: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def make(x: Tensor) -> Tensor:
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
        # A tensor of its own: what is made of the next batch may differ.
        return features.unsqueeze(1) if features.ndim == 1 else features[:]

    return make
