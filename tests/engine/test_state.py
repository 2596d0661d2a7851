"""The state of a run: what is undefined, why, and what is skipped."""

import pytest
import torch
from support import zoo
from support.reference import EXACT, FLOAT32, assert_right, compare
from torch import nn

from cka_notebook import CKA
from cka_notebook._engine import state, totals
from cka_notebook._engine.facts import NO_VARIANCE
from cka_notebook._engine.state import RunState
from cka_notebook._engine.totals import Axis

ALL = {"model1_layers": "all", "model2_layers": "all"}


def test_before_any_batch_everything_is_undefined_without_a_reason_yet():
    running = RunState(Axis(["a"], "A"), Axis(["b", "c"], "B"), 5)
    assert running.matrix().isnan().all()
    assert running.stderr().isnan().all()
    assert running.matrix().shape == (1, 2)
    assert (running.done, running.total, running.undefined1) == (0, 5, {})


def test_constant_and_dead_layers_are_nan_with_the_reason_and_no_others():
    model = zoo.Dead()
    batches = zoo.batches_of()
    result = compare(model, batches=batches, **ALL)
    reason = (
        "no shared variance: identical for all examples (but for rounding or less than "
        "1e-80), or each example differs in its own way"
    )
    assert result.undefined1 == {"constant": reason, "dead": reason}
    assert result.undefined2 == result.undefined1
    alive = result.layers1.index("alive")
    blank = result.matrix.isnan()
    assert blank.sum() == blank.numel() - 1
    assert abs(result.matrix[alive, alive] - 1) <= EXACT
    assert result.stderr.isnan().sum() == blank.sum()


