"""Tokens that are many times as long as all others, and so drown them in a mean.

In trained causal language models the first token often has a hidden state tens to
hundreds of times as long as any other (arXiv 2402.17762). The mean over T tokens is
then that one vector divided by T, which is the same in every model.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

TOO_LONG = 5.0
"""At 10 times the median norm, two unrelated models have a CKA of 0.98."""


class Sinks(NamedTuple):
    """Which tokens of a layer are too long.

    Attributes:
        places: Their places among the tokens of a text, from 0; padding does not count.
        ratio: The largest median norm at a place, over the median norm of all tokens.
    """

    places: tuple[int, ...] = ()
    ratio: float = 0.0


def find_sinks(x: Tensor, mask: Tensor) -> Sinks:
    """The places at which the median norm is more than 5 times that of all tokens.

    Args:
        x: Activations (n, tokens, p).
        mask: Shape (n, tokens), above 0 at tokens.
    """
    # Tokens first and padding last, whichever side it was on. The order stays.
    is_token, order = (mask > 0).sort(dim=1, descending=True, stable=True)
    norms = torch.linalg.vector_norm(x.float(), dim=2).gather(1, order)
    norms = norms.masked_fill(~is_token, torch.nan)
    typical = norms.nanmedian()
    ratios = norms.nanmedian(0).values / typical
    # What few texts are long enough to have tells nothing about a place.
    is_common = 2 * is_token.sum(0) > len(x)
    too_long = is_common & (ratios > TOO_LONG) & ratios.isfinite()
    places = too_long.nonzero().flatten().tolist()
    return Sinks(tuple(places), max(ratios[places].tolist(), default=0.0))


def joined(found: Iterable[Sinks]) -> Sinks:
    """The tokens that are too long in any of these layers."""
    every = list(found)
    places = sorted({place for sinks in every for place in sinks.places})
    return Sinks(tuple(places), max((sinks.ratio for sinks in every), default=0.0))


def without(mask: Tensor, places: tuple[int, ...]) -> Tensor:
    """A mask (n, tokens) without the tokens at these places of each text."""
    is_token = mask > 0
    place = is_token.cumsum(1) - 1
    return is_token & ~torch.isin(place, place.new_tensor(places))
