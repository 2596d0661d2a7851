"""The mathematics against published numbers, theory, and two other implementations."""

import numpy as np
import pytest
import torch
from support.reference import hsic1, hsic1_pairs

from cka_notebook import hsic

EXACT = 1e-12
"""Float64 against float64 in another order of summation."""

FLOAT32 = 3e-6
"""The bar for float32 activations: a few hundred roundings of 6e-8."""


def demo(n=100):
    """The data of the published notebook of Kornblith et al. 2019."""
    random = np.random.RandomState(1337)
    x = random.randn(n, 10)
    return torch.tensor(x), torch.tensor(random.randn(n, 10) + x)


def pair(n=20, p=7, q=5):
    x = torch.randn(n, p, dtype=torch.float64)
    return x, x[:, :q] + torch.randn(n, q, dtype=torch.float64)


def test_the_public_names_are_the_four_functions():
    own = {
        name
        for name, value in vars(hsic).items()
        if getattr(value, "__module__", "") == hsic.__name__ and name[0] != "_"
    }
    assert own == set(hsic.__all__) == {"gram", "hsic", "cka", "u_center"}


@pytest.mark.parametrize(
    ("options", "published"),
    [
        ({"estimator": "biased"}, 0.55761),
        ({"estimator": "unbiased"}, 0.51346),
        ({"estimator": "biased", "kernel": "rbf", "threshold": 0.5}, 0.65483),
    ],
)
def test_published_numbers_are_reproduced_to_the_last_digit(options, published):
    assert hsic.cka(*demo(), **options).item() == pytest.approx(published, abs=5e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Distance covariance")
def test_debiased_linear_cka_is_dcor_s_bias_corrected_correlation_with_exponent_two():
    import dcor  # noqa: PLC0415  It takes seconds, for which nobody else should wait.

    x, y = demo()
    theirs = dcor.u_distance_correlation_sqr(x.numpy(), y.numpy(), exponent=2)
    assert hsic.cka(x, y).item() == pytest.approx(theirs, abs=EXACT)


@pytest.mark.parametrize("n", [4, 5, 8, 31, 128])
def test_unbiased_hsic_is_the_textbook_s(n):
    x, y = pair(n)
    K, L = x @ x.T, y @ y.T
    assert hsic.hsic(K, L).item() == pytest.approx(hsic1(K, L).item(), rel=1e-9)


def test_biased_hsic_is_the_trace_of_doubly_centered_grams():
    x, y = pair()
    n = len(x)
    H = torch.eye(n, dtype=torch.float64) - 1 / n
    textbook = torch.trace(x @ x.T @ H @ y @ y.T @ H) / (n - 1) ** 2
    ours = hsic.hsic(x @ x.T, y @ y.T, "biased")
    assert ours.item() == pytest.approx(textbook.item(), rel=EXACT)


def test_hsic_does_not_need_centered_grams():
    x, y = pair()
    centered = hsic.hsic(hsic.gram(x), hsic.gram(y))
    assert hsic.hsic(x @ x.T, y @ y.T).item() == pytest.approx(centered.item())


def test_mean_over_all_pairings_of_unbiased_hsic_is_zero():
    generator = torch.Generator().manual_seed(1)
    x, y = pair(6)
    K, L = x @ x.T, y @ y.T
    draws = torch.stack(
        [
            hsic.hsic(K, L[order][:, order])
            for order in (torch.randperm(6, generator=generator) for _ in range(4000))
        ]
    )
    assert abs(draws.mean()) < 4 * draws.std() / 4000**0.5


def test_u_centered_gram_has_no_diagonal_and_no_row_sums():
    U = hsic.u_center(hsic.gram(pair()[0]))
    assert U.diagonal().abs().max() == 0
    assert U.sum(0).abs().max() < 1e-10
    torch.testing.assert_close(U, U.T, rtol=0, atol=1e-13)


def test_u_centering_is_a_projection():
    U = hsic.u_center(hsic.gram(pair()[0]))
    torch.testing.assert_close(hsic.u_center(U), U, rtol=0, atol=1e-10)


def test_u_centering_removes_row_effects_and_any_diagonal():
    K, a = hsic.gram(pair()[0]), torch.randn(20, dtype=torch.float64)
    changed = K + a[:, None] + a + torch.randn(20, dtype=torch.float64).diag()
    torch.testing.assert_close(
        hsic.u_center(changed), hsic.u_center(K), rtol=0, atol=1e-10
    )


def test_u_centered_squared_distances_are_minus_two_u_centered_grams():
    x, _ = pair()
    distances = torch.cdist(x, x).square()
    torch.testing.assert_close(
        hsic.u_center(distances), -2 * hsic.u_center(x @ x.T), rtol=0, atol=1e-9
    )


def test_one_u_centered_side_is_enough():
    x, y = pair()
    U, V = hsic.u_center(x @ x.T), hsic.u_center(y @ y.T)
    bare = (y @ y.T).fill_diagonal_(0)
    assert (U * bare).sum().item() == pytest.approx((U * V).sum().item(), rel=1e-10)


def test_u_centering_commutes_with_a_permutation_of_examples():
    K, order = hsic.gram(pair()[0]), torch.randperm(20)
    torch.testing.assert_close(
        hsic.u_center(K[order][:, order]),
        hsic.u_center(K)[order][:, order],
        rtol=0,
        atol=1e-10,
    )


def test_u_centered_space_has_dimension_n_times_n_minus_three_halves():
    n = 6
    units = torch.zeros(n * n, n, n, dtype=torch.float64)
    for k in range(n * n):
        units[k, k // n, k % n] = units[k, k % n, k // n] = 1
    images = hsic.u_center(units).flatten(1)
    assert torch.linalg.matrix_rank(images).item() == n * (n - 3) // 2


def test_u_centering_takes_stacks_and_changes_no_input():
    x = torch.randn(3, 9, 4, dtype=torch.float64)
    K = x @ x.transpose(1, 2)
    before = K.clone()
    stacked = hsic.u_center(K)
    assert torch.equal(K, before)
    torch.testing.assert_close(stacked[1], hsic.u_center(K[1]), rtol=0, atol=1e-14)


def test_gram_is_of_centered_activations_and_changes_no_input():
    x = torch.randn(6, 3, 4) + 5
    before = x.clone()
    flat = x.flatten(1).double()
    flat -= flat.mean(0)
    torch.testing.assert_close(
        hsic.gram(x), (flat @ flat.T).float(), rtol=1e-5, atol=1e-5
    )
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.uint8, torch.bool, torch.float16, torch.bfloat16]
)
def test_gram_takes_integers_flags_and_halves_in_float32(dtype):
    x = (torch.rand(8, 30) * 9).to(dtype)
    expected = hsic.gram(x.double()).float()
    assert hsic.gram(x).dtype == torch.float32
    torch.testing.assert_close(hsic.gram(x), expected, rtol=1e-5, atol=1e-4)