@pytest.mark.parametrize("size", [5, 32, 64, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_layer_where_each_example_differs_in_its_own_way_is_undefined(size, dtype):
    class Unlike(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.own = (nn.Identity() for _ in range(3))

        def forward(self, x):
            rows = x[:, :1].argsort(0).argsort(0)  # an example's, wherever it is
            self.one(x * (rows == 3) + 0.7)
            self.own(torch.eye(len(x), dtype=x.dtype) * (1 + x[:, :1].abs()))
            return self.two(x * ((rows == 2) | (rows == 3)) + 0.7)

    batches = [x.to(dtype) for x in zoo.batches_of(5, size)]
    result = compare(Unlike(), batches=batches, **ALL)
    assert result.undefined1 == {"one": NO_VARIANCE, "own": NO_VARIANCE}
    assert result.row("two")[result.layers2.index("two")] == pytest.approx(1, abs=EXACT)


def test_an_undefined_layer_of_one_model_blanks_a_row_only():
    result = compare(zoo.Dead(), zoo.mlp(), zoo.batches_of(), **ALL)
    assert result.undefined2 == {}
    assert result.matrix.isnan().any(1).tolist() == [True, True, False]


def test_reasons_are_notes_that_name_model_and_layer():
    result = compare(zoo.Dead(), zoo.mlp(), zoo.batches_of(), **ALL)
    text = " ".join(result.notes)
    assert "Dead" in text
    assert "'constant'" in text
    assert "'dead'" in text
    assert "no shared variance" in text


def test_layers_that_are_undefined_for_one_reason_are_one_note():
    model = nn.Sequential(*[zoo.Returning(torch.zeros_like) for _ in range(40)])
    result = compare(model, zoo.mlp(), zoo.batches_of(), **ALL)
    assert len(result.undefined1) == 40
    assert len(result.notes) == 1
    assert "40 layers" in result.notes[0]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("first", [1, 3])
def test_a_value_that_is_not_finite_blanks_its_layer_and_names_the_batch(value, first):
    batches = zoo.batches_of()
    batches[first - 1][5, 0] = 1e4
    model = zoo.Poisoned(value)
    result = compare(model, batches=batches, **ALL)
    assert list(result.undefined1) == ["bad"]
    assert f"not finite in batch {first}" in result.undefined1["bad"]
    before = result.layers1.index("before")
    assert abs(result.matrix[before, before] - 1) <= EXACT


def test_other_cells_are_right_next_to_one_that_is_not_finite():
    batches = zoo.batches_of()
    batches[1][5, 0] = 1e4
    model1, model2 = zoo.Poisoned(), zoo.mlp()
    result = compare(model1, model2, batches, **ALL)
    fine = compare(
        model1, model2, batches, model1_layers=["before"], model2_layers="all"
    )
    torch.testing.assert_close(
        result.row("before"), fine.matrix[0], rtol=0, atol=FLOAT32
    )
    assert_right(fine, model1, model2, batches)


def test_values_too_large_to_square_are_reported_as_overflow():
    model = zoo.Offset(scale=1e25)
    result = compare(model, batches=zoo.batches_of(), model1_layers=["plain", "moved"])
    if "moved" in result.undefined1:
        assert "overflow" in result.undefined1["moved"]
    else:
        assert_right(result, model, model, zoo.batches_of())


def test_a_layer_constant_in_one_batch_of_several_counts_in_the_others():
    model = nn.Sequential(nn.Linear(10, 6), nn.ReLU())
    batches = zoo.batches_of()
    batches[1] = torch.ones(16, 10)
    result = compare(model, batches=batches, **ALL)
    assert result.undefined1 == {}
    kept = [batches[i] for i in (0, 2, 3)]
    assert_right(result, model, model, kept)


def test_every_nan_has_a_reason():
    batches = zoo.batches_of()
    batches[2][0, 0] = 1e4
    for model in (zoo.Dead(), zoo.Poisoned(), zoo.mlp()):
        result = compare(model, zoo.mlp(), batches, **ALL)
        rows = result.matrix.isnan().all(1)
        blank = {n for n, nan in zip(result.layers1, rows, strict=True) if nan}
        assert blank == set(result.undefined1)
        assert result.matrix[~rows].isfinite().all()


def test_the_reason_is_there_as_soon_as_the_cell_is_nan():
    steps = CKA(zoo.Dead(), **ALL)._steps(zoo.batches_of())
    next(steps)
    running = next(steps)
    assert set(running.undefined1) == {"constant", "dead"}
    assert running.matrix()[2, 2] == pytest.approx(1, abs=EXACT)
    steps.close()


def test_a_partial_result_is_that_of_the_batches_so_far():
    model1, model2 = zoo.mlp(), zoo.mlp()
    steps = CKA(model1, model2)._steps(zoo.batches_of())
    next(steps)
    for count in (1, 2, 3):
        running = next(steps)
        result = running.result()
        whole = compare(model1, model2, zoo.batches_of()[:count])
        assert torch.equal(result.matrix, whole.matrix)
        assert (result.batches, result.examples) == (count, 16 * count)
    steps.close()


def test_a_result_is_a_snapshot_that_later_batches_do_not_change():
    steps = CKA(zoo.mlp(), zoo.mlp())._steps(zoo.batches_of())
    next(steps)
    early = next(steps).result()
    kept = early.matrix.clone(), early.sums.xy.clone()
    list(steps)
    assert torch.equal(early.matrix, kept[0])
    assert torch.equal(early.sums.xy, kept[1])


def test_stderr_needs_two_batches():
    steps = CKA(zoo.mlp(), zoo.mlp())._steps(zoo.batches_of())
    next(steps)
    assert next(steps).stderr().isnan().all()
    assert next(steps).stderr().isfinite().all()
    steps.close()


def test_skipped_batches_count_as_done():
    steps = CKA(zoo.mlp())._steps([zoo.batches_of()[0], torch.randn(2, 10)])
    states = [(r.done, r.batches, r.skipped) for r in steps]
    assert states == [(0, 0, 0), (1, 1, 0), (2, 1, 1)]


def test_batches_in_messages_count_skipped_ones_too():
    batches = [torch.randn(2, 10), *zoo.batches_of()]
    batches[2][5, 0] = 1e4
    with pytest.warns(UserWarning, match="Skipped 1 batch with fewer than 4 examples"):
        result = compare(zoo.Poisoned(), batches=batches, **ALL)
    assert "in batch 3" in result.undefined1["bad"]


class FullError(Exception):
    """What the tests raise."""


@pytest.mark.parametrize(
    ("module", "place"),
    [(state, "batch_products"), (totals, "spread"), (state, "undisturbed")],
    ids=["products", "spread", "settings"],
)
def test_a_batch_that_fails_while_it_is_added_does_not_count(
    monkeypatch, module, place
):
    model1, model2 = zoo.mlp(), zoo.mlp()
    batches = zoo.batches_of(3)
    cka = CKA(model1, model2)
    steps = cka._steps(batches)
    run = next(steps)
    next(steps)
    next(steps)
    before = run.save(), run.totals
    sums = {k: v.clone() for k, v in before[0][0].items()}

    def fail(*_):
        raise FullError

    monkeypatch.setattr(module, place, fail)
    monkeypatch.setattr(totals, "isfinite", lambda _: False)
    with pytest.raises(FullError):
        next(steps)
    assert run.totals is before[1]
    assert run.save()[1] == before[0][1]
    assert all(torch.equal(run.save()[0][k], v) for k, v in sums.items())


def test_an_earlier_state_is_not_changed_by_the_next_batch():
    steps = CKA(zoo.mlp())._steps(zoo.batches_of(4))
    run = next(steps)
    next(steps)
    kept = run.totals
    sums = kept.sums.xy.clone()
    next(steps)
    assert torch.equal(kept.sums.xy, sums)
    assert kept.batches == 1
