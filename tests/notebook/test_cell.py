"""The cell that is being executed."""

from cka_notebook._notebook import cell


def test_running_a_cell_again_closes_what_it_had_made(monkeypatch):
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
