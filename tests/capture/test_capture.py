"""What the hook sees is what the layer returned, whatever happens to it later."""

import copy
import gc
import pickle
import threading
import weakref
from functools import partial

import pytest
import torch
from support import zoo
from support.reference import EXACT, FLOAT32, assert_right, compare, hooks_on
from torch import nn

from cka_notebook import CKA
from cka_notebook._grams import buffer, products

ALL = {"model1_layers": "all", "model2_layers": "all"}


def sequences(count=3, size=16, tokens=7):
    return [torch.randn(size, tokens, 6) for _ in range(count)]


def both(make, **options):
    return make(**options), make(**options)


def test_rows_before_an_in_place_relu_are_right():
    model1, model2 = both(zoo.inplace_mlp)
    batches = zoo.batches_of()
    result = compare(model1, model2, batches, **ALL)
    assert result.layers1 == ("0", "1", "2", "3", "4", "5")
    assert_right(result, model1, model2, batches)
    assert (result.row("1") - result.row("2")).abs().max() > 0.01


def test_in_place_relu_gives_what_a_copying_one_gives():
    model = zoo.inplace_mlp()
    other = zoo.inplace_mlp(inplace=False)
    other.load_state_dict(model.state_dict())
    batches = zoo.batches_of()
    kept, copied = (compare(m, batches=batches, **ALL).matrix for m in (model, other))
    # The same numbers; only the order of float32 sums may differ.
    torch.testing.assert_close(kept, copied, rtol=0, atol=1e-6)


def test_all_layers_of_a_resnet_are_right_in_float32():
    model1, model2 = both(zoo.ResNet)
    batches = zoo.images_of(size=32, side=32)
    result = compare(model1, model2, batches, **ALL)
    # 67 modules; the ReLU of the stem runs once, that of each of 8 blocks twice.
    assert len(result.layers1) == 67 + 8
    assert_right(result, model1, model2, batches)


def test_the_bn2_row_of_a_resnet_is_not_the_block_s():
    model = zoo.ResNet().eval()
    batches = zoo.images_of(size=32, side=32)
    names = ["layer1.0.bn2", "layer1.0", "layer1.0.relu#1"]
    result = compare(model, batches=batches, model1_layers=names)
    assert result.matrix[0, 1] < 0.99
    # The block returns what its last ReLU returns.
    assert abs(result.matrix[1, 2] - 1) <= EXACT
    assert_right(result, model, model, batches)


def test_names_are_those_of_the_rows_when_definition_and_execution_differ():
    model1, model2 = both(zoo.Reversed)
    batches = zoo.batches_of()
    result = compare(model1, model2, batches, **ALL)
    assert result.layers1 == ("a", "b")
    assert_right(result, model1, model2, batches)


def test_each_call_of_a_shared_module_has_its_own_row():
    model1, model2 = both(zoo.SharedActivation)
    batches = zoo.batches_of()
    result = compare(model1, model2, batches, **ALL)
    assert result.layers1 == ("first", "act#0", "second", "act#1", "third", "act#2")
    assert_right(result, model1, model2, batches)


def test_a_later_call_of_a_shared_module_is_right_on_its_own():
    model1, model2 = both(zoo.SharedActivation)
    batches = zoo.batches_of(6)
    names = ["first", "act#1", "third"]
    result = compare(model1, model2, batches, model1_layers=names, model2_layers=names)
    assert_right(result, model1, model2, batches)


def test_a_tied_module_s_calls_are_right_under_both_names():
    model = zoo.Tied()
    batches = zoo.batches_of(features=8)
    result = compare(model, batches=batches, model1_layers=["decode", "encode", "head"])
    decode, encode = ("decode#0", "decode#1"), ("encode#0", "encode#1")
    assert result.layers1 == (*decode, *encode, "head")
    assert_right(result, model, model, batches)
    assert torch.equal(result.row("decode#1"), result.row("encode#1"))


def test_tuples_dicts_and_lists_give_their_first_comparable_tensor():
    model1, model2 = both(zoo.OddOutputs)
    batches = zoo.batches_of()
    result = compare(model1, model2, batches, **ALL)
    assert result.layers1 == (
        "pair.linear",
        "pair",
        "dict.linear",
        "dict",
        "list",
        "head",
    )
    twins = [("pair.linear", "pair"), ("dict.linear", "dict")]
    for inner, outer in twins:
        assert torch.equal(result.row(inner), result.row(outer))
    plain = ["pair.linear", "dict.linear", "head"]
    rows = compare(model1, model2, batches, model1_layers=plain, model2_layers=plain)
    assert_right(rows, model1, model2, batches)


