"""Small models, each with one feature that occurs in real ones."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


def mlp() -> nn.Sequential:
    """Three linear layers with Tanh between them."""
    return nn.Sequential(
        nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 5)
    )


def inplace_mlp() -> nn.Sequential:
    """The outputs of the linear layers and the normalization are overwritten."""
    return nn.Sequential(
        nn.Linear(10, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(inplace=True),
        nn.Linear(16, 12),
        nn.ReLU(inplace=True),
        nn.Linear(12, 5),
    )


def dead_relu() -> nn.Sequential:
    """The first ReLU outputs zeros for every example."""
    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 12), nn.Tanh())
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    return nn.Sequential(nn.Linear(10, 10), nn.Tanh(), model)


def nearly_dead_relu() -> nn.Sequential:
    """The ReLU outputs zeros except for examples that are far away."""
    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU())
    with torch.no_grad():
        model[0].weight.abs_()
        model[0].bias.fill_(-100.0)
    return model


def shifted_mlp(offset: float) -> nn.Sequential:
    """Features far from zero: their mean is `offset`, their spread stays below 1."""
    model = mlp()
    with torch.no_grad():
        for layer in (model[0], model[2], model[4]):
            layer.weight.mul_(0.6)
            layer.bias.add_(offset)
    return nn.Sequential(model[0], Shift(-offset), model[2], Shift(-offset), model[4])


def scaled_mlp(factor: float) -> nn.Sequential:
    """Large features: everything is multiplied by `factor`."""
    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 12))
    with torch.no_grad():
        model[0].weight.mul_(factor)
        model[0].bias.mul_(factor)
    return model


class Shift(nn.Module):
    """Adds a constant."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by


class Backwards(nn.Module):
    """`first` is defined first and runs last."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 12)
        self.last = nn.Linear(10, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(torch.tanh(self.last(x)))


class Shared(nn.Module):
    """One activation module, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(10, 16)
        self.act = nn.ReLU()
        self.outer = nn.Linear(16, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.outer(self.act(self.inner(x))))


class Unused(nn.Module):
    """Has a head that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(10, 16)
        self.pretraining_head = nn.Linear(16, 4)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x)))


class Blocks(nn.Module):
    """Its blocks are in an `nn.ModuleList`, which itself is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(10, 10) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        return x


class Both(nn.Module):
    """Returns a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(10, 16)
        self.gate = nn.Linear(10, 16)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"hidden": torch.tanh(self.body(x)) * self.gate(x)}


class DictOutput(nn.Module):
    """A block that returns a dict, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Both()
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x)["hidden"])


class Recurrent(nn.Module):
    """An LSTM, which returns a tuple, and a head."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.lstm = nn.LSTM(10, 12, batch_first=batch_first)
        self.after = nn.LSTM(12, 12, batch_first=batch_first)
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.batch_first else x.transpose(0, 1)
        x = self.after(self.lstm(x)[0])[0]
        return x[:, -1] if self.batch_first else x[-1]


class Encoder(nn.Module):
    """PyTorch's transformer layers by default: (tokens, batch, width)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(12, 3, 24) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        for layer in self.layers:
            x = layer(x)
        return x.mean(0)


class Masked(nn.Module):
    """Averages over the tokens that the attention mask keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 12)
        self.dense = nn.Linear(12, 12)
        self.head = nn.Linear(12, 5)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        kept = attention_mask.unsqueeze(-1).float()
        pooled = (self.words(input_ids) * kept).sum(1) / kept.sum(1)
        return self.head(torch.tanh(self.dense(pooled)))


class Half(nn.Module):
    """Uses only half of the features, so that two of these are unrelated."""

    def __init__(self, right: bool) -> None:
        super().__init__()
        self.part = slice(10, 20) if right else slice(0, 10)
        self.body = nn.Linear(10, 16)
        self.head = nn.Linear(16, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x[:, self.part])))


class Frozen(nn.Module):
    """In training mode, except for a normalization that the user froze."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(10, 16)
        self.norm = nn.BatchNorm1d(16)
        self.head = nn.Linear(16, 5)
        self.train()
        self.norm.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.body(x))))


def bert() -> nn.Module:
    """A two-layer BERT from Hugging Face."""
    from transformers import BertConfig, BertModel  # noqa: PLC0415 takes seconds

    sizes = {"hidden_size": 16, "intermediate_size": 32, "vocab_size": 50}
    depths = {"num_hidden_layers": 2, "num_attention_heads": 2}
    return BertModel(BertConfig(**sizes, **depths))


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
    """A block that returns what it was given beside what it made."""

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
