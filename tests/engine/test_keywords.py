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
