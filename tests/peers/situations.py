"""Cases from bug reports: what models, batches and loaders do behind one's back."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from . import habits
from .case import Case, Rows, listened, loader, sequences, vectors
from .contenders import Contender, Question
from .exact import first_tensor
from .verdicts import RIGHT, Verdict, told

BATCH = 16
"""Examples in a batch."""

UNRELATED = 0.25
"""Models that share nothing but the lengths of their inputs are below this."""


def unshared(model: nn.Module, batch: list[Tensor]) -> object:
    return model(batch[0].clone())


def in_order(model: nn.Module, batch: list[Tensor]) -> object:
    model.is_sorting = False
    return model(batch[0])


def two_inputs(model: nn.Module, batch: list[Tensor]) -> object:
    return model(*batch)


def without_nested_tensors(model: nn.Module, batch: list[Tensor]) -> object:
    model.encoder.use_nested_tensor = False
    return model(batch[0])


def second_item(output: Any) -> Tensor | None:
    return output[1] if isinstance(output, tuple) else first_tensor(output)


def state(output: Any) -> Tensor | None:
    return output.state if isinstance(output, habits.Hidden) else first_tensor(output)


def patches_together(output: Tensor) -> Tensor:
    """The patches of an example as its features."""
    return output.reshape(BATCH, -1)


def views_together(output: Tensor) -> Tensor:
    """The views of an example as its features."""
    return torch.cat(output.split(BATCH), 1)


def graphs() -> Question:
    """Batches of 16 graphs of 2 to 5 nodes."""
    sizes = torch.randint(2, 6, (64,)).tolist()
    data = Rows([torch.randn(size, 10) for size in sizes])
    batches = DataLoader(data, batch_size=BATCH, collate_fn=joined)
    layers = ["pooled", "head"]
    return Question(habits.Graphs(), habits.Graphs(), batches, layers, layers)


def joined(nodes: list[Tensor]) -> list[Tensor]:
    """The nodes of all graphs, and the graph of each."""
    sizes = torch.tensor([len(x) for x in nodes])
    return [torch.cat(nodes), torch.arange(len(nodes)).repeat_interleave(sizes)]


class Switching:
    """Switches the models to training mode before each batch, as a user may."""

    def __init__(self, batches: DataLoader, pair: list[nn.Module]) -> None:
        self.batches, self.pair, self.dataset = batches, pair, batches.dataset

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            for model in self.pair:
                model.train()
            yield batch


def switched() -> Question:
    pair = [habits.Dropping().eval() for _ in range(2)]
    layers = ["body", "head"]
    data = Switching(loader(torch.randn(64, 10)), pair)
    return Question(*pair, data, layers, layers)


def far() -> Question:
    layers = ["0", "2", "4"]
    data = loader(torch.randn(64, 10, dtype=torch.float64))
    return Question(habits.far_mlp(), habits.far_mlp(), data, layers, layers)


def texts() -> Question:
    """Two texts of the same length, 8 to 47 tokens, which share no word."""
    mask = (torch.arange(47) < torch.randint(8, 48, (128, 1))).long()
    ids = torch.randint(0, 2500, (128, 47)) * mask
    return _masked("input_ids", ids, mask, habits.Reader, ["dense"])


def recordings() -> Question:
    """Two channels of the same length, 16 to 160 samples, which share nothing."""
    mask = (torch.arange(160) < torch.randint(16, 161, (128, 1))).long()
    sounds = torch.randn(128, 2, 160) * mask[:, None]
    return _masked("inputs", sounds, mask, habits.Listener, ["dense"])


def _masked(
    key: str,
    values: Tensor,
    mask: Tensor,
    make: Callable[[bool], nn.Module],
    layers: list[str],
) -> Question:
    pairs = zip(values, mask, strict=True)
    rows = Rows([{key: x, "attention_mask": m} for x, m in pairs])
    data = DataLoader(rows, batch_size=32)
    return Question(make(False).eval(), make(True).eval(), data, layers, layers)


def unrelated(contender: Contender, question: Question) -> Verdict:
    """Models that share only the lengths of their inputs must not look alike."""
    answer = listened(contender, question)
    largest = float(answer.matrix.max())
    if largest < UNRELATED or all(told(answer, layer) for layer in answer.rows):
        return RIGHT
    return Verdict("wrong", f"{largest:.2f} for unrelated models")


def batches_of_steps() -> Question:
    """Batches of 16 examples of 16 steps."""
    pair = habits.Looping().eval(), habits.Looping().eval()
    layers = ["step", "head"]
    return Question(*pair, loader(torch.randn(64, BATCH, 10)), layers, layers)


def four_tokens() -> Question:
    """Batches of 16 examples of 4 tokens."""
    pair = habits.Routed().eval(), habits.Routed().eval()
    layers = ["stem", "expert", "head"]
    return Question(*pair, loader(torch.randn(64, 4, 10)), layers, layers)


SITUATIONS = {
    "changed": Case(
        "A model that changes its input in place",
        vectors(habits.Standardizing, ["body", "head"]),
        call=unshared,
    ),
    "handed": Case(
        "A block that returns `(input, output)`",
        vectors(habits.Handed, ["stem", "block", "head"]),
        pick=second_item,
    ),
    "dataclass": Case(
        "Blocks that return a dataclass",
        vectors(habits.DataclassOutput, ["first", "second"]),
        pick=state,
    ),
    "sorted": Case(
        "Examples that are sorted inside",
        vectors(habits.Sorting, ["stem", "inside", "head"]),
        call=in_order,
        odd=("inside",),
        is_known=True,
    ),
    "experts": Case("An expert of fixed capacity", four_tokens, odd=("expert",)),
    "loop": Case("A loop over the examples", batches_of_steps, odd=("step",)),
    "patches": Case(
        "Patches of all images in one tensor",
        sequences(habits.Patches, ["embed", "head"]),
        pick=patches_together,
    ),
    "views": Case(
        "Two views of the batch in one tensor",
        vectors(habits.Views, ["encoder", "head"]),
        pick=views_together,
    ),
    "graphs": Case("Batches of graphs", graphs, call=two_inputs),
    "padding": Case(
        "`nn.TransformerEncoder` with a padding mask",
        sequences(habits.PaddedEncoder, ["encoder.layers.0", "encoder.layers.1"], 12),
        call=without_nested_tensors,
    ),
    "list": Case(
        "Blocks in a plain list, default layers",
        vectors(habits.PlainList),
        wanted=("blocks",),
    ),
    "mode": Case("`model.train()` called meanwhile", switched),
    "far": Case("float64 features around 1e8, spread below 1", far),
    "tiny": Case("Features around 1e-25", vectors(habits.tiny_mlp, ["0", "1", "2"])),
    "tokens": Case("A first token that drowns the others", texts, judge=unrelated),
    "audio": Case("A mask of audio samples over frames", recordings, judge=unrelated),
}
