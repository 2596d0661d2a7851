"""Overlap of nearest neighbors.

References:
    [1] Huh et al. 2024, https://arxiv.org/abs/2405.07987
"""

import torch
from torch import Tensor

from .distances import NEAR


def mutual_knn(K: Tensor, L: Tensor, *, k: int) -> Tensor:
    """Mean share of the k nearest neighbors that an example has in both layers [1].

    Examples that are equally near share the places that are left for them, so the value
    does not depend on the order of the examples.

    Args:
        K: Cosines of all pairs of examples in one layer, ``(n, n)``.
        L: The same in the other layer.
        k: Number of neighbors, less than n - 1.
    """
    return torch.minimum(_membership(K, k), _membership(L, k)).sum() / (k * len(K))


def _membership(K: Tensor, k: int) -> Tensor:
    """Share of each example among the k nearest neighbors of each other, ``(n, n)``."""
    K = K.clone().fill_diagonal_(-torch.inf)
    last = K.topk(k).values[:, -1:]
    nearer, tied = last + NEAR < K, (K - last).abs() <= NEAR
    places = (k - nearer.sum(1, keepdim=True)).double()
    return nearer + tied * (places / tied.sum(1, keepdim=True))
