"""The queue that a thread of its own reads while there are messages."""

import threading

from support.doubles import make, until

from cka_notebook._widget.mailbox import Mailbox


def test_messages_are_handled_in_order_by_one_other_thread():
    seen = []
    desk = Mailbox(lambda message: seen.append((message, threading.current_thread())))
    for number in range(100):
        desk.put({"number": number})
    until(lambda: len(seen) == 100)
    assert [message["number"] for message, _ in seen] == list(range(100))
    threads = {thread for _, thread in seen}
    assert len(threads) == 1
    assert threading.current_thread() not in threads


def test_the_thread_ends_when_nothing_comes_and_another_takes_over():
    seen = []
    desk = Mailbox(lambda _: seen.append(threading.current_thread()), idle=0.01)
    desk.put({})
    until(lambda: seen and not seen[0].is_alive())
    desk.put({})
    until(lambda: len(seen) == 2)
    assert seen[0] is not seen[1]


def test_without_threads_messages_are_handled_where_they_arrive(monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    seen = []
    desk = Mailbox(lambda message: seen.append((message, threading.current_thread())))
    desk.put({"number": 1})
    assert seen == [({"number": 1}, threading.current_thread())]


def test_what_a_page_asks_wrongly_is_answered_in_words():
    explorer, line = make()
    line.page({"kind": "layers", "layers1": ["nowhere"]})
    until(lambda: explorer._message["kind"] == "error")
    assert "'nowhere'" in explorer._message["text"]
    for nonsense in (
        "text",
        None,
        {"kind": "ack"},
        {"kind": 3},
        {"kind": "tolerance", "value": "x"},
    ):
        line.page(nonsense)
    assert explorer.wait(60).batches == 6


def test_a_slow_callback_does_not_deafen_the_explorer():
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
