"""JupyterLab and pages in Chromium, driven as a reader of a notebook would."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from xml.etree import ElementTree as ET

THIN_SPACE = "\u202f"
"""What the page puts between thousands."""

SECONDS = 90
"""How long one step of a page may take on a machine that is busy with other tests."""

CHROMIUM_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


SETUP = """
import threading, torch
from torch import nn
from cka_notebook import CKAExplorer
from cka_notebook._widget import checks

checks.LONG_RUN = float("inf")  # Start at once, however long the run.
torch.set_num_threads(1)
torch.manual_seed(0)

class Slow:
    "Batches that arrive slowly, so that there is something to see, until `hurry`."
    hurry = threading.Event()
    def __init__(self, count, seconds):
        self.count, self.seconds = count, seconds
    def __len__(self):
        return self.count
    def __iter__(self):
        generator = torch.Generator().manual_seed(1)
        for _ in range(self.count):
            self.hurry.wait(self.seconds)
            yield torch.randn(24, 12, generator=generator)

def net(depth):
    layers = [m for _ in range(depth) for m in (nn.Linear(12, 12), nn.Tanh())]
    return nn.Sequential(*layers)
"""

MAKE = """
explorer = CKAExplorer(
    net(3), net(4), Slow({count}, {seconds}), model1_layers="all", model2_layers="all"
)
"""

SHOW = f"{MAKE}explorer\n"

HURRY = "Slow.hurry.set()"
"""The remaining batches arrive at once."""

LONG = 5000
"""More batches than any test waits for, however slow the machine."""

SHOW_TO_THE_END = f"{MAKE}display(explorer)\nexplorer.wait(60);\n"
"""A run that ends with its cell, for clients that hear nothing afterwards."""


def notebook_of(cells):
    """A notebook of code cells, as JSON."""
    import nbformat  # noqa: PLC0415 conftest loads this file where there is none

    made = nbformat.v4.new_notebook()
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    made.metadata.kernelspec = kernel
    for number, source in enumerate(cells):
        cell = nbformat.v4.new_code_cell(source, id=f"cell-{number}")
        made.cells.append(cell)
    return nbformat.writes(made)


def execute(path, cells, *options):
    """Run a notebook of code cells with nbconvert, which shows no widget."""
    path.write_text(notebook_of(cells), encoding="utf-8")
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute"]
    subprocess.run([*command, *options, "--inplace", path], check=True)


def chromium():
    """Path of Chromium, or None."""
    names = os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome"
    return next(
        (found for name in names if name and (found := shutil.which(name))), None
    )


class Server:
    """JupyterLab on 127.0.0.1 with its own settings, data and runtime folders.

    `application` may be ``"notebook"`` instead; kernels are those of `python`.
    """

    def __init__(self, folder, application="jupyterlab", python=sys.executable):
        self.folder = Path(folder)
        self.application = application
        self.root = self.folder / "root"
        self.root.mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.origin = f"http://127.0.0.1:{self.port}"
        self._quiet_settings()
        self._kernel(python)
        self._log = (self.folder / "server.log").open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-m", application, *self._options()],
            cwd=self.root,
            env=self._environment(),
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self._wait()

    def add(self, name, cells):
        """Write a notebook of code cells."""
        (self.root / name).write_text(notebook_of(cells), encoding="utf-8")

    def trust(self, path):
        """Let a notebook that was executed outside of this server show its widgets."""
        command = [sys.executable, "-m", "jupyter", "trust", path]
        subprocess.run(command, env=self._environment(), check=True)

    def reset(self):
        """Remove the notebooks, layouts and settings that an earlier test left."""
        shutil.rmtree(self.folder / "workspaces", ignore_errors=True)
        shutil.rmtree(self.folder / "settings")
        self._quiet_settings()
        # The folder itself must stay: the server runs in it.
        for entry in self.root.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def shut_kernels_down(self):
        """Shut all kernels down, so that none computes beside the next test."""
        for kernel in json.loads(self._request("GET", "kernels")):
            self._request("DELETE", f"kernels/{kernel['id']}")

    def close(self):
        """Shut the server and its kernels down."""
        with contextlib.suppress(OSError):
            self._request("POST", "shutdown")
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(20)
        self._log.close()

    def _request(self, method, name):
        request = urllib.request.Request(f"{self.origin}/api/{name}", method=method)
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return answer.read()

    def _options(self):
        return (
            "--no-browser",
            "--allow-root",
            "--expose-app-in-browser",
            "--LabApp.extension_manager=readonly",
            "--ServerApp.ip=127.0.0.1",
            f"--ServerApp.port={self.port}",
            "--ServerApp.port_retries=0",
            "--IdentityProvider.token=",
            "--ServerApp.disable_check_xsrf=True",
            f"--ServerApp.root_dir={self.root}",
        )

    def _environment(self):
        folders = {
            "JUPYTER_CONFIG_DIR": "config",
            "JUPYTER_DATA_DIR": "data",
            "JUPYTER_RUNTIME_DIR": "runtime",
            "JUPYTERLAB_SETTINGS_DIR": "settings",
            "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
            "IPYTHONDIR": "ipython",
        }
        own = {name: str(self.folder / folder) for name, folder in folders.items()}
        return {
            **os.environ,
            **own,
            "JUPYTER_PATH": str(self.folder / "first"),
            "JUPYTER_PLATFORM_DIRS": "1",
            "OMP_NUM_THREADS": "1",
        }

    def _kernel(self, python):
        folder = self.folder / "first" / "kernels" / "python3"
        folder.mkdir(parents=True)
        start = [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec = {"argv": start, "display_name": "Python 3", "language": "python"}
        (folder / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")

    def _quiet_settings(self):
        folder = self.folder / "settings" / "@jupyterlab" / "apputils-extension"
        folder.mkdir(parents=True)
        settings = {"fetchNews": "false", "checkForUpdates": False}
        path = folder / "notification.jupyterlab-settings"
        path.write_text(json.dumps(settings), encoding="utf-8")

    def _wait(self):
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                self._request("GET", "status")
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.2)
        log = (self.folder / "server.log").read_text(encoding="utf-8")
        raise AssertionError(f"{self.application} did not start:\n{log[-3000:]}")


READY = """async () => {
  const app = window.jupyterapp;
  const panel = app?.shell.currentWidget;
  if (!panel?.context?.isReady || !panel.sessionContext?.isReady) return false;
  const kernel = panel.sessionContext.session?.kernel;
  return kernel?.status === "idle" && kernel.connectionStatus === "connected";
}"""

RUN_CELL = """async (index) => {
  const app = window.jupyterapp;
  app.shell.currentWidget.content.activeCellIndex = index;
  await app.commands.execute("notebook:run-cell");
}"""

OUTPUTS = """(index) => {
  const cell = window.jupyterapp.shell.currentWidget.content.widgets[index];
  return cell.model.outputs.toJSON();
}"""

EXECUTED = """() => window.jupyterapp.shell.currentWidget.content.widgets
  .filter((cell) => cell.model.type === "code")
  .map((cell) => [cell.model.executionCount, cell.model.outputs.toJSON()])"""

# The page's own BokehJS keeps an index of the views it has drawn.
CHARTS = """async () => {
  const loaded = globalThis[Symbol.for("cka_notebook.bokehjs")];
  if (!loaded) return null;
  const [bokeh] = await Promise.all(loaded.values());
  const views = [...bokeh.index].filter((view) => view.model.name === "map");
  const view = views.at(-1);
  return view ? { bokeh, view } : null;
}"""

IMAGE = f"""async () => {{
  const charts = await ({CHARTS})();
  const source = charts?.view.model.document.get_model_by_name("map_source");
  const image = source?.data.image[0];
  return image ? {{ shape: [...image.shape], values: [...image] }} : null;
}}"""

MARKED = f"""async () => {{
  const charts = await ({CHARTS})();
  const source = charts?.view.model.document.get_model_by_name("focus_source");
  const [[x], [y]] = [[...source.data.x], [...source.data.y]];
  return x === undefined ? null : [Math.floor(y), Math.floor(x)];
}}"""

HISTORY = f"""async () => {{
  const charts = await ({CHARTS})();
  const data = (name) => charts.view.model.document.get_model_by_name(name).data;
  const {{ xs, ys }} = data("history_band_source");
  const errors = new Map();
  for (const [k, batches] of [...xs].entries()) {{
    const edge = [...ys[k]];
    for (let at = 0; 2 * at < edge.length; at++) {{
      errors.set(batches[at], (edge[at] - edge.at(-1 - at)) / 2);
    }}
  }}
  return [...data("history_source").x].map((at) => [at, errors.get(at) ?? NaN]);
}}"""

CELL_PLACE = f"""async ([row, col]) => {{
  const charts = await ({CHARTS})();
  const {{ x_scale, y_scale }} = charts.view.frame;
  const box = charts.view.el.getBoundingClientRect();
  return [
    box.left + x_scale.compute(col + 0.5),
    box.top + y_scale.compute(row + 0.5),
  ];
}}"""


class Page:
    """A page of Chromium that shows an explorer."""

    def __init__(self, page, origin):
        self.page, self.origin = page, origin
        self.requests = []
        self.errors = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    @property
    def foreign_requests(self):
        """Requests that left the server's origin."""
        own = (self.origin, "blob:", "data:", "ws://127.0.0.1")
        return [url for url in self.requests if not url.startswith(own)]

    def until(self, condition, what):
        """Wait until a condition on the page holds and return its value."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            if value := condition():
                return value
            self.page.wait_for_timeout(50)
        raise AssertionError(f"expected {what}, which did not come within {SECONDS} s")

    @property
    def explorer(self):
        """The one explorer of the page."""
        return self.page.locator(".cka").first

    @property
    def status(self):
        """The status that the explorer's badge shows."""
        badge = self.explorer.locator(".cka-badge")
        return badge.get_attribute("data-status") if badge.count() else None

    @property
    def progress(self):
        """The progress line."""
        line = self.explorer.locator(".cka-progress-line")
        return line.inner_text() if line.count() else ""

    @property
    def batch(self):
        """Number of the batch shown, or 0."""
        first = self.progress.split("/")[0].replace(THIN_SPACE, "")
        return int(first) if first.isdigit() else 0

    def image(self):
        """Shape and values of the map, or None while there is none."""
        return self.page.evaluate(IMAGE)

    def marked(self):
        """Row and column of the marked cell, or None."""
        return self.page.evaluate(MARKED)

    def history(self):
        """Standard error of the marked cell by batch, as its curve shows it."""
        return dict(self.page.evaluate(HISTORY))

    def point_at(self, row, col):
        """Move the mouse to a cell of the map."""
        place = self.until(lambda: self._resting_place(row, col), "a still map")
        self.page.mouse.move(*place)

    def click_cell(self, row, col):
        """Click a cell of the map with the mouse."""
        place = self.until(lambda: self._resting_place(row, col), "a still map")
        self.page.mouse.click(*place)

    def _resting_place(self, row, col):
        """Where a cell of the map is, once the page has stopped moving."""
        self.explorer.locator(".cka-map").scroll_into_view_if_needed()
        places = []
        for _ in range(3):
            places.append(self.page.evaluate(CELL_PLACE, [row, col]))
            self.page.wait_for_timeout(100)
        return places[0] if places[0] == places[1] == places[2] else None

    def screenshot(self, name):
        """Save a picture of the page if CKA_NOTEBOOK_SCREENSHOTS names a folder."""
        folder = os.environ.get("CKA_NOTEBOOK_SCREENSHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.wait_for_timeout(500)
            self.page.screenshot(path=Path(folder, f"{name}.png"))


class Notebook(Page):
    """One notebook in JupyterLab, or in Notebook 7."""

    def __init__(self, page, server, name):
        super().__init__(page, server.origin)
        is_lab = server.application == "jupyterlab"
        folder = f"lab/workspaces/{Path(name).stem}/tree" if is_lab else "notebooks"
        page.goto(f"{server.origin}/{folder}/{name}")
        self.wait_until_ready()

    def wait_until_ready(self):
        """Wait for the notebook and its kernel: a cell run earlier would be lost."""
        self.until(lambda: self.page.evaluate(READY), "the notebook and its kernel")

    def command(self, name, options=None):
        """Execute one of JupyterLab's commands."""
        call = "async ([n, o]) => { await window.jupyterapp.commands.execute(n, o); }"
        self.page.evaluate(call, [name, options or {}])

    def run(self, index):
        """Run one cell and wait for its end."""
        self.page.evaluate(RUN_CELL, index)

    def executed(self):
        """Execution count and outputs of all code cells."""
        return self.page.evaluate(EXECUTED)

    def answer(self, index):
        """Run a cell and return what it prints."""
        self.run(index)
        return self.text(index).strip()

    def text(self, index):
        """What a cell has printed or returned, as text."""
        parts = []
        for output in self.page.evaluate(OUTPUTS, index):
            assert output["output_type"] != "error", output
            parts.append(output.get("text") or output["data"].get("text/plain", ""))
        return "".join("".join(part) for part in parts)


SVG = "{http://www.w3.org/2000/svg}"


def saved(shown, kind):
    """Name and content of the file that the map is saved as."""
    with shown.page.expect_download() as caught:
        shown.explorer.get_by_role("button", name=f"Save {kind.upper()}").click()
    content = Path(caught.value.path()).read_bytes()
    is_drawing = kind == "svg"
    name = caught.value.suggested_filename
    return name, ET.fromstring(content) if is_drawing else content
