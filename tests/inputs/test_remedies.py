"""Errors of a forward pass say what to do about them."""

import re

import pytest
import torch
from support import zoo
from support.reference import compare
from torch import nn

from cka_notebook import CKA
from cka_notebook._inputs.remedies import check_device


def error_of(model, batch, **options):
    """The text of the error, with its notes."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 of any kind
        compare(model, batches=[batch], **options)
    return "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.uint8]
)
@pytest.mark.parametrize("make", [nn.Linear, lambda n, m: nn.Conv1d(n, m, 1)])
def test_types_of_inputs_and_weights_are_both_named(dtype, make):
    model = nn.Sequential(make(10, 4))
    shape = (8, 10) if make is nn.Linear else (8, 10, 3)
    name = str(dtype).removeprefix("torch.")
    text = error_of(model, torch.ones(shape).to(dtype))
    assert f"inputs are {name} and the weights of model1 (Sequential) are" in text
    assert "forward=lambda model, batch: model(batch.to(torch.float32))" in text
    assert "autocast=" in text


def line_of(text):
    """The forward= that an error proposes, as a function."""
    return eval(re.search(r"(lambda model, batch: .*?\))(, or|;|\.( |\n|$))", text)[1])


def images(dtype):
    return (torch.rand(8, 3, 5, 5) * 9).to(dtype)


CASTS = {
    "half model": (nn.Conv2d(3, 4, 3).half(), images(torch.float32)),
    "bfloat16 model": (zoo.mlp().bfloat16(), torch.randn(8, 10)),
    "double model": (zoo.mlp().double(), (torch.randn(8, 10), torch.arange(8))),
    "double loader": (zoo.mlp(), {"x": torch.randn(8, 10).double()}),
    "bytes": (nn.Conv2d(3, 4, 3), [images(torch.uint8), torch.arange(8)]),
    "bools": (zoo.mlp(), torch.randn(8, 10) > 0),
    "tokens": (
        nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3)),
        (torch.ones(8, 5), torch.arange(8)),
    ),
    "bags": (nn.Sequential(nn.EmbeddingBag(9, 4)), {"ids": torch.ones(8, 5).double()}),
}


@pytest.mark.parametrize("kind", CASTS)
def test_the_line_that_casts_inputs_works(kind):
    model, batch = CASTS[kind]
    forward = line_of(error_of(model, batch))
    assert compare(model, batches=[batch], forward=forward).examples == 8


def test_autocast_is_proposed_where_it_works_and_refused_where_it_does_not():
    mixed = nn.Sequential(nn.Linear(10, 8), nn.Linear(8, 4).half())
    for model in (mixed, zoo.mlp().half(), zoo.mlp().bfloat16()):
        text = error_of(model, torch.randn(8, 10))
        name = re.search(r"autocast=torch\.(b?float16)", text)[1]
        autocast = getattr(torch, name)
        batches = [torch.randn(8, 10)]
        assert compare(model, batches=batches, autocast=autocast).examples == 8
    text = error_of(zoo.mlp(), torch.randn(8, 10).double())
    assert "autocast= leaves float64 as it is" in text
    with pytest.raises(RuntimeError):
        compare(zoo.mlp(), batches=[X.double()], autocast=torch.bfloat16)


@pytest.mark.parametrize("kind", [torch.float64, torch.float16])
def test_a_model_of_several_types_is_named(kind):
    model = nn.Sequential(nn.Linear(10, 8), nn.LayerNorm(8).to(kind))
    assert "convert the model with .float()" in error_of(model, X)


def test_only_inputs_of_other_types_are_cast():
    text = error_of(Cond(), {"x": X, "t": X.double()})
    assert "model(x=batch['x'], t=batch['t'].to(torch.float32))" in text


def test_types_that_no_cast_helps_are_explained():
    assert "torch.view_as_real" in error_of(zoo.mlp(), X + 1j)
    model = nn.Linear(10, 4).to(torch.float8_e4m3fn)
    assert "Convert the model, for instance with .to(torch.bfloat16)" in error_of(
        model, X
    )


def test_an_index_above_an_embedding_is_explained():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten())
    text = error_of(model, torch.full((8, 5), 30))
    assert "fewer rows than an index in its inputs needs, which go up to 30" in text
    assert "in another way" not in text


def test_the_model_that_was_called_is_the_one_that_is_blamed():
    half = zoo.mlp().half()
    with pytest.raises(RuntimeError) as caught:
        compare(zoo.mlp(), half, zoo.batches_of(1))
    assert "weights of model2 (Sequential) are float16" in caught.value.__notes__[-1]


class Energy(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = zoo.mlp()

    def forward(self, x):
        x = x.requires_grad_()
        return torch.autograd.grad(self.inner(x).square().sum(), x)[0]


class Backward(Energy):
    def forward(self, x):
        x.requires_grad_()
        self.inner(x).square().sum().backward()
        return x.grad


class Retaining(Energy):
    def forward(self, x):
        hidden = self.inner(x)
        hidden.retain_grad()
        return hidden


class Checking(Energy):
    def forward(self, x):
        if not torch.is_grad_enabled():
            raise RuntimeError("Run this model with gradients enabled.")
        return self.inner(x)


@pytest.mark.parametrize("kind", [Energy, Backward, Retaining, Checking])
@pytest.mark.parametrize("batch", [torch.randn(8, 10), (torch.randn(8, 10), 1)])
def test_the_line_that_lets_a_model_have_gradients_works(kind, batch):
    text = error_of(kind(), batch)
    assert "model1" in text
    forward = line_of(text)
    assert compare(kind(), batches=[batch], forward=forward).examples == 8


def test_gradients_inside_of_a_user_s_function_are_explained_there():
    text = error_of(Energy(), X, forward=lambda model, batch: model(batch))
    assert "in your forward= under torch.enable_grad()" in text


def test_gradients_inside_of_a_forward_pass_have_a_remedy_that_works():
    assert "torch.enable_grad()" in error_of(Energy(), torch.randn(8, 10))

    def forward(model, batch):
        with torch.enable_grad():
            return model(batch)

    assert compare(Energy(), batches=zoo.batches_of(2), forward=forward).examples == 32


class Keywords(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(10, 4)

    def forward(self, *, x):
        return self.head(x)


class TwoKeywords(Keywords):
    def forward(self, x, *, scale):
        return self.head(x * scale)


class Nested(Keywords):
    def forward(self, inputs):
        return self.head(inputs["x"] + inputs["y"])


class Cond(Keywords):
    def forward(self, x, t):
        return self.head(x + t)


class KeywordsOnly(Keywords):
    def forward(self, *, x, t):
        return self.head(x + t)


class First(Keywords):
    def forward(self, x, /, t):
        return self.head(x + t)


class Inner(Keywords):
    def forward(self, data):
        return self.head(data["a"]["b"])


class Unpacking(Keywords):
    def forward(self, inputs):
        first, second = inputs
        return self.head(first + second)


class Summing(Keywords):
    def forward(self, inputs):
        return self.head(inputs[0] + inputs[1].mean(1, keepdim=True))


class Star(Keywords):
    def forward(self, *inputs):
        return self.head(inputs[0] + inputs[1])


class Two(Keywords):
    def forward(self, x, t):
        return self.head(x + t[:, None])


X = torch.randn(8, 10)


def test_one_input_that_is_given_by_name_only_is_given_so():
    for batch in (X, (X, torch.arange(8)), {"x": X}):
        assert compare(Keywords(), batches=[batch]).examples == 8


def line_in(text, last=False):
    """The forward= that an error proposes, or the call that it proposes last."""
    lines = re.findall(r"(?:forward=lambda model, batch: |or )(model\([^()]*\))", text)
    return f"lambda model, batch: {lines[-1 if last else 0]}"


@pytest.mark.parametrize(
    ("model", "batch"),
    [
        (TwoKeywords(), (X, X)),
        (Nested(), {"x": X, "y": X}),
        (Cond(), {"a": X, "b": X}),
        (Cond(), {"x": X, "other": X}),
        (Cond(), ({"a": X, "b": X}, torch.arange(8))),
        (KeywordsOnly(), (X, X)),
        (KeywordsOnly(), {"a": X, "b": X}),
        (KeywordsOnly(), ((X, X), torch.arange(8))),
        (Inner(), {"a": {"b": X}}),
        (Unpacking(), [X, X]),
        (Summing(), (X, torch.randn(8, 3))),
    ],
)
def test_other_arguments_have_a_line_that_works(model, batch):
    line = line_in(error_of(model, batch))
    assert compare(model, batches=[batch], forward=eval(line)).examples == 8


@pytest.mark.parametrize(
    ("model", "batch"),
    [
        (zoo.mlp(), ((X, X), torch.arange(8))),
        (zoo.mlp(), {"inputs": {"x": X}}),
        (zoo.mlp(), (["name"] * 8, X)),
        (zoo.mlp(), (torch.arange(8), X)),
        (Star(), (X, X)),
        (zoo.mlp(), (None, X)),
    ],
)
def test_another_tensor_of_the_batch_is_proposed_by_a_line_that_works(model, batch):
    line = line_in(error_of(model, batch), last=True)
    assert compare(model, batches=[batch], forward=eval(line)).examples == 8


def test_arguments_by_position_only_are_taken_from_a_dict():
    assert compare(First(), batches=[{"x": X, "t": X}]).examples == 8


def test_a_missing_input_of_a_dict_is_a_gap_in_the_line():
    assert "model(batch['image'], t=...)" in error_of(Cond(), {"image": X})
    assert "model(batch['x'], t=...)" in error_of(Cond(), {"x": X})


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (X.numpy(), "torch.as_tensor makes tensors of arrays"),
        (["a text"] * 8, "Texts have to be tokenized first"),
        ({"text": ["a"] * 8, "label": torch.ones(8)}, "Texts have to be tokenized"),
        ([{"x": X[0]}] * 8, "default_collate makes a batch"),
        ({}, "got 1 batch without any"),
        ([], "got 1 batch without any"),
        (3, "got an int in batch 1"),
    ],
)
def test_errors_say_how_to_make_a_batch_of_tensors(batch, words):
    assert words in error_of(zoo.mlp(), batch)


def test_the_error_of_a_list_of_images_for_a_model_of_one_tensor_has_a_remedy():
    text = error_of(nn.Conv2d(3, 4, 3), [torch.zeros(3, 8 + i, 8) for i in range(8)])
    assert "instead of a list of images, make it in a collate_fn" in text
    assert "batch[0]" not in text


def test_the_error_of_a_container_without_forward_has_a_remedy():
    text = error_of(nn.ModuleList([nn.Linear(10, 3)]), X)
    assert "model1 (ModuleList) has no forward of its own. Pass forward=" in text


def test_errors_say_on_which_device_tensors_belong():
    class Elsewhere(Keywords):
        def forward(self, x):
            return self.head(x) + torch.ones(4, device="meta")

    assert "register_buffer" in error_of(Elsewhere(), X)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_the_error_of_a_model_that_asks_for_a_gpu_has_a_remedy():
    class Gpu(Keywords):
        def forward(self, x):
            return self.head(x.cuda())

    assert "asks for a GPU in its forward pass" in error_of(Gpu(), X)


def test_an_input_that_is_missing_is_a_gap_in_the_line():
    text = error_of(Two(), X)
    assert "got a tensor of shape (8, 10) in batch 1; missing: 't'" in text
    assert "forward=lambda model, batch: model(batch, t=...)" in text


def test_a_list_that_goes_in_as_a_whole_has_a_remedy():
    class Pair(Keywords):
        def forward(self, pair):
            return self.head(pair[0] + pair.second)

    text = error_of(Pair(), [X, X])
    assert "forward=lambda model, batch: model(batch) for the whole batch" in text


def test_labels_in_the_place_of_another_argument_are_spoken_of():
    with pytest.warns(UserWarning, match=r"model1 \(Two\) gets the second .* as 't'"):
        result = compare(Two(), batches=[(X, torch.arange(8))] * 2)
    assert any("If that contains labels" in note for note in result.notes)
    assert not compare(Two(), batches=[(X, torch.rand(8))] * 2).notes


@pytest.mark.parametrize(
    "labels", [torch.arange(8)[:, None], torch.eye(8), torch.ones(8, 1)]
)
def test_labels_of_other_shapes_are_noted_too(labels):
    class Sum(Keywords):
        def forward(self, x, t):
            return self.head(x + t.sum(1, keepdim=True))

    with pytest.warns(UserWarning, match="gets the second item of each batch as 't'"):
        compare(Sum(), batches=[(X, labels)] * 2)


def test_labels_as_the_last_of_three_inputs_are_noted():
    class Three(Keywords):
        def forward(self, x, t, context):
            return self.head(x + t + context[:, None])

    with pytest.warns(UserWarning, match="the last item of each batch as 'context'"):
        compare(Three(), batches=[(X, X, torch.arange(8))] * 2)


def test_small_integers_with_telling_names_are_not_labels():
    class Lengths(Keywords):
        def forward(self, x, lengths):
            return self.head(x * lengths[:, None])

    assert not compare(Lengths(), batches=[(X, torch.arange(8) + 1)] * 2).notes


def test_a_decoder_without_inputs_is_told_of():
    class Speech(nn.Module):
        class config:  # noqa: N801 the name that Hugging Face gives it
            is_encoder_decoder = True

        def __init__(self):
            super().__init__()
            self.head = nn.Linear(10, 4)

        def forward(self, input_features, labels=None, decoder_input_ids=None):
            if decoder_input_ids is None and labels is None:
                raise ValueError("No inputs.")
            self.given = labels, decoder_input_ids
            return self.head(input_features)

    text = error_of(Speech(), {"input_features": X})
    assert "The decoder of model1 (Speech) has no inputs: add 'labels'" in text
    model, labels = Speech(), torch.ones(8, 3, dtype=torch.long)
    compare(model, batches=[{"input_features": X, "labels": labels}])
    assert torch.equal(model.given[0], labels)
    assert model.given[1] is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_an_error_with_the_remedy():
    with pytest.raises(ValueError, match="Leave `device` out to run the models where"):
        CKA(zoo.mlp(), device="cuda")
    with pytest.raises(ValueError, match=r"got 'cuda:3', and torch .* sees no d"):
        check_device(torch.device("cuda:3"))


@pytest.mark.parametrize(
    "name", ["gpu", "GPU", "Cuda", "cuda:x", "", "0", "auto", 1.5, ["cpu"], -1]
)
def test_a_device_that_torch_does_not_know_is_an_error_with_those_that_it_does(name):
    with pytest.raises(ValueError, match="to be a device of torch, such as 'cpu'"):
        CKA(zoo.mlp(), device=name)


@pytest.mark.parametrize("name", ["xla", "hpu", "vulkan", "mps", "xpu"])
def test_missing_devices_of_other_kinds_are_an_error(name):
    with pytest.raises(ValueError, match=r"got '\w+', and torch .* sees no device"):
        check_device(torch.device(name))


def test_devices_that_are_always_there_are_taken():
    check_device(torch.device("cpu"))
    check_device(torch.device("meta"))


@pytest.mark.parametrize("sizes", [(9, 9), (9, 9, 6, 6)])
def test_several_crops_of_each_image_are_told_how_to_compare_one(sizes):
    crops = [torch.randn(8, 3, size, size) for size in sizes]
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    text = error_of(model, [crops, torch.zeros(8).long()])
    assert "got a list of tensors, such as several crops" in text
    line = "lambda model, batch: model(batch[0][0])"
    assert f"pass forward={line}." in text
    batches = [[crops, torch.zeros(8).long()]]
    forward = eval(line)
    assert compare(model, batches=batches, forward=forward).examples == 8
