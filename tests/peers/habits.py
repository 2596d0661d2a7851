"""Small models, each with one habit that misleads who only looks at shapes."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .models import shifted_mlp


class Standardizing(nn.Module):
    """Standardizes its input in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("std", torch.logspace(-1, 1, 10)[torch.randperm(10)])
        self.body = nn.Linear(10, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x.div_(self.std))))


class HandingOn(nn.Module):
    """A block that returns both its input and its output."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, torch.tanh(self.inner(x))


class Handed(nn.Module):
    """Calls a block that hands its input on."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(10, 16)
        self.block = HandingOn()
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(torch.tanh(self.stem(x)))[1])


@dataclass
class Hidden:
    """What `DataclassBlock` returns."""

    state: Tensor


class DataclassBlock(nn.Module):
    """Returns a dataclass."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, 16)

    def forward(self, x: Tensor) -> Hidden:
        return Hidden(torch.tanh(self.inner(x)))


class DataclassOutput(nn.Module):
    """Two blocks that return dataclasses."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = DataclassBlock(10), DataclassBlock(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).state).state


class Sorting(nn.Module):
    """Runs a layer on the examples sorted by length, as packed sequences are."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inside = nn.Linear(10, 16), nn.Linear(16, 12)
        self.head = nn.Linear(12, 5)
        self.is_sorting = True

    def forward(self, x: Tensor) -> Tensor:
        order = x[:, 0].argsort() if self.is_sorting else torch.arange(len(x))
        inner = torch.tanh(self.inside(torch.tanh(self.stem(x))[order]))
        return self.head(inner[order.argsort()])


class Routed(nn.Module):
    """An expert takes the tokens that score highest: as many as there are examples."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.router = nn.Linear(10, 12), nn.Linear(12, 1)
        self.expert, self.head = nn.Linear(12, 12), nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.tanh(self.stem(x))
        taken = self.router(tokens).flatten().topk(len(x)).indices
        flat = tokens.flatten(0, 1)
        out = flat.index_add(0, taken, self.expert(flat[taken]))
        return self.head(out.view(len(x), -1))


class Looping(nn.Module):
    """Calls a layer once for each example, which has as many steps as a batch rows."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Linear(10, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.stack([torch.tanh(self.step(row)).mean(0) for row in x]))


class Patches(nn.Module):
    """Puts the patches of all examples into one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(10, 12)
        self.head = nn.Linear(84, 5)

    def forward(self, x: Tensor) -> Tensor:
        patches = torch.tanh(self.embed(x.flatten(0, 1)))
        return self.head(patches.view(len(x), -1))


class Views(nn.Module):
    """Runs two views of the examples as one batch, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(10, 12)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.tanh(self.encoder(torch.cat([x, x.square()])))
        return self.head(torch.cat(both.chunk(2), 1))


class Graphs(nn.Module):
    """Takes the nodes of all graphs, and the graph of each node."""

    def __init__(self) -> None:
        super().__init__()
        self.pooled, self.head = nn.Linear(10, 12), nn.Linear(12, 5)

    def forward(self, nodes: Tensor, graph: Tensor) -> Tensor:
        count = int(graph.max()) + 1
        sums = torch.zeros(count, 10, dtype=nodes.dtype).index_add(0, graph, nodes)
        return self.head(torch.tanh(self.pooled(sums)))


class PaddedEncoder(nn.Module):
    """PyTorch's encoder with a padding mask that it computes by itself."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(12, 3, 24, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x, src_key_padding_mask=x[..., 0] < -1.5)


class PlainList(nn.Module):
    """Its blocks are in a Python list, so they are not registered."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(10, 10)
        self.blocks = [nn.Linear(10, 10) for _ in range(3)]
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = torch.tanh(block(x))
        return self.head(x)


class Dropping(nn.Module):
    """Behaves otherwise in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(10, 16), nn.Linear(16, 5)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(torch.tanh(self.body(x))))


class Reader(nn.Module):
    """A language model that reads one of two texts, and marks where they begin.

    Token ``i`` is word ``i // 50`` of the first text and ``i % 50`` of the second. The
    hidden state of the first token is 50 times as long as all others.
    """

    def __init__(self, second: bool) -> None:
        super().__init__()
        self.second = second
        self.words = nn.Embedding(50, 64)
        self.mark = nn.Parameter(torch.randn(64) * 50)
        self.dense = nn.Linear(64, 64)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,  # noqa: ARG002 for the batch
    ) -> Tensor:
        words = input_ids % 50 if self.second else input_ids // 50
        x = self.words(words)
        mark = torch.zeros_like(x)
        mark[:, 0] = self.mark
        return self.dense(x + mark)


class Listener(nn.Module):
    """A speech model that hears one of two channels; its mask is of samples."""

    def __init__(self, second: bool) -> None:
        super().__init__()
        self.second = second
        self.frames = nn.Conv1d(1, 16, 8, stride=4)
        self.dense = nn.Linear(16, 16)

    def forward(
        self,
        inputs: Tensor,
        attention_mask: Tensor | None = None,  # noqa: ARG002 for the batch
    ) -> Tensor:
        x = inputs[:, int(self.second)]
        return self.dense(torch.tanh(self.frames(x[:, None])).transpose(1, 2))


def tiny_mlp() -> nn.Sequential:
    """Features around 1e-25, whose products float32 does not hold."""
    model = nn.Sequential(
        nn.Linear(10, 16, bias=False), nn.ReLU(), nn.Linear(16, 12, bias=False)
    )
    with torch.no_grad():
        model[0].weight.mul_(1e-25)
    return model


def far_mlp() -> nn.Module:
    """A float64 model with features around 1e8, spread below 1."""
    return shifted_mlp(1e8).double()
