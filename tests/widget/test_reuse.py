"""What a new epoch reuses of earlier ones."""

from types import SimpleNamespace

import pytest
import torch

from cka_notebook import CKAResult
from cka_notebook._engine.added_layers import OtherBatchesError, PausedRun
from cka_notebook._widget.reuse import OTHER_BATCHES, READ_ONCE, Reuse

PAUSED = PausedRun(None, {}, {}, {}, None)


class Comparison:
    """Records which steps are asked for; those of a paused run may fail."""

    def __init__(self, *, one_shot=False, fails=False):
        self.one_shot, self.fails = one_shot, fails
        self.asked = []

    def prepare(self, metric):
        self.asked.append(metric)

    def choose(self, _, choices):
        return list(choices)

    def steps(self, choices, paused=None):
        self.asked.append((choices, paused))
        return self._states(paused)

    def _states(self, paused):
        yield SimpleNamespace(notes=[])
        if paused is not None and self.fails:
            raise OtherBatchesError
        yield SimpleNamespace(notes=[])


@pytest.fixture
def told():
    """Notes, and None whenever frames are to be forgotten."""
    return []


def reuse_of(comparison, told):
    return Reuse(comparison, told.append, lambda: told.append(None))


def test_without_anything_known_all_chosen_layers_are_computed(told):
    comparison = Comparison()
    states = list(reuse_of(comparison, told).steps("cka", {"layers1": ["a"]}))
    assert comparison.asked == ["cka", ({"layers1": ["a"]}, None)]
    assert len(states) == 2
    assert told == []


@pytest.mark.parametrize(
    ("metric", "rows"), [("cka", ["c"]), ("other", ["a", "b", "c"])]
)
def test_a_complete_result_by_the_same_measure_is_only_extended(told, metric, rows):
    comparison = Comparison()
    reuse = reuse_of(comparison, told)
    matrix = torch.zeros(2, 1)
    reuse.keep_complete(CKAResult(matrix, matrix, ("a", "b"), ("x",)))
    chosen = {"layers1": ["a", "b", "c"], "layers2": ["x"]}
    reuse.steps(metric, chosen)
    assert comparison.asked == [metric, ({**chosen, "layers1": rows}, None)]
    reuse.forget()
    reuse.steps("cka", chosen)
    assert comparison.asked[2:] == ["cka", (chosen, None)]


def test_a_paused_run_continues_with_other_layers(told):
    comparison = Comparison()
    reuse = reuse_of(comparison, told)
    reuse._paused = PAUSED
    assert len(list(reuse.steps("cka", {}))) == 2
    assert comparison.asked == ["cka", ({}, PAUSED)]
    reuse.forget_paused()
    list(reuse.steps("cka", {}))
    assert comparison.asked[2:] == ["cka", ({}, None)]


def test_a_loader_that_yields_other_batches_makes_a_paused_run_start_over(told):
    comparison = Comparison(fails=True)
    reuse = reuse_of(comparison, told)
    reuse._paused = PAUSED
    states = list(reuse.steps("cka", {}))
    assert comparison.asked == ["cka", ({}, PAUSED), ({}, None)]
    assert [state.notes for state in states] == [[], [OTHER_BATCHES], []]
    assert told == [None, OTHER_BATCHES], "frames are forgotten first"


def test_a_loader_that_can_be_iterated_once_continues_without_the_paused_run(told):
    comparison = Comparison(one_shot=True)
    reuse = reuse_of(comparison, told)
    reuse._paused = PAUSED
    states = list(reuse.steps("cka", {}))
    assert comparison.asked == ["cka", ({}, None)]
    assert states[0].notes == [READ_ONCE]
    assert told == [READ_ONCE]
