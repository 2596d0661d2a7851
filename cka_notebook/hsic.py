"""HSIC and CKA of activation matrices: the mathematics, and nothing else.

Letters are those of the papers, here and in every module above:

    n         examples in a batch            x, y   activations of one layer, (n, p)
    p         features of one example        K, L   Gram matrices, (n, n)
    L1, L2    layers of model 1, of model 2  U      a U-centered Gram matrix [4]

The engine never forms an HSIC of one pair. It packs each U-centered Gram matrix into
one row of n * n / 2 numbers (`packed_gram`), so that the HSIC of *all* pairs of layers
is one matrix product (`pair_products`).

References:
    [1] Kornblith et al. 2019, https://arxiv.org/abs/1905.00414
    [2] Nguyen, Raghu & Kornblith 2021, https://arxiv.org/abs/2010.15327
    [3] Song et al. 2012, https://jmlr.org/papers/v13/song12a.html
    [4] Szekely & Rizzo 2014, https://arxiv.org/abs/1310.2926
"""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

Estimator = Literal["unbiased", "biased"]
Kernel = Literal["linear", "rbf", "cosine"]
KERNELS = get_args(Kernel)
ESTIMATORS = get_args(Estimator)

MIN_EXAMPLES = 4
"""HSIC_1 divides by n (n - 3)."""

CHUNK_BYTES = 2 << 20
"""Features are centered in pieces of this size, which stay in a core's cache."""

PAIR_BLOCK = 8192
"""Columns of the packed Gram matrices that are multiplied in float64 at a time."""

CONSTANT = (8 * torch.finfo(torch.float32).eps) ** 2
"""Below this share of the second moment, a variance is the rounding of a constant."""


class PackedGram(NamedTuple):
    """The U-centered Gram matrix of one layer, ready for a dot product.

    Attributes:
        z: Shape ``(m,)`` with m = n * n / 2 for even n; ``<U(K), U(L)>`` is
            ``2 * z1 @ z2 * scale1 * scale2``.
        scale: Scalar by which ``z`` was divided, so that no square over- or underflows.
        trace: Scalar, trace of the centered Gram matrix; not finite if an activation
            was not, 0 if the layer is constant.
    """

    z: Tensor
    scale: Tensor
    trace: Tensor


def gram(x: Tensor, kernel: Kernel = "linear", *, threshold: float = 0.5) -> Tensor:
    """Gram matrix of centered activations.

    Centering over the examples changes no HSIC (for the linear kernel) but removes the
    float32 cancellation that large feature means would cause.

    Args:
        x: Activations, shape ``(n, ...)``; all axes after the first are flattened into
            ``p`` features. Any real dtype. Not modified.
        kernel: ``"linear"``; ``"rbf"``, whose bandwidth is ``threshold`` times the
            median distance as in [1]; or ``"cosine"``, of activations as they are.
        threshold: Share of the median distance, used by ``"rbf"`` only.

    Returns:
        Shape ``(n, n)``, float64 if ``x`` is, else float32, on the device of ``x``.

    Raises:
        ValueError: If ``x`` has no feature axis or the kernel is unknown.

    Example:
        >>> gram(torch.tensor([[0.0], [1.0], [5.0]]))
        tensor([[ 4.,  2., -6.],
                [ 2.,  1., -3.],
                [-6., -3.,  9.]])
    """
    _check_option("kernel", kernel, KERNELS)
    rows = _as_rows(x)
    if kernel == "linear":
        return centered_gram(rows)[0]
    return _cosine_gram(rows) if kernel == "cosine" else _rbf_gram(rows, threshold)


def hsic(K: Tensor, L: Tensor, estimator: Estimator = "unbiased") -> Tensor:
    """Hilbert-Schmidt independence criterion of two Gram matrices.

    Args:
        K: Gram matrix, shape ``(n, n)``, symmetric, centered or not.
        L: Likewise, of the same examples in the same order.
        estimator: ``"unbiased"`` is HSIC_1 of [3], computed as
            ``<U(K), U(L)> / (n * (n - 3))`` [4], and can be negative; ``"biased"`` is
            ``tr(K H L H) / (n - 1) ** 2`` of [1].

    Returns:
        Scalar, float64.

    Raises:
        ValueError: If the shapes differ or are not square, if the unbiased estimator
            gets fewer than four examples, or if the estimator is unknown.

    Example:
        >>> K = gram(torch.arange(10.0).reshape(5, 2).sin())
        >>> bool(hsic(K, K) > 0)
        True
    """
    _check_option("estimator", estimator, ESTIMATORS)
    _check_pair(K, L)
    n = K.shape[0]
    if estimator == "biased":
        return (_double_center(K) * L.double()).sum() / (n - 1) ** 2
    check_examples(n)
    return (u_center(K.double()) * u_center(L.double())).sum() / (n * (n - 3))


