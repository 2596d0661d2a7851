"""Sending frames: newest wins, one unacknowledged at a time, the last always goes."""

import contextvars
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from support.doubles import until

from cka_notebook._page.publisher import (
    ACK_TIMEOUT,
    BLIND_INTERVAL,
    INTERVAL,
    MOST_PAGES,
    UNSEEN_INTERVAL,
    Publisher,
)


class Line:
    """The connection to the page: records frames, and blocks while closed."""

    def __init__(self):
        self.sent = []
        self.open = threading.Event()
        self.open.set()

    def __call__(self, header, buffers):
        assert self.open.wait(60)
        self.sent.append((header, [np.frombuffer(b, "<f4") for b in buffers]))

    @property
    def batches(self):
        return [header["batch"] for header, _ in self.sent]


def frame(value, epoch=1):
    return {"kind": "frame", "batch": value, "epoch": epoch}, [np.float32([[value]])]


@pytest.fixture
def line():
    return Line()


@pytest.fixture
def inline(line, clock):
    """A publisher without a thread: it sends in `offer`, on the clock of the test."""
    return Publisher(line, pytest.fail, clock=clock)


@pytest.fixture
def threaded(line):
    publisher = Publisher(line, pytest.fail)
    publisher.start()
    yield publisher
    line.open.set()
    publisher.finish()


def ack(publisher, line, views=1):
    header = line.sent[-1][0]
    publisher.acknowledge("page", views, header["seq"])


def test_a_listening_page_gets_the_next_frame_only_after_its_acknowledgement(
    inline, line, clock
):
    inline.hear("page", views=1)
    assert inline.wants()
    inline.offer(*frame(1))
    for batch in range(2, 12):
        clock.now += INTERVAL
        assert not inline.wants()
        inline.offer(*frame(batch))
    assert line.batches == [1]
    ack(inline, line)
    assert inline.wants() or inline._waiting
    inline.offer(*frame(12))
    assert line.batches == [1, 12]


def test_frames_are_a_tenth_of_a_second_apart_however_fast_the_page_is(
    inline, line, clock
):
    inline.hear("page", views=1)
    inline.offer(*frame(1))
    ack(inline, line)
    clock.now += 0.9 * INTERVAL
    assert not inline.wants()
    clock.now += 0.2 * INTERVAL
    assert inline.wants()


def test_a_lost_acknowledgement_stops_frames_for_two_seconds_only(inline, line, clock):
    inline.hear("page", views=1)
    inline.offer(*frame(1))
    clock.now += 0.9 * ACK_TIMEOUT
    assert not inline.wants()
    clock.now += 0.2 * ACK_TIMEOUT
    assert inline.wants()
    inline.offer(*frame(2))
    assert line.batches == [1, 2]
    clock.now += 1.1 * BLIND_INTERVAL
    assert inline.wants(), "nobody listens, so frames go without acknowledgement"
    inline.offer(*frame(3))
    ack(inline, line)
    clock.now += 1.1 * INTERVAL
    assert inline.wants(), "an acknowledgement restores the full rate"


def test_an_acknowledgement_of_an_older_frame_does_not_count(inline, line, clock):
    inline.hear("page", views=1)
    inline.offer(*frame(1))
    ack(inline, line)
    clock.now += INTERVAL
    inline.offer(*frame(2))
    seq = line.sent[0][0]["seq"]
    inline.acknowledge("page", 1, seq)
    clock.now += INTERVAL
    assert not inline.wants()


def test_without_a_page_two_frames_go_per_second_and_fewer_large_ones(inline, clock):
    inline.offer(*frame(1))
    clock.now += 0.9 * BLIND_INTERVAL
    assert not inline.wants()
    clock.now += 0.2 * BLIND_INTERVAL
    assert inline.wants()
    inline.offer({"kind": "frame", "batch": 2}, [np.zeros((1000, 1000), np.float32)])
    clock.now += 3.9
    assert not inline.wants(), "4 MB at 1 MB/s take 4 s"
    clock.now += 0.2
    assert inline.wants()


def test_a_page_without_views_gets_one_frame_a_second(inline, line, clock):
    inline.hear("page", views=0)
    inline.offer(*frame(1))
    ack(inline, line, views=0)
    clock.now += 0.9 * UNSEEN_INTERVAL
    assert not inline.wants()
    clock.now += 0.2 * UNSEEN_INTERVAL
    assert inline.wants()


def test_an_urgent_frame_skips_every_wait_and_is_never_replaced(inline, line):
    inline.hear("page", views=1)
    inline.offer(*frame(1))
    inline.offer(*frame(2))
    inline.offer(*frame(3), urgent=True)
    assert line.batches == [1, 3]


