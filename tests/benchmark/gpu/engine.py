"""The engine's private parts that are measured: if one moves, this file follows."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from cka_notebook import CKA
from cka_notebook._engine.added_layers import PausedRun
from cka_notebook._engine.state import RunState
from cka_notebook._grams.buffer import GramBuffer
from cka_notebook._grams.gpu_buffer import SCRATCH_BYTES, GpuBuffer
from cka_notebook._grams.gpu_products import (
    FusedProduct,
    Scratch,
    SplitProduct,
    matrix_of,
)
from cka_notebook._grams.pairs import pair_products
from cka_notebook._grams.readback import Readback

__all__ = [
    "PHASES",
    "GramBuffer",
    "Readback",
    "RunState",
    "Step",
    "added_layers",
    "fused_product",
    "marked",
    "pair_products",
    "split_product",
    "steps",
]

PHASES = {
    "Gram products": (GpuBuffer, "add"),
    "U-centering": (GpuBuffer, "center"),
    "pairs and sums": (RunState, "add"),
}
"""Methods in which the engine spends its time beside the forward passes."""


def steps(
    cka: CKA, loader: Iterable[Any], **options: Any
) -> Generator[RunState, None, None]:
    """The engine's states: before the first batch, and after each."""
    return cka._steps(loader, **options)


def added_layers(
    cka: CKA, loader: Iterable[Any], layers: tuple[list[str], list[str]], done: int
) -> Generator[RunState, None, None]:
    """The states of a run that continues with more layers after some batches."""
    first = [names[:1] for names in layers]
    running = steps(cka, loader, layers1=first[0], layers2=first[1])
    for state in running:
        if state.done == done:
            kept = PausedRun.of(state, state.result())
            break
    running.close()
    return steps(cka, loader, layers1=layers[0], layers2=layers[1], paused=kept)


def split_product(x: Tensor) -> Tensor:
    """The engine's product of large float32 layers."""
    sums = x.new_empty(2 * len(x), len(x))
    SplitProduct(Scratch(x.device, len(x), SCRATCH_BYTES))(x, sums, True)
    return matrix_of(sums)


def fused_product(x: Tensor) -> Tensor:
    """The engine's product of the same in one pass."""
    out = x.new_empty(len(x), len(x))
    FusedProduct(Scratch(x.device, len(x), SCRATCH_BYTES))(x, out, True)
    return out


@contextmanager
def marked() -> Iterator[None]:
    """Phases as ranges of the profiler."""
    with ExitStack() as stack:
        for title, (owner, name) in PHASES.items():
            method = _ranged(title, getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, method))
        yield


def _ranged(title: str, method: Any) -> Any:
    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        with torch.profiler.record_function(title):
            return method(*args, **kwargs)

    return call


class Step:
    """One batch by hand: forward passes, Gram matrices in hooks, and all pairs.

    It has no control flow that depends on the data, so a CUDA graph can record it.

    Args:
        models: In evaluation mode.
        layers: Names of the modules of each.
        batch: Inputs, always the same.
    """

    def __init__(
        self,
        models: tuple[torch.nn.Module, torch.nn.Module],
        layers: tuple[list[str], list[str]],
        batch: Tensor,
    ) -> None:
        self._models, self._layers, self._batch = models, layers, batch
        self._buffer = GramBuffer(sum(map(len, layers)))
        self._next = 0

    def forward(self) -> None:
        """The forward passes alone."""
        with torch.no_grad():
            for model in self._models:
                model(self._batch)

    def __call__(self) -> Tensor:
        """Products of all pairs."""
        self._buffer.begin(len(self._batch))
        self._next = 0
        self.forward()
        packed = self._buffer.finish()[0]
        rows = len(self._layers[0])
        return pair_products(packed[:rows], packed[rows:])

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Hooks on the layers, each of which has to be called once."""
        handles = [
            model.get_submodule(name).register_forward_hook(self._hook)
            for model, names in zip(self._models, self._layers, strict=True)
            for name in names
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, _module: object, _args: object, output: Tensor) -> None:
        self._buffer.add(output.flatten(1), self._next)
        self._next += 1
