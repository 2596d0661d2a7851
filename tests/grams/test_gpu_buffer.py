"""Gram matrices as a GPU gathers them, with real numbers on a CPU."""

import pytest
import torch
from support.gpu import emulate_buffers

from cka_notebook._grams import gpu_buffer, pairs
from cka_notebook._grams.buffer import GramBuffer

FLOAT32 = 3e-6


@pytest.fixture
def buffers(monkeypatch):
    """All buffers of a GPU that a test makes; activations on the CPU go to them."""
    return emulate_buffers(monkeypatch)


def cka(packed):
    made = pairs.pair_products(packed.z, packed.z)
    norm = made.diagonal().sqrt()
    return made / (norm[:, None] * norm)


def exact(layers):
    """Float64 by the CPU's own code, which other tests compare with the definition."""
    with pytest.MonkeyPatch.context() as patch:
        patch.undo()
        wide = [x.double() for x in layers]
    n = len(wide[0])
    centered = []
    for x in wide:
        gram = x @ x.T
        gram.fill_diagonal_(0)
        rows = gram.sum(1)
        u = gram - (rows[:, None] + rows) / (n - 2)
        u += rows.sum() / ((n - 1) * (n - 2))
        centered.append(u.fill_diagonal_(0).flatten())
    z = torch.stack(centered)
    made = z @ z.T
    norm = made.diagonal().sqrt()
    return made / (norm[:, None] * norm)


def reduced(batches, **options):
    """The Gram matrices of the last of these batches, and their buffer."""
    buffer = GramBuffer(len(batches[0]), **options)
    for layers in batches:
        buffer.begin(len(layers[0]))
        for row, x in enumerate(layers):
            assert buffer.add(x, row) == row
        packed = buffer.finish()
    return packed, buffer


def related(n, widths, dtype=torch.float32):
    """Layers that have something in common, so that CKA is not about zero."""
    common = torch.randn(n, 8)
    return [(common @ torch.randn(8, p) + torch.randn(n, p)).to(dtype) for p in widths]


WIDTHS = {
    "small": (5, 40, 40, 7, 40, 300),
    "large": (5000, 3000, 5000),
    "both": (40, 5000, 40, 3000, 7),
}


@pytest.mark.usefixtures("buffers")
@pytest.mark.parametrize("n", [4, 32, 48, 49, 100, 150])
@pytest.mark.parametrize("kind", WIDTHS)
@pytest.mark.parametrize("tf32", [False, True])
def test_cka_is_exact_in_the_first_batch_and_the_later_ones(n, kind, tf32, monkeypatch):
    monkeypatch.setattr(gpu_buffer, "SMALL_LAYER", 1000 * n)
    monkeypatch.setattr(gpu_buffer, "reduces_float32", lambda _: tf32)
    batches = [related(n, WIDTHS[kind]) for _ in range(3)]
    for count in (1, 2, 3):
        packed, buffer = reduced(batches[:count])
        error = (cka(packed) - exact(batches[count - 1])).abs().max()
        assert error < FLOAT32 * (10 if n == 4 else 1)
    assert n == 4 or set(buffer.shifts.values()) == {"none"}


@pytest.mark.usefixtures("buffers")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_exact_as_its_features(dtype):
    batches = [related(40, (30, 3000, 30), dtype) for _ in range(3)]
    packed, _ = reduced(batches)
    assert (cka(packed) - exact(batches[-1])).abs().max() < FLOAT32


@pytest.mark.usefixtures("buffers")
def test_float64_stays_float64():
    batches = [related(40, (30, 3000, 30), torch.float64) for _ in range(2)]
    packed, _ = reduced(batches)
    assert packed.z.dtype == torch.float64
    assert (cka(packed) - exact(batches[-1])).abs().max() < 1e-12


@pytest.mark.usefixtures("buffers")
@pytest.mark.parametrize("width", [40, 3000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_far_from_zero_are_shifted_by_an_example_or_the_mean(
    width, dtype, monkeypatch
):
    monkeypatch.setattr(gpu_buffer, "SMALL_LAYER", 32 * 1000)

    def batch():
        near, far, apart = related(32, (width, width, width))
        apart[0] *= 30
        apart += 300
        return [near.to(dtype), (far + 1000).to(dtype), apart.to(dtype)]

    batches = [batch() for _ in range(3)]
    packed, buffer = reduced(batches)
    if dtype == torch.float32:
        assert buffer.shifts == {0: "none", 1: "row", 2: "mean"}
    assert (cka(packed) - exact(batches[-1])).abs().max() < 10 * FLOAT32


@pytest.mark.usefixtures("buffers")
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e15, 1e25])
def test_activations_of_any_size_are_exact(scale):
    batches = [[x * scale for x in related(32, (40, 50))] for _ in range(3)]
    packed, _ = reduced(batches)
    assert (cka(packed) - exact(batches[-1])).abs().max() < FLOAT32


@pytest.mark.usefixtures("buffers")
def test_a_constant_layer_has_no_trace():
    batches = [[torch.full((32, 40), 7.0), *related(32, (40,))] for _ in range(3)]
    packed, _ = reduced(batches)
    assert packed.trace[0] == packed.norm[0] == 0
    assert packed.norm[1] > 0


@pytest.mark.usefixtures("buffers")
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nonfinite_values_show_until_the_next_batch(value):
    good = related(40, (30, 30, 5000))
    bad = [x.clone() for x in good]
    for x in bad:
        x[3, 2] = value
    packed, _ = reduced([good, good, bad])
    assert not packed.trace.isfinite().any()
    packed, _ = reduced([good, good, bad, good])
    assert (cka(packed) - exact(good)).abs().max() < FLOAT32


