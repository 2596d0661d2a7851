"""The cases of the table: models, loader, and how an answer is judged."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from benchmark.models import ResNet
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from . import models
from .case import Case, Rows, keywords, loader, sequences, vectors
from .contenders import Contender, Question
from .exact import batch_second
from .situations import SITUATIONS
from .verdicts import RIGHT, Verdict


def one_far_away() -> Question:
    """In each batch of 16, one example is far from all others."""
    x = torch.randn(64, 10)
    x[::16] += 1000
    pair = [models.nearly_dead_relu().eval() for _ in range(2)]
    return Question(*pair, loader(x), ["0", "1"], ["0", "1"])


def copies() -> Question:
    model = models.mlp().eval()
    data = loader(torch.randn(64, 10))
    layers = ["0", "2", "4"]
    return Question(model, copy.deepcopy(model), data, layers, layers)


def resnets(layers: list[str]) -> Callable[[], Question]:
    def ask() -> Question:
        pair = [ResNet((2, 2), classes=10).eval() for _ in range(2)]
        data = loader(torch.randn(64, 3, 32, 32), batch_size=32)
        return Question(*pair, data, layers, layers)

    return ask


def other_order() -> Question:
    model = models.mlp().eval()
    data = loader(torch.randn(64, 10))
    return Question(model, model, data, ["0", "4"], ["4", "0"])


def channels_last() -> Question:
    pair = [
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Conv2d(6, 4, 3))
        .eval()
        .to(memory_format=torch.channels_last)
        for _ in range(2)
    ]
    x = torch.randn(64, 3, 8, 8).to(memory_format=torch.channels_last)
    return Question(*pair, loader(x), ["0", "2"], ["0", "2"])


def bare_tensors() -> Question:
    pair = [nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh()).eval() for _ in range(2)]
    data = DataLoader(Rows(torch.randn(64, 3, 8, 8)), batch_size=16)
    return Question(*pair, data, ["0", "1"], ["0", "1"])


def masked() -> Question:
    ids = torch.randint(0, 50, (64, 9))
    mask = (torch.arange(9) < torch.randint(2, 10, (64, 1))).long()
    rows = [
        {"input_ids": i, "attention_mask": m} for i, m in zip(ids, mask, strict=True)
    ]
    data = DataLoader(Rows(rows), batch_size=16)
    layers = ["dense", "head"]
    return Question(
        models.Masked().eval(), models.Masked().eval(), data, layers, layers
    )


def typed(dtype: torch.dtype) -> Callable[[], Question]:
    def ask() -> Question:
        pair = [models.mlp().eval().to(dtype) for _ in range(2)]
        layers = ["0", "2", "4"]
        return Question(*pair, loader(torch.randn(64, 10).to(dtype)), layers, layers)

    return ask


def independent() -> Question:
    data = loader(torch.randn(16, 20))
    pair = models.Half(right=False).eval(), models.Half(right=True).eval()
    return Question(*pair, data, ["body", "head"], ["body", "head"])


def streamed() -> Question:
    data = DataLoader(Stream(torch.randn(64, 10)), batch_size=16)
    layers = ["0", "2", "4"]
    return Question(models.mlp().eval(), models.mlp().eval(), data, layers, layers)


def berts() -> Question:
    data = loader(torch.randint(0, 50, (64, 9)))
    return Question(models.bert().eval(), models.bert().eval(), data)


def frozen() -> Question:
    return Question(models.Frozen(), models.Frozen(), loader(torch.randn(64, 10)))


def short_last() -> Question:
    layers = ["0", "2", "4"]
    data = loader(torch.randn(100, 10), batch_size=32)
    return Question(models.mlp().eval(), models.mlp().eval(), data, layers, layers)


def left_as_found(contender: Contender, question: Question) -> Verdict:
    """Hooks, modes and weights must be as before, and copying must work."""
    pair = question.model1, question.model2
    before = [_state(model) for model in pair]
    question.layers1 = question.layers2 = ["body", "head"]
    contender(question)
    after = [_state(model) for model in pair]
    complaints = [
        key
        for key in before[0]
        if any(a[key] != b[key] for a, b in zip(before, after, strict=True))
    ]
    try:
        copy.deepcopy(pair)
    except RuntimeError:
        complaints.append("deepcopy fails")
    return Verdict("wrong", ", ".join(complaints)) if complaints else RIGHT


def _state(model: nn.Module) -> dict[str, Any]:
    weights = {name: x.tolist() for name, x in model.state_dict().items()}
    return {
        "hooks left": [len(m._forward_hooks) for m in model.modules()],
        "modes changed": [m.training for m in model.modules()],
        "weights changed": weights,
    }


SHUFFLES = 20


def noise(contender: Contender, question: Question) -> Verdict:
    """Compare the noise over shuffles with and without a short last batch."""
    data = question.loader.dataset.tensors[0]
    short, whole = [], []
    for _ in range(SHUFFLES):
        order = torch.randperm(len(data))
        question.loader = loader(data[order], batch_size=32)
        short.append(contender(question).matrix)
        question.loader = loader(data[order[:96]], batch_size=32)
        whole.append(contender(question).matrix)
    ratio = float(torch.stack(short).std(0).mean() / torch.stack(whole).std(0).mean())
    return RIGHT if ratio < 1.5 else Verdict("wrong", f"{ratio:.1f} x the noise")


class Stream(IterableDataset):
    """A data set of unknown length."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __iter__(self) -> Iterator[list[Tensor]]:
        return ([row] for row in self.x)


