"""Measures of the distances between examples, which a centered Gram matrix knows.

References:
    [1] Kornblith et al. 2019, https://arxiv.org/abs/1905.00414
    [2] Szekely & Rizzo 2014, https://arxiv.org/abs/1310.2926
    [3] Kriegeskorte et al. 2008, https://doi.org/10.3389/neuro.06.004.2008
"""

import numpy as np
import torch
from torch import Tensor

from .centered import FLOAT64, CenteredGram, UndefinedError, cosine, of_kernel

NEAR = 16 * FLOAT64
"""Relative difference that is taken for rounding where equal distances matter."""


def squared_distances(x: CenteredGram) -> Tensor:
    """Squared Euclidean distances ``d_i + d_j - 2 K_ij``, ``(n, n)``.

    d is the diagonal of the Gram matrix. Distances below rounding are 0.
    """
    K = x.matrix
    norms = K.diagonal() + K.diagonal()[:, None]
    D = norms - 2 * K
    return torch.where(NEAR * norms < D, D, 0.0).fill_diagonal_(0)


def rbf(x: CenteredGram, threshold: float) -> CenteredGram:
    """The Gaussian kernel of [1], of which the bandwidth is a share of the median.

    ``exp(-D / (2 threshold ** 2 m))`` of squared distances D, where m is the median of
    all n * n of them, zeros included.

    Raises:
        UndefinedError: If the median is 0.
    """
    D = squared_distances(x)
    median = float(np.median(D.cpu().numpy()))
    if not median:
        msg = f"most examples of `{x.name}` are equal, so the median distance is 0"
        raise UndefinedError(msg)
    return of_kernel(x.name, torch.exp(-D / (2 * threshold**2 * median)), x.rounding)


def euclidean(x: CenteredGram) -> CenteredGram:
    """The Euclidean distances with a negative sign, centered [2]."""
    return of_kernel(x.name, -squared_distances(x).sqrt(), x.rounding)


def pearson(x: CenteredGram, y: CenteredGram) -> Tensor:
    """Pearson correlation of the squared distances of all pairs of examples [3].

    Raises:
        UndefinedError: If all examples of a layer are equally far apart.
    """
    return cosine(_deviations(x), _deviations(y))


def spearman(x: CenteredGram, y: CenteredGram) -> Tensor:
    """Spearman correlation of the distances of all pairs of examples [3].

    Raises:
        UndefinedError: If all examples of a layer are equally far apart.
    """
    ranks = (_ranks(_deviations(side)) for side in (x, y))
    return cosine(*(r - r.mean() for r in ranks))


def _deviations(x: CenteredGram) -> Tensor:
    """Squared distances of all pairs minus their mean, ``(n (n - 1) / 2,)``."""
    D = squared_distances(x)
    pairs = D[torch.ones_like(D, dtype=torch.bool).triu(1)]
    centered = pairs - pairs.mean()
    if float(centered.norm()) <= max(NEAR, x.rounding) * float(pairs.norm()):
        msg = f"all examples of `{x.name}` are equally far apart"
        raise UndefinedError(msg)
    return centered


def _ranks(values: Tensor) -> Tensor:
    """Ranks from 0, their mean where values are equal up to rounding."""
    ordered, order = values.sort()
    steps = ordered.diff() > NEAR * ordered.abs().max()
    group = torch.cat([steps.new_zeros(1), steps]).cumsum(0)
    places = torch.arange(len(values), dtype=torch.float64, device=values.device)
    sizes = torch.bincount(group)
    means = torch.bincount(group, weights=places) / sizes
    return torch.empty_like(values).scatter_(0, order, means[group])
