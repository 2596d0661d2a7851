"""Each measure against an independent implementation, its options, and its errors."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial
import scipy.stats
import torch
from scipy.spatial.distance import cdist, pdist, squareform
from support.reference import hsic1

from cka_notebook import CKA, hsic, metrics
from cka_notebook.metrics import alignment, distances, neighbors, subspaces
from cka_notebook.metrics.centered import CenteredGram, of_kernel, u_centered
from cka_notebook.metrics.measures import MEASURES

EXACT = 1e-12
"""Float64 against float64 in another order of summation."""

SHAPES = [(60, 7, 5), (40, 80, 5), (25, 3, 30), (128, 30, 30)]
"""Examples and features of both layers; with few and many features."""

every_shape = pytest.mark.parametrize("shape", SHAPES)


def layers(shape=(60, 7, 5)):
    n, p, q = shape
    x = torch.randn(n, p, dtype=torch.float64) + 0.5
    mix = torch.randn(p, q, dtype=torch.float64) / p**0.5
    return x, x @ mix + torch.randn(n, q, dtype=torch.float64)


def value(x, y, name, **options):
    return metrics.similarity(x, y, name, **options)


def near(expected, tolerance=EXACT):
    return pytest.approx(float(expected), abs=tolerance)


def centered(x):
    return x.numpy() - x.numpy().mean(0)


def textbook_cka(K, L):
    """CKA of uncentered Gram matrices by equation 5 of Song et al. 2012."""
    xy, xx, yy = (
        hsic1(*map(torch.as_tensor, pair)) for pair in ((K, L), (K, K), (L, L))
    )
    return xy / (xx * yy).sqrt()


@every_shape
def test_cka_is_the_textbook_s(shape):
    x, y = layers(shape)
    assert value(x, y, "cka") == near(textbook_cka(x @ x.T, y @ y.T), 1e-11)


def test_cka_of_a_batch_is_that_of_the_engine():
    model = torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Linear(9, 4))
    batch = torch.randn(50, 6)
    engine = CKA(model, model1_layers=["0", "1"]).compare([batch], progress=False)
    x = model[0](batch)
    y = model[1](x)
    assert value(x, y, "cka") == near(engine.matrix[0, 1], 3e-6)


def test_published_numbers_are_reproduced_to_the_last_digit():
    """Those of the notebook of Kornblith et al. 2019."""
    random = np.random.RandomState(1337)
    x = random.randn(100, 10)
    y = random.randn(100, 10) + x
    assert value(x, y, "cka") == near(0.51346, 5e-6)
    assert value(x, y, "cka-biased") == near(0.55761, 5e-6)


@every_shape
def test_biased_cka_is_that_of_the_features(shape):
    x, y = map(centered, layers(shape))
    norms = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    expected = np.linalg.norm(x.T @ y) ** 2 / norms
    assert value(x, y, "cka-biased") == near(expected)
    assert value(x, y, "cka-angular") == near(math.acos(expected), 1e-11)


@every_shape
@pytest.mark.parametrize("threshold", [0.2, 0.5, 1])
def test_rbf_cka_is_the_textbook_s(shape, threshold):
    x, y = layers(shape)

    def kernel(rows):
        D = squareform(pdist(rows, "sqeuclidean"))
        return np.exp(-D / (2 * threshold**2 * np.median(D)))

    found = value(x, y, "cka-rbf", threshold=threshold)
    assert found == near(textbook_cka(kernel(x), kernel(y)), 1e-10)
    own = hsic.cka(x, y, kernel="rbf", threshold=threshold)
    assert found == near(own, 1e-11)


def test_rbf_cka_tends_to_linear_cka():
    x, y = layers()
    errors = [
        abs(value(x, y, "cka-rbf", threshold=f) - value(x, y, "cka"))
        for f in (10, 100, 1000)
    ]
    assert errors[1] < errors[0] / 50
    assert errors[2] < errors[1] / 50


@every_shape
def test_cosine_cka_is_the_textbook_s(shape):
    x, y = layers(shape)
    expected = textbook_cka(1 - cdist(x, x, "cosine"), 1 - cdist(y, y, "cosine"))
    assert value(x, y, "cka-cosine") == near(expected, 1e-11)


def test_examples_of_zeros_have_cosine_zero():
    x, y = layers()
    x[3] = x[20] = 0
    K = torch.nn.functional.normalize(x, dim=1)
    L = torch.nn.functional.normalize(y, dim=1)
    found = value(x, y, "cka-cosine")
    assert found == near(textbook_cka(K @ K.T, L @ L.T), 1e-11)
    y[4] *= 1e-200
    assert value(x, y, "cka-cosine") == near(found)


@every_shape
def test_deconfounded_cka_is_the_partial_correlation_of_three(shape):
    x, y = layers(shape)
    z = x[:, :2] + torch.randn(len(x), 2, dtype=torch.float64)
    xy, xz, yz = (value(*pair, "cka") for pair in ((x, y), (x, z), (y, z)))
    expected = (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))
    assert value(x, y, "dcka", confounder=z) == near(expected, 1e-11)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Distance covariance")
@every_shape
def test_distance_correlations_are_those_of_dcor(shape):
    import dcor  # noqa: PLC0415  It takes seconds, for which nobody else should wait.

    x, y = layers(shape)
    expected = dcor.u_distance_correlation_sqr(x.numpy(), y.numpy())
    assert value(x, y, "dcor") == near(expected, 1e-11)
    linear = dcor.u_distance_correlation_sqr(x.numpy(), y.numpy(), exponent=2)
    assert value(x, y, "cka") == near(linear, 1e-11)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Distance covariance")
@every_shape
def test_deconfounded_cka_is_the_projection_of_dcor(shape):
    import dcor  # noqa: PLC0415

    x, y = layers(shape)
    z = x[:, :2] + torch.randn(len(x), 2, dtype=torch.float64)

    def u(rows):
        K = centered(rows) @ centered(rows).T
        np.fill_diagonal(K, 0)  # as dcor assumes it to be
        return dcor.u_centered(K)

    project = dcor.u_complementary_projection(u(z))
    X, Y = project(u(x)), project(u(y))
    expected = (X * Y).sum() / np.sqrt((X * X).sum() * (Y * Y).sum())
    assert value(x, y, "dcka", confounder=z) == near(expected, 1e-11)


def test_distance_correlation_is_the_textbook_s():
    """Szekely & Rizzo 2014, equation 2.4 and 3.1."""
    x, y = layers()
    A, B = (u_textbook(squareform(pdist(rows))) for rows in (x, y))
    expected = (A * B).sum() / np.sqrt((A * A).sum() * (B * B).sum())
    assert value(x, y, "dcor") == near(expected)


def u_textbook(A):
    n = len(A)
    rows = A.sum(0, keepdims=True) / (n - 2)
    U = A - rows - rows.T + A.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(U, 0)
    return U


@every_shape
def test_representational_similarity_is_that_of_scipy(shape):
    x, y = layers(shape)
    squared = (pdist(rows, "sqeuclidean") for rows in (x, y))
    expected = scipy.stats.pearsonr(*squared).statistic
    assert value(x, y, "rsa-pearson") == near(expected)
    expected = scipy.stats.spearmanr(pdist(x), pdist(y)).statistic
    assert value(x, y, "rsa-spearman") == near(expected)


def test_ranks_of_equal_distances_are_those_of_scipy():
    x, y = (torch.randint(3, (50, 4)).double() for _ in range(2))
    squared = [pdist(rows, "sqeuclidean") for rows in (x, y)]
    assert len(set(squared[0])) < 20
    expected = scipy.stats.spearmanr(*squared).statistic
    assert value(x, y, "rsa-spearman") == near(expected)
    # A rotation makes them differ in the last digits.
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    assert value(x @ turn + 1, y, "rsa-spearman") == near(expected)


@every_shape
def test_procrustes_is_that_of_scipy(shape):
    x, y = layers(shape)
    width = max(x.shape[1], y.shape[1])
    padded = [np.pad(rows, ((0, 0), (0, width - rows.shape[1]))) for rows in (x, y)]
    disparity = scipy.spatial.procrustes(*padded)[2]
    expected = math.sqrt(1 - disparity)
    assert value(x, y, "procrustes") == near(expected)
    assert value(x, y, "procrustes-angular") == near(math.acos(expected), 1e-11)


@pytest.mark.parametrize("shape", [(60, 7, 5), (128, 30, 30), (300, 1, 3)])
def test_canonical_correlations_are_cosines_of_scipy_s_subspace_angles(shape):
    x, y = layers(shape)
    angles = scipy.linalg.subspace_angles(centered(x), centered(y))
    assert value(x, y, "cca") == near(np.cos(angles).mean())


def test_cca_knows_small_directions_and_leaves_out_rounding():
    x, y = layers()
    small = x * torch.logspace(0, -6, 7)
    assert value(small, y, "cca") == near(value(x, y, "cca"), 1e-9)
    mixed = x @ torch.randn(7, 12, dtype=torch.float64)
    assert value(mixed, y, "cca") == near(value(x, y, "cca"), 1e-9)
    narrow = mixed.float() @ torch.randn(12, 12)
    assert value(narrow, y, "cca") == near(value(x, y, "cca"), 1e-4)


@pytest.mark.parametrize("variance", [0.5, 0.99, 1, 1.0])
def test_svcca_is_cca_of_the_largest_components(variance):
    x, y = layers((128, 30, 20))
    x, y = x * torch.logspace(0, -2, 30), y * torch.logspace(0, -3, 20)

    def largest(rows):
        vectors, lengths, _ = np.linalg.svd(centered(rows), full_matrices=False)
        shares = np.cumsum(lengths**2) / np.sum(lengths**2)
        count = next(k for k, s in enumerate(shares, 1) if s >= variance - 1e-15)
        return vectors[:, :count]

    kept = [largest(rows) for rows in (x, y)]
    assert variance == 1 or kept[0].shape[1] < 30
    expected = np.cos(scipy.linalg.subspace_angles(*kept)).mean()
    assert value(x, y, "svcca", variance=variance) == near(expected, 1e-10)


def test_svcca_of_all_variance_is_cca():
    x, y = layers()
    small = x * torch.tensor([1, 1, 1, 1, 1, 1, 1e-10])
    assert value(small, y, "svcca", variance=1) == value(small, y, "cca")
    assert value(small, y, "cca") == near(value(x, y, "cca"), 1e-4)


@pytest.mark.slow
def test_svcca_and_neighbors_are_those_of_scikit_learn():
    from sklearn.decomposition import PCA  # noqa: PLC0415  It takes seconds.
    from sklearn.neighbors import NearestNeighbors  # noqa: PLC0415

    x, y = layers((128, 30, 20))
    x = x * torch.logspace(0, -2, 30)
    kept = (PCA(0.99, svd_solver="full").fit_transform(rows) for rows in (x, y))
    expected = np.cos(scipy.linalg.subspace_angles(*kept)).mean()
    assert value(x, y, "svcca") == near(expected)
    graphs = [
        NearestNeighbors(n_neighbors=10, metric="cosine").fit(rows).kneighbors_graph()
        for rows in (x, y)
    ]
    expected = graphs[0].multiply(graphs[1]).sum() / (10 * 128)
    assert value(x, y, "mutual-knn") == near(expected)


@every_shape
@pytest.mark.parametrize("k", [1, 5, 10])
def test_mutual_neighbors_are_those_of_the_definition(shape, k):
    x, y = layers(shape)
    near_x, near_y = (
        np.argsort(cdist(rows, rows, "cosine") + np.eye(len(rows)) * 9)[:, :k]
        for rows in (x, y)
    )
    shared = [len({*a} & {*b}) / k for a, b in zip(near_x, near_y, strict=True)]
    assert value(x, y, "mutual-knn", k=k) == near(np.mean(shared))


def test_equally_near_examples_share_the_places_left():
    """Of labels, k of the m others of a class: each is a neighbor by k / m."""
    labels = torch.arange(60) % 3
    x = torch.nn.functional.one_hot(labels)
    halves = torch.nn.functional.one_hot(labels + 3 * (torch.arange(60) % 2))
    assert value(x, x, "mutual-knn") == near(1)
    # 9 others in the half of a class, of which all 19 are equally near.
    expected = 9 / 19
    assert value(x, halves, "mutual-knn", k=9) == near(expected)
    # Lengths and rotations change cosines in the last digits only.
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    noisy = x * (torch.rand(60, 1, dtype=torch.float64) + 1) @ turn
    assert value(noisy, halves, "mutual-knn", k=9) == near(expected)
    assert value(noisy, x, "mutual-knn") == value(noisy, noisy, "mutual-knn") == near(1)


def test_independent_layers_have_the_values_of_chance():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 512, generator=generator)
    y = torch.randn(64, 128, generator=generator)
    z = torch.randn(64, 8, generator=generator)
    for name in ("cka", "cka-rbf", "cka-cosine", "dcor"):
        assert abs(value(x, y, name)) < 4 * math.sqrt(2 / (64 * 61))
    assert abs(value(x, y, "dcka", confounder=z)) < 4 * math.sqrt(2 / (64 * 61))
    assert value(x, y, "cka-biased") == near(0.765, 0.02)
    assert value(x, y, "procrustes") == near(0.918, 0.02)
    assert value(x, y, "mutual-knn") == near(10 / 63, 0.05)


def test_a_recording_is_enough_for_every_measure():
    """U, the diagonal of K, and the products with the mean: `CenteredGram` needs these.

    With many features or few, all values follow from them.
    """
    x, y = layers((60, 80, 5))
    z = x[:, :2].square()
    one, two, three = (recorded(rows) for rows in (x, y, z))
    K, L, M = (side.gram for side in (one, two, three))
    rbf = (distances.rbf(side, 0.5) for side in (K, L))
    euclidean = (distances.euclidean(side) for side in (K, L))
    kernels = (of_kernel("x", side.cosines) for side in (one, two))
    found = {
        "cka": alignment.unbiased(K, L),
        "cka-biased": alignment.biased(K, L),
        "cka-angular": alignment.angular(K, L),
        "cka-rbf": alignment.unbiased(*rbf),
        "cka-cosine": alignment.unbiased(*kernels),
        "dcka": alignment.deconfounded(K, L, M),
        "dcor": alignment.unbiased(*euclidean),
        "rsa-pearson": distances.pearson(K, L),
        "rsa-spearman": distances.spearman(K, L),
        "procrustes": subspaces.procrustes(K, L),
        "procrustes-angular": subspaces.procrustes_angular(K, L),
        "svcca": subspaces.svcca(K, L, variance=0.3),
        "cca": subspaces.cca(L, M),
        "mutual-knn": neighbors.mutual_knn(one.cosines, two.cosines, k=10),
    }
    assert found.keys() == MEASURES.keys()
    options = {"dcka": {"confounder": z}, "svcca": {"variance": 0.3}}
    for name, measured in found.items():
        pair = (y, z) if name == "cca" else (x, y)
        expected = value(*pair, name, **options.get(name, {}))
        assert measured.item() == near(expected, 1e-11), name


def recorded(rows):
    """Gram matrix and cosines of a layer from what a recording keeps of it."""
    n, mean = len(rows), rows.mean(0)
    K = (rows - mean) @ (rows - mean).T
    U, d, along = u_centered(K), K.diagonal(), rows @ mean
    shift = d / (n - 2) - d.sum() / (2 * (n - 1) * (n - 2))
    C = U - shift - shift[:, None]
    C = C.diagonal_scatter(d)
    plain = C + along + along[:, None] - mean @ mean
    lengths = plain.diagonal().sqrt()
    return SimpleNamespace(
        gram=CenteredGram("x", C), cosines=plain / lengths / lengths[:, None]
    )


def test_u_centering_is_that_of_hsic():
    x, _ = layers()
    K = (x - x.mean(0)) @ (x - x.mean(0)).T
    torch.testing.assert_close(u_centered(K), hsic.u_center(K), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["cka", "cka-cosine", "cka-rbf", "dcor", "dcka"])
def test_examples_that_differ_each_in_its_own_way_have_no_value(name):
    """U-centering leaves nothing of a diagonal matrix, or only rounding errors."""
    x, _ = layers((40, 7, 5))
    eye = torch.eye(40)
    turned = torch.linalg.qr(torch.randn(40, 40)).Q
    options = {"confounder": x[:, 2:4].square()} if name == "dcka" else {}
    for layer in (eye, 5 * eye.double(), turned, turned + 3):
        if name == "cka-cosine" and layer.mean() > 1:
            continue  # not the same kernel
        with pytest.warns(UserWarning, match="`y` no examples differ in a common way"):
            assert math.isnan(value(x, layer, name, **options))


@pytest.mark.parametrize("name", ["rsa-pearson", "rsa-spearman"])
def test_examples_equally_far_apart_have_no_value(name):
    x, _ = layers((40, 7, 5))
    turned = torch.linalg.qr(torch.randn(40, 40)).Q
    for layer in (torch.eye(40), turned, turned + 3):
        with pytest.warns(UserWarning, match="examples of `x` are equally far apart"):
            assert math.isnan(value(layer, x, name))


def test_rbf_cka_of_mostly_equal_examples_has_no_value():
    x, y = layers()
    x[:50] = x[0]
    with pytest.warns(UserWarning, match="most examples of `x` are equal"):
        assert math.isnan(value(x, y, "cka-rbf"))


def test_an_rbf_kernel_that_tells_no_examples_apart_has_no_value():
    x, y = layers()
    for threshold in (0.01, 1e8):  # the second leaves only neighbors
        with pytest.warns(UserWarning, match="`x` no examples differ in a common way"):
            assert math.isnan(value(x, y, "cka-rbf", threshold=threshold))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_confounder_that_is_the_layer_leaves_no_value(dtype):
    x, y = (layer.to(dtype) for layer in layers())
    turn = torch.linalg.qr(torch.randn(7, 7, dtype=dtype)).Q
    for same in (x, 3 * x, x @ turn, x + 5, (x + 20) @ turn):
        with pytest.warns(UserWarning, match="`confounder` explains all of `x`"):
            assert math.isnan(value(x, y, "dcka", confounder=same))
        with pytest.warns(UserWarning, match="`confounder` explains all of `y`"):
            assert math.isnan(value(y, x, "dcka", confounder=same))


def test_a_confounder_is_the_layer_up_to_its_own_precision():
    x, y = layers()
    with pytest.warns(UserWarning, match="`confounder` explains all of `x`"):
        assert math.isnan(value(x, y, "dcka", confounder=x.float()))


def test_a_confounder_near_the_layer_has_a_value():
    x, y = layers()
    close = x + 1e-3 * torch.randn(x.shape)
    assert -1 < value(x, y, "dcka", confounder=close) < 1


def test_a_constant_confounder_has_no_value():
    x, y = layers()
    with pytest.warns(UserWarning, match="`confounder` is constant"):
        assert math.isnan(value(x, y, "dcka", confounder=torch.ones(60)))


def test_four_examples_leave_no_room_for_a_confounder():
    x, y = layers((5, 3, 3))
    with pytest.raises(ValueError, match="at least 5 examples, got 4"):
        value(x[:4], y[:4], "dcka", confounder=x[:4, :1].square())
    assert -1 < value(x, y, "dcka", confounder=x[:, :1].square()) < 1


@pytest.mark.parametrize(
    ("n", "options", "message"),
    [
        (20, {}, "at least 24 examples for 7 and 5 principal components, got 20"),
        (20, {}, "far too large; `force=True` computes them"),
        (12, {}, "at least 24 examples .* got 12: some correlations would be 1"),
        (12, {"force": True}, "at least 13 examples .* 'svcca' with a smaller"),
        (6, {"force": True}, "at least 11 examples for 5 and 5 .* such as 'cka'"),
    ],
)
def test_cca_of_too_few_examples_is_refused_with_the_remedy(n, options, message):
    x, y = layers((n, 7, 5))
    for name in ("cca", "svcca"):
        with pytest.raises(ValueError, match=message):
            value(x, y, name, **options, **({"variance": 1} if name == "svcca" else {}))


def test_cca_of_few_examples_can_be_forced():
    x, y = layers((20, 7, 5))
    angles = scipy.linalg.subspace_angles(centered(x), centered(y))
    assert value(x, y, "cca", force=True) == near(np.cos(angles).mean())
    assert value(x, y, "svcca", variance=0.6) < 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dcorr", r"one of 'cka', .*, 'mutual-knn', got 'dcorr'\. Did you mean 'dcor'"),
        ("CKA", "got 'CKA'"),
        ("linear_cka", "Did you mean .*'cka"),
        ("pwcca", "Did you mean .*'svcca'"),
        (None, "got None"),
        (["cka"], r"got \['cka'\]"),
    ],
)
def test_an_unknown_measure_is_refused_with_the_nearest_names(name, message):
    with pytest.raises(ValueError, match=message):
        value(*layers(), name)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("dcka", {}, TypeError, "'dcka' needs `confounder=`, an array"),
        ("dcka", {"confounder": "input"}, TypeError, "in `confounder`, got a str"),
        ("dcka", {"confounder": torch.ones(9)}, ValueError, "`confounder`, got 60 and"),
        ("cka", {"k": 3}, TypeError, "'cka' takes no option, got `k`"),
        ("mutual-knn", {"K": 3}, TypeError, "takes `k`, got `K`"),
        ("svcca", {"varience": 1}, TypeError, "Did you mean 'variance'"),
        ("mutual-knn", {"k": 0}, ValueError, "positive integer, got 0"),
        ("mutual-knn", {"k": 2.0}, ValueError, "positive integer, got 2.0"),
        ("mutual-knn", {"k": True}, ValueError, "positive integer, got True"),
        ("mutual-knn", {"k": 59}, ValueError, "k [+] 2 = 61 examples, got 60"),
        ("cka-rbf", {"threshold": 0}, ValueError, "positive number, got 0"),
        ("cka-rbf", {"threshold": math.inf}, ValueError, "positive number, got inf"),
        ("cka-rbf", {"threshold": "wide"}, ValueError, "positive number, got 'wide'"),
        ("svcca", {"variance": 99}, ValueError, "up to 1, got 99"),
        ("svcca", {"variance": math.nan}, ValueError, "up to 1, got nan"),
    ],
)
def test_a_wrong_option_is_refused(name, options, error, message):
    with pytest.raises(error, match=message):
        value(*layers(), name, **options)


def test_neighbors_of_one_feature_are_refused():
    x, y = layers()
    with pytest.raises(ValueError, match="two features in `y`, got one"):
        value(x, y[:, 0], "mutual-knn")


def test_k_may_be_as_large_as_leaves_one_other():
    x, y = layers((12, 4, 4))
    assert 10 / 11 * 0.9 < value(x, y, "mutual-knn") <= 1
