"""What the doctor reports, here and in other places."""

import sys
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace

import comm
import pytest

import cka_notebook
from cka_notebook import doctor
from cka_notebook._notebook import cell
from cka_notebook._notebook import doctor as doctor_module
from cka_notebook._notebook.fallback import VARIABLE


@pytest.fixture
def notebook(monkeypatch):
    """A kernel whose comms reach a page."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(cell, "_shell", lambda: SimpleNamespace(kernel=object()))
    create = lambda **_: None  # noqa: E731
    create.__module__ = "ipykernel.ipkernel"
    monkeypatch.setattr(comm, "create_comm", create)
    for variable in cell.VARIABLES:
        monkeypatch.delenv(variable, raising=False)


def installed(monkeypatch, **others):
    """Pretend these versions are installed; None for what is missing."""

    def version_of(name):
        if others.get(name, "") is None:
            raise PackageNotFoundError(name)
        return others.get(name) or version(name)

    monkeypatch.setattr(doctor_module, "version", version_of)


def test_it_prints_what_it_returns_and_a_notebook_shows_it_once(capsys):
    report = doctor()
    assert capsys.readouterr().out == f"{report}\n"
    assert isinstance(report, str)
    assert report._ipython_display_() is None
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("notebook")
def test_it_names_the_versions_and_the_devices():
    lines = doctor().splitlines()
    versions = dict(line.split(maxsplit=1) for line in lines if "-" not in line[:2])
    assert versions["cka-notebook"] == cka_notebook.__version__
    assert versions["python"].startswith(f"{sys.version_info[0]}.{sys.version_info[1]}")
    for name in ("torch", "bokeh", "anywidget", "ipywidgets", "ipykernel"):
        assert versions[name] == version(name)
    assert versions["device"].startswith("cpu, ") or "cuda" in versions["device"]


def test_outside_a_notebook_it_reports_that_and_what_works_there(monkeypatch):
    monkeypatch.setattr(cell, "_shell", lambda: None)
    report = doctor()
    assert "none (not in a notebook)" in report
    assert "not shown: not in a notebook\n- Show the explorer in" in report


@pytest.mark.usefixtures("notebook")
@pytest.mark.parametrize(
    ("variable", "name", "hint"),
    [
        (None, "Jupyter", "in the environment that runs Jupyter itself"),
        (
            "VSCODE_PID",
            "VS Code",
            '"jupyter.widgetScriptSources": ["jsdelivr.com", "unpkg.com"]',
        ),
        ("KAGGLE_KERNEL_RUN_TYPE", "Kaggle", ""),
    ],
)
def test_it_knows_the_front_end_and_gives_its_hint(monkeypatch, variable, name, hint):
    if variable:
        monkeypatch.setenv(variable, "1")
    report = doctor()
    assert f"front end          {name}\n" in report
    assert "widgets            should be shown" in report
    assert hint in report


@pytest.mark.usefixtures("notebook")
def test_on_colab_it_suggests_a_blocking_run(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", object())
    assert "Google Colab" in doctor()
    assert "explorer.run(block=True)" in doctor()


@pytest.mark.usefixtures("notebook")
def test_a_kernel_without_comms_shows_no_widgets():
    comm.create_comm.__module__ = "comm"
    assert "not shown: the kernel cannot reach the page" in doctor()


@pytest.mark.usefixtures("notebook")
@pytest.mark.parametrize(
    ("value", "reason"),
    [("png", "CKA_NOTEBOOK_RENDERER=png turns them off"), ("svg", "got 'svg'")],
)
def test_another_renderer_is_reported_as_the_reason(monkeypatch, value, reason):
    monkeypatch.setenv(VARIABLE, value)
    assert reason in doctor()


@pytest.mark.usefixtures("notebook")
def test_it_names_missing_and_old_packages(monkeypatch):
    installed(monkeypatch, anywidget=None, jupyterlab=None)
    report = doctor()
    assert "anywidget          not installed" in report
    assert "- pip install anywidget" in report
    assert "jupyterlab  " not in report
    installed(monkeypatch, ipykernel="6.31.0")
    assert "cannot receive messages from the page while a cell is running" in doctor()
