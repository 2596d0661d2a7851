"""An error or interrupt at any step leaves nothing wrong, lost or behind.

`tests/soak` tries many more steps.
"""

import random

import pytest
from support.faults import ERRORS, Scene, Steps

from cka_notebook._engine import checkpoint

CRITICAL = [
    ("state.py", "RunState.add"),
    ("state.py", "RunState.finish"),
    ("totals.py", "Faults.with_batch"),
    ("cka.py", "MinibatchCKA.with_batch"),
    ("cka.py", "CKA.compare"),
    ("cka.py", "CKA._steps"),
    ("run.py", "Run.step"),
    ("run.py", "Run.save"),
    ("modes.py", "Shared.hold"),
    ("modes.py", "Shared.release"),
    ("modes.py", "_switch_off"),
    ("hooks.py", "hooked"),
    ("_undo.py", "Undo.__exit__"),
    ("_undo.py", "_done"),
    ("rewinding.py", "Rewinder.rewind"),
    ("precision.py", "exact"),
    ("checkpoint.py", "Checkpoint.write"),
    ("files.py", "write"),
]
"""Functions that change what is not theirs, or count."""


@pytest.fixture(autouse=True)
def _always_written(monkeypatch):
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return Scene(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def steps(scene):
    found = scene.steps()
    order = sorted(found, key=lambda x: (x[0].co_filename, x[0].co_firstlineno, x[1]))
    return {step: found[step] for step in order}


def strike(draw, steps, places):
    code, offset = draw.choice(places)
    passed = draw.randrange(steps[code, offset])
    return Steps((code, offset, passed), draw.choice(list(ERRORS.values())))


@pytest.mark.parametrize(("file", "function"), CRITICAL)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_error_at_a_critical_step(scene, steps, file, function):
    places = [
        (code, offset)
        for code, offset in steps
        if code.co_filename.endswith(file) and code.co_qualname == function
    ]
    assert places, "the function was renamed, or is no longer called"
    struck = strike(random.Random(function), steps, places)
    assert scene.faults(struck) == []
    assert struck.struck


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_error_at_any_step(scene, steps):
    draw, places = random.Random(0), list(steps)
    for _ in range(60):
        assert scene.faults(strike(draw, steps, places)) == []


def test_an_interrupted_step_is_noticed(scene, steps):
    """The harness itself: an error that leaves something behind is found."""
    place = next(x for x in steps if x[0].co_qualname == "RunState.add")

    class Careless(Steps):
        def __exit__(self, *given):
            super().__exit__(*given)
            scene.path.with_suffix(".left").write_text("")

    assert scene.faults(Careless((*place, 0))) == ["left run.left"]
