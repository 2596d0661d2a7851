"""Small models, each with one feature that occurs in real ones."""

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
