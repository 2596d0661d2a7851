"""The models of the benchmark, with random weights."""

from itertools import pairwise

import torch
from support import zoo
from torch import Tensor, nn
from torch.nn import functional


class ResNet(zoo.ResNet):
    """A ResNet of basic blocks: (2, 2, 2, 2) is ResNet-18, (3, 4, 6, 3) ResNet-34."""

    def __init__(self, depths: tuple[int, ...], classes: int = 1000) -> None:
        super().__init__(64, depths, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")


class Attention(nn.Module):
    """Multi-head self-attention of ``(n, tokens, width)``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = (self.query(x), self.key(x), self.value(x))
        q, k, v = (p.unflatten(2, (self.heads, -1)).transpose(1, 2) for p in parts)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(2))


class PreNormBlock(nn.Module):
    """A block of a vision transformer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * width, width)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.drop(self.fc2(self.act(self.fc1(self.norm2(x)))))


class ViT(nn.Module):
    """A vision transformer with patches of 16 x 16."""

    def __init__(
        self, size: int = 224, width: int = 384, depth: int = 12, heads: int = 6
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.cls = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.positions = nn.Parameter(
            0.02 * torch.randn(1, (size // 16) ** 2 + 1, width)
        )
        self.blocks = nn.Sequential(*(PreNormBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        first = self.cls.expand(len(tokens), -1, -1)
        tokens = torch.cat([first, tokens], 1) + self.positions
        return self.head(self.norm(self.blocks(tokens))[:, 0])


class PostNormBlock(nn.Module):
    """A block of BERT."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.drop1 = nn.Dropout(0.1)
        self.norm1 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * width, width)
        self.drop2 = nn.Dropout(0.1)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.drop1(self.attention(x)))
        return self.norm2(x + self.drop2(self.fc2(self.act(self.fc1(x)))))


class Bert(nn.Module):
    """The encoder of BERT, on token numbers ``(n, tokens)``."""

    def __init__(
        self, tokens: int = 64, width: int = 256, depth: int = 8, heads: int = 4
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(30522, width)
        self.positions = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        self.norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(0.1)
        blocks = (PostNormBlock(width, heads) for _ in range(depth))
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.drop(self.norm(self.words(x) + self.positions)))


def mlp(width: int = 512, depth: int = 51, inputs: int = 512) -> nn.Sequential:
    """Alternating Linear and ReLU: ``2 * depth`` layers."""
    widths = [inputs, *[width] * depth]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        linear = nn.Linear(before, after)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers)


class Scale(nn.Module):
    """Multiplies each feature by its own factor."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.randn(features))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factors


class Fan(nn.Module):
    """Many layers on the same input: a forward pass that is almost free."""

    def __init__(self, layers: int, features: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Scale(features) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            out = layer(x)
        return out
