"""Two processes give the result of one, or end together."""

import itertools
import json
import os
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from soak import ranks as soak
from torch import nn

from cka_notebook import CKA, CKAResult
from cka_notebook._engine import distributed
from cka_notebook._engine.distributed import OtherRankError, Ranks, check_settings
from cka_notebook._messages import Note, Reason

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="torch was built without distributed"
)

SCRIPT = """
    import sys
    import torch
    import torch.distributed as dist
    from torch import nn
    from cka_notebook import CKA

    rank, world, store, out, mode = sys.argv[1:]
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=int(rank), world_size=int(world)
    )
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3)).double()
    batches = list(torch.randn(7, 16, 6).double())
    batches[5] = batches[5][:3]
    layers = "all" if mode == "same" or rank == "0" else ["0"]
    cka = CKA(model, model1_layers=layers)
    try:
        result = cka.compare(batches[int(rank) :: int(world)], progress=False)
        result.save(f"{out}{rank}")
    finally:  # A rank that ends early would take the others down with it.
        dist.barrier()
        dist.destroy_process_group()
"""


def ranks(tmp_path, mode):
    path = tmp_path / "rank.py"
    path.write_text(textwrap.dedent(SCRIPT))
    store, out = tmp_path / "store", tmp_path / "result"
    started = [
        subprocess.Popen(
            [sys.executable, path, str(rank), "2", store, out, mode],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in started]
    return [process.returncode for process in started], errors


@pytest.mark.slow
def test_two_ranks_return_the_result_of_one_process(tmp_path):
    codes, errors = ranks(tmp_path, "same")
    assert codes == [0, 0], errors
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3)).double()
    batches = list(torch.randn(7, 16, 6).double())
    batches[5] = batches[5][:3]
    with pytest.warns(UserWarning, match="Skipped 1 batch with fewer than 4 examples"):
        alone = CKA(model, model1_layers="all").compare(batches, progress=False)
    for rank in range(2):
        result = CKAResult.load(tmp_path / f"result{rank}")
        torch.testing.assert_close(result.matrix, alone.matrix, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(result.null_sd, alone.null_sd, rtol=1e-12, atol=0)
        # A layer with itself has none: the square is a difference that rounding
        # leaves at about 1e-16, other for each order of summation: the root is 1e-8.
        squares = result.stderr.square(), alone.stderr.square()
        torch.testing.assert_close(*squares, rtol=1e-12, atol=1e-15)
        counts = result.examples, result.batches, result.skipped
        assert counts == (alone.examples, alone.batches, alone.skipped) == (96, 6, 1)


@pytest.mark.slow
def test_ranks_with_different_layers_are_an_error(tmp_path):
    codes, errors = ranks(tmp_path, "different")
    assert codes == [1, 1]
    assert all("Expected the same layers1 on every rank" in text for text in errors)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="ranks are forked")