def test_modules_that_never_run_do_not_stop_the_rest():
    model1, model2 = both(zoo.Unused)
    batches = zoo.batches_of()
    result = compare(model1, model2, batches)
    assert result.layers1 == ("parts.0", "parts.1", "named.head")
    assert_right(result, model1, model2, batches)


def test_incomparable_outputs_do_not_stop_the_rest():
    model = zoo.Incomparable()
    batches = zoo.batches_of()
    assert compare(model, batches=batches, **ALL).layers1 == ("linear",)


@pytest.mark.parametrize("tokens", [2, 3, 7, 16])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_with_time_first_compares_examples(kind, tokens):
    model1, model2 = both(zoo.Recurrent, kind=kind)
    batches = sequences(tokens=tokens)
    result = compare(model1, model2, batches, **ALL)
    assert result.layers1 == ("embed", "recurrent", "head")
    assert_right(result, model1, model2, batches, axis={"recurrent": 1})


@pytest.mark.parametrize("tokens", [2, 3, 7, 16])
@pytest.mark.parametrize("make", [zoo.Attention, zoo.SequenceFirst])
def test_attention_with_tokens_first_compares_examples(make, tokens):
    model1, model2 = both(make)
    batches = sequences(tokens=tokens)
    known = dict(model1.named_modules())
    names = [
        n for n in ("embed", "attend", "blocks.0", "blocks.1", "head") if n in known
    ]
    result = compare(model1, model2, batches, model1_layers=names, model2_layers=names)
    axis = {n: 1 for n in names if n.startswith(("attend", "blocks"))}
    assert_right(result, model1, model2, batches, axis=axis)


def test_a_recurrent_layer_itself_may_be_the_model():
    model1, model2 = nn.LSTM(6, 8), nn.LSTM(6, 9)
    batches = [torch.randn(5, 16, 6) for _ in range(3)]
    result = compare(model1, model2, batches)
    assert result.examples == 48
    assert_right(result, model1, model2, batches, axis=1)


def test_windows_laid_along_the_batch_axis_are_put_back_together():
    model1, model2 = both(zoo.Windows)
    batches = zoo.batches_of(features=20)
    result = compare(model1, model2, batches, **ALL)

    class Whole(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner
            self.local = zoo.Returning(
                lambda x: inner.local(x.reshape(-1, 5)).reshape(len(x), -1)
            )
            self.head = zoo.Returning(inner)

        def forward(self, x):
            self.local(x)
            return self.head(x)

    assert result.layers1 == ("local", "head")
    assert_right(result, Whole(model1), Whole(model2), batches)


def test_windows_of_all_examples_in_turn_are_refused_not_mixed_up():
    result = compare(zoo.Interleaved(), batches=zoo.batches_of(features=20), **ALL)
    assert result.layers1 == ("head",)


class Picky(nn.Module):
    """Refuses batches of fewer than five, as some models do."""

    def __init__(self):
        super().__init__()
        self.inner = zoo.Recurrent()

    def forward(self, x):
        if len(x) < 5:
            raise RuntimeError
        return self.inner(x)


def test_a_model_that_refuses_small_batches_is_probed_with_a_whole_one():
    model = Picky()
    batches = sequences()
    names = ["inner.embed", "inner.recurrent", "inner.head"]
    result = compare(model, batches=batches, model1_layers=names)
    assert_right(result, model, model, batches, axis={"inner.recurrent": 1})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_models_are_finite_and_as_right_as_their_features(dtype):
    model1, model2 = (model.to(dtype) for model in both(zoo.mlp))
    batches = [x.to(dtype) for x in zoo.batches_of(size=64)]
    result = compare(model1, model2, batches, **ALL)
    # The reference sees the same rounded features.
    assert_right(result, model1, model2, batches)


def test_half_precision_features_whose_squares_overflow_are_right():
    model = zoo.Offset(scale=3e4)
    model.half()
    batches = [x.half() for x in zoo.batches_of()]
    result = compare(model, batches=batches, model1_layers=["moved", "head"])
    assert_right(result, model, model, batches)


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6, 1e12])
def test_scales_change_nothing(scale):
    model = zoo.Offset(scale=scale)
    batches = zoo.batches_of()
    result = compare(model, batches=batches, model1_layers=["plain", "moved", "head"])
    assert_right(result, model, model, batches)


