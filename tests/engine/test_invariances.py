"""What CKA does not depend on, and what no model or batch may break."""

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import zoo
from support.reference import (
    EXACT,
    FLOAT32,
    assert_right,
    compare,
    differences,
    snapshot,
)
from torch import nn

from cka_notebook import CKA, hsic
from cka_notebook._inputs.nested import list_length, mapped, move, tensors
from cka_notebook._models.layer_tree import LayerTree

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

quick = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)

seeds = st.integers(0, 2**31 - 1)
sizes = st.integers(4, 24)
widths = st.integers(1, 12)


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rotation(seed, p):
    return torch.linalg.qr(draw(seed, p, p).double())[0]


class Watched(nn.Module):
    """Two layers with the activations that two functions make of a batch."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = zoo.Returning(first), zoo.Returning(second)

    def forward(self, x):
        return self.first(x), self.second(x)


def of(first, second, batches):
    """Minibatch CKA, by the engine, of what two functions make of the batches."""
    layers = ["first", "second"]
    return compare(Watched(first, second), batches=batches, model1_layers=layers)


def same(x):
    return x


@quick
@given(seeds, st.integers(4, 40), widths, widths)
def test_unbiased_cka_lies_between_minus_one_and_one(seed, n, p, q):
    value = hsic.cka(draw(seed, n, p), draw(seed + 1, n, q))
    assert -1 - EXACT <= value <= 1 + EXACT


@quick
@given(seeds, sizes, widths, st.floats(-12, 12), st.floats(-1e3, 1e3))
def test_cka_is_that_of_rotated_scaled_and_shifted_activations(
    seed, n, p, exponent, shift
):
    x, y = draw(seed, n, p).double(), draw(seed + 1, n, p + 1).double()
    moved = (x @ rotation(seed + 2, p)) * 10**exponent + shift * 10**exponent
    # 1e-16 of float64 times the square of the offset.
    expected = hsic.cka(x, y).item()
    assert hsic.cka(moved, y).item() == pytest.approx(expected, abs=1e-7)


@quick
@given(seeds, sizes, widths)
def test_cka_is_symmetric_and_does_not_see_the_order_of_examples(seed, n, p):
    x, y = draw(seed, n, p).double(), draw(seed + 1, n, 3).double()
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    value = hsic.cka(x, y).item()
    assert hsic.cka(y, x).item() == pytest.approx(value, abs=EXACT)
    assert hsic.cka(x[order], y[order]).item() == pytest.approx(value, abs=1e-10)


@quick
@given(seeds, st.integers(1, 4), st.integers(8, 24), st.integers(2, 12))
def test_the_engine_does_not_see_a_rotation(seed, count, n, p):
    turn = rotation(seed, p).float()
    result = of(same, lambda x: x @ turn, [draw(seed + i, n, p) for i in range(count)])
    assert result.matrix[0, 1].item() == pytest.approx(1, abs=FLOAT32)


@quick
@given(seeds, st.integers(1, 4), st.floats(-12, 12))
def test_the_engine_does_not_see_an_isotropic_scale(seed, count, exponent):
    batches = [draw(seed + i, 16, 10) for i in range(count)]
    plain = of(torch.sin, same, batches)
    scaled = of(lambda x: torch.sin(x) * 10**exponent, same, batches)
    torch.testing.assert_close(scaled.matrix, plain.matrix, rtol=0, atol=FLOAT32)


@quick
@given(seeds, st.integers(1, 5), st.floats(-1e3, 1e3), st.booleans())
def test_the_engine_does_not_see_an_offset(seed, count, offset, one_column):
    batches = [draw(seed + i, 16, 10) for i in range(count)]

    def shifted(x):
        return torch.cat([x[:, :1] + offset, x[:, 1:]], 1) if one_column else x + offset

    model = Watched(shifted, torch.sin)
    layers = ["first", "second"]
    result = compare(model, batches=batches, model1_layers=layers)
    # The reference sees the same float32 sums, which have lost digits already.
    assert_right(result, model, model, batches)
    plain = of(same, torch.sin, batches)
    torch.testing.assert_close(result.matrix, plain.matrix, rtol=0, atol=1e-4)


@quick
@given(seeds, st.lists(st.floats(-3, 3), min_size=2, max_size=6))
def test_an_offset_that_changes_from_batch_to_batch_costs_nothing(seed, exponents):
    batches = [draw(seed + i, 16, 10) for i in range(len(exponents))]
    moved = [x + 10**e for x, e in zip(batches, exponents, strict=True)]
    model = Watched(same, torch.sin)
    layers = ["first", "second"]
    result = compare(model, batches=moved, model1_layers=layers)
    assert_right(result, model, model, moved, atol=1e-4)


@quick
@given(seeds, st.integers(0, 15), st.floats(0, 3))
def test_one_example_a_thousand_times_as_far_as_the_others_costs_nothing(
    seed, place, exponent
):
    batches = [draw(seed + i, 16, 10) for i in range(3)]
    for x in batches:
        x[place] *= 10**exponent
    model = Watched(same, torch.tanh)
    layers = ["first", "second"]
    result = compare(model, batches=batches, model1_layers=layers)
    assert_right(result, model, model, batches, atol=1e-4)


@quick
@given(seeds, st.integers(1, 4))
def test_the_engine_does_not_see_the_order_of_examples_in_a_batch(seed, count):
    generator = torch.Generator().manual_seed(seed)
    batches = [draw(seed + i, 16, 10) for i in range(count)]
    mixed = [x[torch.randperm(16, generator=generator)] for x in batches]
    plain, other = (of(torch.sin, torch.exp, b).matrix for b in (batches, mixed))
    torch.testing.assert_close(plain, other, rtol=0, atol=FLOAT32)


@quick
@given(seeds, st.permutations(range(5)))
def test_the_engine_does_not_see_the_order_of_batches(seed, order):
    batches = [draw(seed + i, 8 + i, 10) for i in range(5)]
    plain = of(torch.sin, torch.exp, batches).matrix
    other = of(torch.sin, torch.exp, [batches[i] for i in order]).matrix
    torch.testing.assert_close(plain, other, rtol=0, atol=FLOAT32)


@quick
@given(
    st.permutations(["0", "1", "2", "3", "4"]), st.permutations(["0", "1", "2", "3"])
)
def test_the_order_of_layers_permutes_rows_and_columns(rows, columns):
    torch.manual_seed(0)
    model1, model2 = zoo.mlp(), zoo.mlp()
    plain = compare(
        model1, model2, zoo.batches_of(2), model1_layers="all", model2_layers="all"
    )
    other = compare(
        model1, model2, zoo.batches_of(2), model1_layers=rows, model2_layers=columns
    )
    expected = plain.matrix[[int(i) for i in rows]][:, [int(j) for j in columns]]
    torch.testing.assert_close(other.matrix, expected, rtol=0, atol=FLOAT32)
    assert (other.layers1, other.layers2) == (tuple(rows), tuple(columns))


@quick
@given(st.lists(st.integers(4, 30), min_size=1, max_size=6))
def test_batches_of_any_sizes_are_right(counts):
    torch.manual_seed(0)
    model1, model2 = zoo.mlp(), zoo.mlp()
    batches = [draw(i, n, 10) for i, n in enumerate(counts)]
    result = compare(model1, model2, batches)
    assert result.examples == sum(counts)
    # Four examples leave two degrees of freedom, in which float32 shows.
    assert_right(result, model1, model2, batches, atol=1e-4)


# Random module trees: leaves that keep a width of 6, in containers of all kinds.

leaves = st.sampled_from(
    [
        lambda: nn.Linear(6, 6),
        nn.Tanh,
        lambda: nn.ReLU(inplace=True),
        lambda: nn.LayerNorm(6),
        lambda: nn.BatchNorm1d(6),
        nn.Identity,
        nn.Dropout,
    ]
).map(lambda make: make())


class Residual(nn.Module):
    """Adds what its members make of the input to it, in place."""

    def __init__(self, members):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.idle = nn.Linear(2, 2)

    def forward(self, x):
        out = x.clone()
        for member in self.members:
            out += member(x.clone())
        return out


class Repeated(nn.Module):
    """Calls one member several times, which is also known by a second name."""

    def __init__(self, members):
        super().__init__()
        self.member = members[0]
        self.again = self.member

    def forward(self, x):
        return self.again(self.member(x.clone()).clone())


class Tupled(nn.Module):
    def __init__(self, members):
        super().__init__()
        self.inner = nn.Sequential(*members)
        self.out = zoo.Returning(lambda x: (None, x))

    def forward(self, x):
        return self.out(self.inner(x))[1]


def containers(children):
    lists = st.lists(children, min_size=1, max_size=3)
    kinds = st.sampled_from([lambda m: nn.Sequential(*m), Residual, Repeated, Tupled])
    return st.tuples(kinds, lists).map(lambda pair: pair[0](pair[1]))


trees = st.recursive(leaves, containers, max_leaves=6)


@quick
@given(trees, seeds)
def test_any_tree_of_modules_is_right_layer_by_layer_and_left_as_found(inner, seed):
    torch.manual_seed(seed)
    for module in inner.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    model = nn.Sequential(nn.Linear(10, 6), inner, nn.Linear(6, 3)).train()
    before = snapshot(model)
    batches = [draw(seed + i, 12, 10) for i in range(2)]
    result = compare(model, batches=batches, model1_layers="all")
    assert differences(before, snapshot(model)) == []
    defined = [name for name in result.layers1 if name not in result.undefined1]
    if defined:
        kept = compare(model, batches=batches, model1_layers=defined)
        assert_right(kept, model, model, batches, atol=1e-4)


@quick
@given(trees, seeds, st.sampled_from([9, 33, 50]))
def test_any_choice_of_layers_gives_what_all_layers_give(inner, seed, n):
    torch.manual_seed(seed)
    for module in inner.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    model = nn.Sequential(nn.Linear(10, 6), inner, nn.Linear(6, 3))
    # Enough of them for all that a run learns from its first ones.
    batches = [draw(seed + i, n, 10) for i in range(6)]
    whole = compare(model, batches=batches, model1_layers="all")
    dice = random.Random(seed)
    count = len(whole.layers1)
    rows = dice.sample(range(count), dice.randint(1, min(3, count)))
    names = [whole.layers1[row] for row in rows]
    part = compare(
        model, batches=batches, model1_layers=names, model2_layers=names[::-1]
    )
    expected = whole.matrix[rows][:, rows[::-1]]
    torch.testing.assert_close(
        part.matrix, expected, rtol=0, atol=FLOAT32, equal_nan=True
    )


@quick
@given(trees)
def test_any_tree_has_columns_that_fit_together(inner):
    tree = LayerTree(nn.Sequential(nn.Linear(10, 6), inner))
    columns = tree.columns()
    presets, facts = columns.pop("presets"), columns.pop("facts")
    which = facts.pop("of_row")
    assert {len(column) for column in columns.values()} == {len(which)}
    assert {len(values) for values in facts.values()} == {max(which) + 1}
    assert len(set(columns["name"])) == len(columns["name"])
    for rows in presets.values():
        assert [columns["name"][i] for i in rows]
    for name in tree.choose("auto"):
        assert tree.choose([name]) == [name]


@quick
@given(trees)
def test_choices_in_auto_are_among_all(inner):
    cka = CKA(nn.Sequential(nn.Linear(10, 6), inner, nn.Linear(6, 3)))
    next(cka._steps([draw(0, 12, 10)])).result()
    everything = cka.specs[0].tree.choose("all")
    for preset in ("auto", "blocks", "leaves"):
        assert set(cka.specs[0].tree.choose(preset)) <= set(everything)
    orders = [
        layer.output.order
        for layer in cka.specs[0].tree.find(cka.specs[0].tree.choose("auto"))
    ]
    assert orders == sorted(orders)


# Random structures of batches: tensors and words in dicts, lists and tuples.

tensor = st.integers(1, 3).map(lambda width: torch.ones(8, width))
words = st.just(["a"] * 8)
structures = st.recursive(
    st.one_of(tensor, words, st.none(), st.integers(), st.text(max_size=3)),
    lambda children: st.one_of(
        st.lists(children, max_size=3),
        st.tuples(children, children),
        st.dictionaries(st.text(min_size=1, max_size=3), children, max_size=3),
    ),
    max_leaves=6,
)


def shape_of(value):
    if isinstance(value, torch.Tensor):
        return "tensor"
    if isinstance(value, dict):
        return {key: shape_of(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [shape_of(item) for item in value]
    return value


@quick
@given(structures)
def test_any_structure_keeps_its_shape_and_loses_no_tensor(value):
    changed = mapped(value, lambda x: x + 1)
    assert shape_of(changed) == shape_of(value)
    assert len(list(tensors(changed))) == len(list(tensors(value)))
    assert all(x.max() == 2 for x in tensors(changed))
    assert move(value, torch.device("cpu")) is value
    assert list_length(value) is None or list_length(value) > 0


@quick
@given(structures)
def test_any_structure_around_a_batch_reaches_a_custom_forward(extra):
    seen = []

    def forward(model, batch):
        seen.append(shape_of(batch[1]))
        return model(batch[0])

    batch = (zoo.batches_of(1, size=8)[0], extra)
    result = compare(zoo.mlp(), batches=[batch] * 2, forward=forward)
    assert result.examples == 16
    assert seen[-1] == shape_of(extra)
