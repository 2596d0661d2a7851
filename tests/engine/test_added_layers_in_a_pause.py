"""Layers added in a pause catch up; the others keep their sums."""

import comm
import numpy as np
import pytest
import torch
from support.doubles import Gate, RecordingComm, until
from support.zoo import ThreeLinear
from torch.utils.data import DataLoader, TensorDataset

from cka_notebook import CKA, CKAExplorer
from cka_notebook._engine import state
from cka_notebook._engine.run import Run
from cka_notebook._page import history as history_module
from cka_notebook._widget import reuse

ALL = ["first", "second", "third"]
EXACT = {"rtol": 0, "atol": 1e-12}
"""The models compute in float64."""


def net(width):
    return ThreeLinear(width).double()


def opened(batches):
    return Gate(batches, open_=True)


def data(count=6, n=12):
    return list(torch.randn(count, n, 6, dtype=torch.float64))


@pytest.fixture
def make():
    made = []

    def begin(
        loader, layers1=("first",), layers2=("third",), *, itself=False, **options
    ):
        models = net(8), None if itself else net(9)
        chosen = {"model1_layers": list(layers1), "model2_layers": list(layers2)}
        explorer = CKAExplorer(*models, loader, **chosen, **options)
        explorer.models = models
        made.append(explorer)
        return explorer

    yield begin
    for explorer in made:
        explorer.close()


def paused(explorer, batches=3):
    """An explorer that has paused after this number of batches."""
    session = explorer._session
    batch = session.batch

    def pausing(worker, state):
        continues = batch(worker, state)
        if state.done == batches:
            explorer.pause()
        return continues

    session.batch = pausing
    explorer.resume() if explorer.status == "paused" else explorer.run()
    until(lambda: explorer.status == "paused" and explorer.progress.batches == batches)
    session.batch = batch
    return explorer


def continued(explorer, layers1, layers2):
    explorer.layers1, explorer.layers2 = layers1, layers2
    explorer.resume()
    return explorer.wait(60)


def from_the_start(explorer, batches):
    """The result of the same layers over the same batches, never paused."""
    chosen = {"model1_layers": explorer.layers1, "model2_layers": explorer.layers2}
    return CKA(*explorer.models, **chosen).compare(batches, progress=False)


def computed(monkeypatch):
    """Layers that a batch was run for from here on, batch by batch."""
    seen, step = [], Run.step

    def noting(self, running, **options):
        seen.append((len(running.layers1), len(running.layers2)))
        return step(self, running, **options)

    monkeypatch.setattr(Run, "step", noting)
    return seen


@pytest.mark.parametrize("itself", [False, True])
@pytest.mark.parametrize(
    ("layers1", "layers2", "block"),
    [
        (ALL, ["third"], (2, 1)),
        (["first"], ALL, (1, 2)),
        (ALL, ALL, (3, 3)),
        (["second", "first"], ["third"], (1, 1)),
    ],
)
def test_a_run_that_continues_with_more_layers_is_one_that_began_with_them(
    make, monkeypatch, layers1, layers2, block, itself
):
    batches = data()
    loader = opened(batches)
    explorer = paused(make(loader, itself=itself))
    kept = explorer.result
    done = computed(monkeypatch)
    result = continued(explorer, layers1, layers2)
    assert done[:3] == [block] * 3, "new layers only over the batches done"
    assert done[3:6] == [(len(layers1), len(layers2))] * 3
    assert result.batches == len(batches)
    assert loader.iterations == 2
    monkeypatch.undo()
    whole = from_the_start(explorer, batches)
    assert (result.layers1, result.layers2) == (whole.layers1, whole.layers2)
    torch.testing.assert_close(result.matrix, whole.matrix, **EXACT)
    torch.testing.assert_close(result.stderr, whole.stderr, **EXACT)
    torch.testing.assert_close(result.null_sd, whole.null_sd, **EXACT)
    for name, sums in result.sums.tensors().items():
        torch.testing.assert_close(sums, whole.sums.tensors()[name], rtol=1e-12, atol=0)
    assert (result.examples, result.notes) == (whole.examples, whole.notes)
    assert kept.batches == 3