@pytest.mark.parametrize("offset", [10.0, 30.0, 100.0, 1000.0])
def test_offsets_cost_no_more_than_the_activations_lose_by_them(offset):
    model = zoo.Offset(offset=offset)
    batches = zoo.batches_of()
    result = compare(model, batches=batches, model1_layers=["plain", "moved", "head"])
    assert_right(result, model, model, batches)


def test_an_identity_and_its_input_are_one_layer_exactly():
    model = nn.Sequential(nn.Linear(10, 8), nn.Identity(), nn.Dropout(), nn.Tanh())
    result = compare(model, batches=zoo.batches_of(), **ALL)
    assert (result.matrix[:3, :3] - 1).abs().max() <= EXACT
    assert result.matrix[0, 3] < 1 - EXACT


def test_a_tensor_changed_in_place_between_two_layers_is_two_layers():
    class Changing(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(10, 8), nn.Identity()

        def forward(self, x):
            x = self.one(x)
            x[:, :4] = torch.relu(x[:, :4])
            return self.two(x)

    model, batches = Changing(), zoo.batches_of()
    result = compare(model, batches=batches, **ALL)
    assert result.matrix[0, 1] < 1 - 1e-3
    assert_right(result, model, model, batches)


def test_a_later_tensor_at_the_same_address_is_not_taken_for_an_earlier_one():
    model = zoo.Deep(12, width=10)
    batches = zoo.batches_of(features=10)
    result = compare(model, batches=batches, **ALL)
    assert_right(result, model, model, batches)


@pytest.mark.parametrize(
    "memory_format", [torch.channels_last, torch.contiguous_format]
)
def test_the_order_in_memory_does_not_matter(memory_format):
    model1, model2 = (m.to(memory_format=memory_format) for m in both(zoo.ResNet))
    batches = [x.to(memory_format=memory_format) for x in zoo.images_of(size=16)]
    result = compare(model1, model2, batches)
    assert_right(result, model1, model2, batches)


def test_activations_of_wide_maps_and_of_one_number_are_right():
    model = nn.Sequential(
        nn.Conv2d(3, 40, 3, padding=1), nn.Flatten(), nn.LazyLinear(1), nn.Flatten(0)
    )
    batches = zoo.images_of(size=12, side=24)
    model(batches[0])
    result = compare(model, batches=batches, **ALL)
    assert result.layers1 == ("0", "1", "2", "3")
    assert_right(result, model, model, batches)


def test_requires_grad_of_inputs_and_models_makes_no_graph():
    batches = [x.requires_grad_() for x in zoo.batches_of()]
    model = zoo.mlp()
    result = compare(model, batches=batches)
    assert not result.matrix.requires_grad
    assert all(x.grad is None for x in batches)


def test_no_activation_outlives_its_hook():
    model = nn.Sequential(*[nn.Linear(10, 10) for _ in range(30)])
    made, alive = [], []

    def note(_module, _args, output):
        made.append(weakref.ref(output))
        alive.append(sum(ref() is not None for ref in made))

    for layer in model:
        layer.register_forward_hook(note)
    left = []
    compare(
        model,
        batches=zoo.batches_of(3),
        callback=lambda *_: left.append(sum(ref() is not None for ref in made)),
        **ALL,
    )
    # One output and the input it was made of, in Sequential's loop.
    assert max(alive) <= 3
    assert left == [0, 0, 0]


def test_what_is_alive_during_a_pass_is_of_the_size_of_grams():
    width = 20_000
    model = nn.Sequential(*[zoo.Returning(torch.sin) for _ in range(20)])
    batches = [torch.randn(8, width) for _ in range(2)]
    most = []

    def weigh(*_):
        tensors = (x for x in gc.get_objects() if type(x) is torch.Tensor)
        most.append(sum(x.numel() * x.element_size() for x in tensors))

    gc.collect()
    weigh()
    model[-1].register_forward_hook(weigh)
    compare(model, batches=batches, **ALL)
    one_activation = 8 * width * 4
    # 20 of them would be there if they were kept; the Gram matrices are 256 bytes each.
    assert max(most) - most[0] < 5 * one_activation


def test_hooks_are_there_only_during_a_run():
    model, counts = zoo.mlp(), []
    cka = CKA(model, **ALL)
    assert hooks_on(model) == 0
    cka.compare(
        zoo.batches_of(),
        progress=False,
        callback=lambda *_: counts.append(hooks_on(model)),
    )
    assert counts == [5] * 4
    assert hooks_on(model) == 0


def test_the_user_s_own_hooks_stay_and_go_first():
    model, seen = zoo.mlp(), []
    model[0].register_forward_hook(lambda _m, _a, out: seen.append(1) or out * 0 + 7)
    result = compare(model, batches=zoo.batches_of(), **ALL)
    # The user's hook made the output a constant: that is what the next layer gets.
    assert "0" in result.undefined1
    assert seen
    assert hooks_on(model) == 1


def test_a_forward_pass_of_another_thread_during_a_run_does_not_disturb_it():
    model1, model2 = both(zoo.mlp)
    batches = zoo.batches_of(20)
    quiet = compare(model1, model2, batches, **ALL)
    stop = threading.Event()

    def disturb():
        while not stop.is_set():
            model1(torch.randn(5, 10))
            model2(torch.randn(16, 10))

    others = [threading.Thread(target=disturb) for _ in range(2)]
    for thread in others:
        thread.start()
    try:
        disturbed = compare(model1, model2, batches, **ALL)
    finally:
        stop.set()
        for thread in others:
            thread.join()
    assert torch.equal(disturbed.matrix, quiet.matrix)


def test_a_forward_pass_between_two_batches_does_not_disturb_the_run():
    model = zoo.mlp()
    batches = zoo.batches_of()
    quiet = compare(model, batches=batches)
    disturbed = compare(
        model, batches=batches, callback=lambda *_: model(torch.randn(3, 10))
    )
    assert torch.equal(disturbed.matrix, quiet.matrix)


def test_a_copy_or_pickle_made_during_a_run_carries_no_hook_of_ours():
    model, copies = zoo.mlp(), []

    def duplicate(*_):
        copies.append(copy.deepcopy(model))
        copies.append(pickle.loads(pickle.dumps(model)))

    compare(model, batches=zoo.batches_of(2), callback=duplicate)
    x = torch.randn(3, 10)
    for other in copies:
        assert torch.equal(other(x), model(x))


def test_a_layer_that_does_not_run_in_every_batch_is_undefined_with_the_reason():
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.always, self.sometimes = nn.Linear(10, 8), nn.Linear(8, 8)

        def forward(self, x):
            y = self.always(x)
            return self.sometimes(y) if x[0, 0] < 1e3 else y

    batches = zoo.batches_of()
    batches[2][0, 0] = 1e4
    result = compare(Sometimes(), batches=batches, **ALL)
    assert result.undefined1 == {"sometimes": "not called in batch 3"}
    assert result.matrix.isnan().tolist() == [[False, True], [True, True]]
    alone = compare(Sometimes(), zoo.mlp(), batches, model1_layers=["sometimes"])
    assert alone.undefined1 == result.undefined1
    assert alone.undefined2 == {}
    assert alone.matrix.isnan().all()


def test_a_layer_whose_output_has_another_number_of_rows_is_undefined():
    class Growing(nn.Module):
        def __init__(self):
            super().__init__()
            self.plain = nn.Linear(10, 8)
            self.grows = zoo.Returning(partial(self.grown))

        @staticmethod
        def grown(x):
            return torch.cat([x, x[:1]]) if x[0, 0] > 1e3 else x

        def forward(self, x):
            self.grows(x)
            return self.plain(x)

    batches = zoo.batches_of()
    batches[1][0, 0] = 1e4
    result = compare(Growing(), batches=batches, **ALL)
    assert "shape (17, 10) for 16 examples in batch 2" in result.undefined1["grows"]
    assert result.matrix[1, 1] == pytest.approx(1, abs=EXACT)


class Turning(nn.Module):
    """Many plain layers, and one whose output becomes another in the third batch."""

    def __init__(self, turn):
        super().__init__()
        self.first = nn.Sequential(*[nn.Linear(10, 10) for _ in range(4)])
        self.turning = zoo.Returning(self.turned)
        self.last = nn.Sequential(*[nn.Linear(10, 10) for _ in range(4)])
        self.turn, self.batch = turn, 0

    def turned(self, x):
        self.batch += len(x) > 15  # not those of the probe
        y = 2 * x
        return self.turn(y) if self.batch > 2 else y

    def forward(self, x):
        y = self.first(x)
        with torch.enable_grad():
            self.turning(y)
        return self.last(y)


def turning(turn, batches=None):
    torch.manual_seed(0)
    result = compare(Turning(turn), zoo.mlp(), batches or zoo.batches_of(6), **ALL)
    return result, result.row("turning")


@pytest.mark.parametrize(
    "turn",
    [
        lambda x: (x, None),
        lambda x: x.double(),
        lambda x: x.T.contiguous().T,
        lambda x: x.reshape(16, 5, 2),
        lambda x: x * torch.ones(10, requires_grad=True),
    ],
)
def test_a_layer_may_give_its_features_in_another_way_in_a_later_batch(turn):
    _, expected = turning(lambda x: x)
    result, row = turning(turn)
    assert result.undefined1 == {}
    torch.testing.assert_close(row, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        (lambda x: x.round().int(), "integer output in batch 3"),
        (lambda x: x.to_sparse(), "sparse or nested output in batch 3"),
        (lambda _: None, "no output in batch 3"),
    ],
)
def test_a_layer_may_give_nothing_comparable_in_a_later_batch(turn, reason):
    result, row = turning(turn)
    assert result.undefined1 == {"turning": reason}
    assert row.isnan().all()


