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

MANY = 1 / 3
"""Fewer texts with such tokens are outliers."""


class Sinks(NamedTuple):
    """Which tokens of a layer are too long.

    Attributes:
        places: Their places among the tokens of a text, from 0, or from -1 for the last
            one backwards; padding does not count.
        ratio: The largest median norm at a place, over the median norm of all tokens.
        elsewhere: The same of tokens at other places, if these outweigh the rest.
    """

    places: tuple[int, ...] = ()
    ratio: float = 0.0
    elsewhere: float = 0.0


def find_sinks(x: Tensor, mask: Tensor) -> Sinks:
    """The places at which the median norm is more than 5 times that of all tokens.

    Args:
        x: Activations (n, tokens, p).
        mask: Shape (n, tokens), above 0 at tokens.
    """
    norms = _norms(x.float()).masked_fill(~(mask > 0), torch.nan)
    typical = norms.nanmedian()
    places, ratio = _too_long(_ordered(norms), typical)
    norms = norms.masked_fill(~without(mask, places), torch.nan)
    # Those at one place counted from the end, but not from the beginning.
    last, other_ratio = _too_long(_ordered(norms.flip(1)), typical)
    places += tuple(-1 - place for place in last)
    norms = norms.masked_fill(~without(mask, places), torch.nan)
    return Sinks(places, max(ratio, other_ratio), _elsewhere(norms, typical))


def joined(found: Iterable[Sinks]) -> Sinks:
    """The tokens that are too long in any of these layers."""
    every = list(found)
    places = sorted(
        {place for sinks in every for place in sinks.places},
        key=lambda place: (place < 0, abs(place)),
    )
    ratio = max((sinks.ratio for sinks in every), default=0.0)
    elsewhere = max((sinks.elsewhere for sinks in every), default=0.0)
    return Sinks(tuple(places), ratio, elsewhere)


def without(mask: Tensor, places: tuple[int, ...]) -> Tensor:
    """A mask (n, tokens) without the tokens at these places of each text."""
    is_token = mask > 0
    place = is_token.cumsum(1) - 1
    from_end = place - is_token.sum(1, keepdim=True)
    left_out = place.new_tensor(places)
    return is_token & ~torch.isin(place, left_out) & ~torch.isin(from_end, left_out)


def _norms(x: Tensor) -> Tensor:
    """Norms of tokens, whose squares may leave float32."""
    largest = x.abs().amax(2, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    norms: Tensor = torch.linalg.vector_norm(x / largest, dim=2)
    return largest[..., 0] * norms


def _ordered(norms: Tensor) -> Tensor:
    """Tokens first and padding, which is NaN, last, whichever side it was on."""
    order = norms.isnan().sort(dim=1, stable=True).indices
    return norms.gather(1, order)


def _too_long(norms: Tensor, typical: Tensor) -> tuple[tuple[int, ...], float]:
    """Places whose median is too long, and the largest one in typical norms."""
    ratios = norms.nanmedian(0).values / typical
    # Places that only few long texts have tell nothing.
    is_common = 2 * (~norms.isnan()).sum(0) > len(norms)
    too_long = is_common & (ratios > TOO_LONG) & ratios.isfinite()
    places = too_long.nonzero().flatten().tolist()
    return tuple(places), max(ratios[places].tolist(), default=0.0)


def _elsewhere(norms: Tensor, typical: Tensor) -> float:
    """The longest token in typical norms, if those too long outweigh the others."""
    squares = (norms / typical).nan_to_num(0, 0, 0).square()
    long = squares > TOO_LONG**2
    are_many = long.any(1).float().mean() > MANY
    outweigh = are_many & (squares[long].sum() > squares[~long].sum())
    return float(squares.max().sqrt()) if outweigh else 0.0
