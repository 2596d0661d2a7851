"""Models whose parts accelerate places and loads: compared where they are."""

import copy

import accelerate
import pytest
import torch
import transformers as hf
from accelerate.hooks import ModelHook, add_hook_to_module
from support import zoo
from support.configs import SMALL
from support.reference import assert_right, compare, hooks_on
from support.texts import words
from torch import nn

from cka_notebook._engine.borrowed import placed
from cka_notebook._models.offloading import is_dispatched

MAP = {"0": "cpu", "1": "cpu", "2": "disk", "3": "disk", "4": "disk"}

WAYS = {
    "a device map": lambda model, folder: accelerate.dispatch_model(
        model, MAP, main_device="cpu", offload_dir=folder
    ),
    "cpu_offload": lambda model, _: accelerate.cpu_offload(model, "cpu"),
    "disk_offload": lambda model, folder: accelerate.disk_offload(model, folder, "cpu"),
}


@pytest.fixture(params=WAYS)
def pair(request, tmp_path):
    """A model, and the same with some or all of its weights elsewhere."""
    plain = zoo.mlp()
    away = WAYS[request.param](copy.deepcopy(plain), str(tmp_path))
    assert away[2].weight.is_meta
    return plain, away


def standing(model):
    """What accelerate has done to each module, and where its weights are."""
    return [
        (
            vars(module).get("_hf_hook"),
            vars(module).get("forward"),
            [p.device for p in module.parameters(recurse=False)],
        )
        for module in model.modules()
    ]


@pytest.mark.parametrize("device", [None, "cpu"])
def test_weights_that_are_loaded_when_needed_give_the_same(pair, device):
    plain, away = pair
    before = standing(away)
    batches = zoo.batches_of()
    options = {"model1_layers": "all", "model2_layers": "all", "device": device}
    other = zoo.mlp()
    result = compare(away, other, batches, **options)
    assert torch.equal(result.matrix, compare(plain, other, batches, **options).matrix)
    assert result.notes == []
    assert_right(result, away, other, batches)
    assert standing(away) == before
    assert hooks_on(away) == 0


def test_a_note_says_that_device_moves_no_dispatched_model(pair):
    plain, away = pair
    before = standing(away)
    with pytest.warns(UserWarning, match="Sequential stays where its device map or of"):
        result = compare(away, batches=zoo.batches_of(), device="cuda")
    assert "computes on 'cpu': `device` only moves" in result.notes[0]
    assert torch.equal(result.matrix, compare(plain, batches=zoo.batches_of()).matrix)
    assert standing(away) == before


class Sine(ModelHook):
    """Changes what a module returns."""

    def post_forward(self, _module, output):
        return torch.sin(3 * output)


def test_outputs_are_compared_as_accelerate_changes_them():
    plain = zoo.mlp()
    hooked = copy.deepcopy(plain)
    add_hook_to_module(hooked[0], Sine())
    sine = zoo.Returning(lambda x: torch.sin(3 * x))
    expected = nn.Sequential(nn.Sequential(plain[0], sine), *plain[1:])
    options = {"model1_layers": "0"}
    made = compare(hooked, plain, zoo.batches_of(), **options).matrix
    assert torch.equal(
        made, compare(expected, plain, zoo.batches_of(), **options).matrix
    )
    assert not torch.equal(
        made, compare(plain, zoo.mlp(), zoo.batches_of(), **options).matrix
    )


def test_a_model_whose_hooks_place_nothing_can_be_moved():
    model = add_hook_to_module(zoo.mlp(), Sine())
    assert not is_dispatched(model)
    moved = []
    model.to = moved.append
    with placed(model, torch.device("cuda")):
        assert moved == [torch.device("cuda")]


def test_a_transformer_is_loaded_in_parts_and_compared(tmp_path):
    plain = hf.BertModel(hf.BertConfig(**SMALL)).eval()
    plain.save_pretrained(tmp_path / "model")
    parts = {"embeddings": "cpu", "encoder.layer.0": "cpu", "pooler": "cpu"}
    parts |= {"encoder.layer.1": "disk", "encoder.layer.2": "disk"}
    away = hf.BertModel.from_pretrained(
        tmp_path / "model", device_map=parts, offload_folder=tmp_path / "offload"
    )
    assert away.encoder.layer[1].output.dense.weight.is_meta
    before = standing(away)
    batches = [words(seed=seed) for seed in range(2)]
    result = compare(plain, away, batches)
    assert result.layers1 == result.layers2
    # A model beside itself goes through other products, which may round otherwise.
    here = compare(plain, copy.deepcopy(plain), batches).matrix
    assert torch.equal(result.matrix, here)
    assert standing(away) == before


def test_a_checkpoint_recognises_offloaded_weights(pair, tmp_path):
    _, away = pair
    path = tmp_path / "run.safetensors"
    batches = zoo.batches_of()
    compare(away, batches=batches, checkpoint=path, max_batches=2)
    resumed = compare(away, batches=batches, checkpoint=path)
    assert torch.equal(resumed.matrix, compare(away, batches=batches).matrix)
    other = zoo.mlp()
    accelerate.cpu_offload(other, "cpu")
    with pytest.raises(ValueError, match="its model1 is"):
        compare(other, batches=batches, checkpoint=path)
