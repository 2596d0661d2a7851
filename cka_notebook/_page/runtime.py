"""The JavaScript that all explorers share, sent to the page once per kernel.

It consists of the page half of this package and of BokehJS from the installed Bokeh.
All explorers refer to one shared model, so a notebook with many explorers holds one
copy. BokehJS therefore has the version that built the figures and needs no network.
"""

import functools
import gzip
import threading
from pathlib import Path
from typing import Any

import anywidget
import bokeh
import traitlets

from cka_notebook import _figures

STATIC = Path(__file__).parents[1] / "static"
BOKEH_VERSION = bokeh.__version__
_lock = threading.Lock()
_shared: list["Runtime"] = []


class Runtime(anywidget.AnyWidget):
    """A model without a view that holds the page half and BokehJS."""

    _esm = "export default { initialize() {} };"
    _view_name = traitlets.Any(None).tag(sync=True)
    code = traitlets.Unicode(read_only=True).tag(sync=True)
    """The page half of the package, a JavaScript module."""
    version = traitlets.Unicode(read_only=True).tag(sync=True)
    """Version of the installed Bokeh and of its BokehJS."""
    gz = traitlets.Bytes(read_only=True).tag(sync=True)
    """The installed ``bokeh.min.js``, compressed with gzip."""

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
    """The page half of the package, as built by `js/build.mjs`."""
    return (STATIC / "widget.js").read_text(encoding="utf-8")


@functools.cache
def bokehjs_gz() -> bytes:
    """The installed ``bokeh.min.js``, compressed with gzip; always the same bytes."""
    script = Path(bokeh.__file__).parent / "server" / "static" / "js" / "bokeh.min.js"
    return gzip.compress(script.read_bytes(), mtime=0)


@functools.cache
def empty_figures() -> dict[str, Any]:
    """The page's figures, the same for all explorers; they take time to make."""
    return _figures.figure_json(_figures.explorer_figure())


def shared_runtime() -> Runtime:
    """The shared model of this kernel, replaced if it has been closed."""
    with _lock:
        if not _shared or _shared[0].comm is None:
            _shared[:] = [Runtime()]
        return _shared[0]
