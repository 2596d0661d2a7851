"""Two processes give the result of one."""

import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

from cka_notebook import CKA, CKAResult

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
    if mode == "bad":
        batches[3][0], batches[6][0] = float("nan"), float("inf")
    layers = "all" if mode != "different" or rank == "0" else ["0"]
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
    assert all("Expected the same layers on every rank" in text for text in errors)


@pytest.mark.slow
def test_a_layer_that_is_not_finite_names_the_batch_and_the_rank(tmp_path):
    codes, errors = ranks(tmp_path, "bad")
    assert codes == [0, 0], errors
    for rank in range(2):
        result = CKAResult.load(tmp_path / f"result{rank}")
        # Batch 6 is the fourth of rank 0; batch 3, of rank 1, comes earlier.
        reasons = set(result.undefined1.values())
        assert reasons == {"not finite in batch 4 of rank 0 (NaN, Inf or overflow)"}
        assert result.matrix.isnan().all()
