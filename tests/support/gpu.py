"""A GPU's part of the engine on a CPU, with real numbers."""

import torch

from cka_notebook._grams import buffer, gpu_buffer, gpu_products


def _times(left, right, out, first):
    """What a GPU does: products of two halves are exact, their sum is float32."""
    assert left.dtype == right.dtype
    assert left.dtype in gpu_products.HALF_TYPES
    made = left.float() @ right.float().T
    out.copy_(made) if first else out.add_(made)


def _times_each(halves, out):
    assert halves.dtype == torch.bfloat16
    high = halves.chunk(2, dim=1)[0]
    out.copy_(halves.float() @ high.float().mT)


def emulate_products(monkeypatch):
    """Let the CPU multiply halves into float32, as torch does on CUDA."""
    monkeypatch.setattr(gpu_products, "_halves_times", _times)
    for module in (gpu_products, gpu_buffer):
        monkeypatch.setattr(module, "halves_times_each", _times_each)
        monkeypatch.setattr(module, "multiplies_halves", lambda _: True)


def emulate_buffers(monkeypatch):
    """Let activations on the CPU go the way of those on a GPU.

    Returns:
        All buffers that are made.
    """
    emulate_products(monkeypatch)
    made = []

    class OnCpu(gpu_buffer.GpuBuffer):
        def __init__(self, *args):
            super().__init__(*args)
            self.learns = True
            made.append(self)

    monkeypatch.setattr(buffer, "CpuBuffer", OnCpu)
    monkeypatch.setattr(gpu_buffer, "_timed", {})
    monkeypatch.setattr(gpu_products, "gpu_seconds", lambda *_: 1.0)
    return made