def test_gram_keeps_the_gradient_out_of_nothing_it_is_given():
    x = torch.randn(6, 4, requires_grad=True)
    assert hsic.gram(x.detach()).requires_grad is False


def test_cosine_gram_has_a_unit_diagonal_and_no_nan_for_a_zero_row():
    x = torch.randn(5, 3)
    x[2] = 0
    diagonal = hsic.gram(x, "cosine").diagonal()
    torch.testing.assert_close(diagonal, torch.tensor([1.0, 1, 0, 1, 1]))


def test_rbf_cka_tends_to_linear_cka_for_wide_kernels():
    x, y = demo()
    linear = hsic.cka(x, y, "biased")
    gaps = [
        abs(hsic.cka(x, y, "biased", "rbf", threshold=width) - linear).item()
        for width in (1, 3, 10)
    ]
    assert gaps[0] > 10 * gaps[2]
    # The gap falls with the square of the width.
    assert gaps[1] / gaps[2] == pytest.approx(100 / 9, rel=0.1)


def test_unbiased_cka_of_independent_activations_is_negative_half_of_the_time():
    generator = torch.Generator().manual_seed(0)
    draws = [
        torch.randn(16, 200, generator=generator, dtype=torch.float64)
        for _ in range(200)
    ]
    values = torch.stack(
        [hsic.cka(x, y) for x, y in zip(draws[::2], draws[1::2], strict=True)]
    )
    # Its standard deviation is (2 / n (n - 3)) ** 0.5 = 0.098, for any data.
    assert abs(values.mean()) < 4 * 0.098 / 10
    assert 30 < (values < 0).sum() < 70
    assert values.std().item() == pytest.approx(0.098, rel=0.25)


