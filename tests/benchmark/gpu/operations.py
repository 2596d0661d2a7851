"""What the engine is made of: traffic, launches, products, small layers, pairs."""

import math
import platform
import shutil
import subprocess
from importlib.util import find_spec
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from . import engine
from .products import VARIANTS, Variant, error_of
from .record import Recorder, host_us, tf32

if TYPE_CHECKING:
    from collections.abc import Callable

LARGE = 100_000_000
"""Bytes that no cache holds; smaller data is rotated through `COPIES`."""

COPIES = 4
EXACT_FEATURES = 200_704
"""Products of more features are not compared with float64: it would take too long."""


def measure(recorder: Recorder) -> None:
    """All of them, in the order of their worth."""
    recorder.attempt("machine", machine, recorder)
    recorder.attempt("traffic", traffic, recorder, needs=5)
    recorder.attempt("launches", launches, recorder, needs=2)
    products(recorder)
    accumulation(recorder)
    recorder.attempt("small layers", small_layers, recorder, needs=5)
    pairs(recorder)


def machine(recorder: Recorder) -> None:
    """What all the numbers are of."""
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version_of_triton(),
    }
    if recorder.device == "cuda":
        card = torch.cuda.get_device_properties(0)
        facts |= {
            "gpu": card.name,
            "gib": card.total_memory / 2**30,
            "multiprocessors": card.multi_processor_count,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "clocks": _clocks(),
        }
    recorder.line("machine", **facts)


def traffic(recorder: Recorder) -> None:
    """Rates of memory: what a pass over the features costs."""
    n, p = (16, 4096) if recorder.quick else (256, 802_816)
    x, y = (torch.randn(n, p, device=recorder.device) for _ in range(2))
    half, low = (torch.empty_like(x, dtype=torch.bfloat16) for _ in range(2))
    shape, size = f"{n} x {p}", x.nbytes
    half.copy_(x)
    runs: dict[str, tuple[Callable[[], object], float]] = {
        "copy": (lambda: y.copy_(x), 2 * size),
        "to bfloat16": (lambda: half.copy_(x), 1.5 * size),
        "low half": (lambda: torch.sub(x, half, out=low), 2 * size),
        "shift by a row": (lambda: torch.sub(x, x[0], out=y), 2 * size),
        "mean": (lambda: x.mean(0), size),
    }
    for name, (run, nbytes) in runs.items():
        recorder.time(name, shape, run, nbytes=nbytes)


def launches(recorder: Recorder) -> None:
    """What a launch costs the processor and the GPU, alone and in a hook."""
    count = 20 if recorder.quick else 1000
    number = torch.zeros(1, device=recorder.device)

    def adds() -> None:
        for _ in range(count):
            number.add_(1)

    x = torch.randn(256, 512, device=recorder.device)
    out, module = x.new_empty(256, 256), nn.Identity()
    host = host_us(lambda: number.add_(1), recorder.device, count)
    recorder.time("add_ to one number", f"{count} times", adds, host_us=host)
    bare = host_us(lambda: module(x), recorder.device, count)
    handle = module.register_forward_hook(lambda *_: torch.mm(x, x.T, out=out))
    hooked = host_us(lambda: module(x), recorder.device, count)
    handle.remove()
    shape = "256 x 512"
    recorder.line("forward hook with mm(out=)", shape, host_us=hooked, bare_us=bare)


def products(recorder: Recorder) -> None:
    """Every way to multiply, by examples and features."""
    grid = [(16, 512), (32, 4096)]
    if not recorder.quick:
        features = (512, 4096, 25_088, 200_704, 802_816)
        # 256 first, the size of the bars, in case that time is up.
        grid = list(product((256, 128, 512, 64), features))
    for n, p in grid:
        for variant in VARIANTS:
            name = f"product: {variant.name}"
            optional = variant.name in ("one-pass split", "fused")
            given = recorder, name, variant, n, p
            recorder.attempt(name, _product, *given, needs=1, optional=optional)


def _product(recorder: Recorder, name: str, variant: Variant, n: int, p: int) -> None:
    generator = torch.Generator(recorder.device).manual_seed(0)
    copies = 1 if 4 * n * p > LARGE else COPIES
    xs = [
        torch.randn(n, p, device=recorder.device, generator=generator)
        for _ in range(copies)
    ]
    runs = [variant.make(x) for x in xs]
    with tf32(products=variant.tf32, convolutions=True):
        error = None
        if p <= EXACT_FEATURES:
            seen = xs[0].bfloat16().float() if variant.half else xs[0]
            error = error_of(runs[0](), seen)
        nbytes = n * p * (2 if variant.half else 4)
        shape = f"{n} x {p}"
        recorder.time(name, shape, *runs, nbytes=nbytes, flop=2 * n * n * p, err=error)


