"""Whole runs on tensors that claim to be on CUDA: launches, traffic and waits."""

import copy
from contextlib import closing
from functools import partial

import pytest
import torch
from benchmark.models import Bert, ResNet, ViT, mlp
from support.fake_cuda import CUDA, fake_cuda
from torch import nn

from cka_notebook import CKA
from cka_notebook._capture.streams import RandomStreams
from cka_notebook._engine import fingerprint
from cka_notebook._engine.added_layers import PausedRun
from cka_notebook._engine.checkpoint import Checkpoint
from cka_notebook._grams.readback import Readback

LAUNCHES = 3
"""Operations of a layer at most; of a large float32 one, for each piece."""

SPLIT_BYTES, HALF_BYTES = 4.55, 1.5
"""Bytes that are moved for each byte of features at most. Splitting moves 4.5, and the
sums of several pieces a little."""

PER_BATCH = 250
"""Operations beside the layers and the forward passes: U-centering, pairs, sums."""


def images(n=32, size=64):
    return torch.randn(n, 3, size, size, device=CUDA)


def vectors(n=256):
    return torch.randn(n, 512, device=CUDA)


def tokens(n=16):
    return torch.randint(0, 1000, (n, 32), device=CUDA)


def made(*models):
    with torch.device(CUDA):
        return [model() for model in models]


RESNET = partial(ResNet, (1, 1, 1, 1)), images
VIT = partial(ViT, 64, 96, 3, 3), images
MLP = partial(mlp, depth=12), vectors
BERT = partial(Bert, 32, 64, 3, 2), tokens


def watched(recorder, states, first=3):
    """The states of a run, of which each batch from the third on is checked."""
    with closing(states):
        for state in states:
            if state.done >= first:
                check(recorder)
                yield state
            recorder.clear()


def check(recorder):
    """No wait, few launches, little traffic."""
    launches = {phase: sum(ops.values()) for phase, ops in recorder.launches.items()}
    assert recorder.waits == []
    assert recorder.layers > 0
    assert launches["layers"] <= LAUNCHES * recorder.layers, recorder.launches["layers"]
    assert launches["centering"] + launches["pairs"] <= PER_BATCH
    assert recorder.nbytes["layers"] <= SPLIT_BYTES * recorder.features


def run(kind, *, count=4, **options):
    """States of a run of two models of a kind, in turn with what they launch."""
    make, batch = kind
    models = made(make, make)
    loader = [batch() for _ in range(count)]
    cka = CKA(*models, model1_layers="leaves", model2_layers="leaves", **options)
    return cka._steps(loader)


@pytest.mark.parametrize("product", ["split", "plain"])
@pytest.mark.parametrize(
    "kind", [RESNET, VIT, MLP, BERT], ids=["resnet", "vit", "mlp", "bert"]
)
def test_no_batch_waits_or_launches_much(kind, product):
    with fake_cuda(product) as recorder:
        assert len(list(watched(recorder, run(kind)))) == 2


def test_half_precision_features_are_read_once():
    with fake_cuda() as recorder:
        states = run(RESNET, autocast=torch.bfloat16)
        for _ in watched(recorder, states):
            assert recorder.nbytes["layers"] <= HALF_BYTES * recorder.features
            launches = recorder.launches["layers"]
            assert sum(launches.values()) <= 1.2 * recorder.layers


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bf16"])
def test_a_full_resnet_moves_its_features_a_few_times(dtype):
    kind = partial(ResNet, (2, 2, 2, 2)), partial(images, 256, 224)
    with fake_cuda() as recorder:
        for state in run(kind, autocast=dtype):
            if state.done == 3:
                limit = SPLIT_BYTES if dtype is None else HALF_BYTES
                assert recorder.nbytes["layers"] <= limit * recorder.features
                assert recorder.waits == []
            recorder.clear()


def test_a_model_with_itself_does_not_wait():
    with fake_cuda() as recorder:
        [model] = made(MLP[0])
        states = CKA(model, model1_layers="leaves")._steps(
            [vectors() for _ in range(4)]
        )
        assert len(list(watched(recorder, states))) == 2


def test_frames_do_not_wait():
    with fake_cuda() as recorder:
        copies = []
        for state in watched(recorder, run(MLP, count=5)):
            copies.append(Readback(state.matrix(), state.stderr()))
            assert recorder.waits == []
        assert len(copies) == 3