def test_biased_cka_of_wide_independent_activations_is_near_one():
    x, y = torch.randn(16, 4096), torch.randn(16, 512)
    assert hsic.cka(x, y, "biased") > 0.95


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize("kernel", ["linear", "rbf", "cosine"])
def test_cka_of_a_layer_with_itself_is_one(kernel, estimator):
    x = torch.randn(20, 7)
    assert abs(hsic.cka(x, x, estimator, kernel).item() - 1) <= EXACT


def test_cka_of_a_constant_layer_is_nan():
    x = torch.ones(8, 3) * 1e3 + torch.arange(3)
    assert hsic.cka(x, torch.randn(8, 3)).isnan()


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_too_few_examples_are_refused(n):
    with pytest.raises(ValueError, match=f"at least 4 examples, got {n}.*n - 3"):
        hsic.u_center(torch.zeros(n, n))
    with pytest.raises(ValueError, match=f"at least 4 examples, got {n}"):
        hsic.hsic(torch.zeros(n, n), torch.zeros(n, n))


@pytest.mark.parametrize("shape", [(4, 5), (4,), (2, 4, 4)])
def test_a_gram_that_is_not_square_is_refused(shape):
    with pytest.raises(ValueError, match=r"same shape \(n, n\), got"):
        hsic.hsic(torch.zeros(shape), torch.zeros(shape))


def test_grams_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 4\) and \(5, 5\)"):
        hsic.hsic(torch.eye(4), torch.eye(5))


def test_activations_of_different_examples_are_refused():
    message = "same number of examples in `x` and `y`, got 4 and 5. Row i of both"
    with pytest.raises(ValueError, match=message):
        hsic.cka(torch.zeros(4, 2), torch.zeros(5, 2))


def test_a_scalar_is_no_activation():
    with pytest.raises(ValueError, match="got a scalar"):
        hsic.gram(torch.tensor(1.0))


def test_unknown_kernels_and_estimators_are_named_with_the_known_ones():
    with pytest.raises(ValueError, match="`kernel` to be one of 'linear', 'rbf'"):
        hsic.gram(torch.zeros(4, 2), "poly")
    with pytest.raises(ValueError, match="`estimator` to be one of 'unbiased'"):
        hsic.hsic(torch.eye(4), torch.eye(4), "debiased")


def test_the_reference_s_pairs_are_the_textbook_s_one_by_one():
    layers = [pair(12, p, 2)[0] for p in (3, 5)]
    stack = torch.stack([x @ x.T for x in layers])
    grid = hsic1_pairs(stack, stack)
    for i, K in enumerate(stack):
        for j, L in enumerate(stack):
            assert grid[i, j].item() == pytest.approx(hsic1(K, L).item(), rel=1e-9)


@pytest.mark.parametrize("kernel", hsic.KERNELS)
@pytest.mark.parametrize("estimator", hsic.ESTIMATORS)
def test_cka_is_differentiable(kernel, estimator):
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    y = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)

    def value(x, y):
        return hsic.cka(x, y, estimator, kernel)

    assert torch.autograd.gradcheck(value, (x, y))
    assert torch.equal(value(x, y), value(x.detach(), y).detach())


