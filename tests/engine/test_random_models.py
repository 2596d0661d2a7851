"""Random models: every number is right, or the result says why it is none.

Each try compares one model with itself or with another one. A long run makes others
than the suite, and prints what it has found::

    RANDOM_MODELS=500 RANDOM_SEED=1 python -m pytest -n0 -sk word \\
        tests/engine/test_random_models.py

It stops at the first wrong number, and does not look for a smaller model with one.
"""

import math
import os
import warnings
from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis import strategies as st
from support.random_models import (
    LEAVES,
    MIXED,
    TOKENS,
    WIDTH,
    WRAPPERS,
    Opened,
    Root,
    build,
    chain,
    main_of,
    owner_of,
    owners,
    reduced,
    tagged,
)
from support.reference import hsic1_pairs
from torch import nn

from cka_notebook import CKA

LONG = os.environ.get("RANDOM_MODELS")
SEED = int(os.environ.get("RANDOM_SEED", "0"))
TRIES = [int(LONG)] if LONG else [25, pytest.param(150, marks=pytest.mark.slow)]
ELEMENTWISE = nn.ReLU, nn.Tanh, nn.Identity, nn.Dropout
LEAST = 0, 0, 0, 6, 10
"""Examples of the smallest batch that a model takes."""
MOST = 0.75
READ_BY_SIZE = "of each output was taken for the examples"

specs = st.recursive(
    st.sampled_from(list(LEAVES)),
    lambda inner: st.tuples(
        st.sampled_from(WRAPPERS), st.lists(inner, min_size=1, max_size=3)
    ),
    max_leaves=8,
)
bodies = st.lists(specs, min_size=1, max_size=6)


def others_of(output):
    """The other tensors of a container whose numbers belong to examples."""
    if isinstance(output, torch.Tensor):
        return []
    if isinstance(output, dict):
        found = [output["x"]]
    elif isinstance(output, Opened):
        found = [output.aux]
    else:
        found = list(output)
    found = [x[0] if isinstance(x, list) else x for x in found]
    made = main_of(output)
    return [x for x in found if x is not made and owner_of(x) is not None]


def follow_owners(module, args, output):
    """The owners of what torch's own layers return."""
    if isinstance(module, nn.Linear | nn.LayerNorm):
        tagged(output, reduced(args[0].owner, -1))
    elif isinstance(module, ELEMENTWISE):
        tagged(output, args[0].owner)


def true_rows(tensor, owner, n):
    """The numbers of each example (n, p), or None if the layer has no such rows."""
    if not tensor.ndim:
        return None
    if not len(tensor) % n:
        # A layer may put some numbers of other examples into its rows.
        own = owners(owner.shape, n)
        if float((owner == own).double().mean()) >= MOST:
            return marked(tensor.double().reshape(n, -1), owner, own)
        own = views(owner.shape, n)
        if float((owner == own).double().mean()) >= MOST:
            rows = tensor.double().reshape(-1, n, *tensor.shape[1:])
            return marked(rows.transpose(0, 1).flatten(1), owner, own)
    owner, values = owner.flatten(), tensor.double().flatten()
    counts = torch.bincount(owner.clamp_min(0), minlength=n)
    if (owner < 0).any() or len(set(counts.tolist())) > 1:
        return None
    return values[owner.argsort(stable=True)].reshape(n, -1)


def marked(rows, owner, own):
    """Rows with the mark of a layer of which some numbers are other examples'."""
    rows.foreign = bool(((owner != own) & (owner != MIXED)).any())
    return rows


def reference(model, batches):
    """The true rows of each call of each module, by batch."""
    found = []
    for x, extra in batches:
        calls, count = {}, len(x)

        def hook(module, args, output, calls=calls, n=count):
            follow_owners(module, args, output)
            tensors = [main_of(output), *others_of(output)]
            rows = [true_rows(x.detach().clone(), x.owner, n) for x in tensors]
            if len(tensors) > 1 and not is_in_order(tensors[0].owner, n):
                rows[0] = None
            calls.setdefault(module, []).append(rows)

        handles = [m.register_forward_hook(hook) for m in model.modules()]
        with torch.no_grad():
            model(tagged(x.clone(), owners(x.shape, len(x))), extra)
        for handle in handles:
            handle.remove()
        found.append(calls)
    return found


