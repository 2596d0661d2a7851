"""`CKAExplorer`: the widget, with the methods that users call.

Synced traits flow from the kernel to the page only; the page sends custom messages,
which `PageMessages` handles. ``protocol.ts`` is the other half of this file.
"""

import contextlib
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

import anywidget
import traitlets
from ipywidgets import widget_serialization

from cka_notebook import _figures, metrics
from cka_notebook._engine.checks import check_tolerance
from cka_notebook._engine.keywords import explains_keywords
from cka_notebook._messages import metric_title
from cka_notebook._notebook import cell
from cka_notebook._notebook.fallback import Fallback, Preview, forms
from cka_notebook._notebook.preview import checked_color_range, preview, summary
from cka_notebook._notebook.variables import names_of
from cka_notebook._page import html
from cka_notebook._page.frames import Progress
from cka_notebook._page.runtime import (
    BOKEH_VERSION,
    STATIC,
    Runtime,
    bokehjs_gz,
    empty_figures,
    page_code,
    shared_runtime,
)
from cka_notebook._results.atomic import PathLike
from cka_notebook._results.result import CKAResult

from .caller import CallerContext
from .comparison import NAMES, Comparison, Live, Saved
from .mailbox import CHOICES, PageMessages, leave_replies_to_the_page
from .saved_tree import SIDES, side_of, unknown_layer
from .session import Session
from .source import with_layers

if TYPE_CHECKING:
    from torch import nn

PROTOCOL = 3
STATES = ("idle", "running", "paused", "stopped", "done", "error")
THEMES = ("auto", "light", "dark")
PAGE_TRAITS = (
    *("_protocol", "_key", "_meta", "_trees", "_figure", "_axes", "_message", "status"),
    *("_code", "stop_when_stable", "theme"),
    *("_snapshot", "_matrix", "_stderr", "_history"),
    *CHOICES,
)
"""Traits that a page without a kernel needs."""


class _Checked(traitlets.Any):
    """Whatever its validator takes, which also sees None."""

    allow_none = False


