"""Errors of comparisons: what was expected, what was given, what to do."""

import numpy as np
import pytest
import torch
from support import zoo
from support.reference import compare
from torch import nn
from torch.utils.data import DataLoader

from cka_notebook import CKA, CKAExplorer


def test_a_model_on_meta_is_an_error_with_the_remedy():
    with torch.device("meta"):
        empty = zoo.mlp()
    with pytest.raises(ValueError, match=r"model2 \(Sequential\) with weights, got"):
        compare(zoo.mlp(), empty, zoo.batches_of())


def test_meta_is_refused_as_a_device():
    model = zoo.mlp()
    with pytest.raises(
        ValueError, match="Expected a device that stores data, got 'meta'"
    ):
        compare(model, batches=zoo.batches_of(), device="meta")
    assert not model[0].weight.is_meta


def test_an_unknown_layer_is_an_error_at_construction_with_the_nearest_names():
    with pytest.raises(
        ValueError, match=r"`model2_layers` contains 'layer1.0.bn3'.*Did you"
    ):
        CKA(zoo.mlp(), zoo.ResNet(width=2), model2_layers=["layer1.0.bn3"])


def test_a_layer_that_never_runs_is_an_error_that_says_so():
    with pytest.raises(
        ValueError, match=r"'unused', .* of Unused cannot be compared: never"
    ):
        compare(zoo.Unused(), batches=zoo.batches_of(), model1_layers=["unused"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"metric": "cosine"}, ValueError, "`metric` to be one of"),
        ({"pool": "median"}, ValueError, "`pool` to be 'auto'"),
        ({"model1_layers": [3.5]}, TypeError, "names, indices, globs"),
    ],
)
def test_an_unknown_option_is_an_error_at_construction(options, error, message):
    with pytest.raises(error, match=message):
        CKA(zoo.mlp(), **options)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8])
def test_types_that_autocast_does_not_cast_to_are_refused(dtype):
    with pytest.raises(ValueError, match=r"`autocast` to be a dtype such as torch.bf"):
        CKA(zoo.mlp(), autocast=dtype)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (nn.Flatten, r"Make an instance first: Flatten\(...\)"),
        (zoo.mlp().state_dict(), r"model.load_state_dict"),
        ([zoo.mlp(), zoo.mlp()], r"each model by itself: CKA\(model1, model2\)"),
        (DataLoader([1]), r"Batches go to compare: CKA\(model1, model2\).compare"),
    ],
)
def test_errors_say_what_to_pass_as_a_model(wrong, words):
    with pytest.raises(TypeError, match=words):
        CKA(zoo.mlp(), wrong)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [(["0"], "Layers go to model1_layers"), (zoo.mlp(), "run it for each pair")],
)
def test_errors_say_where_values_in_the_place_of_a_name_go(wrong, words):
    with pytest.raises(TypeError, match=f"`model1_name` to be a string.*{words}"):
        CKA(zoo.mlp(), zoo.mlp(), wrong)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"max_batches": 2.5}, "`max_batches` to be an integer or None, got 2.5"),
        ({"max_batches": "2"}, "`max_batches` to be an integer or None, got '2'"),
        ({"max_batches": True}, "`max_batches` to be an integer or None, got True"),
        (
            {"stop_when_stable": "0.1"},
            "to be None or a standard error above 0, got '0.1'",
        ),
        ({"callback": lambda x: x}, r"\(batch, total, matrix\), or .* takes \(x\)"),
    ],
)
def test_options_of_a_run_of_the_wrong_kind_are_refused_at_once(option, words):
    with pytest.raises(TypeError, match=words):
        CKA(zoo.mlp()).compare(zoo.batches_of(), progress=False, **option)


def test_an_integer_of_numpy_is_a_number_of_batches():
    result = compare(zoo.mlp(), batches=zoo.batches_of(), max_batches=np.int64(2))
    assert result.batches == 2


def test_a_function_that_calls_another_model_is_an_error_that_says_so():
    model = zoo.mlp()
    for forward in (lambda _, batch: model(batch), lambda *_: None):
        with pytest.raises(
            ValueError, match=r"`forward` to call model2 \(Sequential\)"
        ):
            compare(model, zoo.mlp(), zoo.batches_of(), forward=(None, forward))


def test_errors_of_a_user_s_function_name_it():
    batches = zoo.batches_of(2)
    with pytest.raises(RuntimeError) as caught:
        compare(zoo.mlp(), zoo.mlp(), batches, forward=(None, lambda m, x: m(x[:, :2])))
    assert caught.value.__notes__[0] == (
        "`forward` was called with model2 (Sequential): a tensor of shape (16, 10)."
    )
    with pytest.raises(KeyError) as caught:
        compare(zoo.mlp(), batches=batches, examples=lambda _: {}["x"])
    assert caught.value.__notes__ == ["`examples` raised this for model1 (Sequential)."]


