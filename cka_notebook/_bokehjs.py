"""The BokehJS of the installed Bokeh, carried to the page once per kernel.

Every explorer refers to one shared model, so a notebook of many explorers holds one
copy. It is always the version that built the figures, and no network is needed.
"""

import functools
import gzip
import threading
from pathlib import Path

import anywidget
import bokeh
import traitlets

_lock = threading.Lock()
_shared: list["BokehRuntime"] = []


class BokehRuntime(anywidget.AnyWidget):
    """A model without a view, which holds BokehJS."""

    _esm = "export default { initialize() {} };"
    _view_name = traitlets.Any(None).tag(sync=True)
    version = traitlets.Unicode(read_only=True).tag(sync=True)
    """Version of the installed Bokeh."""
    gz = traitlets.Bytes(read_only=True).tag(sync=True)
    """Its ``bokeh.min.js``, compressed by gzip."""

    @traitlets.default("version")
    def _default_version(self) -> str:
        return bokeh.__version__

    @traitlets.default("gz")
    def _default_gz(self) -> bytes:
        return bokehjs_gz()


@functools.cache
def bokehjs_gz() -> bytes:
    """The installed ``bokeh.min.js``, compressed; the same bytes each time."""
    script = Path(bokeh.__file__).parent / "server" / "static" / "js" / "bokeh.min.js"
    return gzip.compress(script.read_bytes(), mtime=0)


def shared_runtime() -> BokehRuntime:
    """This kernel's one model, made anew if it has been closed."""
    with _lock:
        if not _shared or _shared[0].comm is None:
            _shared[:] = [BokehRuntime()]
        return _shared[0]
