"""Every measure through the same checks: what it must not depend on, and bad input."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from cka_notebook import metrics
from cka_notebook.metrics.measures import MEASURES

EXACT = 1e-10
"""Float64 against float64 in another order of summation."""

N, P, Q = 60, 9, 6


@dataclass(frozen=True)
class Traits:
    """What the docstring of `similarity` promises of a measure."""

    low: float = -1.0
    high: float = 1.0
    equal: float = 1.0
    shift: bool = True
    linear: bool = False


BIASED = Traits(low=0.0)
ANGLE = Traits(low=0.0, high=math.pi / 2, equal=0.0)
TRAITS = {
    "cka": Traits(),
    "cka-biased": BIASED,
    "cka-angular": ANGLE,
    "cka-rbf": Traits(),
    "cka-cosine": Traits(shift=False),
    "dcka": Traits(),
    "dcor": Traits(),
    "rsa-pearson": Traits(),
    "rsa-spearman": Traits(),
    "procrustes": BIASED,
    "procrustes-angular": ANGLE,
    "cca": Traits(low=0.0, linear=True),
    "svcca": BIASED,
    "mutual-knn": Traits(low=0.0, shift=False),
}

every_measure = pytest.mark.parametrize("name", TRAITS)


def layers(n=N, p=P, q=Q):
    x = torch.randn(n, p, dtype=torch.float64) + 0.5
    return x, x[:, :q] + torch.randn(n, q, dtype=torch.float64)


CONFOUNDER = torch.randn(
    256, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64
)


def value(x, y, name, **options):
    if name == "dcka":
        options.setdefault("confounder", CONFOUNDER[: len(x)])
    return metrics.similarity(x, y, name, **options)


def rotation(p):
    return torch.linalg.qr(torch.randn(p, p, dtype=torch.float64)).Q


def near(expected, tolerance=EXACT):
    return pytest.approx(expected, abs=tolerance)


def test_the_gauntlet_knows_every_measure():
    assert list(TRAITS) == list(MEASURES)


@every_measure
def test_the_docstring_says_what_is_checked_here(name):
    row = next(
        line.split()
        for line in metrics.similarity.__doc__.splitlines()
        if line.split()[:1] == [f"`{name}`"]
    )
    traits = TRAITS[name]
    ends = {-1.0: "-1", 0.0: "0", 1.0: "1"}
    high = "pi / 2" if traits.high > 1 else ends[traits.high]
    invariance = "invertible map" if traits.linear else "rotation"
    shift = ", shift" if traits.shift else ""
    expected = f"{ends[traits.low]} to {high} {ends[traits.equal]} {invariance}{shift}"
    assert " ".join(row[1:-1]) == expected


@every_measure
def test_a_value_is_a_float_in_its_range(name):
    found = value(*layers(), name)
    assert type(found) is float
    assert TRAITS[name].low < found < TRAITS[name].high
    assert abs(found - TRAITS[name].equal) > 0.05


@every_measure
def test_two_sides_may_be_swapped(name):
    x, y = layers()
    assert value(y, x, name) == near(value(x, y, name), 1e-12)


@every_measure
def test_a_layer_equals_itself(name):
    x, _ = layers()
    assert value(x, x, name) == near(TRAITS[name].equal, 1e-12)


@every_measure
def test_rotations_change_nothing(name):
    x, y = layers()
    assert value(x @ rotation(P), y @ rotation(Q), name) == near(value(x, y, name))
    assert value(x, x @ rotation(P), name) == near(TRAITS[name].equal)


@every_measure
def test_other_linear_maps_change_all_but_cca(name):
    x, y = layers()
    skewed = x * torch.linspace(0.1, 3, P)
    unchanged = value(skewed, y, name) == near(value(x, y, name))
    assert unchanged == TRAITS[name].linear


@every_measure
@pytest.mark.parametrize("scale", [-3.0, 1e-160, 1e150, 2.0**-1060])
def test_a_scale_changes_nothing(name, scale):
    x, y = layers()
    tolerance = EXACT if abs(scale) > 1e-300 else 1e-2  # subnormal numbers are coarse
    assert value(x * scale, y, name) == near(value(x, y, name), tolerance)


@every_measure
@pytest.mark.parametrize("shift", [3.0, 1e5])
def test_a_shift_changes_nothing_but_cosines(name, shift):
    x, y = layers()
    tolerance = EXACT if shift < 10 else 1e-7
    moved = value(x + shift, y - 2 * shift, name)
    unchanged = moved == near(value(x, y, name), tolerance)
    assert unchanged == TRAITS[name].shift


@every_measure
def test_the_order_of_examples_changes_nothing(name):
    x, y = layers()
    order = torch.randperm(N)
    options = {"confounder": CONFOUNDER[:N][order]} if name == "dcka" else {}
    expected = near(value(x, y, name))
    assert value(x[order], y[order], name, **options) == expected
    assert value(x[order], y, name) != expected


@every_measure
def test_equal_examples_in_any_order_change_nothing(name):
    """Of ties, none may be broken by the place of an example."""
    x, y = (torch.cat([layer, layer[:20], layer[:20]]) for layer in layers())
    z, order = torch.cat([CONFOUNDER[:N], *[CONFOUNDER[:20]] * 2]), torch.randperm(100)
    options = [{"confounder": c} if name == "dcka" else {} for c in (z, z[order])]
    expected = value(x, y, name, **options[0])
    assert value(x[order], y[order], name, **options[1]) == near(expected)
    assert value(x, x, name, **options[0]) == near(TRAITS[name].equal)


@every_measure
def test_equal_distances_in_any_order_change_nothing(name):
    """Class labels have two distances, and every neighbor is one of many."""
    generator = torch.Generator().manual_seed(1)
    kinds = torch.randint(4, (2, N), generator=generator)
    x, y = torch.nn.functional.one_hot(kinds, 4)
    order, turn = torch.randperm(N), rotation(4)
    options = {"confounder": CONFOUNDER[:N][order]} if name == "dcka" else {}
    expected = near(value(x, y, name))
    assert value(x.double() @ turn, y.double() @ turn.T, name) == expected
    assert value(x[order], y[order], name, **options) == expected


@every_measure
def test_features_that_say_nothing_change_nothing(name):
    x, y = layers()
    padded = torch.cat([torch.zeros(N, 2), x.flip(1), torch.zeros(N, 1)], 1)
    assert value(padded, y, name) == near(value(x, y, name))
    if TRAITS[name].shift:
        assert value(torch.cat([x, torch.full((N, 1), 4.0)], 1), y, name) == near(
            value(x, y, name)
        )


@every_measure
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int16", "int64"])
def test_a_value_depends_on_numbers_not_on_their_type(name, dtype):
    x, y = ((16 * layer).round() for layer in layers())
    narrow = (layer.to(getattr(torch, dtype)) for layer in (x, y))
    assert value(*narrow, name) == near(value(x, y, name), 1e-12)


@every_measure
def test_a_value_does_not_depend_on_the_layout(name):
    x, y = layers(p=12)
    images = x.reshape(N, 3, 2, 2)
    expected = near(value(x, y, name), 1e-12)
    strided = torch.zeros(N, 24, dtype=torch.float64)[:, ::2].copy_(x)
    fortran = np.asfortranarray(x.numpy())
    for same in (
        images,
        images.contiguous(memory_format=torch.channels_last),
        strided,
        x.T.contiguous().T,
        fortran,
        images.numpy()[:, :, ::-1][:, :, ::-1],
        x.numpy().astype(">f8"),
        x.tolist(),
        x.clone().requires_grad_(),
    ):
        assert value(same, y, name) == expected
        assert value(y, same, name) == near(value(y, x, name), 1e-12)


@every_measure
def test_a_value_does_not_depend_on_modes_and_changes_no_input(name):
    x, y = layers()
    kept, expected = x.clone(), value(x, y, name)
    frozen = x.numpy().copy()
    frozen.setflags(write=False)
    assert value(frozen, y, name) == expected
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert value(x, y, name) == expected
    assert torch.equal(x, kept)


@every_measure
@pytest.mark.parametrize(("p", "q"), [(1, 1), (1, 5), (70, 5), (70, 90)])
def test_few_and_many_features_give_a_value_or_an_error(name, p, q):
    x, y = layers(p=p, q=q) if p > q else reversed(layers(p=q, q=p))
    refused = {"cca": p > 1, "svcca": p > 1, "mutual-knn": p == 1}
    if refused.get(name) and not (name in {"cca", "svcca"} and p + q <= N // 2):
        with pytest.raises(ValueError, match="Expected at least"):
            value(x, y, name)
        return
    found = value(x, y, name)
    assert TRAITS[name].low - 1e-12 <= found <= TRAITS[name].high + 1e-12


@every_measure
@pytest.mark.parametrize("constant", [0.0, 5.0, 1e30])
def test_a_constant_layer_has_no_value_and_the_warning_says_so(name, constant):
    x, _ = layers()
    for dtype in (torch.float64, torch.float32):
        y = torch.full((N, Q), constant, dtype=dtype)
        with pytest.warns(UserWarning, match=f"'{name}' is undefined: `y` is constant"):
            assert math.isnan(value(x, y, name))
        with pytest.warns(UserWarning, match=f"'{name}' is undefined: `x` is constant"):
            assert math.isnan(value(y, x, name))


@every_measure
def test_a_layer_that_is_constant_up_to_rounding_has_no_value(name):
    x, _ = layers()
    noise = (1 + torch.randn(N, Q) * 1e-8).float()
    y = noise + torch.finfo(torch.float32).eps * torch.randint(2, (N, Q))
    with pytest.warns(UserWarning, match="`y` is constant"):
        assert math.isnan(value(x, y, name))


@every_measure
@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_too_few_examples_are_refused(name, n):
    x, y = layers()
    with pytest.raises(
        ValueError, match=r"at least 4 examples, got|shape \(n, \.\.\.\)"
    ):
        value(x[:n], y[:n], name)


@every_measure
def test_four_examples_are_enough_where_the_measure_says_no_more(name):
    x, y = layers(4, 2, 2)
    if name in {"dcka", "cca", "svcca", "mutual-knn"}:
        with pytest.raises(ValueError, match="Expected at least"):
            value(x, y, name)
    else:
        assert TRAITS[name].low <= value(x, y, name) <= TRAITS[name].high


@every_measure
def test_unequal_numbers_of_examples_are_refused(name):
    x, y = layers()
    with pytest.raises(ValueError, match="in `x` and `y`, got 60 and 59"):
        value(x, y[1:], name)


@every_measure
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(name, bad):
    x, y = layers()
    y[17, 3] = y[40, 0] = bad
    with pytest.raises(ValueError, match="in 2 of 60 examples, first in example 17"):
        value(x, y, name)
    with pytest.raises(ValueError, match="finite numbers in `x`"):
        value(y, x, name)
