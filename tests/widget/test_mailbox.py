"""The queue of messages, the thread that reads it, and what messages ask for."""

import threading
from types import SimpleNamespace

import pytest
from soak import messages as messages_soak
from support.doubles import make, until

from cka_notebook._widget.mailbox import CHOICES, Mailbox, PageMessages


def test_messages_are_handled_in_order_by_one_other_thread():
    seen = []
    mailbox = Mailbox(
        lambda message: seen.append((message, threading.current_thread())),
        pytest.fail,
    )
    for number in range(100):
        mailbox.put({"number": number})
    until(lambda: len(seen) == 100)
    assert [message["number"] for message, _ in seen] == list(range(100))
    threads = {thread for _, thread in seen}
    assert len(threads) == 1
    assert threading.current_thread() not in threads


def test_the_thread_ends_when_nothing_comes_and_another_takes_over():
    seen = []
    mailbox = Mailbox(
        lambda _: seen.append(threading.current_thread()), pytest.fail, idle=0.01
    )
    mailbox.put({})
    until(lambda: seen and not seen[0].is_alive())
    mailbox.put({})
    until(lambda: len(seen) == 2)
    assert seen[0] is not seen[1]


def test_without_threads_messages_are_handled_where_they_arrive(monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    seen = []
    mailbox = Mailbox(
        lambda message: seen.append((message, threading.current_thread())),
        pytest.fail,
    )
    mailbox.put({"number": 1})
    assert seen == [({"number": 1}, threading.current_thread())]


def test_a_wrong_request_of_the_page_is_answered_by_an_error():
    explorer, line = make()
    line.page({"kind": "layers", "layers1": ["nowhere"]})
    until(lambda: explorer._message["kind"] == "error")
    assert "'nowhere'" in explorer._message["text"]
    until(lambda: line.custom("refused"), "the word to take the choice back")
    for nonsense in (
        "text",
        None,
        {"kind": "ack"},
        {"kind": 3},
        {"kind": "tolerance", "value": "x"},
    ):
        line.page(nonsense)
    assert explorer.wait(60).batches == 6


def test_messages_are_handled_during_a_slow_callback():
    inside, goes = threading.Event(), threading.Event()

    def wait(*_):
        inside.set()
        assert goes.wait(60)

    explorer, line = make(callback=wait)
    explorer.run()
    assert inside.wait(60)
    line.page({"kind": "view", "palette": "viridis"})
    until(lambda: explorer.palette == "viridis")
    line.page({"kind": "command", "name": "pause"})
    goes.set()
    until(lambda: explorer.status == "paused")
    assert explorer.progress.batches < 6
    line.page({"kind": "command", "name": "resume"})
    assert explorer.wait(60).batches == 6


class Runs:
    """Records requests; its run never ends."""

    live = SimpleNamespace(only_probe=False)

    def __init__(self):
        self.requests = []

    def __getattr__(self, name):
        return lambda: self.requests.append(name)


def messages():
    """Page messages of a session without runs, and what they have led to."""
    seen, runs = [], Runs()
    record = lambda kind: lambda *content: seen.append((kind, *content))  # noqa: E731
    publisher = SimpleNamespace(hear=record("hear"), greet=record("greet"))
    frames = SimpleNamespace(publisher=publisher, history_message=lambda: ({}, [b""]))
    session = SimpleNamespace(
        runs=runs,
        frames=frames,
        say=record("say"),
        restart=record("restart"),
        failed=record("failed"),
    )
    found = PageMessages(session, record("send"), record("set"), record("answered"))
    return found, seen, runs.requests


def test_pause_and_stop_take_effect_in_the_thread_in_which_they_arrive(monkeypatch):
    monkeypatch.setattr(Mailbox, "put", lambda *_: pytest.fail("queued"))
    page, _, requests = messages()
    for name in ("pause", "stop"):
        page.receive({"kind": "command", "name": name})
    assert requests == ["pause", "stop"]


def test_commands_and_choices_reach_runs_and_traits():
    page, seen, requests = messages()
    page.handle({"kind": "command", "name": "resume"})
    page.handle({"kind": "command", "name": "restart"})
    page.handle({"kind": "view", "palette": "greys", "theme": "dark"})
    page.handle({"kind": "tolerance", "value": 0.5})
    assert requests == ["resume"]
    restart, *choices = seen
    assert restart == ("restart",)
    assert choices == [("set", "palette", "greys"), ("set", "stop_when_stable", 0.5)]


def test_a_page_that_loads_in_mid_run_is_given_the_history_and_a_frame():
    page, seen, _ = messages()
    page.handle({"kind": "ready", "page": "page-1", "views": 2})
    kinds = [kind for kind, *_ in seen]
    assert kinds == ["hear", "answered", "send", "greet"]
    assert seen[1] == ("answered", 2)


INF, NAN, HUGE = float("inf"), float("nan"), 10**400

REFUSED = [
    *("text", None, 3, [], {}, {"kind": None}, {"kind": []}, {"kind": "dance"}),
    *({"kind": "command", "name": name} for name in (None, 3, [], "dance", "close")),
    *(
        {"kind": "ready", "page": page, "views": views}
        for page, views in (
            (None, 1),
            ("p" * 9999, 1),
            ("p", -1),
            ("p", INF),
            ("p", "1"),
        )
    ),
    *(
        {"kind": "ack", "page": "p", "views": views, "epoch": 1, "seq": seq}
        for views, seq in ((1, INF), (1, NAN), (1, HUGE), (1, 1.5), (NAN, 1), (1, True))
    ),
    {"kind": "ack"},
    *(
        {"kind": "layers", "layers1": layers}
        for layers in (None, "all", 0, [0], [["0"]], {"0": 1}, ["x"] * 200_000, ["x"])
    ),
    {"kind": "layers", "layers1": ["0"], "layers2": [3]},
    *({"kind": "focus", "focus": focus} for focus in ("00", ["0"], [0, 0], ["0", "9"])),
    *({"kind": "view", "palette": name} for name in (None, 3, [], "rainbow")),
    *({"kind": "view", "metric": name} for name in (None, 3, [], "unknown")),
    *(
        {"kind": "view", "color_range": limits}
        for limits in (None, 3, "unit", {}, [], [0, HUGE], [0, NAN], [-INF, 1], [1, 0])
    ),
    {"kind": "view", "color_range": ["0", "1"]},
    {"kind": "view", "color_range": [-1e308, 1e308]},
    *(
        {"kind": "tolerance", "value": value}
        for value in ("0.5", [], INF, -INF, NAN, 0, -1, HUGE, 1e-400, True)
    ),
]


def choices_of(explorer):
    names = *CHOICES, "stop_when_stable", "status", "theme"
    return {name: getattr(explorer, name) for name in names}


def test_what_a_page_never_sends_changes_nothing_and_is_shown():
    explorer, line = make()
    explorer.wait(60)
    before = choices_of(explorer)
    for message in REFUSED:
        explorer._session.say("", "")
        line.page(message)
        until(lambda: explorer._message["kind"] == "error", repr(message)[:80])
        assert len(explorer._message["text"]) < 600
        assert choices_of(explorer) == before, repr(message)[:80]
    line.page({"kind": "view", "palette": "greys"})
    until(lambda: explorer.palette == "greys")


@pytest.mark.parametrize("fault", [SystemExit, RuntimeError("odd"), KeyboardInterrupt])
def test_the_thread_survives_any_error_of_a_message(fault):
    handled, failed = [], []

    def handle(message):
        handled.append(message)
        if message["number"] == 1:
            raise fault

    mailbox = Mailbox(handle, failed.append)
    mailbox.put({"number": 1})
    until(lambda: failed)
    mailbox.put({"number": 2})
    until(lambda: len(handled) == 2)
    assert len(failed) == 1


def test_random_messages_kill_nothing_and_change_nothing_without_the_right_form():
    seen = messages_soak.main(150)
    assert min(seen["refused"], seen["obeyed"], seen["changed"]) > 0
    assert seen["refused"] + seen["obeyed"] + seen["changed"] == 150