def cka(
    x: Tensor,
    y: Tensor,
    estimator: Estimator = "unbiased",
    kernel: Kernel = "linear",
    *,
    threshold: float = 0.5,
) -> Tensor:
    """Centered kernel alignment of two activation matrices of the same examples [1].

    Args:
        x: Activations, shape ``(n, ...)``. Not modified.
        y: Activations, shape ``(n, ...)``; its features need not match those of ``x``.
        estimator: As in `hsic`. With ``"unbiased"`` the value can be slightly negative.
        kernel: As in `gram`.
        threshold: As in `gram`.

    Returns:
        Scalar, float64; NaN if ``x`` or ``y`` is constant over the examples.

    Raises:
        ValueError: If the numbers of examples differ, or are below four.

    Example:
        >>> x = torch.arange(24.0).reshape(6, 4).sin()
        >>> print(f"{cka(x, 3 * x.flip(1) + 7):.6f}")
        1.000000
    """
    if x.shape[0] != y.shape[0]:
        msg = (
            f"Expected `x` and `y` of the same examples, got {x.shape[0]} and "
            f"{y.shape[0]}. Row i of both must be the same example."
        )
        raise ValueError(msg)
    K = gram(x.double(), kernel, threshold=threshold)
    L = gram(y.double(), kernel, threshold=threshold)
    xy, xx, yy = (hsic(a, b, estimator) for a, b in ((K, L), (K, K), (L, L)))
    return xy / (xx * yy).sqrt()


def u_center(K: Tensor) -> Tensor:
    """U-centered Gram matrix: zero diagonal, every row sums to zero [4].

    Args:
        K: Shape ``(..., n, n)`` with n >= 4, symmetric. Not modified.

    Returns:
        The same shape and dtype. ``<U(K), U(L)> / (n * (n - 3))`` is the unbiased HSIC.

    Raises:
        ValueError: If n < 4.

    Example:
        >>> U = u_center(gram(torch.arange(40.0).reshape(5, 8).sin().double()))
        >>> bool(U.sum(0).abs().max() < 1e-12)
        True
    """
    n = K.shape[-1]
    check_examples(n)
    U = K.clone()
    U.diagonal(dim1=-2, dim2=-1).zero_()
    rows = U.sum(-1) / (n - 2)
    rows -= rows.sum(-1, keepdim=True) / (2 * (n - 1))
    U -= rows.unsqueeze(-1)
    U -= rows.unsqueeze(-2)
    U.diagonal(dim1=-2, dim2=-1).zero_()
    return U


