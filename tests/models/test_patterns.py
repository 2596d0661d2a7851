"""Regular expressions that choose layers, also such as would never end."""

import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from cka_notebook import CKA
from cka_notebook._models import patterns
from cka_notebook._models.patterns import _most_steps, matching

NAMES = [f"layers.{k}.{part}" for k in range(12) for part in ("attn", "mlp", "norm1")]

USUAL = [
    *(r"attn$", r"layers\.\d\.", r"\.\d+\.(attn|mlp)$", r"^layers\.[0-3]\.norm\d?$"),
    *(r"(?i)MLP", r"layers\.(?!1)\d+", r".*norm.*", r"", r"nothing"),
]

EXPLODING = [
    *(r"(\w+)+!", r"(a|a)*!", r"(.*)*!", r"^(([a-z])+.)+[A-Z]$", r"(\w|\.)+?!$"),
    *(r"(?:(?:\w+)+)+!", r"(\w?){40}!", r"\w*\w*\w*\w*\w*\w*\w*\w*\w*\w*!"),
    r"a?" * 30 + r"a" * 30 + "!",
]


@pytest.fixture
def no_process(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process"))


@pytest.mark.parametrize("source", USUAL)
@pytest.mark.usefixtures("no_process")
def test_usual_patterns_are_matched_at_once(source):
    pattern = re.compile(source)
    assert matching(pattern, NAMES) == [n for n in NAMES if pattern.search(n)]


@pytest.mark.parametrize("source", EXPLODING)
def test_patterns_that_may_explode_are_not_matched_at_once(source):
    assert _most_steps(re.compile(source), ["a" * 40]) > patterns.MOST_STEPS


@pytest.mark.parametrize("source", [r"(l|a)+yers\.\d", r"(?i)(\w+\.)+MLP$", r"(x)*$"])
def test_a_separate_process_finds_the_same(source):
    pattern = re.compile(source)
    assert matching(pattern, NAMES) == [n for n in NAMES if pattern.search(n)]


def test_without_a_process_patterns_are_matched_here(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert matching(re.compile(r"(\w+\.)+mlp$"), ["a.b.mlp", "mlp"]) == ["a.b.mlp"]


def test_a_pattern_that_explodes_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(patterns, "PATIENCE", 0.5)
    model = nn.Sequential()
    model.add_module("a" * 60, nn.Linear(4, 4))
    data = [torch.randn(8, 4)]
    for choice in (re.compile(r"(a+)+!"), [re.compile(r"(a|a)*!")]):
        with pytest.raises(
            ValueError, match=r"takes more than 0.5 s for .* use a glob"
        ):
            CKA(model, model1_layers=choice).compare(data, progress=False)
