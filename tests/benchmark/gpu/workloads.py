"""Pairs of models, and the precisions in which they run."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from benchmark import contenders
from benchmark.cases import CASES, QUICK, Case, images, leaf_names

from .record import tf32


@dataclass(frozen=True)
class Precision:
    """How forward passes compute.

    Attributes:
        name: For the tables.
        products: Whether float32 products may be TF32.
        convolutions: Whether float32 convolutions may.
        dtype: Of autocast, if any.
    """

    name: str
    products: bool = False
    convolutions: bool = True
    dtype: torch.dtype | None = None


IEEE = Precision("float32", convolutions=False)
DEFAULT = Precision("torch's default")
TF32 = Precision("TF32", products=True)
BF16 = Precision("bfloat16", dtype=torch.bfloat16)


def vit_b() -> nn.Module:
    """ViT-B/16 of transformers, with random weights."""
    from transformers import ViTConfig, ViTModel  # noqa: PLC0415 takes seconds

    return ViTModel(ViTConfig())


def tiny_vit() -> nn.Module:
    """The same, tiny."""
    from transformers import ViTConfig, ViTModel  # noqa: PLC0415 takes seconds

    sizes = {"image_size": 32, "patch_size": 8, "intermediate_size": 64}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2}
    return ViTModel(ViTConfig(hidden_size=32, **sizes, **heads))


FULL_CASES = {
    "resnet": CASES["resnet224-n256"],
    "vit": Case("ViT-B x ViT-B, 224 px", vit_b, vit_b, images(224), 256),
    "mlp": CASES["mlp-n256"],
}
TINY_CASES = {
    "resnet": QUICK["quick-resnet"],
    "vit": Case("small ViT x itself", tiny_vit, tiny_vit, images(32), 16),
    "mlp": QUICK["quick-mlp"],
}


class Workload:
    """Two models on the device, with a batch.

    Args:
        name: Of a case: ``"resnet"``, ``"vit"`` or ``"mlp"``.
        device: Where.
        quick: A tiny one.
    """

    def __init__(self, name: str, device: str, quick: bool) -> None:
        self.name, self.device = name, device
        self._case = (TINY_CASES if quick else FULL_CASES)[name]
        with torch.device(device):  # Random weights take seconds on a CPU.
            self.models = self._case.models()
            [self._batch] = self._case.batches(1)
        counts = [contenders.calls(x, self._batch[:4]) for x in self.models]
        self._once = [
            [name for name, count in called.items() if count == 1] for called in counts
        ]

    @property
    def examples(self) -> int:
        """Examples in the whole batch."""
        return len(self._batch)

    def batch(self, examples: int) -> Tensor:
        """The first of them."""
        return self._batch[:examples].clone()

    def layers(self, *, blocks: bool = False) -> tuple[list[str], list[str]]:
        """Names of all leaves, or of building blocks and what stands beside them."""
        if not blocks:
            names = (list(leaf_names(model)) for model in self.models)
        elif self.name == "vit":
            kinds = ("ViTEmbeddings", "ViTLayer")
            names = (
                [x for x, y in model.named_modules() if type(y).__name__ in kinds]
                for model in self.models
            )
        else:
            case = replace(self._case, blocks=True)
            names = (case.layers(model) for model in self.models)
        first, second = names
        return first, second

    def single_calls(self) -> tuple[list[str], list[str]]:
        """Leaves that are called once in a forward pass, in the order of the calls."""
        leaves = [set(names) for names in self.layers()]
        first, second = (
            [name for name in once if name in known]
            for once, known in zip(self._once, leaves, strict=True)
        )
        return first, second

    @contextmanager
    def in_precision(self, precision: Precision) -> Iterator[None]:
        """Forward passes in this precision, whoever calls them."""
        with tf32(products=precision.products, convolutions=precision.convolutions):
            if precision.dtype is None:
                yield
                return
            autocast = torch.autocast(self.device, dtype=precision.dtype)
            for model in self.models:
                model.forward = autocast(model.forward)
            try:
                yield
            finally:
                for model in self.models:
                    del model.forward
