"""The measures by name, and `similarity`, which computes one of two arrays."""

import inspect
import math
import warnings
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

from torch import Tensor

from cka_notebook._grams.packing import MIN_EXAMPLES
from cka_notebook._messages import did_you_mean, shortened

from . import alignment, distances, neighbors, subspaces
from .activations import Activations, check_pair
from .centered import UndefinedError


def similarity(x: Any, y: Any, name: str, **options: Any) -> float:
    """One measure of the activations of two layers for the same examples.

    ====================  ===========  ==========  =====================  ====
    name                  range        equal ones  invariant to           cost
    ====================  ===========  ==========  =====================  ====
    `cka`                 -1 to 1      1           rotation, shift        1
    `cka-biased`          0 to 1       1           rotation, shift        0.6
    `cka-angular`         0 to pi / 2  0           rotation, shift        0.7
    `cka-rbf`             -1 to 1      1           rotation, shift        3.2
    `cka-cosine`          -1 to 1      1           rotation               1.6
    `dcka`                -1 to 1      1           rotation, shift        2.0
    `dcor`                -1 to 1      1           rotation, shift        2.6
    `rsa-pearson`         -1 to 1      1           rotation, shift        1.5
    `rsa-spearman`        -1 to 1      1           rotation, shift        3.1
    `procrustes`          0 to 1       1           rotation, shift        0.4
    `procrustes-angular`  0 to pi / 2  0           rotation, shift        0.5
    `cca`                 0 to 1       1           invertible map, shift  0.4
    `svcca`               0 to 1       1           rotation, shift        0.4
    `mutual-knn`          0 to 1       1           rotation               1.8
    ====================  ===========  ==========  =====================  ====

    All are symmetric, and none changes when a layer is scaled, or when the examples of
    both are put into another order. A shift adds the same features to all examples. The
    cost is processor time relative to `cka`, for 2048 examples of 256 features. Memory
    is that of five to eight n x n float64 matrices, 4 to 7 GB for 10 000 examples; for
    Procrustes and CCA of fewer features than examples, that of the activations.

    X and Y are the centered activations; K and L are their Gram matrices, U and V the
    same U-centered [1]; ``|A|`` is the Frobenius norm.

    - `cka`: ``<U, V> / (|U| |V|)``, CKA by the unbiased HSIC [2, 3]. About 0 for
      independent layers, slightly negative at times. A few directions of high variance
      or a far outlier can rule it.
    - `cka-biased`: ``<K, L> / (|K| |L|)`` [2], and `cka-angular`, its arc cosine [4].
      For comparison with published values: with few examples and many features it is
      near 1 for independent layers too.
    - `cka-rbf` (``threshold=0.5``): `cka` of the kernel ``exp(-D / (2 threshold ** 2
      m))`` of squared distances D with median m [2]. Above 3 it is nearly `cka`; below
      0.3 it needs at least 64 examples.
    - `cka-cosine`: `cka` of the cosines of uncentered activations. An example of zeros
      has cosine 0 with all others.
    - `dcka` (``confounder=``, an array): `cka` without what the confounder explains of
      U and V [5], ``(c_xy - c_xz c_yz) / sqrt((1 - c_xz ** 2) (1 - c_yz ** 2))`` of
      the CKAs c. A ratio of small numbers where that is nearly all. Class labels are
      one-hot vectors.
    - `dcor`: distance correlation, bias-corrected and squared [1]: `cka` of Euclidean
      distances, about 0 for independent layers. Less moved by outliers.
    - `rsa-pearson`, `rsa-spearman`: correlation of the squared Euclidean distances of
      all pairs of examples, of the values or of their ranks [6]. Others take distances
      of another kind.
    - `procrustes`: ``|X' Y|_* / (|X| |Y|)`` by the nuclear norm, the cosine that the
      best rotation leaves [7], and `procrustes-angular`, its arc cosine [4]. As biased
      as `cka-biased`: 0.9 for independent layers of 64 examples and 512 features.
    - `cca`: mean of the min(p, q) canonical correlations. Here p and q count principal
      components that vary by more than rounding. Fewer than 2 (p + q) examples are
      refused without ``force=True``, and p + q or fewer always; with fewer than 10
      (p + q) it is far from 0 for independent layers.
    - `svcca` (``variance=0.99``): `cca` of the first principal components that hold
      this share of the variance [8]; other packages take it of the singular values.
    - `mutual-knn` (``k=10``): mean share of the k nearest neighbors by cosine that an
      example has in both layers [9]. ``k / (n - 1)`` for independent layers, so compare
      only values of the same n. Those equally near share the last places.

    PWCCA is left out on purpose: its implementations contradict each other.

    Args:
        x: Activations of one layer, ``(n, ...)``: a tensor, or what numpy makes an
            array of. All axes after the first are flattened. Not modified.
        y: The same of the other layer; its number of features may differ. Row i of
            both is the same example.
        name: Name of the measure.
        **options: Those in brackets above.

    Returns:
        The value, computed in float64. NaN with a warning that says why if there is
        none: a layer is constant, or the confounder explains all of it.

    Raises:
        TypeError: If an array holds no real numbers, or an option is unknown or
            missing.
        ValueError: If the measure is unknown, a number is not finite, the numbers of
            examples differ, or they are too few for the measure.

    References:
        [1] Szekely & Rizzo 2014, https://arxiv.org/abs/1310.2926
        [2] Kornblith et al. 2019, https://arxiv.org/abs/1905.00414
        [3] Nguyen, Raghu & Kornblith 2021, https://arxiv.org/abs/2010.15327
        [4] Williams et al. 2021, https://arxiv.org/abs/2110.14739
        [5] Cui et al. 2022, https://arxiv.org/abs/2202.00095
        [6] Kriegeskorte et al. 2008, https://doi.org/10.3389/neuro.06.004.2008
        [7] Harvey et al. 2023, https://arxiv.org/abs/2311.11436
        [8] Raghu et al. 2017, https://arxiv.org/abs/1706.05806
        [9] Huh et al. 2024, https://arxiv.org/abs/2405.07987

    Example:
        >>> import numpy as np
        >>> x = np.sin(np.arange(240.0)).reshape(60, 4)
        >>> round(similarity(x, x[:, ::-1] + 3, "dcor"), 6)
        1.0
        >>> round(similarity(x, np.exp(x), "cka-biased"), 3)
        0.986
    """
    measure = _measure(name)
    _check_options(name, measure, options)
    one = Activations(x, "x")
    two = Activations(y, "y", device=one.rows.device)
    check_pair(one, two)
    try:
        return float(measure(one, two, **options))
    except UndefinedError as error:
        msg = f"'{name}' is undefined: {error}."
        warnings.warn(msg, stacklevel=2)
        return math.nan