def whole(model: nn.Module, batch: Tensor) -> object:
    return model(batch)


LINEAR = ["0", "2", "4"]
OVERWRITTEN = ["0", "1", "2", "3", "4"]
RESIDUAL = ["layer1.0.bn1", "layer1.0.bn2", "layer1.0", "layer2.0.bn2", "layer2.0"]
UNTOUCHED = ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer2.1.conv2"]
BRANCHES = ["inner", "act", "outer"]


def batch_first() -> nn.Module:
    return models.Recurrent(batch_first=True)


def batch_later() -> nn.Module:
    return models.Recurrent(batch_first=False)


def offset() -> nn.Module:
    return models.shifted_mlp(30.0)


def large() -> nn.Module:
    return models.scaled_mlp(1e10)


NUMBERS = {
    "copy": Case("A model and its copy: 1 on the diagonal", copies, raw=True),
    "default": Case("An MLP, default layers", vectors(models.mlp)),
    "names": Case(
        "Layers that run in another order than defined",
        vectors(models.Backwards, ["first", "last"]),
    ),
    "order": Case("One model, two lists of layers", other_order),
    "inplace": Case(
        "In-place ReLU after the layer", vectors(models.inplace_mlp, OVERWRITTEN)
    ),
    "residual": Case("ResNet: `bn2`, then `out += identity`", resnets(RESIDUAL)),
    "float32": Case("ResNet: convolutions that nothing overwrites", resnets(UNTOUCHED)),
    "offset": Case("Features around 30, spread below 1", vectors(offset, LINEAR)),
    "scale": Case("Features around 1e10", vectors(large, ["0", "1", "2"])),
    "bfloat16": Case("A bfloat16 model", typed(torch.bfloat16)),
    "float16": Case("A float16 model", typed(torch.float16)),
    "negative": Case("Unrelated models: estimates below 0", independent),
    "constant": Case(
        "A dead ReLU among the layers", vectors(models.dead_relu, ["0", "2.1", "2.2"])
    ),
    "single": Case("A ReLU that fires for one example a batch", one_far_away),
}

STRUCTURES = {
    "twice": Case(
        "A module called twice",
        vectors(models.Shared, BRANCHES),
        wanted=("act#0", "act#1"),
    ),
    "unused": Case("A layer that never runs, default layers", vectors(models.Unused)),
    "modulelist": Case("An `nn.ModuleList`, default layers", vectors(models.Blocks)),
    "bert": Case("Hugging Face's BERT, default layers", berts),
    "tuple": Case("Tuple output: LSTM", sequences(batch_first, ["lstm", "after"])),
    "dict": Case("Dict output", vectors(models.DictOutput, ["block", "head"])),
    "lstm": Case(
        "Batch on the second axis: LSTM",
        sequences(batch_later, ["lstm", "after"]),
        pick=batch_second,
    ),
    "encoder": Case(
        "Batch on the second axis: TransformerEncoderLayer",
        sequences(models.Encoder, ["layers.0", "layers.1"], width=12),
        pick=batch_second,
    ),
    "channels": Case("A channels_last CNN", channels_last),
}

LOADERS = {
    "shuffled": Case(
        "One shuffling loader",
        vectors(models.mlp, LINEAR, batch_size=64, shuffle=True),
    ),
    "bare": Case("A loader of bare tensors", bare_tensors, call=whole),
    "mask": Case("Dict batches with an attention mask", masked, call=keywords),
    "stream": Case("An IterableDataset without a length", streamed),
    "last": Case(
        "A last batch of one example", vectors(models.mlp, LINEAR, batch_size=21)
    ),
    "short": Case("A last batch of 4 after three of 32", short_last, judge=noise),
    "found": Case("The model afterwards", frozen, judge=left_as_found),
}

CASES: dict[str, Case] = NUMBERS | STRUCTURES | LOADERS | SITUATIONS
