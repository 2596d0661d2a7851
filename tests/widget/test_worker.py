"""The thread that drives the engine: where it works, and how it ends."""

import contextlib
import contextvars
import gc
import subprocess
import sys
import threading
import weakref

import pytest
import torch
from support.doubles import Gate, batches, make, until
from torch import nn

from cka_notebook import CKAExplorer, CKAResult

# The thread


def test_run_blocks_where_asked_and_works_in_the_calling_thread():
    seen = []

    class Noting(nn.Module):
        def forward(self, x):
            seen.append(threading.current_thread())
            return x * 2

    model = nn.Sequential(nn.Linear(6, 8), Noting())
    explorer = CKAExplorer(model, None, batches(), model1_layers="all")
    assert explorer.run(block=True) is None
    assert set(seen) == {threading.current_thread()}
    assert explorer.status == "done"


def test_the_worker_prints_nothing(capfd):
    explorer, _ = make()
    explorer.wait(60)
    assert capfd.readouterr() == ("", "")


def test_everything_is_sent_from_a_thread_that_belongs_to_the_cell():
    cell = contextvars.ContextVar("cell", default="none")
    seen = []
    cell.set("In[7]")
    explorer, line = make()
    publish = line.publish_msg

    def noting(*args, **options):
        seen.append(cell.get())
        return publish(*args, **options)

    line.publish_msg = noting
    explorer.wait(60)
    line.page({"kind": "view", "palette": "greys"})
    until(lambda: explorer.palette == "greys")
    assert set(seen) == {"In[7]"}


def test_the_worker_builds_no_graph_though_its_caller_would():
    seen = []

    class Noting(nn.Module):
        def forward(self, x):
            seen.append((threading.current_thread().name, x.requires_grad))
            return x

    model = nn.Sequential(nn.Linear(6, 8), Noting())
    with torch.enable_grad():
        explorer = CKAExplorer(model, None, batches(), model1_layers=["0"])
        explorer.wait(60)
    assert set(seen) == {("cka-engine", False)}


def test_the_default_device_of_the_caller_holds_in_the_worker():
    seen = []

    class Noting(nn.Module):
        def forward(self, x):
            seen.append(torch.get_default_device())
            return x

    model = nn.Sequential(nn.Linear(6, 8), Noting())
    data = batches()
    with torch.device("meta"):
        explorer = CKAExplorer(model, None, data, model1_layers=["0"])
        explorer.run()
    with contextlib.suppress(Exception):  # There are no numbers on that device.
        explorer.wait(60)
    assert {device.type for device in seen} == {"meta"}


def test_the_partial_result_can_be_read_during_a_run():
    loader = Gate(batches(6))
    explorer, _ = make(loader)
    explorer.run()
    assert explorer.result is None
    loader.let(3)
    until(lambda: explorer.progress.batches == 3)
    threading.Timer(0.05, loader.let, [10]).start()
    assert isinstance(explorer.result, CKAResult)
    explorer.wait(60)


EXIT = """
import torch
from torch import nn
from cka_notebook import CKAExplorer

model = nn.Sequential(nn.Linear(200, 200), nn.ReLU())
explorer = CKAExplorer(model, None, [torch.randn(300, 200)] * 100_000)
explorer.run()
while explorer.progress.batches < 2:
    pass
"""


def test_a_process_may_end_during_a_run():
    done = subprocess.run(
        [sys.executable, "-c", EXIT], capture_output=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


# Errors and interrupts


class Failing(nn.Module):
    def __init__(self, at):
        super().__init__()
        self.calls, self.at = 0, at

    def forward(self, x):
        self.calls += 1
        if self.calls >= self.at:
            raise ArithmeticError("the third wheel came off")
        return x


def test_an_error_of_the_worker_is_shown_in_words_and_raised_by_wait():
    model = nn.Sequential(nn.Linear(6, 8), Failing(at=6))
    explorer = CKAExplorer(model, None, batches(), model1_layers=["0"])
    explorer.run()
    with pytest.raises(ArithmeticError, match="third wheel"):
        explorer.wait(60)
    assert explorer.status == "error"
    given = "model1 (Sequential) was given a tensor of shape (12, 6)."
    text = f"the third wheel came off. {given}"
    assert explorer._message == {"kind": "error", "text": text}
    assert 0 < explorer.result.batches < 6, "what was done until then is kept"
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None
    assert explorer.comm.values("status")[-1] == "error"


def test_an_error_of_a_blocking_run_is_raised_by_it():
    model = nn.Sequential(nn.Linear(6, 8), Failing(at=1))
    explorer = CKAExplorer(model, None, batches(), model1_layers=["0"])
    with pytest.raises(ArithmeticError, match="third wheel"):
        explorer.run(block=True)
    assert explorer.status == "error"
    assert explorer.result is None


def test_an_interrupt_of_a_blocking_run_is_raised_and_keeps_the_result():
    class Interrupting(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls == 6:
                raise KeyboardInterrupt
            return x

    model = nn.Sequential(nn.Linear(6, 8), Interrupting())
    explorer = CKAExplorer(model, None, batches(), model1_layers=["0"])
    with pytest.raises(KeyboardInterrupt) as raised:
        explorer.run(block=True)
    assert explorer.status == "stopped"
    assert explorer.result.batches > 0
    assert explorer.wait(60) is explorer.result, "the interrupt is over"
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None, f"held by {raised.value!r}, which IPython keeps"
