"""Arguments and methods of other tools, and those in the wrong place."""

import copy
import inspect
import re

import pytest
from support import zoo

from cka_notebook import CKA, CKAExplorer


def message(call):
    with pytest.raises((TypeError, AttributeError)) as caught:
        call()
    return str(caught.value)


def test_a_loader_in_the_place_of_a_name_is_told_where_it_goes():
    text = message(lambda: CKA(zoo.mlp(), zoo.mlp(), zoo.batches_of()))
    assert "`model1_name` to be a string, got a list" in text
    assert "CKA(model1, model2).compare(loader)" in text
    assert "compare(loader)" in message(lambda: CKA(zoo.mlp(), loader=[]))
    assert "compare(loader)" in message(lambda: CKA(zoo.mlp(), dataloader=[]))


def test_arguments_of_other_tools_are_translated():
    cka = CKA(zoo.mlp())
    text = message(lambda: cka.compare(dataloader1=[], dataloader2=[]))
    assert text.startswith("CKA.compare got unexpected keyword arguments")
    assert "'dataloader1' is called 'loader' here." in text
    assert "'dataloader2' is called 'loader2' here." in text


@pytest.mark.parametrize(
    "call",
    [
        lambda **wrong: CKA(zoo.mlp(), **wrong),
        lambda **wrong: CKAExplorer(zoo.mlp(), None, zoo.batches_of(), **wrong),
    ],
)
def test_all_wrong_arguments_are_named_at_once(call):
    text = message(lambda: call(pol="cls", autocst=None))
    assert re.search("'pol', 'autocst'", text)
    assert "Did you mean 'pool'" in text
    assert "'autocast'" in text


def test_methods_of_other_tools_say_what_there_is():
    cka = CKA(zoo.mlp())
    assert "plot_cka_heatmap(result)" in message(lambda: cka.plot_results)
    assert message(lambda: cka.nothing).endswith("has no attribute 'nothing'.")
    assert not hasattr(cka, "nothing")
    assert copy.copy(cka).name1 == cka.name1


@pytest.mark.parametrize(
    ("given", "own"),
    [
        ("model_1", "model1"),
        ("net2", "model2"),
        ("first_model", "model1"),
        ("second_layers", "model2_layers"),
        ("layers_b", "model2_layers"),
        ("model_a_name", "model1_name"),
        ("name1", "model1_name"),
        ("use_gpu", "device"),
        ("dtype", "autocast"),
        ("f_extract", "forward"),
        ("pooling", "pool"),
    ],
)
def test_names_of_other_tools_are_translated(given, own):
    text = message(lambda: CKA(zoo.mlp(), **{given: None}))
    assert f"{given!r} is called {own!r} here." in text


def test_errors_say_where_arguments_of_the_other_call_go():
    text = message(lambda: CKA(zoo.mlp(), verbose=True, max_batches=3))
    assert "'verbose' is an argument of CKA.compare, as 'progress'." in text
    assert "'max_batches' is an argument of CKA.compare." in text
    cka = CKA(zoo.mlp())
    text = message(lambda: cka.compare([], device="cpu", num_batches=2))
    assert "'device' is an argument of CKA." in text
    assert "'num_batches' is called 'max_batches' here." in text


@pytest.mark.parametrize("name", ["batch_size", "epochs", "kernel", "hook_layer_types"])
def test_arguments_of_other_tools_without_a_counterpart_are_explained(name):
    text = message(lambda: CKA(zoo.mlp(), **{name: 1}))
    assert re.search(rf"'{name}' (is set in|is not needed|cannot be chosen)", text)


def test_each_of_several_suggestions_names_its_word():
    text = message(lambda: CKA(zoo.mlp(), model1_leyers=[], metrc="cka"))
    assert "For 'model1_leyers': Did you mean 'model1_layers'" in text
    assert "For 'metrc': Did you mean 'metric'" in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("compute", "compare(loader) does it"),
        ("heatmap", "plot_cka_heatmap(result)"),
        ("hsic_matrix", "has `matrix`"),
        ("matrix", "What compare() returns has 'matrix'."),
        ("save", "What compare() returns has 'save'."),
        ("reset", "each compare() starts from scratch"),
    ],
)
def test_attributes_of_other_tools_or_the_result_are_explained(name, words):
    cka = CKA(zoo.mlp())
    assert words in message(lambda: getattr(cka, name))


def test_signatures_are_still_seen():
    assert list(inspect.signature(CKA).parameters)[:3] == [
        "model1", "model2", "model1_name"
    ]  # fmt: skip
    assert "loader" in inspect.signature(CKA.compare).parameters


def test_warnings_still_point_at_the_caller():
    with pytest.warns(UserWarning, match="Skipped") as caught:
        CKA(zoo.mlp()).compare(
            [*zoo.batches_of(2), zoo.batches_of(1)[0][:2]], progress=False
        )
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: CKAExplorer(zoo.mlp(), None, dataloader=zoo.batches_of()),
            r"'dataloader' is called 'loader' here.*CKAExplorer\(model1, model2",
        ),
        (
            lambda: CKAExplorer(zoo.mlp(), zoo.batches_of()),
            "needs 'loader'.*None as model2",
        ),
        (
            lambda: CKAExplorer(net1=zoo.mlp(), dataloader1=zoo.batches_of()),
            "'model1' and 'model2' and 'loader'.*'net1' is called 'model1'",
        ),
        (lambda: CKA(zoo.mlp()).compare(), "CKA.compare needs 'loader'"),
        (lambda: CKA(device="cpu"), r"CKA needs 'model1'. Call CKA\(model1\)"),
    ],
)
def test_what_is_missing_is_named_with_the_call_to_write(call, words):
    with pytest.raises(TypeError, match=words):
        call()
