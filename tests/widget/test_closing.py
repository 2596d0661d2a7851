"""A closed explorer lets go of what it was given, and is freed itself."""

import gc
import subprocess
import sys
import threading
import weakref

import pytest
from support import ROOT
from support.doubles import Gate, batches, make, net, until

from cka_notebook import CKAExplorer
from cka_notebook._notebook import cell

COUNT = 6


class Data(list):
    """Batches that can be referred to weakly."""


def freed(references):
    gc.collect()
    return all(reference() is None for reference in references)


def begun():
    """An explorer in the middle of a run, of models that nobody else refers to."""
    loader = Gate(batches(6))
    explorer = CKAExplorer(net(), net(), loader, model1_layers="all")
    explorer.run()
    loader.let(3)
    until(lambda: explorer.progress.batches == 3)
    return explorer, loader


def models_of(explorer):
    return [weakref.ref(m) for m in explorer._session.comparison._models._strong]


def test_a_closed_explorer_lets_go_of_models_that_nobody_else_refers_to():
    explorer, loader = begun()
    models = models_of(explorer)
    assert len(models) == 2
    explorer.close()
    loader.let(9)
    assert explorer._session.runs._worker.wait(60)
    assert freed(models)
    assert explorer.result.batches >= 3


def made_of_parts():
    """An explorer, and weak references to what it was given."""
    model, data = net(), Data(batches())

    def forward(_, batch, own=model):
        return own(batch)

    explorer = CKAExplorer(model, None, data, forward=forward, callback=forward)
    return explorer, [weakref.ref(x) for x in (model, data, forward)]


@pytest.mark.parametrize("wait", [True, False])
def test_closing_before_or_after_a_run_lets_go_of_everything(wait):
    explorer, references = made_of_parts()
    if wait:
        explorer._session.comparison.callback = None
        explorer.wait(60)
    explorer.close()
    assert freed(references)
    with pytest.raises(RuntimeError, match="explorer is closed"):
        explorer.run()
    explorer.palette = "greys"
    explorer.metric = "cka"
    assert explorer.code
    assert repr(explorer)


@pytest.mark.slow
def test_running_a_cell_again_frees_the_models_although_the_output_is_kept(
    monkeypatch,
):
    made = []

    def supersede(new):
        for old in made:
            old.close()
        made.append(new)

    monkeypatch.setattr(cell, "supersede", supersede)
    models = []
    for _ in range(COUNT):
        explorer, loader = begun()
        models += models_of(explorer)
        loader.let(9)
    explorer.wait(60)
    for old in made:
        until(lambda e=old: e._session.runs.live is None)
    assert freed(models[:-2])
    assert not freed(models[-2:]), "of the last one, which can run again"
    explorer.run()
    explorer.wait(60)
    explorer.close()
    assert freed(models)


def test_closed_explorers_are_freed_and_their_threads_end(comms, monkeypatch):
    monkeypatch.setattr(cell, "supersede", lambda _: None)
    explorers = []
    for number in range(COUNT):
        explorer, line = make()
        line.page({"kind": "ready", "page": "page-1", "views": 1})
        if number % 2:
            explorer.wait(60)
        explorer.close()
        explorers.append(weakref.ref(explorer))
        del explorer, line
    comms.clear()
    names = {"cka-engine", "cka-frames", "cka-mailbox"}
    until(lambda: not names & {thread.name for thread in threading.enumerate()})
    assert freed(explorers)


@pytest.mark.slow
def test_nothing_grows_over_fifty_explorers_however_they_end():
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "tests.soak",
            "explorers",
            "--count",
            "50",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'tries': 50" in done.stdout
