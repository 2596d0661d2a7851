"""The output next to the widget, for where the widget cannot be displayed."""

import base64
import contextlib
import json
import re
import subprocess
import sys

import comm
import nbformat
import numpy as np
import pytest
import torch
from support.doubles import RecordingComm, until
from support.lab import HURRY, MAKE, SETUP, SHOW, SHOW_TO_THE_END, Notebook, execute
from torch import nn

from cka_notebook import CKAExplorer
from cka_notebook._figures.png import png
from cka_notebook._notebook import fallback
from cka_notebook._notebook.fallback import (
    NO_ANSWER,
    Fallback,
    Preview,
    forms,
    renderer,
)
from cka_notebook._page.runtime import STATIC

PREVIEW = Preview(
    "CKAExplorer(A <x> B)", png(np.eye(2), ["#000000", "#ffffff"], (0, 1))
)

QUICK = SHOW_TO_THE_END.format(count=4, seconds=0.05)

IMPATIENT = """
from cka_notebook._notebook import fallback
fallback.PATIENCE = 0.1
display(explorer)
explorer._fallback._timer.join()
"""

RENDERED = f"""
import os
os.environ["CKA_NOTEBOOK_RENDERER"] = "{{kind}}"
{QUICK}"""

UNANSWERED = f"""
del os.environ["CKA_NOTEBOOK_RENDERER"]
{MAKE.format(count=8, seconds=0.1)}{IMPATIENT}"""

SHOW_LATER = f"import time\n{MAKE.format(count=8, seconds=0.1)}\nexplorer"


@pytest.fixture
def outputs(monkeypatch):
    """What is sent to the notebook: pairs of a message's type and its content."""
    sent = []
    monkeypatch.setattr(
        fallback, "outlet", lambda: lambda *sending: sent.append(sending)
    )
    return sent


def ids(outputs):
    return [content["transient"]["display_id"] for _, content in outputs]


