"""What all explorers of a page share, carried to it once per kernel.

That is the code of the page half and the BokehJS of the installed Bokeh. Every explorer
refers to one shared model, so a notebook of many explorers holds one copy. It is always
the version that built the figures, and no network is needed.
"""

import functools
import gzip
import threading
from pathlib import Path

import anywidget
import bokeh
import traitlets

STATIC = Path(__file__).parents[1] / "static"
BOKEH_VERSION = bokeh.__version__
_lock = threading.Lock()
_shared: list["Runtime"] = []


class Runtime(anywidget.AnyWidget):
    """A model without a view, which holds the page's code and BokehJS."""

    _esm = "export default { initialize() {} };"
    _view_name = traitlets.Any(None).tag(sync=True)
    code = traitlets.Unicode(read_only=True).tag(sync=True)
    """The page half of the package, a JavaScript module."""
    version = traitlets.Unicode(read_only=True).tag(sync=True)
    """Version of the installed Bokeh."""
    gz = traitlets.Bytes(read_only=True).tag(sync=True)
    """Its ``bokeh.min.js``, compressed by gzip."""

    @traitlets.default("code")
    def _default_code(self) -> str:
        return page_code()

    @traitlets.default("version")
    def _default_version(self) -> str:
        return BOKEH_VERSION

    @traitlets.default("gz")
    def _default_gz(self) -> bytes:
        return bokehjs_gz()


@functools.cache
def page_code() -> str:
    """The page half of the package, as `js/build.mjs` has written it."""
    return (STATIC / "widget.js").read_text(encoding="utf-8")


@functools.cache
def bokehjs_gz() -> bytes:
    """The installed ``bokeh.min.js``, compressed; the same bytes each time."""
    script = Path(bokeh.__file__).parent / "server" / "static" / "js" / "bokeh.min.js"
    return gzip.compress(script.read_bytes(), mtime=0)


def shared_runtime() -> Runtime:
    """This kernel's one model, made anew if it has been closed."""
    with _lock:
        if not _shared or _shared[0].comm is None:
            _shared[:] = [Runtime()]
        return _shared[0]