@pytest.mark.parametrize("kernel", hsic.KERNELS)
@pytest.mark.parametrize("shape", [(12, 4), (12, 2, 3)])
def test_activations_with_grad_have_the_values_of_detached_ones(kernel, shape):
    x = torch.randn(shape) * torch.ones(1, requires_grad=True)
    made = hsic.gram(x, kernel)
    assert made.requires_grad
    torch.testing.assert_close(made.detach(), hsic.gram(x.detach(), kernel))


def test_cka_serves_as_a_loss():
    x, y = torch.randn(16, 5), torch.randn(16, 5)
    layer = torch.nn.Linear(5, 5)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    first = float(hsic.cka(layer(x), y).detach())
    for _ in range(50):
        optimizer.zero_grad()
        (-hsic.cka(layer(x), y)).backward()
        optimizer.step()
    assert float(hsic.cka(layer(x), y).detach()) > first + 0.2


def test_autocast_does_not_reach_a_gram_matrix():
    x = torch.randn(8, 20)
    with torch.autocast("cpu", torch.bfloat16):
        made = {kernel: hsic.gram(x, kernel) for kernel in hsic.KERNELS}
    for kernel, grams in made.items():
        assert torch.equal(grams, hsic.gram(x, kernel)), kernel


@pytest.mark.parametrize("n", [6, 7])
def test_the_bandwidth_of_rbf_is_the_median_of_numpy(n):
    x = torch.randn(n, 3, dtype=torch.float64)
    squares = torch.cdist(x, x).square()
    expected = torch.exp(-squares / (2 * 0.25 * float(np.median(squares.numpy()))))
    torch.testing.assert_close(hsic.gram(x, "rbf"), expected)


@pytest.mark.slow
def test_rbf_takes_more_examples_than_a_quantile_of_torch():
    x = torch.randn(4097, 2)
    assert float(hsic.cka(x, x, kernel="rbf")) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("kernel", ["linear", "cosine"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_activations_without_features_have_a_gram_matrix_of_zeros(kernel, dtype):
    gram = hsic.gram(torch.zeros(5, 0, dtype=dtype), kernel)
    expected = torch.zeros(5, 5, dtype=torch.float64 if dtype.itemsize == 8 else None)
    assert torch.equal(gram, expected)


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-25, 1e25, 1e200, 1e300])
@pytest.mark.parametrize("kernel", ["linear", "rbf", "cosine"])
def test_cka_of_any_scale_is_the_same(kernel, scale):
    x, y = pair()
    value = hsic.cka(x, y, kernel=kernel)
    assert float(hsic.cka(x * scale, y, kernel=kernel)) == pytest.approx(float(value))
    assert float(hsic.cka(y, x * scale, kernel=kernel)) == pytest.approx(float(value))


def test_cosines_of_tiny_rows_beside_large_ones_are_right():
    x, _ = pair()
    scales = torch.logspace(-30, 5, len(x), dtype=torch.float64)[:, None]
    for dtype in (torch.float64, torch.float32):
        found = hsic.gram((x * scales).to(dtype), "cosine")
        torch.testing.assert_close(found, hsic.gram(x.to(dtype), "cosine"))
    assert not hsic.gram(torch.zeros(4, 2), "cosine").any()


@pytest.mark.parametrize("kernel", ["linear", "rbf", "cosine"])
@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_second_derivatives_are_autograd_s_numerical_ones(kernel, estimator):
    x, y = (v[:7].requires_grad_() for v in pair(p=3, q=2))
    assert torch.autograd.gradgradcheck(
        lambda a, b: hsic.cka(a, b, estimator, kernel), (x, y)
    )


def test_complex_activations_are_refused():
    x = torch.randn(8, 3, dtype=torch.complex64)
    for function in (hsic.gram, lambda x: hsic.cka(x, x)):
        with pytest.raises(ValueError, match=r"real .*complex64\. Pass torch.view_as"):
            function(x)
