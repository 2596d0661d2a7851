"""From activations to features: pooling over tokens and positions."""

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
    """Turns activations (n, ...) into features (n, ...), with the masks of a batch.

    ``"auto"`` averages sequences over the tokens that their attention mask keeps and
    flattens everything else. ``"mean"`` averages over tokens of (n, tokens, p) and over
    positions of (n, channels, ...); ``"cls"`` and ``"last"`` take one token.

    Args:
        pool: One choice for all layers, or a dict from layer names or globs to choices;
            the first match counts, and layers without a match get ``"auto"``.

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
        self._functions: dict[tuple[Pool, bool], Callable[[Tensor], Tensor]] = {}
        self._masks: list[tuple[Tensor | None, Tensor | None]] = []
        self.masked = False
        """Whether padding was left out of any layer."""

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

    def learn(self, mask: Tensor | None, decoder_mask: Tensor | None) -> None:
        """Add the masks of a call inside the model, which take precedence."""
        self._masks.insert(0, (mask, decoder_mask))

    def features(self, layer: str) -> Callable[[Tensor], Tensor]:
        """The function for this layer, the same object for layers pooled alike."""
        choice = self._choice(layer)
        decoder = layer.startswith("decoder.") or ".decoder." in layer
        key = choice, decoder
        if key not in self._functions:
            self._functions[key] = self._function(choice, decoder)
        return self._functions[key]

    def describe(self) -> dict[str, str]:
        """The choices as text, for the record of a result."""
        return {
            pattern: _name(choice) if callable(choice) else choice
            for pattern, choice in self._choices.items()
        }

    def _choice(self, layer: str) -> Pool:
        for pattern, choice in self._choices.items():
            if fnmatch.fnmatchcase(layer, pattern):
                return choice
        return "auto"

    def _function(self, choice: Pool, decoder: bool) -> Callable[[Tensor], Tensor]:
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
        """The mask of these tokens, which in a decoder may be the encoder's."""
        pairs = [pair[::-1] if decoder else pair for pair in self._masks]
        masks = (mask for pair in pairs for mask in pair if mask is not None)
        fitting = (mask for mask in masks if mask.shape == x.shape[:2])
        mask = next(fitting, None) if x.ndim == 3 else None
        return mask.to(x.device) if mask is not None else None


def _name(pool: Callable[[Tensor], Tensor]) -> str:
    """Name of a function, the same in every process."""
    while isinstance(pool, partial):
        pool = pool.func
    return getattr(pool, "__name__", type(pool).__name__)


def _masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    weights = (mask > 0).to(torch.float32).unsqueeze(-1)
    # `where` instead of a product: padding may contain NaN or Inf.
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
        # A new object even for `x` itself: the capture no longer pools a layer whose
        # output is its features, but this function may change the next batch.
        return features.unsqueeze(1) if features.ndim == 1 else features[:]

    return make
