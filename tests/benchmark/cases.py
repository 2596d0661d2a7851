"""The cases: two models, their layers, and batches of one size."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from support.zoo import BasicBlock
from torch import Tensor, nn

from .models import (
    Bert,
    Fan,
    PostNormBlock,
    PreNormBlock,
    ResNet,
    ViT,
    mlp,
)


@dataclass(frozen=True)
class Case:
    """A pair of models and their inputs.

    Attributes:
        title: The row's name in the table.
        make1: Creates the model of the rows.
        make2: Creates the model of the columns; None compares the first with itself.
        inputs: Creates a batch of n examples.
        examples: Examples per batch.
        blocks: Compare only building blocks, stem and head.
        slow_peers: Whether the slow peers finish a batch in reasonable time.
        device: Device the case is meant for: a GPU needs larger ones.
    """

    title: str
    make1: Callable[[], nn.Module]
    make2: Callable[[], nn.Module] | None
    inputs: Callable[[int], Tensor]
    examples: int
    blocks: bool = False
    slow_peers: bool = False
    device: str = "cpu"

    def models(self) -> tuple[nn.Module, nn.Module]:
        """Both models in evaluation mode, with the same weights every time."""
        torch.manual_seed(0)
        model1 = self.make1().eval()
        model2 = model1 if self.make2 is None else self.make2().eval()
        return model1, model2

    def batches(self, count: int) -> list[Tensor]:
        """The first ``count`` batches, the same every time."""
        torch.manual_seed(1)
        return [self.inputs(self.examples) for _ in range(count)]

    def layers(self, model: nn.Module) -> list[str]:
        """Names of the compared modules, in the order of definition."""
        find = block_names if self.blocks else leaf_names
        return list(find(model))


def leaf_names(model: nn.Module) -> Iterator[str]:
    """Modules without children."""
    for name, module in model.named_modules():
        if name and not list(module.children()):
            yield name


def block_names(model: nn.Module) -> Iterator[str]:
    """Building blocks, with the stem and head around them."""
    kinds = (BasicBlock, PreNormBlock, PostNormBlock)
    ends = {"conv1", "maxpool", "avgpool", "fc", "patches", "norm", "head", "words"}
    for name, module in model.named_modules():
        if isinstance(module, kinds) or name in ends:
            yield name


def images(size: int) -> Callable[[int], Tensor]:
    """Random images with coarse structure, so that examples differ beyond noise."""

    def make(n: int) -> Tensor:
        coarse = torch.randn(n, 3, 8, 8)
        smooth = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
        return smooth + 0.5 * torch.randn(n, 3, size, size)

    return make


def tokens(length: int) -> Callable[[int], Tensor]:
    """Random token numbers."""
    return lambda n: torch.randint(0, 30522, (n, length))


def vectors(width: int) -> Callable[[int], Tensor]:
    """Random vectors."""
    return lambda n: torch.randn(n, width)


def resnet18() -> ResNet:
    return ResNet((2, 2, 2, 2))


def resnet34() -> ResNet:
    return ResNet((3, 4, 6, 3))


def vit_s() -> ViT:
    return ViT()


def vit_b() -> ViT:
    return ViT(width=768, heads=12)


def tiny_resnet() -> ResNet:
    return ResNet((1, 1), classes=10)


def tiny_vit() -> ViT:
    return ViT(size=32, width=32, depth=2, heads=2)


def tiny_bert() -> Bert:
    return Bert(tokens=8, width=32, depth=2, heads=2)


def tiny_mlp() -> nn.Sequential:
    return mlp(width=32, depth=4, inputs=32)


RESNETS = (resnet18, resnet34)
CASES = {
    "resnet64-n128": Case(
        "ResNet-18 x 34, 64 px", *RESNETS, images(64), 128, slow_peers=True
    ),
    "resnet64-n128-blocks": Case(
        "ResNet-18 x 34, 64 px, blocks",
        *RESNETS,
        images(64),
        128,
        blocks=True,
        slow_peers=True,
    ),
    "resnet64-n512": Case("ResNet-18 x 34, 64 px", *RESNETS, images(64), 512),
    "resnet224-n32": Case("ResNet-18 x 34, 224 px", *RESNETS, images(224), 32),
    "resnet224-n128": Case("ResNet-18 x 34, 224 px", *RESNETS, images(224), 128),
    "resnet64-n128-self": Case(
        "ResNet-18 x itself, 64 px", resnet18, None, images(64), 128
    ),
    "vit224-n32": Case("ViT-S x ViT-S, 224 px", vit_s, vit_s, images(224), 32),
    "bert64-n128": Case(
        "BERT 8x256, 64 tokens", Bert, Bert, tokens(64), 128, slow_peers=True
    ),
    "mlp-n32": Case("MLP 512 wide", mlp, mlp, vectors(512), 32, slow_peers=True),
    "mlp-n128": Case("MLP 512 wide", mlp, mlp, vectors(512), 128, slow_peers=True),
    "mlp-n512": Case("MLP 512 wide", mlp, mlp, vectors(512), 512),
    "resnet224-n256": Case(
        "ResNet-18 x 34, 224 px", *RESNETS, images(224), 256, device="cuda"
    ),
    "vitb224-n256": Case(
        "ViT-B x ViT-B, 224 px", vit_b, vit_b, images(224), 256, device="cuda"
    ),
    "mlp-n256": Case("MLP 512 wide", mlp, mlp, vectors(512), 256, device="cuda"),
}

QUICK = {
    "quick-resnet": Case(
        "small ResNet", tiny_resnet, tiny_resnet, images(32), 16, slow_peers=True
    ),
    "quick-self": Case("small ResNet x itself", tiny_resnet, None, images(32), 16),
    "quick-vit": Case("small ViT", tiny_vit, tiny_vit, images(32), 16, blocks=True),
    "quick-bert": Case("small BERT", tiny_bert, tiny_bert, tokens(8), 16),
    "quick-mlp": Case(
        "small MLP", tiny_mlp, tiny_mlp, vectors(32), 16, slow_peers=True
    ),
}

ALL = CASES | QUICK


def fan(layers: int, examples: int, features: int) -> Case:
    """A case of any size with nearly free forward passes."""

    def make() -> Fan:
        return Fan(layers, features)

    return Case("fan", make, make, vectors(features), examples)
