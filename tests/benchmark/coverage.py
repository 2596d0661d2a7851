"""Coverage of the standard errors: how often 95 % intervals contain the true CKA.

Batches are drawn with replacement from scikit-learn's digits. The value that minibatch
CKA then estimates is known exactly: the biased CKA of all 1797 digits.
"""

import warnings
from typing import Any

import torch
from scipy import stats
from sklearn.datasets import load_digits
from torch import Tensor, nn

from cka_notebook import CKA

BATCHES = (5, 10, 28)
EXAMPLES = 64
LEVEL = 0.95


def measure(runs: int, epochs: int = 60) -> list[dict[str, Any]]:
    """Coverage of normal and Student-t intervals, by number of batches."""
    digits, labels = (torch.as_tensor(x) for x in load_digits(return_X_y=True))
    digits = digits.float() / 16
    models = [_trained(digits, labels, seed, epochs) for seed in (0, 1)]
    layers = [str(i) for i in range(len(models[0]))]
    truth = _biased(*(_features(model, digits) for model in models))
    cka = CKA(*models, model1_layers=layers, model2_layers=layers)
    generator = torch.Generator().manual_seed(0)
    return [_coverage(cka, digits, truth, m, runs, generator) for m in BATCHES]


def markdown(found: list[dict[str, Any]]) -> str:
    """One row per number of batches."""
    head = ["batches", "normal", "Student t", "worst cell", "stderr / true sd"]
    rows = [
        [
            f"{x['batches']} x {EXAMPLES}",
            *(f"{x[key]:.3f}" for key in ("normal", "student", "worst")),
            f"{x['ratio']:.2f}",
        ]
        for x in found
    ]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _coverage(
    cka: CKA,
    digits: Tensor,
    truth: Tensor,
    batches: int,
    runs: int,
    generator: torch.Generator,
) -> dict[str, Any]:
    values, errors = [], []
    for _ in range(runs):
        shape = (batches, EXAMPLES)
        drawn = torch.randint(0, len(digits), shape, generator=generator)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = cka.compare([digits[rows] for rows in drawn], progress=False)
        values.append(result.matrix)
        errors.append(result.stderr)
    value, stderr = torch.stack(values), torch.stack(errors)
    away = (value - truth).abs() / stderr
    student = (away <= stats.t.ppf((1 + LEVEL) / 2, batches - 1)).double()
    normal = (away <= stats.norm.ppf((1 + LEVEL) / 2)).double()
    return {
        "batches": batches,
        "runs": runs,
        "normal": normal.mean().item(),
        "student": student.mean().item(),
        "worst": student.mean(0).min().item(),
        "ratio": (stderr.mean(0) / value.std(0)).median().item(),
        "bias": (value.mean(0) - truth).abs().max().item(),
    }


def _trained(digits: Tensor, labels: Tensor, seed: int, epochs: int) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(epochs):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(digits), labels).backward()
        optimizer.step()
    return model.eval()


def _features(model: nn.Sequential, x: Tensor) -> list[Tensor]:
    found = []
    with torch.no_grad():
        for layer in model:
            x = layer(x)
            found.append(x.double() - x.double().mean(0))
    return found


def _biased(features1: list[Tensor], features2: list[Tensor]) -> Tensor:
    """CKA of centered features from their covariances (Kornblith et al. 2019)."""

    def norm(x: Tensor, y: Tensor) -> Tensor:
        return (x.T @ y).square().sum()

    cells = [
        [norm(x, y) / (norm(x, x) * norm(y, y)).sqrt() for y in features2]
        for x in features1
    ]
    return torch.stack([torch.stack(row) for row in cells])
