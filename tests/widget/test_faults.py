"""An error outside of a run is shown, ends nothing else, and changes no number."""

import logging
import os
import subprocess
import sys
import threading

import pytest
import torch
from support.doubles import Gate, batches, make, until

from cka_notebook import CKA
from cka_notebook._notebook import fallback
from cka_notebook._page.publisher import Publisher

ENGINE = ("prepare", "steps", "begins", "batch")
"""Without these there are no numbers."""

AT_THE_END = ("_show", "_show_end", "_release")
"""Steps at the end of a run."""


class InjectedError(Exception):
    """A fault that no code of ours expects."""


def fail(*_, **__):
    raise InjectedError("injected")


def expected(explorer):
    """The result without an explorer."""
    comparison = explorer._session.comparison
    models = comparison._models._strong
    cka = CKA(*models, model1_layers="all", model2_layers="all")
    return cka.compare(comparison._loader, progress=False).matrix


def shows(explorer):
    """Wait until the explorer shows the fault."""
    until(lambda: "injected" in explorer._message["text"], "the error in the view")
    assert explorer._message["kind"] == "error"


@pytest.fixture(autouse=True)
def loud(caplog, monkeypatch):
    """Threads that die of an exception fail the test."""
    died = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    yield caplog
    assert died == []


@pytest.mark.parametrize("place", ENGINE)
def test_a_fault_of_the_run_ends_it_with_an_error(monkeypatch, place):
    explorer, _ = make()
    owner = explorer._session
    monkeypatch.setattr(owner, place, fail)
    with pytest.raises((InjectedError, RuntimeError), match="injected"):
        explorer.wait(60)
    if place != "prepare":
        assert explorer.status == "error"
        shows(explorer)


@pytest.mark.parametrize("place", AT_THE_END)
def test_a_fault_at_the_end_keeps_the_result_and_the_other_steps(monkeypatch, place):
    explorer, _ = make()
    matrix = expected(explorer)
    monkeypatch.setattr(explorer._session, place, fail)
    result = explorer.wait(60)
    assert torch.equal(result.matrix, matrix)
    assert explorer.status == "done"
    shows(explorer)
    assert explorer._session.frames.publisher._thread is None
    assert explorer._session.runs.live is None


@pytest.mark.parametrize("name", ["status", "_axes", "_trees", "_snapshot", "layers1"])
def test_the_error_of_an_observer_is_shown_and_the_run_continues(loud, name):
    explorer, line = make()
    matrix = expected(explorer)
    explorer.observe(fail, name)
    result = explorer.wait(60)
    assert torch.equal(result.matrix, matrix)
    assert explorer.status == "done"
    assert line.values("status")[-1] == "done"
    if name != "layers1":  # It may not change.
        shows(explorer)
        assert "injected" in loud.text


def test_a_connection_that_breaks_for_good_is_logged_and_ends_no_run(loud):
    def break_it(batch, *_):
        if batch == 3:
            line.publish_msg = fail

    explorer, line = make(callback=break_it)
    matrix = expected(explorer)
    result = explorer.wait(60)
    assert torch.equal(result.matrix, matrix)
    del line.publish_msg
    assert explorer.status == "done"
    assert "injected" in loud.text


@pytest.mark.parametrize("fault", [InjectedError("injected"), SystemExit("injected")])
def test_a_fault_of_the_publisher_is_shown(monkeypatch, fault):
    def fail_once(*_):
        monkeypatch.undo()
        raise fault

    monkeypatch.setattr(Publisher, "_next", fail_once)
    explorer, _ = make()
    explorer.wait(60)
    shows(explorer)
    assert explorer.status == "done"


def test_a_fault_of_the_timer_is_shown(monkeypatch):
    monkeypatch.setattr(fallback, "PATIENCE", 0.01)
    monkeypatch.setattr(fallback, "outlet", lambda: fail)
    explorer, _ = make(autostart=False)
    explorer._repr_mimebundle_()
    shows(explorer)


@pytest.mark.parametrize("fault", [InjectedError("injected"), SystemExit("injected")])
def test_a_fault_of_the_mailbox_is_shown(fault):
    def refuse(_):
        raise fault

    explorer, line = make()
    explorer.observe(refuse, "palette")
    line.page({"kind": "view", "palette": "greys"})
    shows(explorer)
    line.page({"kind": "view", "color_range": "fit"})
    until(lambda: explorer.color_range == "fit")


def test_no_interrupt_can_leave_a_lock_of_ours_locked(monkeypatch):
    """Nothing can strike in the `__enter__` of a lock, as it can in a condition's."""
    real, entered = threading.Condition.__enter__, []

    def enter(condition):
        entered.append(sys._getframe(1).f_code.co_filename)
        return real(condition)

    monkeypatch.setattr(threading.Condition, "__enter__", enter)
    explorer, _ = make(callback=lambda batch, *_: batch == 2 and explorer.pause())
    explorer.run()
    until(lambda: explorer.status == "paused")
    explorer.run(block=True)
    assert explorer.status == "done"
    explorer.close()
    assert entered, "threads of the standard library"
    assert [name for name in entered if "cka_notebook" in name] == []


def test_an_error_beside_a_run_stays_until_the_next_one(loud):
    loader = Gate(batches(6), open_=True)
    explorer, _ = make(loader)
    explorer.observe(fail, "_axes")
    explorer.wait(60)
    shows(explorer)
    explorer.unobserve(fail, "_axes")
    explorer.run()
    explorer.wait(60)
    assert explorer._message["text"] == ""
    errors = [r for r in loud.records if r.levelno >= logging.ERROR]
    assert len(errors) >= 1


# Forked processes

FORK = """
import atexit, multiprocessing, os, signal, sys, time
import torch
from torch import nn
from cka_notebook import CKAExplorer

torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(20, 20), nn.ReLU())
explorer = CKAExplorer(model, None, [torch.randn(30, 20)] * 1_000_000)
explorer._messages.receive({"kind": "ready", "page": "p", "views": 1})
explorer.run()
while explorer.progress.batches < 2:
    time.sleep(0.01)


def use():
    explorer.pause()
    explorer.result
    for ask in (explorer.run, explorer.wait):
        try:
            ask()
        except RuntimeError as error:
            assert "forked" in str(error)
        else:
            raise AssertionError("expected an error")
    explorer.close()


def ends(pid):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "it never ended"


for number in range(20):
    time.sleep(0.003 * (number % 7))
    pid = os.fork()
    if pid == 0:
        if number == 0:
            sys.exit(7)  # With all that an interpreter does at its end, which is slow.
        if number % 2:
            use()
        atexit._run_exitfuncs()
        explorer.close()
        os._exit(7)
    assert ends(pid) == 7
for number in range(3):
    child = multiprocessing.get_context("fork").Process(target=use)
    child.start()
    child.join(60)
    assert child.exitcode == 0, child.exitcode
assert explorer.status == "running"
explorer.stop()
assert explorer.wait(60).batches > 2
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_process_does_not_wait_for_threads_that_it_does_not_have():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_forked_copy_of_an_explorer_says_what_to_do(monkeypatch):
    explorer, line = make()
    result = explorer.wait(60)
    own = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: own + 1)
    for ask in (explorer.run, explorer.wait):
        with pytest.raises(RuntimeError, match="belongs to the process from which"):
            ask()
    explorer.close()
    assert explorer.result is result
    monkeypatch.undo()
    assert not any(message.kind == "comm_close" for message in line.sent)