def test_sums_that_were_kept_stay_bit_for_bit_and_can_be_merged(make):
    loader = opened(data())
    explorer = paused(make(loader))
    kept = explorer.result.sums
    states = []
    batch = explorer._session.batch

    def watch(worker, state):
        states.append((state.catching_up, state.done, state.result()))
        return batch(worker, state)

    explorer._session.batch = watch
    result = continued(explorer, ALL, ALL)
    joined = next(r for late, _, r in states if not late)
    assert [late for late, *_ in states] == [True, True, False, False, False, False]
    assert [done for _, done, _ in states] == [1, 2, 3, 4, 5, 6]
    assert torch.equal(joined.sums.xy[0, 2], kept.xy[0, 0])
    assert torch.equal(joined.sums.xy_xy[0, 2], kept.xy_xy[0, 0])
    assert torch.equal(joined.sums.xx[0], kept.xx[0])
    assert result.merge(result).batches == 12


def test_the_page_is_told_while_layers_catch_up(make):
    explorer = paused(make(opened(data())))
    said, batch = [], explorer._session.batch

    def watch(worker, state):
        continues = batch(worker, state)
        known = state.matrix()[0].isnan().any()
        said.append((state.done, explorer._message["text"], bool(known)))
        return continues

    explorer._session.batch = watch
    continued(explorer, ALL, ["third"])
    text = (
        "Computing 2 new layers over the 3 batches already done; the run then "
        "continues."
    )
    assert said[:3] == [(1, text, False), (2, text, False), (3, "", False)]


