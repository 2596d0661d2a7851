"""Compare neural networks layer by layer, live in a notebook.

Importing this loads torch and the engine. What draws (Bokeh, anywidget) is loaded when
it is first asked for, so a cluster node pays nothing for it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import hsic, metrics
from ._engine.cka import CKA
from ._results.result import CKAResult
from ._version import __version__

if TYPE_CHECKING:
    from ._figures import plot_cka_comparison, plot_cka_heatmap, plot_cka_trend
    from ._notebook.doctor import doctor
    from ._widget.explorer import CKAExplorer

__all__ = [
    "CKA",
    "CKAExplorer",
    "CKAResult",
    "__version__",
    "doctor",
    "hsic",
    "metrics",
    "plot_cka_comparison",
    "plot_cka_heatmap",
    "plot_cka_trend",
]

_ON_FIRST_USE = {
    "CKAExplorer": "_widget.explorer",
    "doctor": "_notebook.doctor",
    "plot_cka_comparison": "_figures",
    "plot_cka_heatmap": "_figures",
    "plot_cka_trend": "_figures",
}


def __getattr__(name: str) -> Any:
    if name not in _ON_FIRST_USE:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f".{_ON_FIRST_USE[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
