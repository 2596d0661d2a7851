"""The shared model that carries the page's code and BokehJS."""

import gzip
from pathlib import Path

import bokeh
import comm
import pytest
from support.doubles import RecordingComm

from cka_notebook import _runtime


@pytest.fixture(autouse=True)
def _own_shared_model(monkeypatch):
    monkeypatch.setattr(comm, "create_comm", RecordingComm)
    monkeypatch.setattr(_runtime, "_shared", [])


def test_it_is_the_installed_bokehjs_byte_for_byte():
    path = Path(bokeh.__file__).parent / "server" / "static" / "js" / "bokeh.min.js"
    assert gzip.decompress(_runtime.bokehjs_gz()) == path.read_bytes()
    assert _runtime.shared_runtime().version == bokeh.__version__


def test_it_is_sent_once_as_binary_when_the_model_is_made():
    runtime = _runtime.shared_runtime()
    assert _runtime.shared_runtime() is runtime
    [opening] = runtime.comm.sent
    assert opening.kind == "comm_open"
    assert opening.data["state"]["code"] == _runtime.page_code()
    assert opening.data["buffer_paths"] == [["gz"]]
    assert opening.buffers == [_runtime.bokehjs_gz()]
    assert len(opening.buffers[0]) < 500_000


def test_it_has_no_view():
    runtime = _runtime.shared_runtime()
    assert runtime.get_state("_view_name") == {"_view_name": None}
    assert runtime._repr_mimebundle_() is None
    assert "default" in runtime.get_state("_esm")["_esm"]


def test_a_closed_model_is_replaced():
    runtime = _runtime.shared_runtime()
    runtime.close()
    assert _runtime.shared_runtime() is not runtime
