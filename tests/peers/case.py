"""What a case of the table is, and what several of them are made of."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from .contenders import Answer, Contender, Question
from .exact import Exact, first_tensor, observe
from .verdicts import RIGHT, Verdict, judge

Pick = Callable[[Any], Tensor | None]


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        title: The row's name in the table.
        ask: Makes the models and the loader.
        pick: Extracts the activations, examples first, from a module's output.
        call: How a batch should be passed to a model.
        wanted: Layers that the rows must include, or of which something must be said.
        odd: Layers whose rows are not the examples in order. No number is right, too,
            if a warning or an error names them.
        is_known: Whether `call` puts the rows of these layers in order.
        raw: Whether to keep simtorch's factor of batches / layers.
        judge: Replaces the default judgment by the cells of one comparison.
    """

    title: str
    ask: Callable[[], Question]
    pick: Pick = first_tensor
    call: Callable[[nn.Module, Any], object] = lambda model, batch: model(batch[0])
    wanted: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()
    is_known: bool = False
    raw: bool = False
    judge: Callable[[Contender, Question], Verdict] | None = None

    def run(self, contender: Contender, estimator: str = "unbiased") -> Verdict:
        """The verdict on one contender; its exceptions propagate."""
        torch.manual_seed(0)
        question = self.ask()
        if self.judge is not None:
            return self.judge(contender, question)
        exact = self.exact(question)
        try:
            answer = listened(contender, question)
        except ValueError as error:  # a refusal, if it names the layer
            if any(repr(name) in str(error) for name in self.odd):
                return RIGHT
            raise
        if estimator == "biased" and not self.raw:
            _undo_simtorch(answer, question)
        return judge(answer, exact, estimator, self.wanted, self.odd)

    def exact(self, question: Question) -> Exact:
        """The exact values, from copies of the models."""
        pair = copy.deepcopy((question.model1, question.model2))
        exact = observe(pair, question.loader, self.call, self.pick)
        for grams in (exact.grams1, exact.grams2):
            for name in list(grams):
                if name.split("#")[0] in self.odd and not self.is_known:
                    del grams[name]
        return exact


def listened(contender: Contender, question: Question) -> Answer:
    """A contender's answer with all that it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answer = contender(question)
    answer.notes += [str(warning.message) for warning in caught]
    return answer


def _undo_simtorch(answer: Answer, question: Question) -> None:
    """Undo release 0.2.1's division by the number of layers instead of batches."""
    answer.matrix = answer.matrix * len(answer.rows) / len(list(question.loader))


def loader(x: Tensor, **options: Any) -> DataLoader:
    """Batches of 16 examples, as ``[inputs]``."""
    return DataLoader(TensorDataset(x), **{"batch_size": 16, **options})


def vectors(
    make: Callable[[], nn.Module], layers: list[str] | None = None, **options: Any
) -> Callable[[], Question]:
    """Two models of the same kind on 64 random vectors."""

    def ask() -> Question:
        data = loader(torch.randn(64, 10), **options)
        return Question(make().eval(), make().eval(), data, layers, layers)

    return ask


def sequences(
    make: Callable[[], nn.Module], layers: list[str], width: int = 10
) -> Callable[[], Question]:
    """Batches of 16 sequences of 7 steps."""

    def ask() -> Question:
        data = loader(torch.randn(64, 7, width))
        return Question(make().eval(), make().eval(), data, layers, layers)

    return ask


def keywords(model: nn.Module, batch: dict[str, Tensor]) -> object:
    return model(**batch)


class Rows(Dataset):
    """A data set over anything that can be indexed."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]
