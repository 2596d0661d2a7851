"""Earlier maps of a run, from which the page draws the convergence of any cell."""

from itertools import pairwise

import numpy as np
import pytest

from cka_notebook._page.history import HISTORY_SHARE, History, Moment


def moment(batch, value=None, shape=(2, 2)):
    matrix = np.full(shape, batch if value is None else value, np.float32)
    return Moment(batch, matrix, matrix / 100)


def read(taken, cells=4):
    """Batches, values and errors of the first cell, as a page reads them."""
    facts, data = taken
    count = len(facts["batches"]) * cells
    values = np.frombuffer(data, "<u2", count)[::cells] * facts["step"] + facts["low"]
    errors = np.frombuffer(data, "u1", count, 2 * count)[::cells] / 254
    return facts["batches"], values, errors**2 * facts["most"]


def test_a_history_keeps_at_most_64_evenly_spaced_frames(clock):
    history = History(cells=4, clock=clock)
    for batch in range(1, 1001):
        if history.wants(batch):
            history.add(moment(batch), cost=0.0)
    batches = history.batches
    assert 32 <= len(batches) <= 64
    assert len({b - a for a, b in pairwise(batches)}) == 1
    history.close(moment(1000))
    batches, values, errors = read(history.take())
    assert len(batches) <= 64
    assert batches[-1] == 1000
    np.testing.assert_allclose(values, batches, atol=1000 / 2**16)
    np.testing.assert_allclose(errors, values / 100, rtol=1e-3)


def test_a_part_of_a_history_is_denser_where_errors_fall_fastest(clock):
    history = History(cells=4, clock=clock)
    for batch in range(1, 21):
        history.add(moment(batch), cost=0.0)
    batches, values, _ = read(history.take(limit=5 * 12))
    assert batches == [1, 2, 6, 12, 20]
    np.testing.assert_allclose(values, batches, atol=1e-3)
    assert history.take(limit=12)[0]["batches"] == [20]
    assert history.take(limit=11)[0]["batches"] == []
    assert history.take(limit=20 * 12) == history.take()
    assert history.take(before=20)[0]["batches"] == list(range(1, 20))


@pytest.mark.parametrize("count", range(1, 21))
def test_a_part_of_a_history_uses_its_whole_limit(clock, count):
    history = History(cells=4, clock=clock)
    for batch in range(1, 21):
        history.add(moment(batch), cost=0.0)
    batches = history.take(limit=count * 12)[0]["batches"]
    assert len(set(batches)) == count
    assert batches[-1] == 20


def test_a_history_of_large_maps_stays_below_4_mb(clock):
    history = History(cells=500 * 500, clock=clock)
    for batch in range(1, 20):
        history.add(moment(batch, shape=(500, 500)), cost=0.0)
    history.close(moment(20, shape=(500, 500)))
    facts, data = history.take()
    assert len(data) <= 4_000_000
    assert facts["batches"][-1] == 20


def test_a_history_waits_after_a_costly_frame(clock):
    history = History(cells=1, clock=clock)
    history.add(moment(1), cost=1.0)
    clock.now += 0.9 / HISTORY_SHARE
    assert not history.wants(2)
    clock.now += 0.2 / HISTORY_SHARE
    assert history.wants(2)


def test_closing_twice_keeps_one_frame_of_a_batch(clock):
    history = History(cells=4, clock=clock)
    history.add(moment(1), cost=0.0)
    history.close(moment(1, value=5))
    batches, values, _ = read(history.take())
    assert (batches, values.tolist()) == ([1], [5])


def test_undefined_cells_and_errors_of_a_history_stay_undefined(clock):
    history = History(cells=4, clock=clock)
    matrix = np.float32([[0.25, np.nan], [-0.5, 1]])
    stderr = np.float32([[np.nan, np.nan], [0, 0.01]])
    history.add(Moment(1, matrix, stderr), cost=0.0)
    facts, data = history.take()
    values, errors = np.frombuffer(data, "<u2", 4), np.frombuffer(data, "u1", 4, 8)
    assert values[1] == 2**16 - 1
    defined = values[[0, 2, 3]] * facts["step"] + facts["low"]
    np.testing.assert_allclose(defined, [0.25, -0.5, 1], atol=1.5 / 2**17)
    assert errors.tolist() == [255, 255, 0, 254]