def accumulation(recorder: Recorder) -> None:
    """Whether sums in tensor cores round toward zero, and whether that grows with p."""
    n = 16 if recorder.quick else 256
    exponents = (8, 10) if recorder.quick else (12, 14, 16, 18, 20)
    for variant in VARIANTS:
        for exponent, offset in product(exponents, (1.0, 0.0)):
            name = f"sum: {variant.name}"
            given = recorder, name, variant, (n, 2**exponent), offset
            recorder.attempt(name, _sum, *given, needs=1, optional=True)


def _sum(
    recorder: Recorder,
    name: str,
    variant: Variant,
    shape: tuple[int, int],
    offset: float,
) -> None:
    x = 0.1 * torch.randn(shape, device=recorder.device) + offset
    run = variant.make(x)
    with tf32(products=variant.tf32, convolutions=True):
        made = run()
    error = error_of(made, x.bfloat16().float() if variant.half else x)
    text = f"{shape[0]} x 2^{int(math.log2(shape[1]))}, mean {offset:g}"
    recorder.line(name, text, err=error)


def small_layers(recorder: Recorder) -> None:
    """The MLP's layers: one by one, as one batch, and as the engine does it."""
    count, n, p = (4, 16, 32) if recorder.quick else (204, 256, 512)
    device = recorder.device
    layers = list(torch.randn(count, n, p, device=device))
    grams = torch.empty(count, n, n, device=device)
    stack = torch.empty(count, n, p, device=device)
    buffer = engine.GramBuffer(count)

    def one_by_one() -> None:
        for x, out in zip(layers, grams, strict=True):
            torch.mm(x, x.T, out=out)

    def as_one() -> None:
        for x, out in zip(layers, stack, strict=True):
            torch.sub(x, x[0], out=out)
        torch.bmm(stack, stack.mT, out=grams)

    def today() -> None:
        buffer.begin(n)
        for row, x in enumerate(layers):
            buffer.add(x, row)
        buffer.finish()

    runs = {"mm each": one_by_one, "shift, one bmm": as_one, "today, packed": today}
    for name, run in runs.items():
        host = host_us(run, device, 2 if recorder.quick else 10) / 1e3
        shape = f"{count} x {n} x {p}"
        recorder.time(f"small layers: {name}", shape, run, host_ms=host)


def pairs(recorder: Recorder) -> None:
    """The products of all pairs of packed Gram matrices."""
    sizes = [(3, 4)] if recorder.quick else [(52, 92), (123, 123), (102, 102)]
    lengths = [8192] if recorder.quick else [36_864, 139_264]
    for (rows, columns), length in product(sizes, lengths):
        given = recorder, rows, columns, length
        recorder.attempt("pairs", _pairs, *given, needs=2)


def _pairs(recorder: Recorder, rows: int, columns: int, length: int) -> None:
    generator = torch.Generator(recorder.device).manual_seed(0)
    z1, z2 = (
        torch.randn(count, length, device=recorder.device, generator=generator)
        for count in (rows, columns)
    )
    exact = z1.double() @ z2.double().T
    scale = z1.double().norm(dim=1)[:, None] * z2.double().norm(dim=1)
    runs: dict[str, Callable[[], Tensor]] = {
        "today": lambda: engine.pair_products(z1, z2) / 2,
        "bmm, float64": lambda: _by_blocks(z1.double(), z2.double()),
        "mm, float64": lambda: z1.double() @ z2.double().T,
        "bmm, float32, summed in float64": lambda: _by_blocks(z1, z2),
    }
    for name, run in runs.items():
        error = float(((run() - exact).abs() / scale).max())
        shape = f"{rows} x {columns} x {length}"
        flop = 2 * rows * columns * length
        recorder.time(f"pairs: {name}", shape, run, flop=flop, err=error)


def _by_blocks(z1: Tensor, z2: Tensor) -> Tensor:
    first, second = (z.unflatten(1, (-1, 4096)).transpose(0, 1) for z in (z1, z2))
    return torch.bmm(first, second.mT).sum(0, dtype=torch.float64)


def _version_of_triton() -> str | None:
    if find_spec("triton") is None:
        return None
    import triton  # noqa: PLC0415 may be missing

    return triton.__version__


def _clocks() -> str:
    if shutil.which("nvidia-smi") is None:
        return "unknown"
    query = "clocks.sm,clocks.mem,clocks.max.sm,power.limit,driver_version"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=20, check=False
    )
    return done.stdout.strip()
