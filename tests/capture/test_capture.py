"""What the hook sees is what the layer returned, whatever happens to it later."""

import gc
import threading
import weakref
from functools import partial

import pytest
import torch
from support import zoo
from support.reference import EXACT, FLOAT32, assert_right, compare
from torch import nn

ALL = {"model1_layers": "all", "model2_layers": "all"}


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


def test_modules_that_never_run_do_not_stop_the_rest():
    model1, model2 = both(zoo.Unused)
    batches = zoo.batches_of()
    result = compare(model1, model2, batches)
    assert result.layers1 == ("parts.0", "parts.1", "named.head")
    assert_right(result, model1, model2, batches)


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
    # One is the model's own copy of the batch.
    assert max(most) - most[0] < 6 * one_activation


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