def test_a_layer_that_keeps_its_rows_as_the_batch_grows_is_undefined():
    batches = [*zoo.batches_of(3), torch.randn(20, 10)]
    result, _ = turning(lambda x: x[:16], batches)
    reason = "output of shape (16, 10) for 20 examples in batch 4"
    assert result.undefined1 == {"turning": reason}


@pytest.mark.parametrize(("size", "width"), [(32, 64), (64, 32), (64, 80)])
def test_autocast_that_begins_in_a_later_batch_rounds_no_gram(monkeypatch, size, width):
    monkeypatch.setattr(buffer, "GROUP_BYTES", 1)  # so that each is U-centered at once

    def forward(model, batch):
        nonlocal batches
        batches += len(batch) == size
        layers = list(model)
        hidden = layers[0](batch)
        with torch.autocast("cpu", torch.bfloat16, enabled=batches > 5):
            for layer in layers[1:]:
                hidden = layer(hidden)

    def run():
        torch.manual_seed(0)
        # Their outputs are float32 in autocast, too.
        layers = [nn.Linear(10, width), *[nn.Hardtanh() for _ in range(9)]]
        model = nn.Sequential(*layers)
        return compare(
            model, batches=zoo.batches_of(6, size), forward=forward, **ALL
        ).matrix

    batches = -1000
    expected, batches = run(), 0
    torch.testing.assert_close(run(), expected, rtol=0, atol=1e-6)