class Noting(DataLoader):
    """Records the batches it yields, pass by pass."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.passes = []  # A run in a thread may iterate over a copy of the loader.

    def __iter__(self):
        seen = []
        self.passes.append(seen)
        for (batch,) in super().__iter__():
            seen.append(batch)
            yield batch


def test_a_shuffle_is_repeated_and_gives_the_same_examples_in_the_same_order(make):
    loader = Noting(TensorDataset(torch.cat(data())), 12, shuffle=True)
    explorer = paused(make(loader))
    torch.randn(7)  # What others draw in the pause does not count.
    result = continued(explorer, ALL, ALL)
    first, second = loader.passes
    assert len(second) == 6
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=False))
    assert reuse.OTHER_BATCHES not in result.notes
    whole = from_the_start(explorer, second)
    torch.testing.assert_close(result.matrix, whole.matrix, **EXACT)


def test_a_shuffle_by_its_own_generator_starts_over_and_is_noted(make):
    generator = torch.Generator().manual_seed(3)
    examples = TensorDataset(torch.cat(data()))
    loader = Noting(examples, 12, shuffle=True, generator=generator)
    explorer = paused(make(loader))
    result = continued(explorer, ALL, ALL)
    assert reuse.OTHER_BATCHES in result.notes
    whole = from_the_start(explorer, loader.passes[-1])
    torch.testing.assert_close(result.matrix, whole.matrix, **EXACT)


class Changing(Gate):
    """Yields other batches in each pass."""

    def __iter__(self):
        for batch in super().__iter__():
            yield batch * torch.linspace(1, self.iterations, 6)


@pytest.mark.parametrize("layers2", [["third"], ALL])
def test_a_loader_that_yields_other_batches_starts_over_and_is_noted(make, layers2):
    loader = Changing(data(), open_=True)
    explorer = paused(make(loader))
    result = continued(explorer, ALL, layers2)
    assert explorer.status == "done", explorer._message
    assert result.batches == 6
    assert result.sums.batches == 6
    assert reuse.OTHER_BATCHES in result.notes
    assert explorer._message == {"kind": "note", "text": reuse.OTHER_BATCHES}
    assert not result.matrix.isnan().any()


def test_a_loader_that_has_become_shorter_starts_over(make):
    loader = opened(data())
    explorer = paused(make(loader))
    del loader.dataset[2:]
    result = continued(explorer, ALL, ALL)
    assert result.batches == 2
    assert reuse.OTHER_BATCHES in result.notes


def test_a_loader_that_is_read_once_continues_with_what_is_left(make):
    gate = opened(data())
    explorer = paused(make(iter(gate)))
    result = continued(explorer, ALL, ALL)
    assert (result.matrix.shape, result.batches) == ((3, 3), 3)
    assert reuse.READ_ONCE in result.notes
    assert explorer._message["text"] == reuse.READ_ONCE


def test_a_pause_while_layers_catch_up_loses_nothing(make):
    batches = data()
    loader = opened(batches)
    explorer = paused(make(loader), batches=4)
    explorer.layers1 = ["first", "second"]
    paused(explorer, batches=2)
    assert explorer.result.sums is None, "of two runs for now"
    assert explorer._message["text"].startswith("Computing 1 new layer")
    state = explorer._session.runs.live.state
    assert state.device == state.inner.sums.xy.device
    result = continued(explorer, ALL, ALL)
    whole = from_the_start(explorer, batches)
    torch.testing.assert_close(result.matrix, whole.matrix, **EXACT)
    assert loader.iterations == 3


def test_two_pauses_keep_the_sums_of_both(make):
    batches = data()
    explorer = paused(make(opened(batches)))
    explorer.layers1 = ["first", "second"]
    paused(explorer, batches=5)
    result = continued(explorer, ALL, ["first", "third"])
    whole = from_the_start(explorer, batches)
    torch.testing.assert_close(result.matrix, whole.matrix, **EXACT)
    assert result.batches == 6


def test_layers_that_are_added_and_removed_again_change_nothing(make):
    loader = opened(data())
    explorer = paused(make(loader, ["first", "second"]))
    explorer.layers1 = ALL
    assert explorer._session.runs.stale
    explorer.layers1 = ["first"]
    assert not explorer._session.runs.stale
    explorer.resume()
    assert explorer.wait(60).batches == 6
    assert loader.iterations == 1, "no batch was taken again"


def test_layers_that_replace_all_others_start_over(make):
    batches = data()
    loader = opened(batches)
    explorer = paused(make(loader))
    result = continued(explorer, ["second"], ["first"])
    whole = from_the_start(explorer, batches)
    assert torch.equal(result.matrix, whole.matrix)
    assert result.batches == 6


@pytest.mark.filterwarnings("ignore:Skipped 1 batch")
def test_small_batches_and_undefined_layers_keep_their_reasons(make):
    batches = data()
    batches[1] = batches[1][:2]
    batches[2][0, 0] = torch.nan
    loader = opened(batches)
    explorer = paused(make(loader))
    result = continued(explorer, ALL, ["third"])
    whole = from_the_start(explorer, batches)
    assert result.skipped == whole.skipped == 1
    assert result.undefined1 == whole.undefined1
    assert "not finite in batch 3" in result.undefined1["first"]
    assert result.notes == whole.notes


def test_a_checkpoint_continues_with_the_layers_that_were_added(make, tmp_path):
    batches, path = data(), tmp_path / "run.safetensors"
    explorer = paused(make(opened(batches), checkpoint=path))
    explorer.layers1 = ALL
    paused(explorer, batches=2)
    explorer.stop()
    assert explorer.wait(60).sums is None
    chosen = {"model1_layers": ["first"], "model2_layers": ["third"]}
    again = CKA(*explorer.models, **chosen)
    numbers = []
    again.compare(
        opened(batches),
        checkpoint=path,
        progress=False,
        callback=lambda number, *_: numbers.append(number),
    )
    assert numbers == [4, 5, 6], "what was done before the pause is still in the file"

    path.unlink()
    explorer = paused(make(opened(batches), checkpoint=path))
    result = continued(explorer, ALL, ["third"])
    assert result.batches == 6
    chosen = {"model1_layers": ALL, "model2_layers": ["third"]}
    again = CKA(*explorer.models, **chosen)
    again = again.compare(opened(batches), checkpoint=path, progress=False)
    assert torch.equal(again.matrix, result.matrix)


def test_a_run_is_not_stable_while_layers_catch_up(make, monkeypatch):
    monkeypatch.setattr(state, "MIN_STABLE", 2)
    loader = opened(data())
    explorer = paused(make(loader))
    explorer._session.tolerance = 1e9
    result = continued(explorer, ALL, ALL)
    assert explorer.status == "done"
    assert result.batches == 3
    assert result.sums.batches == 3


def history(explorer):
    """What the kernel tells a page: batches, and values by batch and cell."""
    facts, [data] = explorer._session.frames.history_message()
    count = len(facts["batches"])
    cells = facts["rows"] * facts["cols"]
    codes = np.frombuffer(data, "<u2", count * cells).reshape(count, cells)
    values = facts["low"] + codes * facts["step"]
    return facts["batches"], np.where(codes == 2**16 - 1, np.nan, values)


@pytest.fixture
def dense(monkeypatch):
    """Every map goes into the history, whatever it costs."""
    monkeypatch.setattr(history_module, "HISTORY_SHARE", float("inf"))


@pytest.fixture
def recorded(monkeypatch):
    """Messages to pages are recorded."""
    monkeypatch.setattr(comm, "create_comm", RecordingComm)
    monkeypatch.setattr("cka_notebook._page.runtime._shared", [])


@pytest.mark.usefixtures("dense")
def test_earlier_cells_keep_the_history_of_their_convergence(make):
    explorer = paused(make(opened(data())))
    _, before = history(explorer)
    continued(explorer, ALL, ["third"])
    batches, values = history(explorer)
    assert batches == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(values[:3, 0], before[:, 0], atol=1e-4)
    assert np.isfinite(values[:, 0]).all(), "no gap in the cell that continued"
    assert np.isnan(values[:2, 1:]).all(), "others were not computed then"
    assert np.isfinite(values[2:, 1:]).all(), "and have been since they caught up"


@pytest.mark.usefixtures("dense", "recorded")
def test_a_page_gets_the_history_of_a_larger_map_before_its_first_frame(make):
    explorer = paused(make(opened(data())))
    explorer.layers1 = ["second", "first"]
    paused(explorer, batches=2)

    def sent(kind):
        """Places and contents of messages; another thread sends them."""
        told = [m.content for m in explorer.comm.sent if m.content]
        return [
            (i, content) for i, content in enumerate(told) if content["kind"] == kind
        ]

    [(place, known)] = sent("history")
    assert (known["epoch"], known["rows"], known["batches"]) == (2, 2, [1, 2, 3])
    until(lambda: sent("frame")[-1][0] > place)
    assert sent("frame")[-1][1]["catching_up"]
    assert explorer._snapshot["header"]["catching_up"]
    assert explorer._snapshot["history"]["batches"] == [1, 2, 3], "and no half map"
    continued(explorer, ALL, ["third"])
    assert history(explorer)[0] == [1, 2, 3, 4, 5, 6]
    assert not explorer._snapshot["header"]["catching_up"]


@pytest.mark.usefixtures("dense", "recorded")
def test_the_page_drops_the_history_of_other_batches_too(make):
    loader = opened(data())
    explorer = paused(make(loader))
    del loader.dataset[2:]
    continued(explorer, ALL, ALL)
    batches, values = history(explorer)
    assert batches == [1, 2]
    assert np.isfinite(values).all()
    told = [m.content["anew"] for m in explorer.comm.custom("history")]
    assert told == [False, True]
