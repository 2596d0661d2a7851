"""HSIC and CKA of activation matrices: the mathematics, and nothing else.

Letters are those of the papers, here and in every module above:

    n         examples in a batch            x, y   activations of one layer, (n, p)
    p         features of one example        K, L   Gram matrices, (n, n)
    L1, L2    layers of model 1, of model 2  U      a U-centered Gram matrix [4]

The engine never forms an HSIC of one pair. It packs each U-centered Gram matrix into
one row of n * n / 2 numbers (`pack_grams`), so that the HSIC of *all* pairs of layers
is one matrix product (`pair_products`).

References:
    [1] Kornblith et al. 2019, https://arxiv.org/abs/1905.00414
    [2] Nguyen, Raghu & Kornblith 2021, https://arxiv.org/abs/2010.15327
    [3] Song et al. 2012, https://jmlr.org/papers/v13/song12a.html
    [4] Szekely & Rizzo 2014, https://arxiv.org/abs/1310.2926
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

Estimator = Literal["unbiased", "biased"]
Kernel = Literal["linear", "rbf", "cosine"]
Shift = Literal["mean", "row", "none"]
KERNELS = get_args(Kernel)
ESTIMATORS = get_args(Estimator)

MIN_EXAMPLES = 4
"""HSIC_1 divides by n (n - 3)."""

PRODUCT_BLOCK = 32
"""Columns of a Gram matrix that one product makes, to leave out the upper triangle."""

ONEDNN_WIDTH = 4096
"""Layers of at least so many features are multiplied by oneDNN, where there is one."""

PAIR_BLOCK = 4096
"""Columns that one float32 product sums up; the sums of blocks are float64."""

SELF_BLOCK = 32
"""Rows of the pairs of a model with itself that are done together."""

CONSTANT = (8 * torch.finfo(torch.float32).eps) ** 2
"""Below this share of the second moment, a variance is the rounding of a constant."""


class PackedGrams(NamedTuple):
    """The U-centered Gram matrices of some layers, ready for dot products.

    Attributes:
        z: Shape ``(g, m)`` with m = n * n / 2 for even n; ``<U(K), U(L)>`` is
            ``2 * z1 @ z2 * scale1 * scale2``.
        scale: Shape ``(g,)``: what ``z`` was divided by, so that no square overflows.
        trace: Shape ``(g,)``, of the centered Gram matrices; not finite if an
            activation was not, 0 if the layer is constant.
        offset: Shape ``(g,)``: squared distance of the shift from the mean, in
            variances.
    """

    z: Tensor
    scale: Tensor
    trace: Tensor
    offset: Tensor


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
        return _linear_gram(rows)
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


def lower_gram(
    rows: Tensor, out: Tensor, scratch: Tensor, shift: Shift
) -> Tensor | None:
    """Linear Gram matrix of shifted features, its lower triangle only.

    Any shift of the features gives the same U-centered matrix; one near their mean
    keeps float32 from cancelling. Shifted features pass through one small buffer, so no
    centered or up-cast copy of a large feature map ever exists.

    Args:
        rows: Shape ``(n, p)``, any real dtype. Not modified.
        out: Shape ``(n, n)``; its lower triangle is overwritten, what is above it is
            left undefined.
        scratch: Shape ``(n, c)``, of the dtype of ``out``.
        shift: ``"mean"``; ``"row"``, the first example, which costs less and is as
            good unless that one is far from all others; or ``"none"``.

    Returns:
        Scalar, ``sum(mean ** 2)`` if that was the shift, else None: examples that are
        all the same then give exact zeros.
    """
    if shift == "none" and rows.dtype == out.dtype:
        _lower_product(rows, out, first=True)
        return None
    if shift != "mean" and rows.shape[1] == scratch.shape[1]:
        _lower_product(_shifted(rows, rows[0], scratch), out, first=True)
        return None
    moment = out.new_zeros(()) if shift == "mean" else None
    step = scratch.shape[1]
    for start in range(0, rows.shape[1], step):
        part = rows[:, start : start + step]
        point = part[0] if moment is None else part.mean(0, dtype=out.dtype)
        if moment is not None:
            moment += torch.dot(point, point)
        part = _shifted(part, point, scratch[:, : part.shape[1]])
        _lower_product(part, out, first=start == 0)
    return moment


def pack_grams(K: Tensor, moments: Tensor, out: Tensor) -> PackedGrams:
    """U-center Gram matrices and pack each into one row.

    With halves a and b of the examples, the block U_ba is kept whole, and the strict
    triangles of U_aa and U_bb share one square. An odd n gets a row of zeros.

    Args:
        K: Shape ``(g, n, n)``, of which the lower triangle counts. Overwritten.
        moments: Shape ``(g,)``, the squared norm of the mean features, or as much of it
            as the shift took away.
        out: Shape ``(g, packed_length(n))``, which becomes ``z``.

    Returns:
        See `PackedGrams`.
    """
    n = K.shape[-1]
    diagonal = K.diagonal(dim1=-2, dim2=-1).clone()
    K.tril_(-1)
    rows = K.sum(-1) + K.sum(-2)
    total = rows.sum(-1)
    excess = (diagonal.sum(-1) + total) / n
    trace = diagonal.sum(-1) - excess
    # A constant layer leaves only rounding errors behind, which are not a variance.
    varies = ~(trace <= CONSTANT * (diagonal.sum(-1) + n * moments))
    top = diagonal.amax(-1) * varies
    scale = torch.where(top > 0, top, 1.0)
    # Off the diagonal, U is K less this number of the row and that of the column.
    a = rows / (n - 2) - (total / (2 * (n - 1) * (n - 2))).unsqueeze(-1)
    _pack(K, a, out.view(len(K), 2, (n + 1) // 2, (n + 1) // 2))
    out *= (varies / scale).unsqueeze(-1)
    return PackedGrams(out, scale, trace * varies, excess / trace)


def pair_products(z1: Tensor, z2: Tensor) -> Tensor:
    """Inner products of all pairs of packed Gram matrices.

    Args:
        z1: Shape ``(L1, m)``.
        z2: Shape ``(L2, m)``; if it is ``z1`` itself, half the work is done.

    Returns:
        Shape ``(L1, L2)``, float64: ``<U(K_i), U(L_j)>`` up to the scales.
    """
    total = torch.zeros(len(z1), len(z2), dtype=torch.float64, device=z1.device)
    if z1 is not z2:
        _add_products(z1, z2, total)
        return total.mul_(2)
    for row in range(0, len(z1), SELF_BLOCK):
        rows = slice(row, row + SELF_BLOCK)
        _add_products(z1[row:], z1[rows], total[row:, rows])
    lower = total.tril_(-1)
    return (lower + lower.T).mul_(2).diagonal_scatter(self_products(z1))


def self_products(z: Tensor) -> Tensor:
    """Squared norms ``<U(K_i), U(K_i)>`` of packed Gram matrices, ``(L,)`` float64."""
    # Short sums in float32, the sum of their squares in float64.
    parts = z.view(len(z), -1, math.isqrt(z.shape[1] // 2))
    if z.is_cuda:  # as exact as the products there
        return parts.double().square().sum((1, 2)).mul_(2)
    norms: Tensor = torch.linalg.vector_norm(parts, dim=2)
    return norms.double().square().sum(1).mul_(2)


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


def _pack(K: Tensor, a: Tensor, out: Tensor) -> None:
    """Pack ``K_ij - a_i - a_j``; `K` is strictly lower, `out` (g, 2, half, half)."""
    n = K.shape[-1]
    half = (n + 1) // 2
    rest = n - half
    left, right = a[:, :half], a[:, half:]
    block, square = out[:, 0], out[:, 1]
    torch.sub(K[:, half:, :half], right.unsqueeze(-1), out=block[:, :rest])
    block[:, :rest] -= left.unsqueeze(-2)
    square.copy_(K[:, :half, :half])
    square[:, :rest, :rest] += K[:, half:, half:].mT
    if rest < half:
        block[:, rest:] = 0
        right = torch.nn.functional.pad(right, (0, 1))
    below = left.unsqueeze(-1) + left.unsqueeze(-2)
    above = right.unsqueeze(-1) + right.unsqueeze(-2)
    square -= torch.where(_strictly_lower(half, K.device), below, above)
    square.diagonal(dim1=-2, dim2=-1).zero_()
    if rest < half:
        square[:, :rest, rest] = 0


@lru_cache(maxsize=8)
def _strictly_lower(n: int, device: torch.device) -> Tensor:
    return torch.ones(n, n, dtype=torch.bool, device=device).tril_(-1)


def _add_products(z1: Tensor, z2: Tensor, total: Tensor) -> None:
    for start in range(0, z1.shape[1], PAIR_BLOCK):
        block = slice(start, start + PAIR_BLOCK)
        if z1.is_cuda:  # whose float32 products may be TF32
            total += z1[:, block].double() @ z2[:, block].double().T
        else:
            total += z1[:, block] @ z2[:, block].T


def _lower_product(part: Tensor, out: Tensor, *, first: bool) -> None:
    """Add ``part @ part.T`` to the lower triangle of ``out``, or begin it.

    Column blocks save nearly half the work of the whole product, but small products run
    below full speed.
    """
    n, beta = part.shape[0], 0 if first else 1
    if _suits_onednn(part) and (product := _onednn_product()) is not None:
        step = n if n <= 48 else 64 if n >= 256 or part.shape[1] < 32768 else 32
        for top in range(0, n, step):
            made = product(part[top:], part[top : top + step], None, "none", [], "")
            place = out[top:, top : top + step]
            place.copy_(made) if first else place.add_(made)
        return
    if n <= 48 or not part.is_cpu:
        out.addmm_(part, part.T, beta=beta)
        return
    for top in range(0, n, PRODUCT_BLOCK):
        below, here = part[top:], part[top : top + PRODUCT_BLOCK]
        out[top:, top : top + PRODUCT_BLOCK].addmm_(below, here.T, beta=beta)


def _suits_onednn(part: Tensor) -> bool:
    """Long whole rows: with others it is slower, with strided ones a hundred times."""
    fits = part.is_cpu and part.dtype == torch.float32 and part.shape[1] >= ONEDNN_WIDTH
    return fits and part.is_contiguous()


@lru_cache(maxsize=1)
def _onednn_product() -> Callable[..., Tensor] | None:
    """``x @ y.T`` by oneDNN, a quarter faster on wide layers; None if torch lacks it.

    It is no public operation, so it is believed only after a look at what it does.
    """
    x = torch.arange(3.0 * ONEDNN_WIDTH).reshape(3, -1).sin()
    try:
        product: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001 see above
        made = product(x, x[:2], None, "none", [], "")
    except Exception:  # whatever it is, there is another way
        return None
    return product if torch.allclose(made, x @ x[:2].T, rtol=1e-4) else None


def _shifted(part: Tensor, point: Tensor, out: Tensor) -> Tensor:
    if part.dtype == out.dtype:
        return torch.sub(part, point, out=out)
    return out.copy_(part).sub_(point)


def _as_rows(x: Tensor) -> Tensor:
    if x.ndim == 0:
        msg = "Expected activations of shape (n, ...), got a scalar."
        raise ValueError(msg)
    return x.reshape(len(x), -1)


def _double_center(K: Tensor) -> Tensor:
    K = K.double()
    return K - K.mean(0, keepdim=True) - K.mean(1, keepdim=True) + K.mean()


def _linear_gram(rows: Tensor) -> Tensor:
    dtype = working_dtype(rows.dtype)
    out = rows.new_empty((len(rows), len(rows)), dtype=dtype)
    scratch = rows.new_empty(rows.shape, dtype=dtype)
    lower_gram(rows, out, scratch, "mean")
    return out.tril() + out.tril(-1).T


def _cosine_gram(rows: Tensor) -> Tensor:
    rows = torch.nn.functional.normalize(rows.to(working_dtype(rows.dtype)), dim=1)
    return rows @ rows.T


def _rbf_gram(rows: Tensor, threshold: float) -> Tensor:
    K = _linear_gram(rows)
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