def test_sequence_numbers_grow_even_if_frames_are_dropped_or_repeated(
    inline, line, clock
):
    for batch in range(5):
        inline.offer(*frame(batch))
        clock.now += 0.4 * BLIND_INTERVAL
    inline.greet("page", views=1)
    numbers = [header["seq"] for header, _ in line.sent]
    assert numbers == sorted(set(numbers))
    assert len(numbers) >= 2


def test_a_page_that_opens_gets_the_latest_frame_again(inline, line, clock):
    inline.offer(*frame(1))
    clock.now += 1.1 * INTERVAL
    inline.greet("other", views=1)
    assert line.batches == [1, 1]
    inline.forget()
    inline.greet("third", views=1)
    assert line.batches == [1, 1], "the frame of an old run is not repeated"


def test_the_newest_waiting_frame_wins(threaded, line):
    threaded.hear("page", views=1)
    threaded.offer(*frame(1))
    until(lambda: line.sent)
    for batch in range(2, 50):
        threaded.offer(*frame(batch))
    ack(threaded, line)
    until(lambda: len(line.sent) == 2)
    assert line.batches == [1, 49]


def test_finish_sends_waiting_frames_and_ends_the_thread(threaded, line):
    threaded.hear("page", views=1)
    threaded.offer(*frame(1))
    until(lambda: line.sent)
    thread = threaded._thread
    threaded.offer(*frame(2), urgent=True)
    threaded.finish()
    assert line.batches == [1, 2]
    assert not thread.is_alive()


def test_nothing_is_wanted_while_a_frame_is_being_sent(threaded, line):
    line.open.clear()
    threaded.offer(*frame(1))
    until(lambda: threaded._sending)
    assert not threaded.wants()
    line.open.set()
    until(lambda: line.sent)


def test_a_failing_line_does_not_end_the_thread_and_is_reported():
    broken = threading.Event()
    sent, failed = [], []

    def send(header, _):
        if not broken.is_set():
            broken.set()
            raise OSError("gone")
        sent.append(header)

    publisher = Publisher(send, failed.append)
    publisher.start()
    publisher.offer(*frame(1), urgent=True)
    publisher.offer(*frame(2), urgent=True)
    publisher.finish()
    assert [header["batch"] for header in sent] == [2]
    assert [str(error) for error in failed] == ["gone"]


def test_values_that_cannot_be_sent_are_reported_and_later_ones_are_sent(line):
    failed = []
    publisher = Publisher(line, failed.append)
    publisher.offer({"kind": "frame"}, [SimpleNamespace(nbytes=0)], urgent=True)
    publisher.offer(*frame(2), urgent=True)
    assert [type(error) for error in failed] == [AttributeError]
    assert line.batches == [2]


@pytest.mark.parametrize("fault", [SystemExit, MemoryError, RuntimeError])
def test_a_thread_that_cannot_continue_reports_it(line, monkeypatch, fault):
    failed = []
    publisher = Publisher(line, failed.append)

    def fail(_):
        raise fault

    monkeypatch.setattr(publisher, "_next", fail)
    publisher.start()
    until(lambda: failed)
    assert isinstance(failed[0], fault)


@pytest.mark.parametrize("ahead", [1, 10**9, 10**400])
def test_a_frame_that_was_never_sent_cannot_be_acknowledged(inline, line, ahead):
    inline.hear("page", views=1)
    inline.offer(*frame(1))
    seq = line.sent[0][0]["seq"]
    with pytest.raises(ValueError, match="one of 1 frames to be drawn"):
        inline.acknowledge("page", 1, seq + ahead)
    assert inline._unacknowledged
    inline.acknowledge("page", 1, seq)
    assert not inline._unacknowledged


def test_a_limited_number_of_pages_is_remembered(inline):
    for number in range(10 * MOST_PAGES):
        inline.hear(f"page-{number}", views=1)
    assert len(inline._views) == MOST_PAGES
    assert f"page-{number}" in inline._views


def test_the_thread_belongs_to_the_notebook_cell_that_started_it():
    cell = contextvars.ContextVar("cell", default="none")
    seen = []
    cell.set("In[3]")
    publisher = Publisher(lambda *_: seen.append(cell.get()), pytest.fail)
    publisher.start()
    publisher.offer(*frame(1), urgent=True)
    publisher.finish()
    assert seen == ["In[3]"]


def test_values_are_sent_as_little_endian_float32_in_row_major_order(inline, line):
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3).T
    inline.offer({"kind": "frame", "batch": 1}, [matrix])
    np.testing.assert_array_equal(line.sent[0][1][0], [0, 3, 1, 4, 2, 5])
