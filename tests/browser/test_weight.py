"""What an explorer weighs: in a page, in a saved notebook, in memory over re-runs."""

import base64
import json

import pytest
from support.lab import Notebook, execute

from cka_notebook._page.runtime import STATIC, bokehjs_gz

FIVE = """
import torch
from torch import nn
from cka_notebook import CKAExplorer

torch.set_num_threads(1)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(64))

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x).tanh()
        return x

loader = [torch.randn(16, 8) for _ in range(40)]
"""

ONE_OF_FIVE = """
layers = {"model1_layers": "blocks.*", "model2_layers": "blocks.*"}
explorer = CKAExplorer(Net(), Net(), loader, **layers)
display(explorer)
assert explorer.wait(90).matrix.shape == (64, 64)
"""

AGAIN = """
import torch
from torch import nn
from cka_notebook import CKAExplorer

torch.set_num_threads(1)
model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(16)))
loader = [torch.randn(16, 8) for _ in range(3)]
"""

SHOW = """
explorer = CKAExplorer(model, None, loader, model1_layers="all")
explorer
"""

COUNT = """
import comm, ipywidgets
print(len(comm.get_comm_manager().comms), len(ipywidgets.widgets.widget._instances))
"""

WARM_UP = 10
"""Until then a page still compiles what it runs often."""

RERUNS = 20


def test_the_bundle_is_small():
    files = [STATIC / "widget.js", STATIC / "widget.css"]
    assert sum(file.stat().st_size for file in files) <= 150_000
    assert (STATIC / "loader.js").stat().st_size <= 3_000, "every explorer has its own"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A notebook of five explorers that have ended, run by nbconvert with its state."""
    folder = tmp_path_factory.mktemp("weight")
    cells = [FIVE, *[ONE_OF_FIVE] * 5]
    path = folder / "five.ipynb"
    execute(path, cells)
    return path


@pytest.mark.slow
def test_five_explorers_saved_with_their_state_and_one_bokehjs_are_small(executed):
    state = json.loads(executed.read_text(encoding="utf-8"))["metadata"]["widgets"]
    models = state["application/vnd.jupyter.widget-state+json"]["state"].values()
    buffers = [buffer for model in models for buffer in model.get("buffers", ())]
    bokehjs = len(base64.b64encode(bokehjs_gz()))
    assert sum(model["state"].get("status") == "done" for model in models) == 5
    assert sum(buffer["path"] == ["gz"] for buffer in buffers) == 1
    assert executed.stat().st_size <= 1_500_000 + bokehjs


@pytest.mark.slow
def test_five_explorers_saved_without_state_are_small(executed):
    notebook = json.loads(executed.read_text(encoding="utf-8"))
    del notebook["metadata"]["widgets"]
    assert len(json.dumps(notebook)) <= 500_000


@pytest.mark.browser
def test_running_a_cell_twenty_times_leaves_memory_as_it_was(page, server):
    server.add("reruns.ipynb", [AGAIN, SHOW, COUNT])
    notebook = Notebook(page, server, "reruns.ipynb")
    notebook.run(0)
    rerun(notebook, WARM_UP)
    counts, heap = count(notebook), heap_bytes(page)
    rerun(notebook, RERUNS)
    assert count(notebook) == counts
    assert heap_bytes(page) - heap <= 5_000_000


def rerun(notebook, times):
    for _ in range(times):
        if notebook.explorer.count():
            notebook.explorer.evaluate("(element) => element.classList.add('old')")
        notebook.run(1)
        old = notebook.page.locator(".cka.old")
        notebook.until(lambda old=old: not old.count(), "the old view to go")
        notebook.until(lambda: notebook.status == "done", "the end of the run")
        notebook.until(notebook.image, "the map")


def count(notebook):
    notebook.run(2)
    return notebook.text(2)


def heap_bytes(page):
    """Size of what the page holds, once its garbage is collected."""
    session = page.context.new_cdp_session(page)
    for _ in range(3):
        session.send("HeapProfiler.collectGarbage")
        page.wait_for_timeout(200)
    return session.send("Runtime.getHeapUsage")["usedSize"]
