"""Textbook CKA in float64 from activations copied in a hook."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Run = Callable[[nn.Module, Any], object]
COLUMNS = 1 << 16
"""Number of features per step, so that float64 copies stay small."""


def gram(x: Tensor) -> Tensor:
    """Linear Gram matrix of one layer in float64, ``(n, n)``."""
    flat = x.detach().flatten(1)
    total = torch.zeros(len(flat), len(flat), dtype=torch.float64, device=flat.device)
    for part in flat.split(COLUMNS, dim=1):
        wide = part.double()
        wide = wide - wide.mean(0)
        total += wide @ wide.T
    return total


def hsic1(K: Tensor, L: Tensor) -> Tensor:
    """The unbiased HSIC of Song et al. (2012), eq. 5, times n (n - 3)."""
    n = len(K)
    K, L = K - K.diag().diag(), L - L.diag().diag()
    sums = K.sum() * L.sum() / ((n - 1) * (n - 2))
    rows = 2 * (K.sum(0) @ L.sum(0)) / (n - 2)
    return (K * L).sum() + sums - rows


def cka(
    grams1: Sequence[Sequence[Tensor]], grams2: Sequence[Sequence[Tensor]]
) -> Tensor:
    """CKA of all pairs, from a list of Gram matrices for each batch."""
    xy = xx = yy = torch.zeros(())
    for one, other in zip(grams1, grams2, strict=True):
        K, L = torch.stack(list(one)), torch.stack(list(other))
        xy, xx, yy = xy + _pairs(K, L), xx + _selves(K), yy + _selves(L)
    return xy / (xx[:, None] * yy).sqrt()


def _pairs(K: Tensor, L: Tensor) -> Tensor:
    """`hsic1` of each of (L1, n, n) with each of (L2, n, n)."""
    n = K.shape[1]
    K, L = (x - x.diagonal(dim1=1, dim2=2).diag_embed() for x in (K, L))
    sums = torch.outer(K.sum((1, 2)), L.sum((1, 2))) / ((n - 1) * (n - 2))
    rows = 2 * (K.sum(1) @ L.sum(1).T) / (n - 2)
    return K.flatten(1) @ L.flatten(1).T + sums - rows


def _selves(K: Tensor) -> Tensor:
    return torch.stack([hsic1(x, x) for x in K])


def grams_of(
    model: nn.Module, layers: Iterable[str], batches: Iterable[Any], run: Run
) -> list[list[Tensor]]:
    """For each batch, the Gram matrices of the layers' last calls."""
    last: dict[str, Tensor] = {}
    found = []
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda *given, name=name: last.__setitem__(name, gram(given[2]))
        )
        for name in layers
    ]
    with torch.no_grad():
        for batch in batches:
            run(model, batch)
            found.append([last[name] for name in layers])
    for handle in handles:
        handle.remove()
    return found