def test_ranks_end_together_whatever_one_of_them_does():
    # From a process without threads, which can be forked.
    program = """
import json, sys
from soak import ranks
sys.stdout.write(json.dumps(ranks.check([*ranks.FAILING, *ranks.GOOD])))
"""
    paths = [str(Path(__file__).parents[1]), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    found = json.loads(done.stdout)
    assert set(found) == {*soak.FAILING, *soak.GOOD}
    assert {kind: wrong for kind, (wrong, _) in found.items() if wrong} == {}
    counts = {kind: [x["batches"] for x in found[kind][1]] for kind in soak.GOOD}
    few = {"small": [3, 3], "fewer": [4, 4]}
    assert counts == {kind: [6, 6] for kind in soak.GOOD} | few
    odd = (list(found).index("nan")) % 2
    reason = f"not finite in batch 2 (NaN, Inf or overflow), on rank {odd}"
    assert found["nan"][1][0]["undefined"] == dict.fromkeys("012", reason)


@pytest.fixture
def meet(monkeypatch):
    """Calls a function for each rank of a comparison, in threads."""
    monkeypatch.setattr(distributed, "BEAT", 0.01)
    monkeypatch.setattr(distributed, "POLL", 0.002)

    def meet(*functions):
        store = torch.distributed.HashStore()

        def one(rank, function):
            with Ranks(store, rank, len(functions)) as ranks:
                return function(ranks)

        with ThreadPoolExecutor(len(functions)) as pool:
            runs = [pool.submit(one, *each) for each in enumerate(functions)]
        errors = [run.exception() for run in runs]
        return [error or run.result() for run, error in zip(runs, errors, strict=True)]

    return meet


def test_all_ranks_get_what_each_gives_in_their_order(meet):
    def give(ranks):
        return ranks.exchange("x", ranks.rank), ranks.exchange("y", [ranks.rank])

    assert meet(give, give, give) == [([0, 1, 2], [[0], [1], [2]])] * 3


@pytest.mark.parametrize(
    "error", [ValueError("no room"), KeyboardInterrupt(), SystemExit(1)]
)
def test_an_error_of_one_rank_ends_the_others_and_names_it(meet, error):
    def fails(_):
        raise error

    def waits(ranks):
        return ranks.exchange("x", 1)

    def works(ranks):
        end = time.monotonic() + 60
        while time.monotonic() < end:
            ranks.check()

    first, second, third = meet(waits, fails, works)
    assert second is error
    for other in first, third:
        assert isinstance(other, OtherRankError)
        assert "Rank 1 failed, and so all ranks end. " in str(other)
        assert type(error).__name__ in str(other)


def test_a_rank_that_gives_no_sign_of_life_is_lost(meet, monkeypatch):
    monkeypatch.setattr(distributed, "LOST", 0.3)

    def killed(ranks):
        while len(ranks._seen) < 1:
            time.sleep(0.001)
        ranks._ended.set()  # Its thread is gone.
        time.sleep(2 * distributed.LOST)

    def waits(ranks):
        return ranks.exchange("x", 1)

    assert "Rank 1 has given no sign of life" in str(meet(waits, killed)[0])


def test_a_rank_that_is_at_work_for_long_is_waited_for(meet, monkeypatch):
    monkeypatch.setattr(distributed, "LOST", 1.0)

    def late(ranks):
        time.sleep(1.2 * distributed.LOST)
        return ranks.exchange("x", 1)

    def waits(ranks):
        return ranks.exchange("x", 0)

    assert meet(waits, late) == [[0, 1]] * 2


class Gone:
    """A store whose rank was killed after some calls."""

    def __init__(self, calls):
        self._left = itertools.count(calls, -1)
        self._store = torch.distributed.HashStore()
        self.timeout = self._store.timeout

    def __getattr__(self, name):
        if next(self._left) <= 0:
            raise torch.distributed.DistNetworkError("broken pipe")
        return getattr(self._store, name)


@pytest.mark.parametrize("calls", [0, 1, 2, 5])
def test_a_store_that_is_gone_is_an_error_that_says_so(monkeypatch, calls):
    monkeypatch.setattr(distributed, "GOODBYE", 0)
    with (
        pytest.raises(OtherRankError, match=r"holds their store was .* broken pipe"),
        Ranks(Gone(calls), 0, 2) as ranks,
    ):
        ranks.exchange("x", 1)


def test_a_rank_that_never_comes_is_waited_for_as_long_as_the_group_says(monkeypatch):
    monkeypatch.setattr(distributed, "GOODBYE", 0)
    store = torch.distributed.HashStore()
    store.set_timeout(timedelta(seconds=0.1))
    with (
        pytest.raises(OtherRankError, match="Rank 1 has not begun this comparison"),
        Ranks(store, 0, 2) as ranks,
    ):
        ranks.exchange("x", 1)


def test_the_odd_one_out_is_named_with_what_it_has(meet):
    def check(ranks):
        pool = "mean" if ranks.rank == 2 else "auto"
        check_settings(ranks, {"layers1": ["a"], "pool": pool})

    for error in meet(check, check, check):
        assert isinstance(error, ValueError)
        text = "the same pool on every rank, but rank 2 has 'mean', and rank 0 has"
        assert text in str(error)


def test_a_setting_that_one_rank_does_not_have_differs(meet):
    def check(ranks):
        check_settings(ranks, {"a": 1} | ({"b": 2} if ranks.rank else {}))

    for error in meet(check, check):
        assert "the same b on every rank, but rank 1 has 2, and rank 0 has" in str(
            error
        )


def test_notes_of_all_ranks_reach_all_and_name_those_they_are_from():
    grave = Note("Sorted.", grave=True)
    found = distributed._all_notes(
        [["Same.", grave], ["Same.", "New.", grave], ["Same."]]
    )
    assert found == ["Same.", "Ranks 0, 1: Sorted.", "Rank 1: New."]
    assert found[1].grave
    assert not found[2].grave


def test_the_first_rank_with_a_problem_names_it():
    problem = Reason("no tensor in batch 3", "no_tensor")
    every = [
        {"problems": [{}], "bad": [[-1.0, -1.0, 4.0]]},
        {"problems": [{"0": problem}], "bad": [[2.0, -1.0, 1.0]]},
    ]
    found = distributed._problems(every, 0)
    assert found == {
        "0": "no tensor in batch 3, on rank 1",
        "2": "not finite in batch 4 (NaN, Inf or overflow), on rank 0",
    }
    assert [reason.code for reason in found.values()] == ["not_finite", "no_tensor"]