def test_groups_and_full_stacks_change_nothing(buffers, monkeypatch):
    batches = [related(12, (5, 5, 5, 9, 5, 5, 9)) for _ in range(3)]
    monkeypatch.setattr(gpu_buffer, "GROUP_BYTES", 3 * 8 * 12 * 12)
    monkeypatch.setattr(gpu_buffer, "STACK_BYTES", 2 * 12 * 5 * 4)
    monkeypatch.setattr(gpu_buffer, "MAX_STACKS", 1)
    packed, _ = reduced(batches)
    assert buffers[0].group_size == 3
    assert len(buffers[0]._stacks) == 1
    assert (cka(packed) - exact(batches[-1])).abs().max() < 3 * FLOAT32


def test_a_slot_that_was_split_counts_only_what_comes_after(buffers, monkeypatch):
    tf32 = [False]
    monkeypatch.setattr(gpu_buffer, "reduces_float32", lambda _: tf32[0])
    batches = [related(32, (40, 40, 9000)) for _ in range(5)]
    buffer = GramBuffer(3)
    for number, layers in enumerate(batches):
        tf32[0] = number % 2 == 1  # the user changes the setting
        buffer.begin(32)
        for row, x in enumerate(layers):
            buffer.add(x, row)
        packed = buffer.finish()
        assert (cka(packed) - exact(layers)).abs().max() < FLOAT32
    assert not buffers[0]._split


def test_layers_that_were_not_there_in_every_batch(buffers):
    first, second = related(20, (30, 30, 30)), related(20, (30, 30, 30))
    buffer = GramBuffer(3)
    for layers, rows in ((first, (0, 1, 2)), (second, (2, 0)), (second, (0, 1, 2))):
        buffer.begin(20)
        for row in rows:
            buffer.add(layers[row], row)
        packed = buffer.finish()
        wanted = exact([layers[row] for row in rows])
        assert (cka(packed) - wanted).abs().max() < FLOAT32
    assert len(buffers) == 1


@pytest.mark.usefixtures("buffers")
def test_the_product_of_a_wide_layer_is_timed_once(monkeypatch):
    timed = []

    def seconds(product, x, sums):
        timed.append(x.shape)
        product(x, sums, True)
        return 1.0 if product is gpu_buffer.plain_product else 0.5

    monkeypatch.setattr(gpu_buffer, "SMALL_LAYER", 1000)
    monkeypatch.setattr("cka_notebook._grams.gpu_products.gpu_seconds", seconds)
    batches = [related(20, (30, 300, 5000, 301, 4500)) for _ in range(2)]
    packed, _ = reduced(batches)
    assert timed == 2 * [(20, 300)] + 2 * [(20, 5000)]
    assert set(gpu_buffer._timed.values()) == {"split"}
    assert (cka(packed) - exact(batches[-1])).abs().max() < FLOAT32


def test_memory_is_reserved_once_for_the_widest_layer(buffers):
    reduced([related(20, (30, 3000, 70000))], widest=70000)
    assert len(buffers[0]._scratch._bytes) == 70000 * 20 * 8


def test_out_of_memory_pieces_get_smaller_until_they_fit(buffers, monkeypatch):
    taken = torch.OutOfMemoryError()
    original, widths = gpu_buffer.shifted, []

    def greedy(part, point, out):
        widths.append(part.shape[1])
        if part.shape[1] > 3000:
            raise taken
        return original(part, point, out)

    monkeypatch.setattr(gpu_buffer, "shifted", greedy)
    monkeypatch.setattr(gpu_buffer, "SCRATCH_BYTES", 20 * 8 * 20000)
    layers = related(20, (20000, 30))
    packed, _ = reduced([layers])
    assert widths[:4] == [20000, 10000, 5000, 2500]
    assert (cka(packed) - exact(layers)).abs().max() < FLOAT32
    assert taken.__traceback__ is None or len(buffers) == 1


@pytest.mark.usefixtures("buffers")
def test_memory_that_is_never_enough_is_an_error(monkeypatch):
    def greedy(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(gpu_buffer, "shifted", greedy)
    with pytest.raises(torch.OutOfMemoryError):
        reduced([related(20, (20000,))])


def test_what_a_larger_group_has_split_does_not_reach_a_later_one(buffers, monkeypatch):
    tf32 = [True]
    monkeypatch.setattr(gpu_buffer, "reduces_float32", lambda _: tf32[0])
    monkeypatch.setattr(gpu_buffer, "SMALL_LAYER", 0)
    monkeypatch.setattr(gpu_buffer, "GROUP_BYTES", 4 * 8 * 20 * 20)
    layers = related(20, (30,) * 7)
    buffer = GramBuffer(7)
    # All of a group are split, then three of the next are not, then one is beside them.
    for reduces, rows in (
        (True, range(7)),
        (True, range(4)),
        (False, range(3)),
        (False, range(4)),
        (True, range(1)),
        (None, range(4)),
    ):
        tf32[0] = bool(reduces)
        buffer.begin(20)
        for row in rows:
            if reduces is None and row == 0:
                part = buffer.part_for(layers[0])
                part._chosen[30] = "split"
            elif reduces is None:
                part._chosen[30] = "plain"
            buffer.add(layers[row], row)
        packed = buffer.finish()
        wanted = exact([layers[row] for row in rows])
        assert (cka(packed) - wanted).abs().max() < FLOAT32
    assert len(buffers) == 1
