"""Measures of principal components: Procrustes, CCA and SVCCA.

They need all examples at once: of one batch at a time they are far too large.

References:
    [1] Ding et al. 2021, https://arxiv.org/abs/2108.01661
    [2] Williams et al. 2021, https://arxiv.org/abs/2110.14739
    [3] Hotelling 1936, https://doi.org/10.2307/2333955
    [4] Raghu et al. 2017, https://arxiv.org/abs/1706.05806
"""

import torch
from torch import Tensor

from .centered import CenteredGram, angle


def procrustes(x: CenteredGram, y: CenteredGram) -> Tensor:
    """``|X' Y|_* / (|X| |Y|)`` of centered activations, from 0 to 1.

    Cosine of the angle that remains after the best rotation; the distance of [1] is
    ``sqrt(2 - 2 value)`` for layers of norm 1.
    """
    X, Y = _scores(x), _scores(y)
    norm = (X.square().sum() * Y.square().sum()).sqrt()
    return _singular_values(X, Y).sum() / norm


def procrustes_angular(x: CenteredGram, y: CenteredGram) -> Tensor:
    """Arc cosine of `procrustes`, from 0 to pi / 2: a metric [2]."""
    X, Y = _scores(x), _scores(y)
    if X.shape[1] < Y.shape[1]:
        X, Y = Y, X
    left, _, right = torch.linalg.svd(Y.T @ X, full_matrices=False)
    return angle(X, Y @ left @ right)


def cca(x: CenteredGram, y: CenteredGram, *, force: bool = False) -> Tensor:
    """Mean canonical correlation [3].

    Args:
        x: Of one layer.
        y: Of the other.
        force: Whether fewer than 2 (p + q) examples will do, where p and q are the
            numbers of principal components.

    Raises:
        ValueError: If the examples are too few.
    """
    return _mean_correlation(x.components[0], y.components[0], force=force)


def svcca(
    x: CenteredGram, y: CenteredGram, *, variance: float = 0.99, force: bool = False
) -> Tensor:
    """Mean canonical correlation of the components with most of the variance [4].

    Args:
        x: Of one layer.
        y: Of the other.
        variance: Share of the variance; as many components are kept as it needs.
        force: As in `cca`.

    Raises:
        ValueError: If the examples are too few.
    """
    kept = (_largest(side, variance) for side in (x, y))
    return _mean_correlation(*kept, force=force)


def _scores(x: CenteredGram) -> Tensor:
    """The activations in the coordinates of their principal components, ``(n, r)``."""
    vectors, variances = x.components
    return vectors * variances.sqrt()


def _largest(x: CenteredGram, variance: float) -> Tensor:
    vectors, variances = x.components
    if variance == 1:
        return vectors
    shares = variances.cumsum(0) / variances.sum()
    return vectors[:, : int((shares < variance).sum()) + 1]


def _mean_correlation(X: Tensor, Y: Tensor, *, force: bool) -> Tensor:
    n, p, q = len(X), X.shape[1], Y.shape[1]
    needed = p + q + 1 if force else 2 * (p + q)
    if n < needed:
        why = (
            "some correlations would be 1 whatever the activations"
            if n <= p + q
            else "the correlations would be far too large; `force=True` computes them"
        )
        msg = (
            f"Expected at least {needed} examples for {p} and {q} principal "
            f"components, got {n}: {why}. Use more examples, 'svcca' with a smaller "
            "`variance`, or a measure that does not need them, such as 'cka'."
        )
        raise ValueError(msg)
    return _singular_values(X, Y).mean()


def _singular_values(X: Tensor, Y: Tensor) -> Tensor:
    values: Tensor = torch.linalg.svdvals(X.T @ Y)
    return values