def centered_gram(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Linear Gram matrix after subtracting the batch mean, and the squared means.

    The features pass through one small buffer in pieces, so neither a centered nor an
    up-cast copy of a large feature map ever exists.

    Args:
        rows: Shape ``(n, p)``, any real dtype.

    Returns:
        ``K`` of shape ``(n, n)`` and the scalar ``n * sum(mean ** 2)``.
    """
    n, p = rows.shape
    dtype = working_dtype(rows.dtype)
    K = torch.zeros(n, n, dtype=dtype, device=rows.device)
    moment = torch.zeros((), dtype=dtype, device=rows.device)
    # On a GPU a launch costs more than memory traffic: whole layer at once, to 512 MB.
    limit = CHUNK_BYTES if rows.device.type == "cpu" else CHUNK_BYTES << 8
    step = max(256, limit // (n * dtype.itemsize))
    for start in range(0, p, step):
        part = rows[:, start : start + step].to(dtype)
        mean = part.mean(0)
        part = part - mean
        K.addmm_(part, part.T)
        moment += mean @ mean
    return K, moment * n


def packed_gram(rows: Tensor) -> PackedGram:
    """The U-centered linear Gram matrix of one layer as one row of numbers.

    Args:
        rows: Activations, shape ``(n, p)`` with n >= 4, any real dtype. Not modified.

    Returns:
        See `PackedGram`.
    """
    K, moment = centered_gram(rows)
    diagonal = K.diagonal().clone()
    trace = diagonal.sum()
    # A constant layer leaves only rounding errors behind, which are not a variance.
    varies = ~(trace <= CONSTANT * (trace + moment))
    top = diagonal.amax() * varies
    scale = torch.where(top > 0, top, torch.ones_like(top))
    U = u_center(K).mul_(varies / scale)
    return PackedGram(_pack(U), scale, trace * varies)


def pair_products(z1: Tensor, z2: Tensor) -> Tensor:
    """Inner products of all pairs of packed Gram matrices.

    Args:
        z1: Shape ``(L1, m)``.
        z2: Shape ``(L2, m)``.

    Returns:
        Shape ``(L1, L2)``, float64: ``<U(K_i), U(L_j)>`` up to the scales.
    """
    total = torch.zeros(len(z1), len(z2), dtype=torch.float64, device=z1.device)
    for start in range(0, z1.shape[1], PAIR_BLOCK):
        block = slice(start, start + PAIR_BLOCK)
        total.addmm_(z1[:, block].double(), z2[:, block].double().T)
    return total.mul_(2)


def self_products(z: Tensor) -> Tensor:
    """Squared norms ``<U(K_i), U(K_i)>`` of packed Gram matrices, ``(L,)`` float64."""
    total = torch.zeros(len(z), dtype=torch.float64, device=z.device)
    for start in range(0, z.shape[1], PAIR_BLOCK):
        total += z[:, start : start + PAIR_BLOCK].double().square().sum(1)
    return total.mul_(2)


def packed_length(n: int) -> int:
    """Numbers in a packed Gram matrix of n examples."""
    half = (n + 1) // 2
    return 2 * half * half


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype in which activations of ``dtype`` are centered and multiplied."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_examples(n: int) -> None:
    """Raise ValueError if n examples are too few for the unbiased HSIC."""
    if n < MIN_EXAMPLES:
        msg = (
            f"Expected at least {MIN_EXAMPLES} examples, got {n}. "
            "The unbiased HSIC divides by n - 3."
        )
        raise ValueError(msg)


def _pack(U: Tensor) -> Tensor:
    """Lower triangle of a symmetric zero-diagonal matrix as one row.

    With halves a and b, the block U_ba is kept whole, and the strict triangles of U_aa
    and U_bb share one square. An odd n gets a row of zeros first.
    """
    n = U.shape[0]
    half = (n + 1) // 2
    out = U.new_zeros(2, half, half)
    out[0, : n - half] = U[half:, :half]
    out[1] = U[:half, :half].tril(-1)
    out[1, : n - half, : n - half] += U[half:, half:].triu(1)
    return out.flatten()


def _as_rows(x: Tensor) -> Tensor:
    if x.ndim == 0:
        msg = "Expected activations of shape (n, ...), got a scalar."
        raise ValueError(msg)
    return x.reshape(len(x), -1)


def _double_center(K: Tensor) -> Tensor:
    K = K.double()
    return K - K.mean(0, keepdim=True) - K.mean(1, keepdim=True) + K.mean()


def _cosine_gram(rows: Tensor) -> Tensor:
    rows = torch.nn.functional.normalize(rows.to(working_dtype(rows.dtype)), dim=1)
    return rows @ rows.T


def _rbf_gram(rows: Tensor, threshold: float) -> Tensor:
    K = centered_gram(rows)[0]
    norms = K.diagonal()
    distances = (norms[:, None] + norms[None, :] - 2 * K).clamp_min_(0)
    # numpy's median, the mean of the two middle values, as in the published notebook
    middle = distances.flatten().quantile(0.5)
    return torch.exp(-distances / (2 * threshold**2 * middle))


def _check_option(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        some = ", ".join(repr(item) for item in known)
        msg = f"Expected `{name}` to be one of {some}, got {value!r}."
        raise ValueError(msg)


def _check_pair(K: Tensor, L: Tensor) -> None:
    square = K.ndim == 2 and K.shape[0] == K.shape[1]
    if not square or K.shape != L.shape:
        msg = (
            "Expected two Gram matrices of the same shape (n, n), got "
            f"{tuple(K.shape)} and {tuple(L.shape)}."
        )
        raise ValueError(msg)
