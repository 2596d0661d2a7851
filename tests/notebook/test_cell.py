"""The cell that is being executed, and the front end that displays it."""

import gc
import sys
from types import SimpleNamespace

import pytest

from cka_notebook._notebook import cell


def test_running_a_cell_again_closes_what_it_had_created(monkeypatch):
    execution = cell.Execution("cell-1", "first")
    monkeypatch.setattr(cell, "current_execution", lambda: execution)
    monkeypatch.setattr(cell, "_created", {})

    class Thing:
        closed = False

        def close(self):
            self.closed = True

    supersede = cell.supersede
    one, two, three, other = Thing(), Thing(), Thing(), Thing()
    supersede(one)
    supersede(two)
    assert not one.closed, "two explorers of one execution live side by side"
    execution = cell.Execution("cell-2", "second")
    supersede(other)
    execution = cell.Execution("cell-1", "third")
    supersede(three)
    assert one.closed
    assert two.closed
    assert not other.closed
    assert not three.closed


def shell(cell_id="cell-1", message="message-1"):
    """A shell as ipykernel makes it, whose messages are recorded."""
    parent = {"metadata": {"cellId": cell_id}, "header": {"msg_id": message}}
    sent = []
    session = SimpleNamespace(
        send=lambda *content, **options: sent.append((content, options))
    )
    publisher = SimpleNamespace(session=session, pub_socket="socket", topic=b"topic")
    kernel = SimpleNamespace(get_parent=lambda _: parent)
    return SimpleNamespace(kernel=kernel, display_pub=publisher, sent=sent)


class Events:
    """IPython's events, as far as they are used."""

    def __init__(self):
        self.calls = []

    def register(self, event, call):
        assert event == "post_run_cell"
        self.calls.append(call)

    def unregister(self, _, call):
        self.calls.remove(call)

    def trigger(self):
        for call in list(self.calls):
            call("result")


def test_a_method_is_called_after_each_cell_as_long_as_its_object_lives(monkeypatch):
    events = Events()
    monkeypatch.setattr(cell, "_shell", lambda: SimpleNamespace(events=events))
    ended = []

    class Thing:
        def end(self):
            ended.append(1)

    thing = Thing()
    cell.after_each_cell(thing.end)
    events.trigger()
    events.trigger()
    del thing
    gc.collect()
    events.trigger()
    assert ended == [1, 1]
    assert events.calls == []
    monkeypatch.setattr(cell, "_shell", lambda: None)
    cell.after_each_cell(Events().trigger)


@pytest.fixture
def no_front_end(monkeypatch):
    """A process that no front end has started."""
    monkeypatch.setattr(cell, "_shell", lambda: None)
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    monkeypatch.delitem(sys.modules, "marimo", raising=False)
    for variable in cell.VARIABLES:
        monkeypatch.delenv(variable, raising=False)


def test_an_execution_has_the_names_of_its_cell_and_its_message(monkeypatch):
    monkeypatch.setattr(cell, "_shell", shell)
    assert cell.current_execution() == ("cell-1", "message-1")


@pytest.mark.parametrize("found", [None, SimpleNamespace(), shell(cell_id=None).kernel])
def test_without_a_named_cell_there_is_no_execution(monkeypatch, found):
    monkeypatch.setattr(cell, "_shell", lambda: found)
    assert cell.current_execution() is None


@pytest.mark.usefixtures("no_front_end")
def test_the_front_end_is_known_by_its_modules_its_variables_and_its_kernel(
    monkeypatch,
):
    assert cell.front_end() is None
    monkeypatch.setitem(sys.modules, "marimo", object())
    assert cell.front_end() == "marimo"
    monkeypatch.setattr(cell, "_shell", shell)
    assert cell.front_end() == "Jupyter"
    monkeypatch.setenv("VSCODE_PID", "1")
    assert cell.front_end() == "VS Code"
    monkeypatch.setitem(sys.modules, "google.colab", object())
    assert cell.front_end() == "Google Colab"


def test_outputs_go_to_the_cell_that_asked_for_the_outlet(monkeypatch):
    first = shell()
    monkeypatch.setattr(cell, "_shell", lambda: first)
    send = cell.outlet()
    monkeypatch.setattr(cell, "_shell", lambda: shell("cell-2", "message-2"))
    send("display_data", {"data": {}})
    [(content, options)] = first.sent
    assert content == ("socket", "display_data", {"data": {}})
    assert options["parent"]["header"]["msg_id"] == "message-1"
    assert options["ident"] == b"topic"


@pytest.mark.usefixtures("no_front_end")
def test_outside_of_a_kernel_there_is_no_outlet():
    assert cell.outlet() is None


def test_what_a_cell_has_created_is_not_kept_alive(monkeypatch):
    monkeypatch.setattr(cell, "_created", {})
    closed = []

    class Thing:
        def close(self):
            closed.append(self)

    for message in ("first", "second"):
        execution = cell.Execution("cell-1", message)
        monkeypatch.setattr(cell, "current_execution", lambda found=execution: found)
        cell.supersede(Thing())
        gc.collect()
    assert closed == []


def test_without_an_execution_nothing_is_superseded(monkeypatch):
    monkeypatch.setattr(cell, "_created", {})
    monkeypatch.setattr(cell, "current_execution", lambda: None)
    cell.supersede(SimpleNamespace())
    assert cell._created == {}
