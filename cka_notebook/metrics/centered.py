"""Centered Gram matrices, of which the measures of two layers are made.

Letters are those of `cka_notebook.hsic`: n examples, Gram matrices K and L, and U for a
U-centered one.
"""

import math
from functools import cached_property

import torch
from torch import Tensor

from cka_notebook._grams.packing import CONSTANT_UNITS

FLOAT64 = torch.finfo(torch.float64).eps


class UndefinedError(ValueError):
    """A measure has no value for these activations; the text says why."""


class CenteredGram:
    """Gram matrix of the centered activations of one layer.

    Args:
        name: Of the layer, in messages.
        made_of: The Gram matrix, ``(n, n)`` float64, whose rows sum to zero; or, with
            ``is_features``, the centered activations, ``(n, p)`` float64. Of few
            features, the principal components need no matrix of shape ``(n, n)``.
        rounding: Relative error of centered activations.
        is_features: What ``made_of`` is.
    """

    def __init__(
        self,
        name: str,
        made_of: Tensor,
        rounding: float = FLOAT64,
        *,
        is_features: bool = False,
    ) -> None:
        self.name, self.rounding = name, rounding
        self._made_of, self._is_features = made_of, is_features

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._made_of)

    @cached_property
    def matrix(self) -> Tensor:
        """The Gram matrix, ``(n, n)``."""
        return self._made_of @ self._made_of.T if self._is_features else self._made_of

    @cached_property
    def components(self) -> tuple[Tensor, Tensor]:
        """Principal components: orthonormal ``(n, r)``, and their variances ``(r,)``.

        The largest come first, and a variance is summed over the examples. Directions
        in which the examples do not differ by more than rounding are left out.
        """
        vectors, variances, smallest = self._decomposed()
        constant = (CONSTANT_UNITS * self.rounding) ** 2 * float(variances.sum())
        kept = variances > max(smallest, constant)
        return vectors[:, kept], variances[kept]

    def u_centered(self) -> Tensor:
        """The U-centered Gram matrix, ``(n, n)``.

        Raises:
            UndefinedError: If only rounding errors are left of it.
        """
        U = u_centered(self.matrix)
        if float(U.norm()) <= self.residue:
            msg = (
                f"in `{self.name}` no examples differ in a common way, so U-centering "
                "leaves nothing but rounding errors"
            )
            raise UndefinedError(msg)
        return U

    @property
    def residue(self) -> float:
        """Largest norm that rounding errors can have in a U-centered matrix."""
        return math.sqrt(len(self)) * self.rounding * float(self.matrix.trace())

    def _decomposed(self) -> tuple[Tensor, Tensor, float]:
        n, p = self._made_of.shape
        if self._is_features and p < n:
            vectors, lengths, _ = torch.linalg.svd(self._made_of, full_matrices=False)
            return vectors, lengths.square(), 0.0
        variances, vectors = torch.linalg.eigh(self.matrix)
        smallest = n * FLOAT64 * float(variances[-1])
        return vectors.flip(1), variances.flip(0), smallest


def of_kernel(name: str, K: Tensor, rounding: float = FLOAT64) -> CenteredGram:
    """Of a symmetric matrix ``(n, n)`` of which only the centered part matters.

    Args:
        name: Of the layer, in messages.
        K: A kernel, or distances of which the sign is turned.
        rounding: Relative error of the centered activations of which ``K`` is made.
    """
    centered = K - K.mean(0) - K.mean(1, keepdim=True) + K.mean()
    trace = max(float(centered.trace()), FLOAT64**2)
    own = FLOAT64 * len(K) * float(K.abs().max()) / trace
    return CenteredGram(name, centered, max(rounding, own))


def u_centered(C: Tensor) -> Tensor:
    """U-centered matrix of one whose rows sum to zero (Szekely & Rizzo 2014).

    Off the diagonal it adds ``(d_i + d_j) / (n - 2) - t / ((n - 1) (n - 2))``, where d
    is the diagonal and t the trace; so C can be recovered from the two.
    """
    n, d = len(C), C.diagonal() / (len(C) - 2)
    shift = d - d.sum() / (2 * (n - 1))
    return (C + shift + shift[:, None]).fill_diagonal_(0)


def cosine(A: Tensor, B: Tensor) -> Tensor:
    """Cosine of the angle between two tensors of the same shape."""
    return (A * B).sum() / ((A * A).sum() * (B * B).sum()).sqrt()


def angle(A: Tensor, B: Tensor) -> Tensor:
    """Angle between two tensors of the same shape, in radians.

    The arc cosine of a number near 1 would have lost half of its digits.
    """
    A, B = A / A.norm(), B / B.norm()
    return 2 * torch.atan2((A - B).norm(), (A + B).norm())
