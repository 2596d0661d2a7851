"""Other front ends and kernels than JupyterLab on the installed ipykernel."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import textwrap
import time
import venv
from pathlib import Path

import numpy as np
import pytest
from support.lab import HURRY, SECONDS, SETUP, SHOW, Notebook, Page, Server, notebook_of

pytestmark = pytest.mark.browser

LIVE = SHOW.format(count=30, seconds=0.1)

CELLS = [SETUP, SHOW.format(count=300, seconds=0.4), HURRY]

RESULT = "print(explorer.wait(90).matrix.tolist(), explorer.focus)"

VERSION = "import ipykernel; print(ipykernel.__version__)"

MARIMO = f"""
import marimo

app = marimo.App()


@app.cell
def _():
{textwrap.indent(SETUP + LIVE, "    ")}
    return
"""

others = pytest.mark.skipif(
    not os.environ.get("CKA_NOTEBOOK_OTHER_KERNELS"),
    reason="installs packages: set CKA_NOTEBOOK_OTHER_KERNELS=1",
)


def run_and_click(notebook):
    """Run the cells, watch the map, pause, click, resume, and read the result."""
    notebook.run(0)
    notebook.run(1)
    notebook.until(lambda: notebook.batch >= 2, "the second batch")
    notebook.explorer.get_by_role("button", name="Pause").click()
    notebook.until(lambda: notebook.status == "paused", "the pause")
    notebook.click_cell(2, 3)
    notebook.until(lambda: notebook.marked() == [2, 3], "the marked cell")
    notebook.explorer.get_by_role("button", name="Resume").click()
    notebook.run(2)
    notebook.until(lambda: notebook.status == "done", "the end of the run")
    words = notebook.answer(3)
    matrix, focus = re.fullmatch(r"(\[\[.*\]\]) (.*)", words).groups()
    assert focus == "('2', '3')"
    shown = np.float32(notebook.image()["values"]).reshape(6, 8)
    np.testing.assert_array_equal(shown, np.float32(eval(matrix)))
    assert notebook.foreign_requests == []
    shown, still = notebook.until(
        lambda: len(found := notebook.executed()[1][1]) > 1 and found, "the picture"
    )
    assert "image/png" not in shown["data"]
    assert "image/png" in still["data"], "the finished map, in the explorer's cell"


def test_notebook_7(page, tmp_path):
    with contextlib.closing(Server(tmp_path, "notebook")) as server:
        server.add("seven.ipynb", [*CELLS, RESULT])
        run_and_click(Notebook(page, server, "seven.ipynb"))


def layered(folder, *packages):
    """Python of an environment with these packages in front of the installed ones."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    ours = next(path for path in sys.path if path.endswith("site-packages"))
    program = "import sysconfig; print(sysconfig.get_path('purelib'))"
    found = subprocess.check_output([python, "-c", program], text=True).strip()
    Path(found, "zz_outer.pth").write_text(
        f"import site; site.addsitedir({ours!r})\n", encoding="utf-8"
    )
    command = [python, "-m", "pip", "install", "--quiet", *packages]
    subprocess.run(command, check=True)
    return str(python)


@others
@pytest.mark.parametrize("version", ["6.31.0", "7.0.1", "7.1.0"])
def test_another_ipykernel(page, tmp_path, version):
    python = layered(tmp_path / "venv", f"ipykernel=={version}")
    with contextlib.closing(Server(tmp_path / "lab", python=python)) as server:
        server.add("other.ipynb", [*CELLS, RESULT, VERSION])
        notebook = Notebook(page, server, "other.ipynb")
        run_and_click(notebook)
        assert notebook.answer(4) == version


@contextlib.contextmanager
def served(command, folder, **environment):
    """Origin of a server that this command starts on a port of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    origin = f"http://127.0.0.1:{port}"
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [*command, f"--port={port}"],
            cwd=folder,
            env=os.environ | environment,
            stdout=log,
            stderr=log,
        )
        try:
            wait_for(port, process)
            yield origin
        finally:
            process.terminate()
            process.wait(20)


def wait_for(port, process):
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return
        time.sleep(0.2)
    raise AssertionError(f"port {port} did not answer")


def watch_and_click(shown):
    """Watch the map of an application without cells to run, and click it."""
    shown.until(lambda: shown.status == "done", "the end of the run")
    assert shown.until(shown.image, "the map")["shape"] == [6, 8]
    shown.click_cell(2, 3)
    shown.until(lambda: shown.marked() == [2, 3], "the marked cell")
    caption = shown.explorer.locator(".cka-row-caption").inner_text()
    assert caption.startswith("2 of Sequential")
    assert shown.explorer.get_attribute("data-theme") == "light"


@others
def test_voila(page, tmp_path):
    layered(tmp_path / "venv", "voila")
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    share = tmp_path / "venv" / "share" / "jupyter"
    path = tmp_path / "app.ipynb"
    path.write_text(notebook_of([SETUP, LIVE]), encoding="utf-8")
    # Voila asks a CDN for a file that it has itself, and waits for it.
    require = share / "voila" / "templates" / "base" / "static" / "require.min.js"
    page.route("**/require.min.js", lambda route: route.fulfill(path=require))
    command = [sys.executable, "-m", "voila", "app.ipynb", "--no-browser"]
    path = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(packages)])
    with served(command, tmp_path, PYTHONPATH=path, JUPYTER_PATH=str(share)) as origin:
        shown = Page(page, origin)
        page.goto(origin)
        watch_and_click(shown)
        shown.screenshot("voila")


@others
def test_marimo(page, tmp_path):
    python = layered(tmp_path / "venv", "marimo")
    (tmp_path / "app.py").write_text(MARIMO, encoding="utf-8")
    options = ["--headless", "--no-token", "--host=127.0.0.1"]
    command = [python, "-m", "marimo", "run", "app.py", *options]
    with served(command, tmp_path) as origin:
        shown = Page(page, origin)
        page.goto(origin)
        watch_and_click(shown)
        shown.screenshot("marimo")