def _cka(x: Activations, y: Activations) -> Tensor:
    return alignment.unbiased(x.linear, y.linear)


def _cka_biased(x: Activations, y: Activations) -> Tensor:
    return alignment.biased(x.linear, y.linear)


def _cka_angular(x: Activations, y: Activations) -> Tensor:
    return alignment.angular(x.linear, y.linear)


def _cka_rbf(x: Activations, y: Activations, *, threshold: float = 0.5) -> Tensor:
    if not _is_a(Real, threshold) or not 0 < threshold < math.inf:
        raise ValueError(_wrong("threshold", "a positive number", threshold))
    sides = (distances.rbf(side.linear, float(threshold)) for side in (x, y))
    return alignment.unbiased(*sides)


def _cka_cosine(x: Activations, y: Activations) -> Tensor:
    return alignment.unbiased(x.cosine, y.cosine)


def _dcka(x: Activations, y: Activations, *, confounder: Any) -> Tensor:
    z = Activations(confounder, "confounder", device=x.rows.device)
    check_pair(x, z)
    if len(x) == MIN_EXAMPLES:
        msg = (
            f"Expected at least {MIN_EXAMPLES + 1} examples, got {len(x)}, of which "
            "'dcka' is 1 or -1 whatever the activations."
        )
        raise ValueError(msg)
    return alignment.deconfounded(x.linear, y.linear, z.linear)


