"""A recording comm plays the page, and no explorer outlives its test."""

import threading

import comm
import pytest
from support.doubles import RecordingComm

from cka_notebook._notebook import cell


@pytest.fixture(autouse=True)
def comms(monkeypatch):
    """All comms that were opened; explorers that were not closed are, afterwards."""
    opened = []

    def create_comm(**options):
        opened.append(RecordingComm(**options))
        return opened[-1]

    monkeypatch.setattr(comm, "create_comm", create_comm)
    monkeypatch.setattr("cka_notebook._page.runtime._shared", [])
    made = []
    monkeypatch.setattr(cell, "supersede", made.append)
    yield opened
    for explorer in made:
        explorer.close()
        worker = explorer._session.runs._worker
        if worker is not None:
            assert worker.wait(60), "a worker outlived its explorer"
    threads = [
        t for t in threading.enumerate() if t.name in ("cka-engine", "cka-frames")
    ]
    for thread in threads:
        thread.join(60)
