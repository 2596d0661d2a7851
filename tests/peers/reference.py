"""The textbook: CKA in float64 from activations that were copied in a hook."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Run = Callable[[nn.Module, Any], object]
COLUMNS = 1 << 16
"""Features are taken this many at a time, so that float64 copies stay small."""


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
    ones = K.sum(0) @ L.sum(0)
    return (K * L).sum() + K.sum() * L.sum() / ((n - 1) * (n - 2)) - 2 * ones / (n - 2)


def cka(
    grams1: Sequence[Sequence[Tensor]], grams2: Sequence[Sequence[Tensor]]
) -> Tensor:
    """CKA of all pairs, from a list of Gram matrices for each batch."""

    def total(i: int, j: int, left: Sequence, right: Sequence) -> Tensor:
        pairs = zip(left, right, strict=True)
        return sum(hsic1(a[i], b[j]) for a, b in pairs)

    rows, columns = range(len(grams1[0])), range(len(grams2[0]))
    xx = [total(i, i, grams1, grams1) for i in rows]
    yy = [total(j, j, grams2, grams2) for j in columns]
    cells = [
        [total(i, j, grams1, grams2) / (xx[i] * yy[j]).sqrt() for j in columns]
        for i in rows
    ]
    return torch.stack([torch.stack(row) for row in cells])


def grams_of(
    model: nn.Module, layers: Iterable[str], batches: Iterable[Any], run: Run
) -> list[list[Tensor]]:
    """For each batch the Gram matrices of the layers' last calls."""
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
