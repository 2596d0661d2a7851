"""What only a GPU can show; skipped where there is none."""

import copy
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from support.zoo import ResNet, mlp
from torch import nn

from cka_notebook import CKA
from cka_notebook._engine.added_layers import PausedRun
from cka_notebook._grams import gpu_products
from cka_notebook._grams.gpu_buffer import GpuBuffer
from cka_notebook._grams.readback import Readback

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


@pytest.mark.parametrize("shape", [(64, 1 << 16), (256, 1 << 17), (300, 5001)])
@pytest.mark.parametrize("name", ["plain", "split", "fused", "double"])
def test_every_product_of_a_gpu_is_exact(shape, name):
    x = torch.randn(shape, device="cuda")
    buffer = GpuBuffer(len(x), x.device, x.dtype, 1)
    if name == "fused" and not gpu_products.has_fused(x.device):
        pytest.skip("needs Triton")
    sums = torch.zeros(2 * len(x), len(x), device="cuda")
    for first in (True, False):
        buffer._products[name](x, sums, first)
    exact = 2 * x.double() @ x.double().T
    error = (gpu_products.matrix_of(sums) - exact).abs().fill_diagonal_(0).max()
    assert error / exact.diagonal().min() < 1e-6


def test_a_gpu_multiplies_halves():
    assert gpu_products.multiplies_halves(torch.device("cuda", 0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_are_exact(dtype):
    model1, model2 = mlp().cuda().to(dtype), mlp().cuda().to(dtype)
    loader = [torch.randn(64, 10, device="cuda", dtype=dtype) for _ in range(3)]
    names = ["1", "3"]
    cka = CKA(model1, model2, model1_layers=names, model2_layers=names)
    ours = cka.compare(loader, progress=False)
    wide = CKA(
        model1,
        model2,
        model1_layers=names,
        model2_layers=names,
        pool=lambda x: x.double(),
    ).compare(loader, progress=False)
    assert (ours.matrix - wide.matrix).abs().max() < 3e-6


def test_models_under_inference_mode_are_compared():
    model = mlp().cuda()
    loader = [torch.randn(64, 10, device="cuda") for _ in range(4)]
    exact = CKA(model, model1_layers=["1", "3"]).compare(loader, progress=False)
    model.forward = torch.inference_mode()(model.forward)
    ours = CKA(model, model1_layers=["1", "3"]).compare(loader, progress=False)
    assert (ours.matrix - exact.matrix).abs().max() < 1e-6


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


class Late:
    """Batches that lie on a GPU which has yet to compute them when they are handed out.

    Args:
        batches: On the CPU.
    """

    def __init__(self, batches):
        self._sources = [batch.cuda() for batch in batches]

    def __iter__(self):
        for source in self._sources:
            batch = torch.zeros_like(source)
            torch.cuda.synchronize()
            torch.cuda._sleep(100_000_000)
            yield batch.copy_(source)


def test_cpu_models_read_a_batch_of_a_gpu_when_it_has_come():
    model1, model2 = mlp(), mlp()
    loader = [torch.randn(256, 10) for _ in range(4)]
    exact = CKA(model1, model2).compare(loader, progress=False)
    ours = CKA(model1, model2).compare(Late(loader), progress=False)
    assert torch.equal(ours.matrix, exact.matrix)


@contextmanager
def spare_memory(nbytes):
    """A GPU on which there is only so much memory beside what is allocated."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    allowed = torch.cuda.memory_reserved() + nbytes
    torch.cuda.set_per_process_memory_fraction(
        allowed / torch.cuda.get_device_properties(0).total_memory
    )
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize("spare", [320, 160])
def test_a_layer_is_reduced_with_what_memory_there_is(spare):
    n, features = 256, 1 << 19
    model = nn.Sequential(nn.ReLU(), nn.Flatten()).cuda()
    batch = torch.randn(n, features, device="cuda")
    cka = CKA(model, model1_layers=["0"])
    exact = cka.compare([batch] * 2, progress=False)
    torch.cuda.empty_cache()
    with spare_memory(batch.nbytes + (spare << 20)):
        ours = cka.compare([batch] * 2, progress=False)
    assert (ours.matrix - exact.matrix).abs().max() < 1e-6


def test_a_checkpoint_of_cpu_models_is_resumed_on_a_gpu(tmp_path):
    model1, model2, loader = mlp(), mlp(), [torch.randn(16, 10) for _ in range(4)]
    path = tmp_path / "run.safetensors"
    whole = CKA(model1, model2).compare(loader, progress=False)
    CKA(model1, model2).compare(loader, progress=False, max_batches=2, checkpoint=path)
    resumed = CKA(model1, model2, device="cuda").compare(
        loader, progress=False, checkpoint=path
    )
    assert resumed.batches == 4
    assert (resumed.matrix - whole.matrix).abs().max() < 1e-5


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_products_are_timed_on_the_device_of_the_model():
    def slow(x, *_):
        with torch.cuda.device(x.device):
            torch.cuda._sleep(50_000_000)

    x = torch.empty(1, device="cuda:1")
    with torch.cuda.device(0):
        assert gpu_products.gpu_seconds(slow, x, x) > 0.01


@pytest.fixture
def precisions():
    """Float32 settings of torch, which the test may change."""
    if not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("this torch has one setting for all float32 products")
    matmul = torch.backends.cuda.matmul
    before = torch.backends.fp32_precision, matmul.fp32_precision
    matmul.fp32_precision = "none"
    yield
    torch.backends.fp32_precision, matmul.fp32_precision = before


@pytest.mark.usefixtures("precisions")
def test_a_precision_that_is_inherited_stays_inherited():
    torch.backends.fp32_precision = "tf32"
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    loader = [torch.randn(16, 10, device="cuda") for _ in range(2)]
    CKA(mlp().cuda(), model1_layers=["1"]).compare(loader, progress=False)
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    torch.backends.fp32_precision = "ieee"
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"


def test_code_inside_a_run_can_read_the_users_precision():
    seen = []

    def pool(x):
        seen.append(torch.backends.cuda.matmul.allow_tf32)
        return x

    loader = [torch.randn(16, 10, device="cuda") for _ in range(2)]
    torch.set_float32_matmul_precision("high")
    try:
        CKA(mlp().cuda(), model1_layers=["1"], pool=pool).compare(
            loader, progress=False
        )
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen
    assert all(seen)


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_the_users_precision_is_the_same_after_a_run(precision):
    torch.set_float32_matmul_precision(precision)
    try:
        before = torch.backends.cuda.matmul.allow_tf32
        loader = [torch.randn(16, 10, device="cuda") for _ in range(2)]
        CKA(mlp().cuda(), model1_layers=["1"]).compare(loader, progress=False)
        assert torch.backends.cuda.matmul.allow_tf32 == before
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.fixture
def default_device():
    """A GPU as the device of all new tensors."""
    torch.set_default_device("cuda")
    yield
    torch.set_default_device(None)


@pytest.mark.usefixtures("default_device")
def test_models_are_compared_with_a_gpu_as_the_default_device():
    loader = [torch.randn(16, 10) for _ in range(3)]
    result = CKA(mlp(), mlp()).compare(loader, progress=False)
    assert result.matrix.isfinite().all()


@pytest.mark.usefixtures("default_device")
def test_results_are_subtracted_with_a_gpu_as_the_default_device():
    loader = [torch.randn(16, 10) for _ in range(3)]
    result = CKA(mlp(), mlp()).compare(loader, progress=False)
    assert (result - result).matrix.device.type == "cpu"


@pytest.mark.usefixtures("default_device")
def test_layers_are_added_with_a_gpu_as_the_default_device():
    cka = CKA(mlp(), mlp())
    loader = [torch.randn(16, 10) for _ in range(4)]
    steps = cka._steps(loader, layers1=["1"], layers2=["1"])
    kept = next(
        PausedRun.of(state, state.result()) for state in steps if state.batches == 2
    )
    steps.close()
    *_, last = cka._steps(loader, layers1=["1", "3"], layers2=["1"], paused=kept)
    assert last.batches == 4
    assert last.matrix().isfinite().all()


class Noisy(nn.Sequential):
    """Draws from the GPU's random stream in its forward pass."""

    def forward(self, x):
        return super().forward(x) + torch.rand(1, device="cuda")


def gpu_draws(count):
    return [
        torch.rand((), device="cuda", dtype=torch.float64).item() for _ in range(count)
    ]


def test_the_random_stream_of_a_gpu_is_put_back_in_the_main_thread():
    model, loader = Noisy(mlp()).cuda(), [torch.randn(16, 10) for _ in range(3)]
    torch.cuda.manual_seed(3)
    expected = gpu_draws(3)
    torch.cuda.manual_seed(3)
    first = CKA(model, model1_layers="all").compare(loader, progress=False)
    again = CKA(model, model1_layers="all").compare(loader, progress=False)
    assert torch.equal(first.matrix, again.matrix)
    assert gpu_draws(3) == expected


@pytest.mark.parametrize("kind", [nn.Sequential, Noisy], ids=["plain", "noisy"])
def test_beside_a_run_in_a_thread_a_seed_of_the_gpu_holds_and_nothing_repeats(kind):
    model, loader = kind(mlp()).cuda(), [torch.randn(16, 10) for _ in range(20)]
    cka, found = CKA(model, model1_layers="all"), []
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(cka.compare, loader, progress=False)
        torch.cuda.manual_seed(4)
        while not run.done() or not found:
            found += gpu_draws(1)
        run.result()
    found += gpu_draws(50)
    assert len(set(found)) == len(found)
    assert torch.cuda.initial_seed() == 4
    torch.cuda.manual_seed(4)
    if kind is not Noisy:
        assert found == gpu_draws(len(found))