def truth_of(found, model, name, dtype):
    """The true rows of a layer in each batch, or None.

    Where what the layer has made cannot be compared, or is the same for all of the
    first examples, another tensor of its output may be, which the facts of the layer
    name.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    bare, _, number = name.partition("#")
    module = model if bare == type(model).__name__ else modules[bare]
    each = [calls.get(module, [])[int(number or 0) :] for calls in found]
    if not all(each):
        return None
    found = [
        rows
        for rows in zip(*(calls[0] for calls in each), strict=True)
        if not any(x is None for x in rows) and not is_constant(rows, dtype)
    ]
    varied = [rows for rows in found if not is_constant([tried(rows[0])], dtype)]
    return next(iter(varied or found), None)


def tried(rows):
    """The rows of the first batch by which one of several tensors is chosen."""
    return rows[[i * (len(rows) - 1) // 8 for i in range(9)] if len(rows) > 9 else ...]


def is_in_order(owner, n):
    """Whether an axis holds the examples in their order, for the most part."""
    for axis, size in enumerate(owner.shape):
        if size == n or (axis == 0 and size % n == 0):
            rows = owner.movedim(axis, 0)
            orders = owners(rows.shape, n), views(rows.shape, n)
            if any(float((rows == x).double().mean()) >= MOST for x in orders):
                return True
    return False


def views(shape, n):
    every = torch.arange(n).repeat(shape[0] // n)
    return every.reshape(-1, *[1] * (len(shape) - 1)).expand(shape)


def is_constant(rows, dtype):
    """Whether examples differ by no more than rounding, so that there is no CKA."""
    spread = max(float((x - x.mean(0)).abs().max()) for x in rows)
    largest = max(float(x.abs().max()) for x in rows)
    return spread <= 4 * torch.finfo(dtype).eps * largest


def has_foreign(rows):
    return any(getattr(x, "foreign", False) for x in rows)


def terms_of(truth):
    """The centered Gram matrix of each batch, or None for an undefined layer."""
    if truth is None:
        return None
    centered = [x - x.mean(0) for x in truth]
    scale = max(float(x.abs().max()) for x in centered)
    return [x @ x.T for x in (y / scale for y in centered)]


def expected(grams1, grams2):
    xy = xx = yy = 0.0
    for K, L in zip(grams1, grams2, strict=True):
        weight = len(K) * (len(K) - 3)
        pair = weight * hsic1_pairs(torch.stack([K, L]), torch.stack([K, L]))
        xy, xx, yy = xy + pair[0, 1], xx + pair[0, 0], yy + pair[1, 1]
    return float(xy / (xx * yy).sqrt()), float(min(xx, yy))


def check(result, model1, model2, batches, dtype):
    """How many values are right, undefined, or named in a note; none may be wrong."""
    bound = 1e-6 if dtype == torch.float64 else 1e-4
    sides, known = [], []
    for model, layers in ((model1, result.layers1), (model2, result.layers2)):
        found = reference(model, batches)
        truths = [truth_of(found, model, name, dtype) for name in layers]
        sides.append([terms_of(truth) for truth in truths])
        foreign = [
            x for x, t in zip(layers, truths, strict=True) if t and has_foreign(t)
        ]
        known.append(foreign)
    doubted = [
        {x for kind, layers in kinds.items() for x in layers if kind != "given"}
        for kinds in result.provenance["doubts"].values()
    ]
    by_size = [
        any(READ_BY_SIZE in x and x.startswith(n) for x in result.notes)
        for n in (result.name1, result.name2)
    ]
    for layers, doubts, undefined, blind in zip(
        known, doubted, (result.undefined1, result.undefined2), by_size, strict=True
    ):
        assert blind or not set(layers) - doubts - set(undefined), (
            f"{set(layers) - doubts} hold foreign numbers"
        )
    tally = Counter()
    for i, row in enumerate(result.layers1):
        for j, column in enumerate(result.layers2):
            value = float(result.matrix[i, j])
            if math.isnan(value):
                assert row in result.undefined1 or column in result.undefined2
                tally["undefined"] += 1
                continue
            if any(by_size):
                tally["by size"] += 1
                continue
            if row in doubted[0] or column in doubted[1]:
                tally["in doubt"] += 1
                continue
            sources = sides[0][i], sides[1][j]
            assert None not in sources, (
                f"{row!r} x {column!r} is {value}, has no such rows"
            )
            right, least = expected(*sources)
            slack = bound if least > 1e-6 else 100 * bound
            assert abs(value - right) < slack, (
                f"{row!r} x {column!r}: {value}, not {right}"
            )
            tally["right"] += 1
    return tally


def call_with_dict(model, batch):
    return model(batch)


INPUTS = {
    "tensor": lambda x, _: x,
    "with_labels": lambda x, _: (x, torch.zeros(len(x), dtype=torch.long)),
    "keywords": lambda x, extra: {"x": x, "extra": extra},
    "popped": lambda x, extra: {"x": x, "extra": extra},
}


def copied(batch):
    if isinstance(batch, dict):
        return {key: value.clone() for key, value in batch.items()}
    if isinstance(batch, tuple):
        return tuple(x.clone() for x in batch)
    return batch.clone()


def assert_same_batch(batch, before):
    if isinstance(batch, torch.Tensor):
        assert torch.equal(batch, before)
        return
    assert len(batch) == len(before)
    items = batch.items() if isinstance(batch, dict) else enumerate(batch)
    for key, value in items:
        assert torch.equal(value, before[key])


def state_of(model):
    hooks = [
        [len(m._forward_hooks), len(m._forward_pre_hooks)] for m in model.modules()
    ]
    return [m.training for m in model.modules()], hooks


def try_models(bodies, sizes, tokens, kind, dtype, number):
    """Compare such models, if they take these batches; what `check` has counted."""
    torch.manual_seed(number)
    generator = torch.Generator().manual_seed(number)
    shapes = [(n, tokens, WIDTH) if tokens else (n, WIDTH) for n in sizes]
    drawn = [
        [torch.randn(s, generator=generator).to(dtype) for _ in range(2)]
        for s in shapes
    ]
    samples = [torch.randn(n, *shapes[0][1:]).to(dtype) for n in (5, 8)]
    least = min(*sizes, LEAST[number % len(LEAST)])
    models = [Root(chain(body, samples), least) for body in bodies]
    if len(models) == 2:
        for module in models[1].modules():
            module.training = torch.rand((), generator=generator).item() < 0.5
    batches = [INPUTS[kind](*pair) for pair in drawn]
    before, states = [copied(x) for x in batches], [state_of(m) for m in models]
    forward = call_with_dict if kind == "popped" else None
    options = {"model1_layers": "all", "model2_layers": "all", "forward": forward}
    if not all(runs(model, x) for model in models for x, _ in drawn):
        return Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = compared(CKA(*models, **options), batches)
    for own, copy in zip(batches, before, strict=True):
        assert_same_batch(own, copy)
    assert [state_of(m) for m in models] == states
    for model in models:
        model.eval()
    uses_extra = kind in ("keywords", "popped")
    pairs = [(x, extra if uses_extra else None) for x, extra in drawn]
    if result is None:
        return Counter()
    return check(result, models[0], models[-1], pairs, dtype)


def runs(model, x):
    """Whether a model takes this number of examples."""
    try:
        with torch.no_grad():
            model.body(x.clone())
    except (IndexError, RuntimeError, ValueError):
        return False
    return True


def compared(cka, batches):
    """The result, or None if there are no layers that can be compared."""
    try:
        return cka.compare(batches, progress=False)
    except ValueError as error:
        if "None of its layers can be compared" not in str(error):
            raise
        return None


profile = settings(
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
    phases=[Phase.generate] if LONG else list(Phase),
)


ORDERS_BY_VALUE = {
    "sort",
    "sort_tokens",
    "keep_and_pad",
    "top_rows",
    "expert_of_fixed_capacity",
}


def may_hide_an_order(body):
    """Whether this may be of the kind of `test_an_order_that_only_rare_values_change`.

    It is known to be wrong, and left out of the random models until it is mended.
    """
    names = set(names_in(body))
    return "sparse" in names and not names.isdisjoint(ORDERS_BY_VALUE)


def names_in(spec):
    """Names of all layers of a body."""
    if isinstance(spec, str):
        yield spec
    else:
        for part in spec:
            yield from names_in(part)


@pytest.mark.parametrize("tries", TRIES)
def test_no_number_is_wrong_without_a_word(tries):
    tally = Counter()

    @seed(SEED)
    @settings(profile, max_examples=tries)
    @given(
        st.lists(bodies, min_size=1, max_size=2),
        st.lists(st.integers(4, 24), min_size=1, max_size=3),
        st.sampled_from(["none", "three", "as many as examples"]),
        st.sampled_from(list(INPUTS)),
        st.sampled_from([torch.float32, torch.float64]),
        st.integers(0, 999),
    )
    def run(bodies, sizes, tokens, kind, dtype, number):
        assume(not any(map(may_hide_an_order, bodies)))
        count = {"none": 0, "three": TOKENS}.get(tokens, sizes[0])
        found = try_models(bodies, sizes, count, kind, dtype, number)
        tally.update(found, tries=1, models=len(bodies), tested=found["right"] > 0)

    run()
    print(dict(tally))  # noqa: T201 a long run is done to be counted
    assert tally["tested"] > tries / 4


def alone(name):
    """Models in which a kind of layer occurs, behind and before others."""
    inner = ["tanh", "linear"]
    layer = name if name in LEAVES else (name, inner)
    return [["linear", layer, "identity", "linear"], [("sum", [layer, "relu"]), layer]]


@pytest.mark.parametrize("name", [*LEAVES, *WRAPPERS])
def test_each_kind_of_layer_occurs(name):
    layer = name if name in LEAVES else (name, ["linear"])
    shapes = [(5, WIDTH), (8, WIDTH)], [(6, TOKENS, WIDTH), (9, TOKENS, WIDTH)]
    built = [build(layer, [torch.randn(s) for s in pair])[0] for pair in shapes]
    assert any(x is not None for x in built)


@pytest.mark.parametrize("tokens", [0, TOKENS])
@pytest.mark.parametrize("name", [*LEAVES, *WRAPPERS])
def test_each_kind_of_layer_alone(name, tokens):
    bodies = alone(name)
    try_models(bodies, [13, 9], tokens, "tensor", torch.float32, 7)
    try_models(bodies[:1], [8, 8], tokens, "tensor", torch.float64, 5)


FOUND = {
    "roll_of_5": (["roll"], [5]),
    "last_of_6_swapped": (["identity", "swap_last"], [6]),
    "last_of_5_swapped": (["identity", "swap_last"], [5]),
    "moved_up_by_one": (["drop_and_repeat"], [4]),
    "means_of_experts": ([("routed", ["kept_mean", "tanh"])], [12]),
    "twice_the_same_two": (["top_rows", "swap_last"], [4]),
}


@pytest.mark.parametrize("name", FOUND)
@pytest.mark.parametrize("number", [461, 1, 2])
def test_orders_that_a_small_batch_has_hidden(name, number):
    body, sizes = FOUND[name]
    bodies = [["linear"], body]
    try_models(bodies, sizes, 0, "tensor", torch.float32, number)
    try_models([body], sizes, 0, "tensor", torch.float32, number)


@pytest.mark.xfail(reason="the probe's few examples are in order", strict=True)
@pytest.mark.parametrize("number", [2, 10, 16])
def test_an_order_that_only_rare_values_change(number):
    bodies = [["sparse", "sort"], ["linear"]]
    try_models(bodies, [24], TOKENS, "tensor", torch.float32, number)


@pytest.mark.parametrize("number", [614, 2, 3])
def test_weights_beside_rows_that_are_constant_in_the_first_batch_only(number):
    sparse = "examples_with_batch", ["center", "sparse", "sum_so_far"]
    body = [("weights_first", [sparse, "swap_first"])]
    try_models([body], [6, 21, 9], 0, "tensor", torch.float32, number)


def test_rows_of_a_layer_that_is_constant_in_the_first_batch_only():
    bodies, sizes = [["top_rows", "every_other_twice"]], [4, 13, 13]
    try_models(bodies, sizes, 0, "tensor", torch.float64, 235)
