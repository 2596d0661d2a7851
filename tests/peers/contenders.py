"""The contenders, each called as its README shows.

Each returns an `Answer`: its matrix, with the names of rows and columns.
"""

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from . import sites


@dataclass
class Question:
    """Two models and a loader; layers of None mean the contender's default."""

    model1: nn.Module
    model2: nn.Module
    loader: Iterable[Any]
    layers1: list[str] | None = None
    layers2: list[str] | None = None


@dataclass
class Answer:
    """A matrix with the names of its rows and columns, and what was said of it."""

    rows: list[str]
    columns: list[str]
    matrix: Tensor
    notes: list[str] = field(default_factory=list)


Contender = Callable[[Question], Answer]


def ours(question: Question) -> Answer:
    """cka_notebook, with default settings."""
    from cka_notebook import CKA  # noqa: PLC0415 not needed in the peers' processes

    cka = CKA(
        question.model1,
        question.model2,
        model1_layers=question.layers1,
        model2_layers=question.layers2,
    )
    result = cka.compare(question.loader, progress=False)
    return Answer(list(result.layers1), list(result.layers2), result.matrix)


def torch_cka(question: Question) -> Answer:
    """torch_cka 0.21: names from `export`."""
    cka = sites.load("torch_cka", "torch_cka").CKA(
        question.model1,
        question.model2,
        model1_layers=question.layers1,
        model2_layers=question.layers2,
    )
    cka.compare(question.loader)
    found = cka.export()
    return Answer(found["model1_layers"], found["model2_layers"], found["CKA"])


def simtorch(question: Question) -> Answer:
    """simtorch 0.2.1: gives no names, so rows are in the order of its hooks' calls."""
    similarity_model = sites.load("simtorch", "simtorch.model").SimilarityModel
    kind = importlib.import_module("simtorch.similarity").CKA
    sides = [
        # An empty string is contained in every name.
        similarity_model(model, layers_to_include=[""] if layers is None else layers)
        for model, layers in (
            (question.model1, question.layers1),
            (question.model2, question.layers2),
        )
    ]
    matrix = torch.as_tensor(kind(*sides).compute(question.loader))
    rows, columns = (list(side.model_activations) for side in sides)
    return Answer(rows, columns, matrix)


def pytorch_cka(question: Question) -> Answer:
    """pytorch-cka 1.1.3: rows are the given layers, or all but the root."""
    [matrix] = sites.load("pytorch-cka", "cka").compute_cka(
        question.model1,
        question.model2,
        question.loader,
        layers=question.layers1,
        model2_layers=question.layers2,
        progress=False,
    )
    sides = (question.model1, question.layers1), (question.model2, question.layers2)
    rows, columns = (
        [name for name, _ in model.named_modules() if name] if given is None else given
        for model, given in sides
    )
    return Answer(rows, columns, matrix)


CONTENDERS: dict[str, Contender] = {
    "ours": ours,
    "torch_cka": torch_cka,
    "simtorch": simtorch,
    "pytorch-cka": pytorch_cka,
}
