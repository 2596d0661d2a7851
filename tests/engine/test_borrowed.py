"""What is borrowed from the user comes back."""

import gc
import subprocess
import sys

import pytest
import torch
from support import zoo
from support.reference import compare, differences, snapshot
from torch import nn

from cka_notebook._capture.streams import RandomStreams, lent
from cka_notebook._engine.borrowed import (
    eager,
    placed,
    torch_settings,
    without_nested_tensors,
)
from cka_notebook._grams import precision
from cka_notebook._grams.precision import exact

CPU = torch.device("cpu")


def test_a_model_is_not_touched_where_it_stays():
    model = zoo.mlp()
    before = snapshot(model)
    with placed(model, None), placed(model, CPU):
        assert differences(before, snapshot(model)) == []


class Moving(nn.Module):
    """A model that only says where it was sent."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.sent = []
        self.fails = False

    def to(self, device):
        self.sent.append(str(device))
        if self.fails and str(device) != "cpu":
            raise torch.OutOfMemoryError


def test_a_model_is_moved_and_comes_back():
    model = Moving()
    with placed(model, torch.device("cuda", 0)):
        assert model.sent == ["cuda:0"]
    assert model.sent == ["cuda:0", "cpu"]


def test_a_model_comes_back_from_a_move_that_failed_halfway():
    model = Moving()
    model.fails = True
    with pytest.raises(torch.OutOfMemoryError), placed(model, torch.device("cuda", 0)):
        pass
    assert model.sent == ["cuda:0", "cpu"]


def test_a_dispatched_model_is_not_moved():
    model = Moving()
    model.hf_device_map = {"": 0}
    with placed(model, torch.device("cuda", 0)):
        assert model.sent == []


def test_a_model_on_two_devices_is_not_gathered_on_one():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
    with (
        pytest.raises(ValueError, match="to one device: its parameters are on"),
        placed(model, CPU),
    ):
        pass


def test_no_model_is_moved_to_meta_which_would_lose_its_weights():
    model = zoo.mlp()
    with (
        pytest.raises(
            ValueError, match="Expected a device that stores data, got 'meta'"
        ),
        placed(model, torch.device("meta")),
    ):
        pass
    assert not any(p.is_meta for p in model.parameters())


@pytest.mark.slow
def test_a_run_loads_no_compiler():
    program = """
import sys, torch
from cka_notebook import CKA
CKA(torch.nn.Linear(3, 2)).compare([torch.randn(8, 3)], progress=False)
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


@pytest.mark.slow
def test_compiled_graphs_run_eagerly_while_there_are_hooks():
    model = zoo.mlp()
    seen = []
    part = torch.compile(model[0], backend="eager")
    part(torch.randn(2, 10))
    handle = model[0].register_forward_hook(lambda *_: seen.append(1))
    with eager():
        part(torch.randn(2, 10))
    handle.remove()
    assert seen == [1]


def test_the_compiler_is_as_before_when_the_last_of_two_overlapping_runs_ends():
    model = zoo.mlp()
    calls = []

    def backend(graph, _):
        calls.append(graph)
        return graph

    part = torch.compile(model[0], backend=backend)
    first, second = eager(), eager()
    for enter in (first.__enter__, second.__enter__):
        enter()
    first.__exit__(None, None, None)
    part(torch.randn(2, 10))
    assert not calls
    second.__exit__(None, None, None)
    part(torch.randn(2, 10))
    assert calls


def encoder():
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.TransformerEncoder(block, 1)


def test_encoders_keep_their_own_setting_however_runs_overlap():
    nesting, plain = encoder(), encoder()
    plain.use_nested_tensor = False
    first, second = (without_nested_tensors([nesting, plain]) for _ in range(2))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not nesting.use_nested_tensor
    second.__exit__(None, None, None)
    assert nesting.use_nested_tensor
    assert not plain.use_nested_tensor


def test_an_encoder_s_setting_comes_back_after_an_error():
    nesting = encoder()
    with pytest.raises(ValueError, match="x"), without_nested_tensors([nesting]):
        raise ValueError("x")
    assert nesting.use_nested_tensor


def test_the_users_default_device_is_for_her_tensors_only(tmp_path):
    models = zoo.mlp(), zoo.mlp()
    loader = zoo.batches_of(4)
    expected = compare(*models, loader)
    again = zoo.batches_of(2)
    with torch.device("meta"):  # Nothing can be computed there.
        compare(*models, loader, max_batches=2, checkpoint=tmp_path / "run")
        result = compare(*models, loader, checkpoint=tmp_path / "run")
        difference = result - compare(*models, again)
    assert torch.equal(result.matrix, expected.matrix)
    assert difference.matrix.isfinite().all()


def test_torch_s_settings_come_back_after_any_interrupt():
    blocks = precision.held("cpu")
    with torch_settings({"cpu"}):
        torch.set_grad_enabled(False)
        torch.autocast("cpu", torch.bfloat16).__enter__()
        torch.autocast("cpu", torch.float16, cache_enabled=False).__enter__()
        precision._full_float32("cpu").__enter__()
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")
    assert torch.get_autocast_dtype("cpu") == torch.bfloat16
    assert torch.is_autocast_cache_enabled()
    assert torch.autocast_increment_nesting() == 1
    torch.autocast_decrement_nesting()
    assert precision.held("cpu") == blocks


def test_freeing_a_block_that_an_interrupt_left_suspended_changes_nothing():
    with torch_settings({"cpu"}):
        torch.autocast("cpu", torch.bfloat16).__enter__()
        left = exact(CPU)
        left.__enter__()
    assert not torch.is_autocast_enabled("cpu")
    own = RandomStreams([CPU])
    own.__enter__()
    also_left = lent()
    also_left.__enter__()
    own.give_back()
    expected = torch.get_rng_state()
    del left, also_left
    gc.collect()
    assert not torch.is_autocast_enabled("cpu")
    assert torch.equal(torch.get_rng_state(), expected)


def test_torch_s_settings_inside_the_user_s_autocast_are_the_user_s():
    x = torch.randn(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        with torch_settings({"cpu"}):
            torch.autocast("cpu", enabled=False).__enter__()
        assert torch.is_autocast_enabled("cpu")
        assert (x @ x).dtype is torch.bfloat16
    assert (x @ x).dtype is torch.float32
