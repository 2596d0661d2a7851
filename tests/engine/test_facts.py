"""Notes, reasons and provenance of a run."""

import pytest
import torch
from support import zoo
from support.reference import compare
from torch import nn

from cka_notebook import CKA
from cka_notebook._engine.facts import NO_VARIANCE, undefined_notes
from cka_notebook._messages import Note, is_grave

ALL = {"model1_layers": "all", "model2_layers": "all"}


def grave(result):
    return [note for note in result.notes if is_grave(note)]


@pytest.mark.filterwarnings("ignore:The two loaders")
def test_unrelated_examples_are_a_grave_note():
    result = compare(
        zoo.mlp(), batches=zoo.batches_of(), loader2=zoo.batches_of(), paired=False
    )
    [note] = grave(result)
    assert "unrelated rows" in note


@pytest.mark.filterwarnings("ignore:The batches are not random")
def test_batches_that_are_not_random_are_a_grave_note():
    batches = [x + 5 * k for k, x in enumerate(zoo.batches_of(10, size=64))]
    [note] = grave(compare(zoo.mlp(), batches=batches))
    assert note.startswith("The batches are not random")


class TokensFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(6, 5)

    def forward(self, x):
        return self.rnn(x)[0]


@pytest.mark.filterwarnings("ignore:TokensFirst")
def test_a_layer_that_may_mix_examples_is_a_grave_note():
    batches = list(torch.randn(2, 8, 7, 6))
    [note] = grave(compare(TokensFirst(), batches=batches))
    assert "batch_first=False" in note


@pytest.mark.filterwarnings("ignore:Skipped 1 batch")
def test_other_notes_are_not_grave():
    batches = [*zoo.batches_of(), torch.randn(2, 10)]
    result = compare(zoo.Dead(), batches=batches, **ALL)
    assert len(result.notes) == 2
    assert all(isinstance(note, Note) for note in result.notes)
    assert not grave(result)


def test_reasons_have_a_kind():
    batches = zoo.batches_of()
    batches[2][5, 0] = 1e4
    result = compare(zoo.Poisoned(), batches=batches, **ALL)
    assert {x.code for x in result.undefined1.values()} == {"not_finite"}
    result = compare(zoo.Dead(), batches=batches, **ALL)
    assert {x.code for x in result.undefined1.values()} == {"no_variance"}


class Moody(nn.Module):
    """Skips a layer in batches of another size, and another one changes its axis."""

    def __init__(self):
        super().__init__()
        self.one, self.skipped, self.cut = nn.Linear(10, 4), nn.ReLU(), nn.Identity()

    def forward(self, x):
        y = self.one(x)
        if len(x) != 12:
            self.skipped(y)
        self.cut(y if len(x) != 12 else y[:5])
        return y


def test_a_layer_without_a_gram_matrix_keeps_the_kind_of_its_problem():
    batches = [*zoo.batches_of(2), torch.randn(12, 10)]
    result = compare(Moody(), batches=batches, **ALL)
    reasons = result.undefined1
    assert reasons["skipped"] == "not called in batch 3"
    assert reasons["skipped"].code == "not_called"
    assert reasons["cut"].code == "no_batch_axis"


def test_layers_of_one_reason_are_one_note():
    undefined = {"a": NO_VARIANCE, "b": "not called in batch 1", "c": NO_VARIANCE}
    assert undefined_notes("Net", undefined) == [
        f"Net: 2 layers ('a', 'c') are undefined, {NO_VARIANCE}.",
        "Net: 'b' is undefined, not called in batch 1.",
    ]


def test_provenance_names_each_model_and_each_loader():
    first, second = zoo.mlp(), nn.Linear(10, 3)
    result = compare(first, second, zoo.batches_of())
    record = result.provenance
    assert record["model1"]["class"].endswith("Sequential")
    assert record["model2"]["class"].endswith("Linear")
    assert record["model2"]["parameters"] == 33
    assert record["loader2"] is None
    both = compare(first, second, zoo.batches_of(), loader2=tuple(zoo.batches_of()))
    assert both.provenance["loader2"]["class"] == "tuple"
    alone = compare(first, batches=zoo.batches_of()).provenance
    assert alone["model1"] == alone["model2"]


def test_a_note_is_a_warning_of_its_text():
    batches = [*zoo.batches_of(), torch.randn(2, 10)]
    with pytest.warns(UserWarning, match=r"^Skipped 1 batch .*n - 3\.$"):
        CKA(zoo.mlp()).compare(batches, progress=False)