def test_the_users_tf32_costs_no_wait_and_no_setting():
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        with fake_cuda() as recorder:
            for state in run(MLP):
                assert torch.backends.cuda.matmul.allow_tf32
                assert state.done < 3 or recorder.waits == []
                products = set(recorder.launches["layers"]) | set(
                    recorder.launches["centering"]
                )
                assert "aten::bmm.out" not in products, "which may be TF32"
                assert "aten::bmm.dtype_out" in products or state.done < 2
                recorder.clear()
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


class Mixed(nn.Module):
    """Layers in three precisions."""

    def __init__(self):
        super().__init__()
        self.plain = nn.Linear(512, 64)
        self.wide = nn.Linear(64, 64, dtype=torch.float64)
        self.narrow = nn.Linear(64, 64, dtype=torch.bfloat16)

    def forward(self, x):
        x = self.plain(x)
        return self.narrow(self.wide(x.double()).bfloat16()).float()


def test_layers_of_several_precisions_do_not_wait():
    with fake_cuda() as recorder:
        for state in run((Mixed, vectors)):
            assert state.done < 3 or recorder.waits == []
            recorder.clear()


def test_the_last_batch_may_be_short():
    with fake_cuda() as recorder:
        [model] = made(MLP[0])
        loader = [*(vectors() for _ in range(3)), vectors(100)]
        *_, last = CKA(model, copy.deepcopy(model))._steps(loader)
        assert last.batches == 4
        assert last.examples == 3 * 256 + 100
        assert recorder.launches


def test_all_is_on_the_default_device():
    with fake_cuda() as recorder, torch.device(CUDA):
        for state in run(MLP):
            assert state.matrix().is_cuda or not state.done
            assert state.done < 3 or recorder.waits == []
            recorder.clear()


def test_layers_are_added_on_the_device(monkeypatch):
    with fake_cuda() as recorder:
        cka = CKA(*made(MLP[0], MLP[0]))
        loader = [vectors() for _ in range(5)]
        names = ["0", "1", "2"]
        steps = cka._steps(loader, layers1=names[:1], layers2=names[:1])
        kept = next(
            PausedRun.of(state, state.result()) for state in steps if state.done == 2
        )
        steps.close()
        recorder.clear()
        # Fake streams cannot be loaded.
        monkeypatch.setattr(RandomStreams, "load", lambda *_: None)
        *_, last = cka._steps(loader, layers1=names, layers2=names, paused=kept)
        assert last.batches == 5
        assert last.matrix().is_cuda


def test_a_run_that_ends_when_it_is_stable_does_not_wait():
    with fake_cuda() as recorder:
        models = made(MLP[0], MLP[0])
        names = {"model1_layers": ["0", "2"], "model2_layers": ["0", "2"]}
        loader = [vectors() for _ in range(12)]
        states = CKA(*models, **names)._steps(loader, stop_when_stable=1e-9)
        done = [state.done for state in watched(recorder, states)]
        assert done[-1] == 12


def test_frames_of_added_layers_do_not_wait(monkeypatch):
    monkeypatch.setattr(RandomStreams, "load", lambda *_: None)
    with fake_cuda() as recorder:
        cka = CKA(*made(MLP[0], MLP[0]))
        loader = [vectors() for _ in range(8)]
        names = ["0", "2"]
        steps = cka._steps(loader, layers1=names, layers2=names)
        kept = next(
            PausedRun.of(state, state.result()) for state in steps if state.done == 6
        )
        steps.close()
        steps = cka._steps(loader, layers1=[*names, "4"], layers2=names, paused=kept)
        with closing(steps):
            for state in steps:
                if state.catching_up and state.done:
                    Readback(state.matrix(), state.stderr())
                    assert state.matrix().is_cuda
                    assert state.done < 3 or recorder.waits == []
                recorder.clear()


def test_a_checkpoint_waits_only_where_it_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr(Checkpoint, "must_keep", lambda _: True)
    monkeypatch.setattr(Checkpoint, "write", lambda *_: None)
    monkeypatch.setattr(fingerprint, "of_tensors", lambda _: "weights")
    with fake_cuda() as recorder:
        models = made(MLP[0], MLP[0])
        names = {"model1_layers": ["0", "2"], "model2_layers": ["0", "2"]}
        loader = [vectors() for _ in range(6)]
        states = CKA(*models, **names)._steps(loader, checkpoint=tmp_path / "run")
        assert len(list(watched(recorder, states))) == 4
