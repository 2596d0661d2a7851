"""Runs each contender on a case the way its README shows.

A contender is created for two models and the names of their layers, and then called
with a loader. It returns its matrix, with rows in the order of the names.
"""

import importlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial

import torch
from peers import sites
from torch import Tensor, nn

Contender = Callable[[Iterable], Tensor | None]
FAST = ("ours", "pytorch-cka")
SLOW = ("torch_cka", "simtorch")
NAMES = ("forward", *FAST, *SLOW)


def make(
    name: str, models: tuple[nn.Module, nn.Module], layers: tuple[list[str], list[str]]
) -> Contender:
    """Prepare a contender, including any hooks that it registers early."""
    makers = {
        "forward": _forward,
        "ours": _ours,
        "pytorch-cka": _pytorch_cka,
        "torch_cka": _torch_cka,
        "simtorch": _simtorch,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _quietly(makers[name](*models, *layers))


def calls(model: nn.Module, batch: Tensor) -> dict[str, int]:
    """Number of calls of each module, in the order of their first returns."""
    counts: Counter[str] = Counter()
    handles = [
        module.register_forward_hook(lambda *_, name=name: counts.update([name]))
        for name, module in model.named_modules()
    ]
    with torch.no_grad():
        model(batch)
    for handle in handles:
        handle.remove()
    return dict(counts)


def _quietly(run: Contender) -> Contender:
    def quiet(loader: Iterable) -> Tensor | None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return run(loader)

    return quiet


def _forward(model1: nn.Module, model2: nn.Module, *_: list[str]) -> Contender:
    models = [model1] if model1 is model2 else [model1, model2]

    def run(loader: Iterable) -> None:
        with torch.no_grad():
            for (batch,) in loader:
                for model in models:
                    model(batch)

    return run


def _ours(
    model1: nn.Module, model2: nn.Module, layers1: list[str], layers2: list[str]
) -> Contender:
    from cka_notebook import CKA  # noqa: PLC0415 not needed in a peer's process

    def run(loader: Iterable) -> Tensor:
        first = loader.batches[0][:4]
        cka = CKA(
            model1,
            model2,
            model1_layers=_last_calls(model1, first, layers1),
            model2_layers=_last_calls(model2, first, layers2),
        )
        return cka.compare(loader, progress=False).matrix

    return run


def _last_calls(model: nn.Module, batch: Tensor, layers: list[str]) -> list[str]:
    """The peers only see the last call of a module, so ours compares that too."""
    counts = calls(model, batch)
    return [f"{x}#{counts[x] - 1}" if counts[x] > 1 else x for x in layers]


def _pytorch_cka(
    model1: nn.Module, model2: nn.Module, layers1: list[str], layers2: list[str]
) -> Contender:
    compute = sites.load("pytorch-cka", "cka").compute_cka
    device = next(model1.parameters()).device

    def run(loader: Iterable) -> Tensor:
        [matrix] = compute(
            model1,
            model2,
            loader,
            layers=layers1,
            model2_layers=layers2,
            device=device,
            progress=False,
        )
        return matrix

    return run


def _torch_cka(
    model1: nn.Module, model2: nn.Module, layers1: list[str], layers2: list[str]
) -> Contender:
    module = sites.load("torch_cka", "torch_cka")
    device = next(model1.parameters()).device
    cka = module.CKA(
        model1, model2, model1_layers=layers1, model2_layers=layers2, device=device
    )

    def run(loader: Iterable) -> Tensor:
        cka.compare(loader)
        rows = _rows(cka.model1_features, layers1)
        return cka.hsic_matrix[rows][:, _rows(cka.model2_features, layers2)]

    return run


def _simtorch(
    model1: nn.Module, model2: nn.Module, layers1: list[str], layers2: list[str]
) -> Contender:
    similarity_model = sites.load("simtorch", "simtorch.model").SimilarityModel
    simtorch = importlib.import_module("simtorch.similarity")
    device = next(model1.parameters()).device
    sides = []
    for model, layers in ((model1, layers1), (model2, layers2)):
        side = similarity_model(model, device=device)
        # Its own layer choice matches substrings and would select more than these.
        for name in layers:
            hook = partial(side._add_hook, name)
            model.get_submodule(name).register_forward_hook(hook)
        sides.append(side)
    cka = simtorch.CKA(*sides, device=device)

    def run(loader: Iterable) -> Tensor:
        matrix = torch.as_tensor(cka.compute(loader))
        rows = _rows(sides[0].model_activations, layers1)
        return matrix[rows][:, _rows(sides[1].model_activations, layers2)]

    return run


def _rows(features: dict[str, Tensor], layers: list[str]) -> list[int]:
    """Indices of the layers among rows that are in execution order."""
    place = {name: row for row, name in enumerate(features)}
    return [place[name] for name in layers]