def _dcor(x: Activations, y: Activations) -> Tensor:
    sides = (distances.euclidean(side.linear) for side in (x, y))
    return alignment.unbiased(*sides)


def _rsa_pearson(x: Activations, y: Activations) -> Tensor:
    return distances.pearson(x.linear, y.linear)


def _rsa_spearman(x: Activations, y: Activations) -> Tensor:
    return distances.spearman(x.linear, y.linear)


def _procrustes(x: Activations, y: Activations) -> Tensor:
    return subspaces.procrustes(x.linear, y.linear)


def _procrustes_angular(x: Activations, y: Activations) -> Tensor:
    return subspaces.procrustes_angular(x.linear, y.linear)


def _cca(x: Activations, y: Activations, *, force: bool = False) -> Tensor:
    return subspaces.cca(x.linear, y.linear, force=force)


def _svcca(
    x: Activations, y: Activations, *, variance: float = 0.99, force: bool = False
) -> Tensor:
    if not _is_a(Real, variance) or not 0 < variance <= 1:
        raise ValueError(_wrong("variance", "a share, above 0 and up to 1", variance))
    return subspaces.svcca(x.linear, y.linear, variance=float(variance), force=force)


def _mutual_knn(x: Activations, y: Activations, *, k: int = 10) -> Tensor:
    if not _is_a(Integral, k) or k < 1:
        raise ValueError(_wrong("k", "a positive integer", k))
    if len(x) < k + 2:
        msg = (
            f"Expected at least k + 2 = {k + 2} examples, got {len(x)}: with fewer, "
            "all others are neighbors. Use more examples or a smaller `k`."
        )
        raise ValueError(msg)
    for side in (x, y):
        if side.rows.shape[1] == 1:
            msg = (
                f"Expected at least two features in `{side.name}`, got one, of which "
                "all cosines are 1 or -1."
            )
            raise ValueError(msg)
        _ = side.linear  # undefined if constant
    return neighbors.mutual_knn(x.cosines, y.cosines, k=int(k))


MEASURES: dict[str, Callable[..., Tensor]] = {
    "cka": _cka,
    "cka-biased": _cka_biased,
    "cka-angular": _cka_angular,
    "cka-rbf": _cka_rbf,
    "cka-cosine": _cka_cosine,
    "dcka": _dcka,
    "dcor": _dcor,
    "rsa-pearson": _rsa_pearson,
    "rsa-spearman": _rsa_spearman,
    "procrustes": _procrustes,
    "procrustes-angular": _procrustes_angular,
    "cca": _cca,
    "svcca": _svcca,
    "mutual-knn": _mutual_knn,
}


def _measure(name: object) -> Callable[..., Tensor]:
    if not isinstance(name, str) or name not in MEASURES:
        known = ", ".join(map(repr, MEASURES))
        hint = did_you_mean(name, MEASURES) if isinstance(name, str) else ""
        msg = f"Expected `name` to be one of {known}, got {shortened(name)}.{hint}"
        raise ValueError(msg)
    return MEASURES[name]


def _check_options(
    name: str, measure: Callable[..., Tensor], options: dict[str, Any]
) -> None:
    parameters = inspect.signature(measure).parameters.values()
    known = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    for option in options.keys() - known.keys():
        takes = " and ".join(f"`{each}`" for each in known) or "no option"
        hint = did_you_mean(option, known)
        msg = f"{name!r} takes {takes}, got `{option}`.{hint}"
        raise TypeError(msg)
    for option, default in known.items():
        if default is inspect.Parameter.empty and option not in options:
            msg = f"{name!r} needs `{option}=`, an array of the same examples."
            raise TypeError(msg)


def _is_a(kind: type, value: object) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _wrong(option: str, expected: str, value: object) -> str:
    return f"Expected `{option}` to be {expected}, got {shortened(value)}."