def test_a_pool_of_the_user_is_asked_about_each_batch():
    seen = []

    def pool(x):
        seen.append(len(x))
        return x

    compare(zoo.mlp(), batches=zoo.batches_of(6), pool=pool, **ALL)
    assert seen.count(16) == 6 * 5


def test_identical_outputs_share_one_gram_in_every_batch(monkeypatch):
    made = []
    lower = buffer.lower_product

    def counted(part, blocks, *, first):
        made.append(len(part))
        lower(part, blocks, first=first)

    monkeypatch.setattr(buffer, "lower_product", counted)
    monkeypatch.setattr(products, "lower_product", counted)
    layers = [nn.Linear(10, 10), nn.Dropout(), nn.Tanh(), nn.Identity()] * 3
    counts = []
    compare(
        nn.Sequential(*layers),
        batches=zoo.batches_of(5),
        callback=lambda *_: counts.append(len(made)),
        **ALL,
    )
    assert counts == [6, 12, 18, 24, 30]


def test_float64_models_are_right_to_float64():
    model1, model2 = (m.double() for m in both(zoo.mlp))
    batches = [x.double() for x in zoo.batches_of()]
    result = compare(model1, model2, batches, **ALL)
    # The product of all pairs is made in float64, of Gram matrices in float64.
    assert_right(result, model1, model2, batches, atol=1e-9)


@pytest.mark.parametrize("first", [0, 1])
def test_models_of_two_dtypes_are_compared_in_the_wider_one(first):
    models = zoo.mlp(), zoo.mlp().double()
    batches = zoo.batches_of()

    def forward(model, batch):
        return model(batch.to(next(model.parameters()).dtype))

    result = compare(models[first], models[1 - first], batches, forward=forward, **ALL)
    same = compare(
        models[first].double(),
        models[1 - first].double(),
        [x.double() for x in batches],
        **ALL,
    )
    torch.testing.assert_close(result.matrix, same.matrix, rtol=0, atol=FLOAT32)


def test_tolerance_of_this_file_is_that_of_the_design():
    assert FLOAT32 <= 1e-5
