"""Exact values: CKA in float64 from activations copied in our own hooks.

Copies of the models are run before any contender has touched the originals.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from . import reference

ROUNDING = 1e-12
"""An HSIC below this share of the squared Gram matrices counts as 0."""

Grams = dict[str, list[Tensor]]
"""For each call of each module, its Gram matrices, one per batch."""


@dataclass
class Exact:
    """The exact CKA of two models on some batches.

    Attributes:
        grams1: Gram matrices of model 1, by layer.
        grams2: Gram matrices of model 2.
    """

    grams1: Grams
    grams2: Grams

    def unbiased(self, row: str, column: str) -> float:
        """Minibatch CKA; batches weigh n (n - 3), and those with n < 4 are skipped."""
        pairs = list(zip(self.grams1[row], self.grams2[column], strict=True))
        pairs = [(K, L) for K, L in pairs if len(K) > 3]
        xy = sum(reference.hsic1(K, L) for K, L in pairs)
        xx = sum(reference.hsic1(K, K) for K, _ in pairs)
        yy = sum(reference.hsic1(L, L) for _, L in pairs)
        undefined = [
            bool(own <= ROUNDING * sum(K.square().sum() for K in grams))
            for own, grams in ((xx, self.grams1[row]), (yy, self.grams2[column]))
        ]
        return math.nan if any(undefined) else float(xy / (xx * yy).sqrt())

    def biased(self, row: str, column: str) -> float:
        """The mean of biased CKA over batches, which simtorch estimates."""
        pairs = zip(self.grams1[row], self.grams2[column], strict=True)
        values = [_biased(K, L) for K, L in pairs if len(K) > 1]
        return float(torch.stack(values).mean())


def observe(
    models: tuple[nn.Module, nn.Module],
    batches: Iterable[Any],
    call: Callable[[nn.Module, Any], object],
    pick: Callable[[Any], Tensor | None],
) -> Exact:
    """Run the models over the batches and keep the Gram matrices of every call."""
    batches = list(batches)
    return Exact(*(_observe(model, batches, call, pick) for model in models))


def _observe(
    model: nn.Module,
    batches: list[Any],
    call: Callable[[nn.Module, Any], object],
    pick: Callable[[Any], Tensor | None],
) -> Grams:
    calls: dict[str, list[Tensor]] = defaultdict(list)
    counts: dict[str, int] = {}

    def hook(name: str, output: Any) -> None:
        tensor = pick(output)
        if tensor is not None:
            calls[name].append(reference.gram(tensor))

    handles = [
        module.register_forward_hook(lambda _m, _i, out, name=name: hook(name, out))
        for name, module in model.named_modules()
    ]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with torch.no_grad():
        for batch in batches:
            call(model, batch)
            counts = counts or {name: len(found) for name, found in calls.items()}
    for module, training in modes:
        module.training = training
    for handle in handles:
        handle.remove()
    return _by_call(calls, counts)


def _by_call(calls: dict[str, list[Tensor]], counts: dict[str, int]) -> Grams:
    """Split a module called k times per batch into layers name#0 ... name#k-1."""
    named: Grams = {}
    for name, found in calls.items():
        k = counts[name]
        for i in range(k):
            named[f"{name}#{i}" if k > 1 else name] = found[i::k]
    return named


def _biased(K: Tensor, L: Tensor) -> Tensor:
    K, L = _centered(K), _centered(L)
    return (K * L).sum() / (K.norm() * L.norm())


def _centered(K: Tensor) -> Tensor:
    return K - K.mean(0, keepdim=True) - K.mean(1, keepdim=True) + K.mean()


def first_tensor(output: Any) -> Tensor | None:
    """The output itself, or the first tensor in a tuple or in a dict's values."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() and output.ndim > 1 else None
    values = output.values() if hasattr(output, "values") else output
    found = (first_tensor(x) for x in values if isinstance(x, Tensor | tuple))
    return next((x for x in found if x is not None), None)


def batch_second(output: Any) -> Tensor | None:
    """The same for layers that return (tokens, batch, width)."""
    tensor = first_tensor(output)
    return tensor.transpose(0, 1) if tensor is not None and tensor.ndim == 3 else tensor
