"""CKA and its relatives: cosines of two centered Gram matrices.

References:
    [1] Kornblith et al. 2019, https://arxiv.org/abs/1905.00414
    [2] Szekely & Rizzo 2014, https://arxiv.org/abs/1310.2926
    [3] Williams et al. 2021, https://arxiv.org/abs/2110.14739
    [4] Cui et al. 2022, https://arxiv.org/abs/2202.00095
"""

from torch import Tensor

from .centered import CenteredGram, UndefinedError, angle, cosine


def unbiased(x: CenteredGram, y: CenteredGram) -> Tensor:
    """``<U, V> / (|U| |V|)`` of the U-centered matrices U and V [2].

    Of linear Gram matrices this is CKA by the unbiased HSIC; of Euclidean distances,
    the bias-corrected squared distance correlation.

    Raises:
        UndefinedError: If U-centering leaves nothing of a matrix.
    """
    return cosine(x.u_centered(), y.u_centered())


def biased(x: CenteredGram, y: CenteredGram) -> Tensor:
    """``<K, L> / (|K| |L|)`` of the centered matrices K and L [1], from 0 to 1."""
    return cosine(x.matrix, y.matrix)


def angular(x: CenteredGram, y: CenteredGram) -> Tensor:
    """Arc cosine of `biased`, from 0 to pi / 2: a metric [3]."""
    return angle(x.matrix, y.matrix)


def deconfounded(x: CenteredGram, y: CenteredGram, z: CenteredGram) -> Tensor:
    """Cosine of what the confounder z does not explain of U and V.

    The regression of [4] on the U-centered Gram matrix of the confounder, without its
    bias. With c = `unbiased` it equals
    ``(c_xy - c_xz c_yz) / sqrt((1 - c_xz ** 2) (1 - c_yz ** 2))``.

    Raises:
        UndefinedError: If U-centering leaves nothing of a matrix, or if the confounder
            explains all of ``x`` or ``y``.
    """
    return cosine(_unexplained(x, z), _unexplained(y, z))


def _unexplained(x: CenteredGram, z: CenteredGram) -> Tensor:
    U, Z = x.u_centered(), z.u_centered()
    share = (U * Z).sum() / (Z * Z).sum()
    rest = U - share * Z
    if float(rest.norm()) <= x.residue + abs(float(share)) * z.residue:
        msg = f"`{z.name}` explains all of `{x.name}`"
        raise UndefinedError(msg)
    return rest