CELLS = {
    "setup": SETUP,
    "widget": QUICK,
    "png": RENDERED.format(kind="png"),
    "html": RENDERED.format(kind="html"),
    "none": RENDERED.format(kind="none"),
    "unanswered": UNANSWERED,
    "ended": "print(explorer.wait(60).batches)",
    "later": SHOW_LATER,
    "other": "while explorer.status != 'done':\n    time.sleep(0.01)",
    "last": "1 + 1",
}


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A notebook as nbconvert, which shows no widgets, executes it."""
    path = tmp_path_factory.mktemp("executed") / "executed.ipynb"
    options = ["--ExecutePreprocessor.store_widget_state=False"]
    execute(path, CELLS.values(), *options)
    return nbformat.read(path, 4)


@pytest.fixture(scope="module")
def outputs_of(executed):
    """The outputs of each cell by its name."""
    return {
        name: cell.outputs for name, cell in zip(CELLS, executed.cells, strict=True)
    }


def test_the_first_run_creates_an_output_and_later_ones_replace_it(outputs):
    output = Fallback(lambda: PREVIEW, pytest.fail)
    output.shown()
    output.answered()
    output.refresh()
    output.refresh()
    kinds = [kind for kind, _ in outputs]
    assert kinds == ["display_data", "update_display_data"]
    assert outputs[0][1]["data"] == forms(PREVIEW, "png")
    assert len(set(ids(outputs))) == 1


def test_a_cell_that_shows_the_explorer_later_has_an_output_of_its_own(outputs):
    output = Fallback(lambda: PREVIEW, pytest.fail)
    for _ in range(2):
        output.shown()
        output.refresh()
    output.stop_waiting()
    assert [kind for kind, _ in outputs] == ["display_data"] * 2
    assert len(set(ids(outputs))) == 2


def test_outside_of_a_kernel_nothing_is_sent():
    output = Fallback(lambda: PREVIEW, pytest.fail)
    output.shown()
    output.refresh()
    assert output._timer is None


def test_a_front_end_that_does_not_answer_gets_the_reason(outputs, monkeypatch):
    monkeypatch.setattr(fallback, "PATIENCE", 0.0)
    Fallback(lambda: PREVIEW, pytest.fail).shown()
    _, content = until(lambda: outputs)[0]
    assert NO_ANSWER in content["data"]["text/plain"]
    assert NO_ANSWER in content["data"]["text/html"]
    assert "A &lt;x&gt; B" in content["data"]["text/html"]


def test_a_front_end_that_answers_does_not_get_it(outputs):
    output = Fallback(lambda: PREVIEW, pytest.fail)
    output.shown()
    timer = output._timer
    output.answered()
    timer.join(60)
    output.shown()
    assert output._timer is timer, "a second view is of the same page"
    assert outputs == []


def test_next_to_a_widget_there_is_no_text_without_a_picture(outputs):
    output = Fallback(lambda: PREVIEW._replace(picture=None), pytest.fail)
    output.shown()
    output.answered()
    output.refresh()
    assert outputs == []


@pytest.fixture
def end_cell(monkeypatch):
    """Ends the notebook cell that is being executed."""
    methods = []
    monkeypatch.setattr(fallback, "after_each_cell", methods.append)
    return lambda: [method() for method in methods]


def test_a_map_finished_after_its_cell_is_shown_by_the_one_being_executed(
    outputs, end_cell
):
    output = Fallback(lambda: PREVIEW, pytest.fail)
    output.shown()
    end_cell()
    end_cell()
    assert outputs == []
    output.refresh()
    end_cell()
    end_cell()
    output.stop_waiting()
    assert [content["data"] for _, content in outputs] == 2 * [forms(PREVIEW, "png")]


def test_a_map_finished_within_its_cell_is_shown_there_alone(outputs, end_cell):
    output = Fallback(lambda: PREVIEW, pytest.fail)
    output.shown()
    output.refresh()
    end_cell()
    end_cell()
    output.stop_waiting()
    assert len(outputs) == 1


def test_a_page_that_answers_or_names_its_cells_gets_one_picture(
    outputs, end_cell, monkeypatch
):
    output = Fallback(lambda: PREVIEW, pytest.fail)
    output.shown()
    end_cell()
    output.refresh()
    output.answered()
    end_cell()
    monkeypatch.setattr(fallback, "current_execution", lambda: ("cell", "message"))
    other = Fallback(lambda: PREVIEW, pytest.fail)
    other.shown()
    end_cell()
    other.refresh()
    end_cell()
    other.stop_waiting()
    assert len(outputs) == 2


@pytest.mark.parametrize("name", ["VSCODE_PID", "google.colab"])
def test_a_picture_that_cannot_be_hidden_is_not_shown_next_to_a_widget(
    outputs, monkeypatch, name
):
    monkeypatch.setenv("VSCODE_PID", "1")
    if name == "google.colab":
        monkeypatch.delenv("VSCODE_PID")
        monkeypatch.setitem(sys.modules, name, object())
    output = Fallback(lambda: PREVIEW, pytest.fail)
    output.shown()
    output.refresh()
    assert len(outputs) == 1, "no page has answered"
    output.answered()
    output.refresh()
    assert len(outputs) == 1


@pytest.mark.parametrize(
    ("kind", "types"),
    [
        ("widget", {"text/plain", "image/png"}),
        ("png", {"text/plain", "image/png"}),
        ("html", {"text/plain", "image/png", "text/html"}),
        ("none", {"text/plain"}),
    ],
)
def test_each_renderer_has_its_forms(kind, types):
    assert set(forms(PREVIEW, kind)) == types
    assert "image/png" not in forms(PREVIEW._replace(picture=None), kind)


def test_an_unknown_renderer_is_an_error_when_an_explorer_is_created(monkeypatch):
    monkeypatch.setenv("CKA_NOTEBOOK_RENDERER", "svg")
    words = "RENDERER to be one of widget, html, png, none or unset, got 'svg'"
    with pytest.raises(ValueError, match=words):
        renderer()
    with pytest.raises(ValueError, match=words):
        CKAExplorer(nn.Linear(4, 2), None, [])


def test_pages_know_the_picture_by_its_mark():
    style = (STATIC / "widget.css").read_text(encoding="utf-8")
    [mark] = re.findall(r'img\[src\*="?([\w+/]+)"?\]', style)
    matrices = np.eye(2), np.random.default_rng(0).random((300, 7))
    for matrix in matrices:
        picture = png(matrix, ["#000000", "#ffffff"], (0, 1), is_fallback=True)
        assert mark in base64.b64encode(picture).decode()
        other = png(matrix, ["#000000", "#ffffff"], (0, 1))
        assert mark not in base64.b64encode(other).decode()


@pytest.mark.slow
def test_without_an_answer_the_reason_is_shown_and_the_run_continues(outputs_of):
    assert NO_ANSWER in outputs_of["unanswered"][1].data["text/html"]
    assert outputs_of["ended"][0].text == "8\n"


@pytest.mark.slow
def test_a_map_finished_in_a_later_cell_is_in_the_executed_notebook(outputs_of):
    shown = {
        name: ["image/png" in output.get("data", {}) for output in outputs_of[name]]
        for name in ("later", "other", "last")
    }
    assert shown == {"later": [False], "other": [True], "last": [False]}


@pytest.mark.slow
def test_nbconvert_shows_the_finished_map_without_the_state_of_widgets(
    executed, outputs_of, tmp_path
):
    [_, still] = outputs_of["widget"]
    assert "96 examples in 4 batches" in still.data["text/plain"]
    picture = still.data["image/png"]
    assert len(base64.b64decode(picture)) <= 60_000
    path = tmp_path / "widget.ipynb"
    alone = nbformat.from_dict(executed | {"cells": executed.cells[:2]})
    nbformat.write(alone, path)
    command = [sys.executable, "-m", "nbconvert", "--to", "html", path]
    subprocess.run(command, check=True)
    page = path.with_suffix(".html").read_text(encoding="utf-8")
    assert f'src="data:image/png;base64,{picture.strip()}"' in page


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["png", "html", "none"])
def test_the_environment_chooses_the_renderer(outputs_of, kind):
    first, *later = outputs_of[kind]
    assert set(first.data) == set(forms(PREVIEW._replace(picture=None), kind))
    assert [set(output.data) for output in later] == (
        [] if kind == "none" else [set(forms(PREVIEW, kind))]
    )


def test_any_message_of_a_page_is_an_answer(outputs, monkeypatch):
    monkeypatch.setattr(comm, "create_comm", RecordingComm)
    loader = [torch.randn(8, 4)]
    explorer = CKAExplorer(nn.Linear(4, 2), None, loader, autostart=False)
    explorer._repr_mimebundle_()
    timer = explorer._fallback._timer
    explorer.comm.page({"kind": "ready", "page": "page-1", "views": 0})
    timer.join(60)
    assert outputs == []
    explorer.close()


@pytest.mark.browser
def test_a_page_that_cannot_load_widgets_shows_the_reason_and_then_the_map(
    page, server
):
    slow = MAKE.format(count=8, seconds=600)
    patient = IMPATIENT.replace("0.1", "1.0")
    ends = f"{HURRY}; explorer.wait(60).batches"
    server.add("unable.ipynb", [SETUP, slow + patient, ends])
    page.route("**/anywidget/**", lambda route: route.abort())
    notebook = Notebook(page, server, "unable.ipynb")
    notebook.run(0)
    notebook.run(1)
    notebook.until(page.get_by_text(NO_ANSWER).is_visible, "the reason")
    notebook.screenshot("still-reason")
    notebook.run(2)
    assert notebook.text(2) == "8"
    picture = page.locator(".jp-OutputArea-child img")
    notebook.until(picture.count, "the picture")
    assert picture.is_visible()
    assert not page.get_by_text(NO_ANSWER).count()
    notebook.screenshot("still-instead")


@pytest.mark.browser
def test_lab_hides_the_picture_next_to_the_widget_and_saves_it(page, server):
    slow = SHOW.format(count=8, seconds=600)
    server.add("still.ipynb", [SETUP, slow, "1 + 1", HURRY])
    notebook = Notebook(page, server, "still.ipynb")
    notebook.run(0)
    notebook.run(1)
    notebook.run(2)
    notebook.run(3)
    notebook.until(lambda: notebook.status == "done", "the end of the run")
    picture = page.locator(".jp-OutputArea-child img")
    notebook.until(picture.count, "the picture")
    assert not picture.is_visible()
    assert page.locator(".cka").count() == 1
    notebook.screenshot("still-live")
    notebook.command("docmanager:save")
    saved = json.loads((server.root / "still.ipynb").read_text(encoding="utf-8"))
    shown, still = saved["cells"][1]["outputs"]
    assert "application/vnd.jupyter.widget-view+json" in shown["data"]
    assert base64.b64decode(still["data"]["image/png"])[1:4] == b"PNG"
    assert len(saved["cells"][2]["outputs"]) == 1
    with contextlib.suppress(KeyError):
        del saved["metadata"]["widgets"]
    (server.root / "reopened.ipynb").write_text(json.dumps(saved), encoding="utf-8")
    reopened = Notebook(page, server, "reopened.ipynb")
    reopened.until(picture.count, "the picture")
    assert picture.is_visible()
    reopened.screenshot("still-reopened")
