"""The shared model that carries the page half and BokehJS."""

import gzip
from pathlib import Path

import bokeh
import comm
import pytest
from support.doubles import RecordingComm

from cka_notebook._page import runtime as runtime_module
from cka_notebook._page.runtime import bokehjs_gz, page_code, shared_runtime


@pytest.fixture(autouse=True)
def _own_shared_model(monkeypatch):
    monkeypatch.setattr(comm, "create_comm", RecordingComm)
    monkeypatch.setattr(runtime_module, "_shared", [])


def test_it_carries_the_installed_bokehjs_byte_for_byte():
    path = Path(bokeh.__file__).parent / "server" / "static" / "js" / "bokeh.min.js"
    assert gzip.decompress(bokehjs_gz()) == path.read_bytes()
    assert shared_runtime().version == bokeh.__version__


def test_it_is_sent_once_as_binary_when_the_model_is_made():
    runtime = shared_runtime()
    assert shared_runtime() is runtime
    [opening] = runtime.comm.sent
    assert opening.kind == "comm_open"
    assert opening.data["state"]["code"] == page_code()
    assert opening.data["buffer_paths"] == [["gz"]]
    assert opening.buffers == [bokehjs_gz()]
    assert len(opening.buffers[0]) < 500_000


def test_it_has_no_view():
    runtime = shared_runtime()
    assert runtime.get_state("_view_name") == {"_view_name": None}
    assert runtime._repr_mimebundle_() is None
    assert "default" in runtime.get_state("_esm")["_esm"]


def test_a_closed_model_is_replaced():
    runtime = shared_runtime()
    runtime.close()
    assert shared_runtime() is not runtime
