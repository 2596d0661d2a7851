"""HSIC and CKA of two activation matrices.

Letters follow the papers, here and in the rest of the package:

    n         examples in a batch            x, y   activations of one layer, (n, p)
    p         features of one example        K, L   Gram matrices, (n, n)
    L1, L2    layers of model 1, of model 2  U      a U-centered Gram matrix [4]

References:
    [1] Kornblith et al. 2019, https://arxiv.org/abs/1905.00414
    [2] Nguyen, Raghu & Kornblith 2021, https://arxiv.org/abs/2010.15327
    [3] Song et al. 2012, https://jmlr.org/papers/v13/song12a.html
    [4] Szekely & Rizzo 2014, https://arxiv.org/abs/1310.2926
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from cka_notebook._grams.packing import MIN_EXAMPLES
from cka_notebook._grams.precision import exact
from cka_notebook._grams.products import lower_gram, scaled, working_dtype

__all__ = ["cka", "gram", "hsic", "u_center"]

_Estimator = Literal["unbiased", "biased"]
_Kernel = Literal["linear", "rbf", "cosine"]
KERNELS = get_args(_Kernel)
ESTIMATORS = get_args(_Estimator)


def gram(x: Tensor, kernel: _Kernel = "linear", *, threshold: float = 0.5) -> Tensor:
    """Gram matrix of centered activations.

    Centering over the examples changes no HSIC of the linear kernel, and avoids the
    cancellation that large feature means cause in float32.

    Args:
        x: Activations, shape ``(n, ...)``; all axes after the first are flattened into
            ``p`` features. Any real dtype. Not modified.
        kernel: ``"linear"``; ``"rbf"``, whose bandwidth is ``threshold`` times the
            median distance as in [1]; or ``"cosine"``, of uncentered activations.
        threshold: Bandwidth as a share of the median distance; ``"rbf"`` only.

    Returns:
        Shape ``(n, n)``, float64 if ``x`` is, else float32, on the device of ``x``.
        Differentiable, like everything made of it here.

    Raises:
        ValueError: If ``x`` has no feature axis or is complex, or the kernel is
            unknown.

    Example:
        >>> gram(torch.tensor([[0.0], [1.0], [5.0]]))
        tensor([[ 4.,  2., -6.],
                [ 2.,  1., -3.],
                [-6., -3.,  9.]])
    """
    _check_option("kernel", kernel, KERNELS)
    rows = _as_rows(x)
    with exact(x.device):
        if kernel == "linear":
            return _linear_gram(rows)
        return _cosine_gram(rows) if kernel == "cosine" else _rbf_gram(rows, threshold)


def hsic(K: Tensor, L: Tensor, estimator: _Estimator = "unbiased") -> Tensor:
    """Hilbert-Schmidt independence criterion of two Gram matrices.

    Args:
        K: Gram matrix, shape ``(n, n)``, symmetric, centered or not.
        L: Gram matrix of the same examples in the same order, shape ``(n, n)``.
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
    _check_examples(n)
    return (u_center(K.double()) * u_center(L.double())).sum() / (n * (n - 3))


def cka(
    x: Tensor,
    y: Tensor,
    estimator: _Estimator = "unbiased",
    kernel: _Kernel = "linear",
    *,
    threshold: float = 0.5,
) -> Tensor:
    """Centered kernel alignment of two activation matrices of the same examples [1].

    Args:
        x: Activations, shape ``(n, ...)``. Not modified.
        y: Activations, shape ``(n, ...)``; the number of features may differ.
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
            "Expected the same number of examples in `x` and `y`, got "
            f"{x.shape[0]} and {y.shape[0]}. Row i of both must be the same example."
        )
        raise ValueError(msg)
    K = gram(scaled(_as_rows(x).double()), kernel, threshold=threshold)
    L = gram(scaled(_as_rows(y).double()), kernel, threshold=threshold)
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
    _check_examples(n)
    U = K.clone()
    U.diagonal(dim1=-2, dim2=-1).zero_()
    rows = U.sum(-1) / (n - 2)
    rows -= rows.sum(-1, keepdim=True) / (2 * (n - 1))
    U -= rows.unsqueeze(-1)
    U -= rows.unsqueeze(-2)
    U.diagonal(dim1=-2, dim2=-1).zero_()
    return U


def _as_rows(x: Tensor) -> Tensor:
    if x.ndim == 0:
        msg = "Expected activations of shape (n, ...), got a scalar."
        raise ValueError(msg)
    if x.is_complex():
        msg = f"Expected real activations, got {x.dtype}. Pass torch.view_as_real(x)."
        raise ValueError(msg)
    return x.reshape(len(x), -1)


def _double_center(K: Tensor) -> Tensor:
    K = K.double()
    return K - K.mean(0, keepdim=True) - K.mean(1, keepdim=True) + K.mean()


def _linear_gram(rows: Tensor) -> Tensor:
    dtype = working_dtype(rows.dtype)
    if rows.requires_grad and torch.is_grad_enabled():
        centered = rows.to(dtype) - rows.mean(0, dtype=dtype)
        return centered @ centered.T
    if not rows.shape[1]:
        return rows.new_zeros((len(rows), len(rows)), dtype=dtype)
    out = rows.new_empty((len(rows), len(rows)), dtype=dtype)
    scratch = rows.new_empty(rows.shape, dtype=dtype)
    lower_gram(rows, [out], scratch, "mean")
    return out


def _cosine_gram(rows: Tensor) -> Tensor:
    rows = rows.to(working_dtype(rows.dtype))
    if rows.shape[1]:  # the norms of tiny rows would vanish
        tiny = torch.finfo(rows.dtype).tiny
        rows = rows / rows.detach().abs().amax(1, keepdim=True).clamp_min(tiny)
    rows = torch.nn.functional.normalize(rows, dim=1)
    return rows @ rows.T


def _rbf_gram(rows: Tensor, threshold: float) -> Tensor:
    K = _linear_gram(rows)
    norms = K.diagonal()
    distances = (norms[:, None] + norms[None, :] - 2 * K).clamp_min(0)
    return torch.exp(-distances / (2 * threshold**2 * _median(distances.flatten())))


def _median(values: Tensor) -> Tensor:
    """The median as in numpy: the mean of the two middle values."""
    lower, upper = (len(values) + 1) // 2, len(values) // 2 + 1
    return (values.kthvalue(lower).values + values.kthvalue(upper).values) / 2


def _check_option(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        options = ", ".join(repr(item) for item in known)
        msg = f"Expected `{name}` to be one of {options}, got {value!r}."
        raise ValueError(msg)


def _check_pair(K: Tensor, L: Tensor) -> None:
    square = K.ndim == 2 and K.shape[0] == K.shape[1]
    if not square or K.shape != L.shape:
        msg = (
            "Expected two Gram matrices of the same shape (n, n), got "
            f"{tuple(K.shape)} and {tuple(L.shape)}."
        )
        raise ValueError(msg)


def _check_examples(n: int) -> None:
    if n < MIN_EXAMPLES:
        msg = (
            f"Expected at least {MIN_EXAMPLES} examples, got {n}. "
            "The unbiased HSIC divides by n - 3."
        )
        raise ValueError(msg)
