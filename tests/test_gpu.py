"""What only a GPU can show; skipped where there is none."""

import copy

import pytest
import torch
from support.zoo import ResNet, mlp

from cka_notebook import CKA
from cka_notebook._grams import products
from cka_notebook._page.readback import Readback

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def batches(count=4, n=32, device="cpu"):
    return [torch.randn(n, 3, 32, 32, device=device) for _ in range(count)]


def test_the_matrix_of_a_gpu_is_that_of_float64_on_a_cpu():
    model1, model2, loader = ResNet(), ResNet(), batches()
    options = {"model1_layers": "leaves", "model2_layers": "leaves"}
    exact = CKA(model1.double(), model2.double(), **options).compare(
        [batch.double() for batch in loader], progress=False
    )
    ours = CKA(model1.float(), model2.float(), device="cuda", **options).compare(
        loader, progress=False
    )
    assert next(model1.parameters()).device.type == "cpu"
    assert ours.provenance["model1"]["devices"] == ["cuda:0"], "where it was computed"
    assert (ours.matrix - exact.matrix).abs().max() < 1e-4


def test_the_users_tf32_does_not_reach_the_gram_matrices():
    model = mlp().cuda()
    loader = [torch.randn(64, 10, device="cuda") + 30 for _ in range(3)]
    exact = CKA(model, model1_layers=["1", "3"]).compare(loader, progress=False)
    torch.set_float32_matmul_precision("high")
    try:
        ours = CKA(model, model1_layers=["1", "3"]).compare(loader, progress=False)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert (ours.matrix - exact.matrix).abs().max() < 1e-3


@pytest.mark.parametrize("shape", [(64, 1 << 16), (256, 1 << 17)])
def test_the_product_that_a_gpu_chooses_is_exact(shape):
    x = torch.randn(shape, device="cuda")
    exact = x.double() @ x.double().T
    made = torch.empty_like(exact, dtype=torch.float32)
    products.lower_product(x, [made], first=True)
    error = (made - exact).abs().fill_diagonal_(0).max() / exact.diagonal().min()
    assert error < 1e-6


def test_numbers_come_from_a_gpu_without_waiting():
    tensor = torch.arange(6.0, device="cuda", dtype=torch.float64).reshape(2, 3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(50_000_000)
        copies = Readback(tensor, tensor * 2)
        assert not copies.is_ready
    finally:
        torch.cuda.set_sync_debug_mode("default")
    values, doubled = copies.values()
    assert copies.is_ready
    assert values.tolist() == tensor.tolist()
    assert (doubled == 2 * values).all()


def test_no_batch_waits_for_the_device():
    model1, model2 = ResNet().cuda(), ResNet().cuda()
    steps = CKA(model1, model2)._steps(batches(8, device="cuda"))
    for _ in range(3):
        running = next(steps)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(4):
            next(steps)
            running.matrix()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    steps.close()


def test_a_model_and_its_copy_have_a_diagonal_of_one():
    model = ResNet().cuda()
    result = CKA(model, copy.deepcopy(model)).compare(
        batches(device="cuda"), progress=False
    )
    assert (result.diagonal() - 1).abs().max() < 1e-6


def test_models_on_two_devices_are_compared_where_they_are():
    model1, model2, loader = mlp(), mlp(), [torch.randn(16, 10) for _ in range(3)]
    exact = CKA(model1, model2).compare(loader, progress=False)
    ours = CKA(model1, model2.cuda()).compare(loader, progress=False)
    assert next(model1.parameters()).device.type == "cpu"
    assert next(model2.parameters()).device.type == "cuda"
    assert (ours.matrix - exact.matrix).abs().max() < 1e-4


def test_peak_memory_is_of_the_size_of_gram_matrices():
    n, model = 64, ResNet(width=64).cuda().eval()
    batch = torch.randn(n, 3, 64, 64, device="cuda")

    def peak(run):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before

    def forward():
        with torch.no_grad():
            model(batch)

    forward()
    bare = peak(forward)
    cka = CKA(model, model1_layers="leaves")
    layers = len(cka.compare([batch], progress=False).layers1)
    ours = peak(lambda: cka.compare([batch], progress=False))
    feature_map = n * 64 * 32 * 32 * 4
    allowed = 2 * layers * n * n * 4 + 3 * feature_map + (64 << 20)
    assert ours - bare < allowed
