"""Names of models, taken from the caller's variables."""

import gc
import subprocess
import sys
import weakref

import pytest
from support import zoo
from torch import nn

from cka_notebook import CKAExplorer
from cka_notebook._notebook.variables import names_of

held = zoo.mlp()
_hidden = zoo.mlp()
twin = also_twin = zoo.Reversed()


def names(first, second=None, **options):
    """Names in a frame that calls its models first and second."""
    return called(CKAExplorer(first, second, zoo.batches_of(), **options))


def called(explorer):
    explorer.close()
    return explorer._meta["name1"], explorer._meta["name2"]


def test_a_model_is_called_as_the_variable_that_holds_it():
    base, tuned = zoo.mlp(), zoo.mlp()
    assert called(CKAExplorer(base, tuned, [])) == ("base", "tuned")
    assert names(base, tuned) == ("first", "second")


def test_a_global_variable_counts_where_no_local_one_does():
    explorer = CKAExplorer(held, zoo.mlp(), [])
    assert called(explorer) == ("held", "Sequential")


def test_hidden_and_ambiguous_variables_do_not_count():
    one = other = zoo.mlp()
    assert one is other
    for model in (lambda: one, lambda: _hidden, lambda: twin):
        kind = type(model()).__name__
        assert called(CKAExplorer(model(), None, [])) == (kind, kind)
    assert also_twin is twin


def test_a_name_that_is_given_wins_and_equal_ones_are_told_apart():
    assert names(zoo.mlp(), zoo.mlp(), model1_name="left") == ("left", "second")
    same = names(zoo.mlp(), zoo.mlp(), model1_name="second")
    assert same == ("second", "second B")


def test_a_model_compared_with_itself_has_one_name():
    model = zoo.mlp()
    assert names(model) == ("first", "first")
    assert names(model, model2_name="again") == ("first", "again")
    assert called(CKAExplorer(model, model, [])) == ("model", "model")


def test_the_explorer_takes_the_names_and_keeps_them_run_after_run():
    base, tuned = zoo.mlp(), zoo.mlp()
    explorer = CKAExplorer(base, tuned, zoo.batches_of(), autostart=False)
    assert explorer._meta["name1"] == "base"
    assert explorer._meta["name2"] == "tuned"
    for _ in range(2):
        explorer.run()
        result = explorer.wait(60)
        assert (result.name1, result.name2) == ("base", "tuned")
    explorer.close()


def test_looking_for_names_keeps_no_model_alive():
    base, tuned = zoo.mlp(), zoo.mlp()
    alive = weakref.ref(base), weakref.ref(tuned)
    assert names_of(base, tuned) == ["base", "tuned"]
    explorer = CKAExplorer(base, tuned, zoo.batches_of())
    explorer.wait(60)
    explorer.close()
    del base, tuned
    gc.collect()
    assert [model() for model in alive] == [None, None]


def test_the_variables_of_a_class_body_stay():
    class Study:
        base = zoo.mlp()
        explorer = CKAExplorer(base, None, [])

    assert called(Study.explorer) == ("base", "base")
    assert isinstance(Study.base, nn.Module)


CELLS = """
from torch import nn
from cka_notebook import CKAExplorer
base, tuned = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))
print(repr(CKAExplorer(base, tuned, [])))
"""


@pytest.mark.slow
def test_a_cell_of_a_notebook_has_variables_of_its_own():
    code = [sys.executable, "-c", CELLS]
    done = subprocess.run(code, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("CKAExplorer(base x tuned, ")
