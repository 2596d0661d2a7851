"""Layers added after a run: only what is missing is computed."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
from support.zoo import ThreeLinear

from cka_notebook import CKA, CKAExplorer
from cka_notebook._engine.added_layers import AddedLayers, combined, missing
from cka_notebook._messages import is_grave


@pytest.fixture
def explorer():
    batches = list(torch.randn(5, 12, 6))
    models = ThreeLinear(8), ThreeLinear(9)
    shown = CKAExplorer(*models, batches, autostart=False)
    shown.models, shown.batches = models, batches
    yield shown
    shown.close()


def ran(explorer, layers1, layers2):
    explorer.layers1, explorer.layers2 = layers1, layers2
    explorer.run(block=True)
    return explorer.result


def asked(monkeypatch):
    """Layers that the engine is asked for from here on."""
    seen = []
    choose = CKA._steps

    def steps(self, *args, **options):
        seen.append((options.get("layers1"), options.get("layers2")))
        return choose(self, *args, **options)

    monkeypatch.setattr(CKA, "_steps", steps)
    return seen


def expected(explorer, layers1, layers2):
    cka = CKA(*explorer.models, model1_layers=layers1, model2_layers=layers2)
    return cka.compare(explorer.batches, progress=False)


@pytest.mark.parametrize("side", [1, 2])
def test_layers_added_to_one_model_are_the_only_ones_computed(
    explorer, monkeypatch, side
):
    few, all_layers = ["first", "third"], ["first", "second", "third"]
    first = ran(explorer, few, few)
    seen = asked(monkeypatch)
    wanted = (all_layers, few) if side == 1 else (few, all_layers)
    result = ran(explorer, *wanted)
    assert seen[0] == ((["second"], few) if side == 1 else (few, ["second"]))
    assert (list(result.layers1), list(result.layers2)) == wanted
    whole = expected(explorer, *wanted)
    torch.testing.assert_close(result.matrix, whole.matrix, rtol=0, atol=1e-5)
    torch.testing.assert_close(result.stderr, whole.stderr, rtol=0, atol=1e-5)
    torch.testing.assert_close(result.null_sd, whole.null_sd, rtol=1e-5, atol=0)
    known = [i for i, name in enumerate(all_layers) if name in few]
    block = result.matrix[known] if side == 1 else result.matrix[:, known]
    assert torch.equal(block, first.matrix)
    assert any(
        "added in a second pass over the loader" in note for note in result.notes
    )


def test_layers_added_to_both_models_are_computed_with_all_others(
    explorer, monkeypatch
):
    ran(explorer, ["first"], ["first"])
    seen = asked(monkeypatch)
    result = ran(explorer, ["first", "second"], ["first", "third"])
    assert seen[0] == (["first", "second"], ["first", "third"])
    assert result.sums is not None


def test_a_result_of_two_runs_refuses_to_be_merged(explorer):
    first = ran(explorer, ["first"], ["first"])
    both = ran(explorer, ["first", "second"], ["first"])
    with pytest.raises(ValueError, match="without running sums"):
        both.merge(both)
    assert first.merge(first).batches == 2 * first.batches


def test_a_restart_computes_everything_again(explorer, monkeypatch):
    ran(explorer, ["first"], ["first"])
    explorer.layers1 = ["first", "second"]
    seen = asked(monkeypatch)
    explorer._session.restart()
    result = explorer.wait(timeout=60)
    assert seen[0][0] == ["first", "second"]
    assert result.sums is not None


def test_frames_of_the_new_layers_show_the_known_ones_from_the_start(explorer):
    first = ran(explorer, ["first"], ["first", "third"])
    explorer.layers1 = ["first", "second"]
    states = explorer._session.steps()
    state = next(states)
    assert torch.equal(state.matrix()[0], first.matrix[0])
    assert state.matrix()[1].isnan().all()
    next(states)
    assert not state.matrix().isnan().any()
    assert torch.equal(state.matrix()[0], first.matrix[0])
    states.close()


def test_a_dead_layer_that_is_added_keeps_its_reason(explorer):
    with torch.no_grad():
        explorer.models[0].second.weight.zero_()
    ran(explorer, ["first"], ["first"])
    result = ran(explorer, ["first", "second"], ["first"])
    assert "no shared variance" in result.undefined1["second"]
    assert result.matrix[1].isnan().all()


class Ending:
    """A callback that ends the run after eight batches, once it is told to."""

    ends = False

    def __call__(self, batch, _total, _matrix):
        if self.ends and batch >= 8:
            raise StopIteration


@pytest.mark.parametrize("way", ["to its end", "by tolerance", "by a callback"])
def test_sorted_batches_of_added_layers_are_noted_however_the_run_ends(way):
    examples = torch.cat([torch.randn(64, 6) + 5 * k for k in range(10)])
    loader, ending = list(examples[torch.randperm(640)].split(64)), Ending()
    model = ThreeLinear(8)
    chosen = {"model1_layers": ["first"], "model2_layers": ["first", "third"]}
    shown = CKAExplorer(model, None, loader, autostart=False, callback=ending, **chosen)
    shown.run(block=True)
    assert not any("not random" in note for note in shown.result.notes)
    loader[:] = examples.split(64)
    if way == "by tolerance":
        shown.stop_when_stable = 10.0
    ending.ends = way == "by a callback"
    shown.layers1 = ["first", "third"]
    shown.run(block=True)
    assert shown.result.layers1 == ("first", "third")
    [note] = [note for note in shown.result.notes if "not random" in note]
    assert is_grave(note)
    shown.close()


def test_a_view_of_added_layers_reads_as_a_state(explorer):
    ran(explorer, ["first"], ["first", "third"])
    explorer.layers1 = ["first", "second"]
    with contextlib.closing(explorer._session.steps()) as states:
        state = next(states)
        assert isinstance(state, AddedLayers)
        assert (state.total, state.done, state.activity) == (5, 0, "")
        assert state.names == state.inner.names
        assert state.estimate is state.inner.estimate
        next(states)
        assert (state.done, state.batches, state.examples) == (1, 1, 12)
        assert not state.is_stable(1e9), "after one batch"


def test_only_a_block_of_one_model_is_worth_a_run_of_its_own():
    known = SimpleNamespace(layers1=("a", "b"), layers2=("x",))
    assert missing(known, (["a", "c"], ["x"])) == (["c"], ["x"])
    assert missing(known, (["a"], ["x", "y"])) == (["a"], ["y"])
    assert missing(known, (["a", "c"], ["x", "y"])) is None
    assert missing(known, (["b"], ["x"])) is None


def test_parts_of_a_map_are_put_together_and_later_ones_win():
    first = torch.ones(2, 2), (["a", "b"], ["x", "y"])
    second = torch.full((1, 2), 2.0), (["b"], ["y", "z"])
    whole = combined((["b", "a"], ["x", "y", "z"]), (first, second), (0, 1))
    expected = torch.tensor([[1.0, 2.0, 2.0], [1.0, 1.0, torch.nan]])
    assert torch.equal(whole.nan_to_num(9), expected.nan_to_num(9))


def test_layers_added_after_a_run_leave_its_checkpoint_as_it_is(tmp_path):
    batches, path = list(torch.randn(5, 12, 6)), tmp_path / "run"
    models = ThreeLinear(8), ThreeLinear(9)
    explorer = CKAExplorer(*models, batches, autostart=False, checkpoint=path)
    explorer.models, explorer.batches = models, batches
    few, every = ["first", "third"], ["first", "second", "third"]
    ran(explorer, few, few)
    saved = path.read_bytes()
    for wanted in ((every, few), (every, every), (["second"], ["second"]), (few, few)):
        result = ran(explorer, *wanted)
        assert explorer.status == "done"
        assert result.examples == 60
        whole = expected(explorer, *wanted)
        torch.testing.assert_close(result.matrix, whole.matrix, rtol=0, atol=1e-5)
        assert path.read_bytes() == saved
    explorer.close()
    again = CKAExplorer(*models, batches, autostart=False, checkpoint=path)
    with pytest.raises(ValueError, match=r"checkpoint .* its layers1 is"):
        ran(again, every, few)
    again.close()