class CKAExplorer(anywidget.AnyWidget):
    """Compares the layers of two models, live in a notebook.

    As the last expression of a notebook cell it displays itself and starts. The map of
    CKA values sharpens with every batch; the page stays responsive because the run has
    its own thread. The models are left as they were found.

    Args:
        model1: The model of the rows.
        model2: The model of the columns; the same model, or None, compares it with
            itself in one forward pass per batch.
        loader: Batches, as `CKA.compare` takes them. Each goes to both models.
        loader2: Other inputs for model 2, of the same examples in the same order.
        autostart: Start when shown. A run that would take more than two minutes or most
            of the free memory pauses itself until Resume is pressed or `run` is called.
        theme: ``"light"``, ``"dark"``, or ``"auto"``: follow the surrounding page.
        cka_options: Options of `CKA` (``model1_layers``, ``device``, ``pool``, ...) and
            ``paired``, ``max_batches``, ``stop_when_stable``, ``checkpoint``,
            ``callback`` of its `compare`. ``model1_name`` and ``model2_name`` default
            to the names of the caller's variables. The callback is called in the thread
            of the run. StopIteration ends the run; the first other exception is shown,
            and the run continues. A checkpoint keeps the layers of the run that wrote
            it: later runs of others leave it as it is. For
            random numbers see `CKA.compare` on other threads.

    Raises:
        TypeError: If an option is unknown or of the wrong kind.
        ValueError: If a layer does not exist.
        TraitError: If the theme is unknown.

    Example:
        >>> from torch import nn, randn
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> loader = [randn(16, 4) for _ in range(3)]
        >>> explorer = CKAExplorer(model, None, loader, model1_layers="all")
        >>> explorer.wait().matrix.shape
        torch.Size([3, 3])
        >>> explorer.status
        'done'
    """

    # As text: anywidget lets a class keep every instance alive whose code is in a file.
    _esm = (STATIC / "loader.js").read_text(encoding="utf-8")
    _css = (STATIC / "widget.css").read_text(encoding="utf-8")

    status = traitlets.Enum(STATES, "idle", read_only=True).tag(sync=True)
    """What the explorer is doing: one of `STATES`."""
    layers1 = _Checked().tag(sync=True)
    """Names of the chosen layers of model 1. Takes whatever chooses layers."""
    layers2 = _Checked().tag(sync=True)
    """Names of the chosen layers of model 2."""
    focus = traitlets.Tuple(
        traitlets.Unicode(), traitlets.Unicode(), default_value=None, allow_none=True
    ).tag(sync=True)
    """The selected pair ``(layer1, layer2)``, or None."""
    metric = traitlets.Unicode("cka").tag(sync=True)
    """Name of the measure. A run starts over when it changes."""
    palette = traitlets.Enum(tuple(_figures.PALETTES), "magma").tag(sync=True)
    """Colors of the map."""
    color_range = _Checked([0.0, 1.0]).tag(sync=True)
    """Values of the first and the last color, or ``"fit"``."""
    theme = traitlets.Enum(THEMES, THEMES[0]).tag(sync=True)
    """``"light"``, ``"dark"``, or ``"auto"``: follow the surrounding page."""

    stop_when_stable = _Checked(None).tag(sync=True)
    """A run ends when no standard error is above this; None reads the whole loader."""

    _protocol = traitlets.Int(PROTOCOL, read_only=True).tag(sync=True)
    _key = traitlets.Unicode().tag(sync=True)
    _runtime = traitlets.Instance(Runtime).tag(sync=True, **widget_serialization)
    _meta = traitlets.Dict().tag(sync=True)
    _trees = traitlets.Dict().tag(sync=True)
    _figure = traitlets.Dict().tag(sync=True)
    _axes = traitlets.Dict(None, allow_none=True).tag(sync=True)
    _estimate = traitlets.Unicode().tag(sync=True)
    _queued = traitlets.Bool(False).tag(sync=True)
    _code = traitlets.List(traitlets.Unicode()).tag(sync=True)
    _message = traitlets.Dict({"kind": "", "text": ""}).tag(sync=True)
    _snapshot = traitlets.Dict(None, allow_none=True).tag(sync=True)
    _matrix = traitlets.Bytes(b"").tag(sync=True)
    _stderr = traitlets.Bytes(b"").tag(sync=True)
    _history = traitlets.Bytes(b"").tag(sync=True)

    _session: Session

    @explains_keywords
    def __init__(
        self,
        model1: "nn.Module",
        model2: "nn.Module | None",
        loader: Iterable[Any],
        loader2: Iterable[Any] | None = None,
        *,
        autostart: bool = True,
        theme: str = THEMES[0],
        **cka_options: Any,
    ) -> None:
        options = {**_names(model1, model2), **cka_options}
        comparison = Live(model1, model2, loader, loader2, options)
        self._set_up(comparison, autostart=autostart, theme=theme)

    @classmethod
    def from_result(cls, result: "CKAResult", *, theme: str = THEMES[0]) -> Self:
        """An explorer of a saved result; no models are needed.

        Args:
            result: The result.
            theme: As above.

        Raises:
            TypeError: If it is not a result, but a path to one, for example.
            TraitError: If the theme is unknown.
        """
        given: object = result
        if not isinstance(given, CKAResult):
            msg = (
                f"Expected a CKAResult, got {given!r}. To load one from a file, use "
                "CKAResult.load(path)."
            )
            raise TypeError(msg)
        explorer = cls.__new__(cls)
        saved = Saved(result)
        explorer._set_up(saved, autostart=False, theme=theme)  # noqa: SLF001 a constructor
        explorer._session.show_saved(result)  # noqa: SLF001 a constructor
        if result.is_difference:
            explorer.palette, explorer.color_range = _figures.DIVERGING, "fit"
        return explorer

    def _set_up(self, comparison: Comparison, *, autostart: bool, theme: str) -> None:
        self._fallback = Fallback(self._preview, self._show_failure)
        self._autostart = autostart
        self._session = Session(comparison, self._put, self.send)
        self._messages = PageMessages(
            self._session, self.send, self.set_trait, self._answered
        )
        traits = self._session.first_traits()
        super().__init__(**_page_traits(), **traits, theme=theme)
        self._session.chosen.clear()
        self.on_msg(lambda _, content, __: self._messages.receive(content))
        self.observe(self._take_layers, list(SIDES))
        self.observe(self._take_metric, "metric")
        self.observe(self._take_tolerance, "stop_when_stable")
        cell.supersede(self)

    # What users call

    def run(self, *, block: bool = False) -> None:
        """Start or resume the run; after its end, start a new one.

        Args:
            block: Work in the calling thread and return at the end. For scripts, and
                for front ends that cannot receive messages from other threads.

        Raises:
            RuntimeError: If the models are gone, or there is nothing to compute.
        """
        self._session.runs.context = CallerContext.current()
        self._session.runs.start(block=block)

    def pause(self) -> None:
        """Pause after the current batch."""
        self._session.runs.pause()

    def resume(self) -> None:
        """Continue a paused run."""
        self._session.runs.resume()

    def stop(self) -> None:
        """Stop after the current batch and keep the result so far."""
        self._session.runs.stop()

    def wait(self, timeout: float | None = None) -> "CKAResult | None":
        """Wait until the run has ended; start one if there is none.

        An interrupt stops the run after the current batch and keeps the result so far.

        Args:
            timeout: Seconds to wait at most, or None.

        Returns:
            The result; None if the run was stopped before its first batch.

        Raises:
            TimeoutError: If the run has not ended by then. It is not stopped.
            RuntimeError: If called in the run's own thread, as in a callback, where it
                would wait for itself.
        """
        session = self._session
        if session.is_saved and session.runs.untouched:
            return session.result
        worker = session.runs.wait(timeout)
        if worker is None:
            raise TimeoutError(self._where_it_is(timeout))
        if worker.outcome == "error" and worker.error is not None:
            raise worker.error
        return session.result

    def close(self) -> None:
        """Stop for good and free page, models and loader. `result` stays."""
        if hasattr(self, "_session") and self._session.runs.is_forked:
            return  # All of it belongs to the other process.
        if hasattr(self, "_session"):  # Not if the constructor has raised.
            self._session.close()
            self._messages.close()
            self._fallback.stop_waiting()
        if self.comm is not None:
            self.layout.close()
        super().close()

    @property
    def progress(self) -> Progress:
        """Batches, total or None, examples, seconds and largest standard error."""
        return self._session.progress

    @property
    def result(self) -> "CKAResult | None":
        """The latest result: partial during a run, None before its first batch."""
        return self._session.result

    @property
    def code(self) -> str:
        """The Python call that repeats exactly this comparison, if there is one."""
        if not self._code:
            return ""
        return with_layers(self._code, list(self.layers1), list(self.layers2))

    def save_html(self, path: PathLike) -> None:
        """Write one self-contained file: hover, zoom and trends work without a network.

        The page is light unless `theme` is ``"dark"``.

        Args:
            path: File to write; an existing one is replaced.

        Raises:
            OSError: If it cannot be written. The explorer is unchanged.
        """
        name1, name2 = self._session.comparison.names
        theme = "dark" if self.theme == "dark" else "light"
        snapshot = self._session.snapshot()
        traits = {**self.get_state(PAGE_TRAITS), **snapshot, "theme": theme}
        if traits["_snapshot"] is not None:
            traits |= self._session.frames.with_whole_history(traits["_snapshot"])
        page = html.page(
            traits,
            title=f"{metric_title(self.metric)} of {name1} and {name2}",
            theme=theme,
            module=page_code(),
            style=self._css,
            bokehjs=bokehjs_gz(),
            version=BOKEH_VERSION,
        )
        html.write(path, page)

    def __repr__(self) -> str:
        name1, name2 = self._session.comparison.names
        size = f"{len(self.layers1)} x {len(self.layers2)} layers"
        return summary(f"{name1} x {name2}, {size}", self._session.ended_result)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        data, metadata = super()._repr_mimebundle_(**kwargs) or ({}, {})
        if self._fallback.renderer != "widget":
            data = {}
        data |= forms(self._preview(), self._fallback.renderer)
        self._session.runs.context = CallerContext.current()
        self._fallback.shown()
        self._session.shown(autostart=self._autostart)
        return data, metadata

    def _preview(self) -> Preview:
        result = self._session.ended_result
        return preview(repr(self), result, self.palette, self.color_range)

    def _where_it_is(self, timeout: float | None) -> str:
        done = self.progress
        total = "an unknown number" if done.total is None else done.total
        return (
            f"Expected the run to end within {timeout} s, but it is {self.status} at "
            f"batch {done.batches} of {total}. It has not been stopped: call wait() "
            "again, or stop()."
        )

    # Choices

    @traitlets.validate("layers1", "layers2")
    def _check_layers(self, proposal: Any) -> list[str]:
        choices = "auto" if proposal["value"] is None else proposal["value"]
        with _as_trait_errors():
            return self._session.choose(proposal["trait"].name, choices)

    @traitlets.validate("focus")
    def _check_focus(self, proposal: Any) -> Any:
        for side, layer in zip(SIDES, proposal["value"] or (), strict=False):
            known = side_of(self._trees, side)["name"]
            if layer not in known:
                raise traitlets.TraitError(unknown_layer(layer, known, "focus"))
        return proposal["value"]

    @traitlets.validate("metric")
    def _check_metric(self, proposal: Any) -> Any:
        known = metrics.names()
        if proposal["value"] not in (*known, self._session.comparison.metric):
            msg = f"Expected `metric` to be one of {known}, got {proposal['value']!r}."
            raise traitlets.TraitError(msg)
        return proposal["value"]

    @traitlets.validate("stop_when_stable")
    def _check_tolerance(self, proposal: Any) -> float | None:
        with _as_trait_errors():
            return check_tolerance(proposal["value"])

    @traitlets.validate("color_range")
    def _check_color_range(self, proposal: Any) -> Any:
        with _as_trait_errors():
            return checked_color_range(proposal["value"])

    def _take_layers(self, change: Any) -> None:
        self._session.layers_changed(change["name"], change["new"])

    def _take_metric(self, change: Any) -> None:
        self._session.metric_changed(change["new"])

    def _take_tolerance(self, change: Any) -> None:
        self._session.tolerance_changed(change["new"])

    # The page

    def _answered(self, views: int) -> None:
        """A page has loaded the widget, and shows this many views of it."""
        self._fallback.answered()
        if views:
            self._session.shown(autostart=self._autostart)

    def _show_failure(self, error: BaseException) -> None:
        self._session.failed(error)

    def _put(self, traits: Mapping[str, Any]) -> None:
        """Set traits, in this order; one that fails does not stop the others."""
        for name, value in traits.items():
            try:
                if name == "status" and value in ("done", "stopped", "error"):
                    # The cell being executed may wait for the status, and then end.
                    self._fallback.refresh()
                self.set_trait(name, value)
            except Exception as error:  # of an observer, or of the comm
                self._show_failure(error)

    def open(self) -> None:
        """Open the comm, unless there is one."""
        super().open()
        leave_replies_to_the_page(self.comm)

    def _send(self, msg: Any, buffers: Any = None) -> None:
        comm = self.comm
        if comm is not None:
            super()._send(msg, buffers=buffers)
            leave_replies_to_the_page(comm)


@contextlib.contextmanager
def _as_trait_errors() -> Iterator[None]:
    """Turn the errors of a check into those that traitlets expects."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise traitlets.TraitError(str(error)) from error


def _page_traits() -> dict[str, Any]:
    """Traits that do not depend on what is compared."""
    key, runtime = uuid.uuid4().hex, shared_runtime()
    return {"_key": key, "_runtime": runtime, "_figure": empty_figures()}


def _names(*models: "nn.Module | None") -> dict[str, str]:
    """Names of the models after the caller's variables, as options of `CKA`."""
    found = zip(NAMES, names_of(*models), models, strict=True)
    return {k: name for k, name, model in found if name and model is not None}