@pytest.mark.parametrize("wrong", [None, "resnet18", torch.randn(3)])
def test_anything_but_a_model_is_refused(wrong):
    with pytest.raises(TypeError, match=r"`model1` to be a torch.nn.Module, got"):
        CKA(wrong)
    if wrong is not None:
        with pytest.raises(TypeError, match=r"`model2` to be a torch.nn.Module, got"):
            CKA(zoo.mlp(), wrong)


def test_a_model_without_a_comparable_layer_is_an_error_with_the_reasons():
    model = zoo.Returning(lambda x: x.argmax(1))
    with pytest.raises(ValueError, match="matches no layer of Returning") as caught:
        compare(model, batches=zoo.batches_of())
    assert "None of its layers can be compared ('Returning': int" in str(caught.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "compiled", [torch.jit.script, lambda m: torch.jit.trace(m, torch.randn(64, 10))]
)
def test_a_scripted_or_traced_model_is_refused_with_the_remedy(compiled):
    with pytest.raises(
        TypeError, match="Pass the original model, before scripting or tracing"
    ):
        CKA(compiled(zoo.mlp()))


def test_out_of_memory_is_explained():
    model = zoo.mlp()

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    batches = zoo.batches_of(3)
    handle = model[2].register_forward_hook(full)
    with pytest.raises(RuntimeError, match=r"Out of memory in model1 \(Seq") as caught:
        compare(model, batches=batches)
    handle.remove()
    text = str(caught.value)
    assert "examples. Lower batch_size" in text
    assert "Lower batch_size" in text
    assert "Tried to allocate 2 GiB" in str(caught.value.__cause__)


def test_out_of_memory_on_a_cpu_is_explained_too():
    model = zoo.Returning(lambda _: torch.empty(1 << 60))
    with pytest.raises(RuntimeError, match=r"Out of memory in model1 \(Returning\)"):
        compare(model, batches=zoo.batches_of())


def test_an_error_in_a_model_names_the_model_and_its_inputs():
    with pytest.raises(RuntimeError, match="cannot be multiplied") as caught:
        compare(nn.Linear(10, 3), nn.Linear(9, 3), zoo.batches_of(3))
    assert caught.value.__notes__ == [
        "Inputs of model2 (Linear): a tensor of shape (16, 10)."
    ]
    batches = [{"input": torch.zeros(8, 9)}]
    with pytest.raises(RuntimeError, match="cannot be multiplied") as caught:
        compare(nn.Linear(10, 3), batches=batches)
    assert caught.value.__notes__ == [
        "Inputs of model1 (Linear): input=a tensor of shape (8, 9)."
    ]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            {"forward": 3},
            "`forward` to be a function of .* or a pair of such functions, got 3",
        ),
        ({"forward": (None,)}, r"a pair of such functions, got \(None,\)"),
        ({"autocast": True}, "`autocast` to be a dtype such as .*, got True"),
        ({"autocast": "bfloat16"}, "`autocast` to be a dtype .*, got 'bfloat16'"),
        ({"forward": lambda batch: batch}, r"of \(model, batch\), got .*\(batch\)"),
        ({"forward": (None, lambda *, a: a)}, r"takes \(\*, a\)"),
        (
            {"examples": lambda: 3},
            r"`examples` to be a function of a batch, got .*\(\)",
        ),
        ({"device": DataLoader([1])}, r"`device`, got a DataLoader. Batches go to"),
        ({"model1_layers": DataLoader([1])}, r"got a DataLoader. Batches go to"),
    ],
)
def test_options_of_the_wrong_kind_are_refused_at_once(option, message):
    with pytest.raises(TypeError, match=message):
        CKA(zoo.mlp(), **option)


WRONG = {"model1_layers": ["nowhere"], "model2_layers": ["neither", "0"]}


@pytest.mark.parametrize(
    "call",
    [
        lambda: CKA(zoo.mlp(), zoo.mlp(), **WRONG),
        lambda: CKAExplorer(zoo.mlp(), zoo.mlp(), zoo.batches_of(), **WRONG),
        lambda: compare(
            zoo.mlp(),
            zoo.mlp(),
            zoo.batches_of(),
            model1_layers="nowhere*",
            model2_layers="neither*",
        ),
    ],
)
def test_what_is_wrong_on_both_sides_is_one_error(call):
    with pytest.raises(
        ValueError, match=r"`model1_layers`.*nowhere.*`model2_.*neither"
    ):
        call()


@pytest.mark.parametrize("name", ["nowhere", "nowhere*"])
def test_one_choice_for_both_sides_is_wrong_once(name):
    with pytest.raises(ValueError, match="`model1_layers`") as caught:
        compare(zoo.mlp(), batches=zoo.batches_of(), model1_layers=[name])
    assert "model2_layers" not in str(caught.value)
