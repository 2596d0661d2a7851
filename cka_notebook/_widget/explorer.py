"""`CKAExplorer`: the widget, with what users call and what its page says.

Synced traits flow from the kernel to the page only; the page speaks by custom messages,
which may arrive in any thread, so they only give orders or wait in a queue for a thread
of their own. ``protocol.ts`` is the other half of this file.
"""

import contextlib
import functools
import math
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import anywidget
import traitlets
from ipywidgets import widget_serialization

from cka_notebook import _figures, metrics
from cka_notebook._engine.cka import check_tolerance
from cka_notebook._figures.png import png
from cka_notebook._messages import counted, metric_title
from cka_notebook._notebook import cell
from cka_notebook._notebook.fallback import Fallback, Preview, forms
from cka_notebook._notebook.variables import names_of
from cka_notebook._page import html
from cka_notebook._page.frames import Progress
from cka_notebook._page.runtime import (
    BOKEH_VERSION,
    STATIC,
    Runtime,
    bokehjs_gz,
    page_code,
    shared_runtime,
)
from cka_notebook._results.result import CKAResult

from .comparison import NAMES, Comparison, Live, Saved
from .mailbox import Mailbox
from .saved_tree import SIDES, side_of, unknown_layer
from .session import Session, words
from .source import with_layers
from .worker import CallerContext

if TYPE_CHECKING:
    from torch import nn


PROTOCOL = 2
STATES = ("idle", "running", "paused", "stopped", "done", "error")
THEMES = ("auto", "light", "dark")
CHOICES = ("layers1", "layers2", "focus", "metric", "palette", "color_range")
"""Traits that a page may ask to be set."""

PAGE_TRAITS = (
    *("_protocol", "_key", "_meta", "_trees", "_figure", "_axes", "_message", "status"),
    *("_code", "stop_when_stable", "theme"),
    *("_snapshot", "_matrix", "_stderr", "_history"),
    *CHOICES,
)
"""Traits that a page without a kernel needs."""


class _Choice(traitlets.Any):
    """Whatever chooses layers; None does, too, so that it is looked at."""

    allow_none = False


class CKAExplorer(anywidget.AnyWidget):
    """Compares the layers of two models, live in a notebook.

    The last expression of a cell, it shows itself and starts: the map of CKA values
    sharpens with every batch, and clicks, choices and buttons work meanwhile, because
    the work is done in a thread of its own. The models are left as they were found.

    Args:
        model1: The model of the rows.
        model2: The model of the columns; the same model, or None, compares it with
            itself in one forward pass per batch.
        loader: Batches, as `CKA.compare` takes them. Each goes to both models.
        loader2: Other inputs for model 2, of the same examples in the same order.
        autostart: Start when shown. A run that would take longer than two minutes, or
            most of the free memory, holds and waits for its Resume button or `run`.
        theme: ``"light"``, ``"dark"``, or ``"auto"``: as the page around is.
        cka_options: Options of `CKA` (``model1_layers``, ``device``, ``pool``, ...) and
            ``paired``, ``max_batches``, ``stop_when_stable``, ``checkpoint``,
            ``callback`` of its `compare`. ``model1_name`` and ``model2_name`` are, if
            not given, those of the variables that hold the models where this is called.
            The callback is called in the thread of the run. StopIteration from it ends
            the run; another exception is shown, once, and the run goes on.

    Raises:
        TypeError: If an option is unknown or of the wrong kind.
        ValueError: If a layer does not exist.
        TraitError: If there is no such theme.

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

    _esm = STATIC / "loader.js"
    _css = STATIC / "widget.css"

    status = traitlets.Enum(STATES, "idle", read_only=True).tag(sync=True)
    """What the explorer is doing: one of `STATES`."""
    layers1 = _Choice().tag(sync=True)
    """Names of the chosen layers of model 1. Takes whatever chooses layers."""
    layers2 = _Choice().tag(sync=True)
    """Names of the chosen layers of model 2."""
    focus = traitlets.Tuple(
        traitlets.Unicode(), traitlets.Unicode(), default_value=None, allow_none=True
    ).tag(sync=True)
    """The pair ``(layer1, layer2)`` that is looked at, or None."""
    metric = traitlets.Unicode("cka").tag(sync=True)
    """Name of the measure. A run starts again when it changes."""
    palette = traitlets.Enum(tuple(_figures.PALETTES), "magma").tag(sync=True)
    """Colors of the map."""
    color_range = traitlets.Any([0.0, 1.0]).tag(sync=True)
    """Values of the first and the last color, or ``"fit"``."""
    theme = traitlets.Enum(THEMES, THEMES[0]).tag(sync=True)
    """``"light"``, ``"dark"``, or ``"auto"``: as the page around is."""

    stop_when_stable = traitlets.Float(None, allow_none=True).tag(sync=True)
    """A run ends when no standard error is above it; None lets it end by itself."""

    _protocol = traitlets.Int(PROTOCOL, read_only=True).tag(sync=True)
    _key = traitlets.Unicode().tag(sync=True)
    _runtime = traitlets.Instance(Runtime).tag(sync=True, **widget_serialization)
    _meta = traitlets.Dict().tag(sync=True)
    _trees = traitlets.Dict().tag(sync=True)
    _figure = traitlets.Dict().tag(sync=True)
    _axes = traitlets.Dict(None, allow_none=True).tag(sync=True)
    _estimate = traitlets.Unicode().tag(sync=True)
    _code = traitlets.List(traitlets.Unicode()).tag(sync=True)
    _message = traitlets.Dict({"kind": "", "text": ""}).tag(sync=True)
    _snapshot = traitlets.Dict(None, allow_none=True).tag(sync=True)
    _matrix = traitlets.Bytes(b"").tag(sync=True)
    _stderr = traitlets.Bytes(b"").tag(sync=True)
    _history = traitlets.Bytes(b"").tag(sync=True)

    _session: Session

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
            TypeError: If it is no result, but a path to one, say.
            TraitError: If there is no such theme.
        """
        given: object = result
        if not isinstance(given, CKAResult):
            msg = (
                f"Expected a CKAResult, got {given!r}. CKAResult.load(path) makes one "
                "of a file."
            )
            raise TypeError(msg)
        explorer = cls.__new__(cls)
        saved = Saved(result)
        explorer._set_up(saved, autostart=False, theme=theme)  # noqa: SLF001 a constructor
        explorer._session.show_saved(result)  # noqa: SLF001 likewise
        if result.is_difference:
            explorer.palette, explorer.color_range = _figures.DIVERGING, "fit"
        return explorer

    def _set_up(self, comparison: Comparison, *, autostart: bool, theme: str) -> None:
        self._still = Fallback(self._look)
        self._autostart = autostart
        self._appeared = False
        self._session = Session(comparison, self._put, self.send)
        self._desk = Mailbox(self._handle)
        super().__init__(**self._first_traits(comparison), theme=theme)
        self._session.chosen.clear()
        self.on_msg(self._receive)
        self.observe(self._take_layers, list(SIDES))
        self.observe(self._take_metric, "metric")
        self.observe(self._take_status, "status")
        self.observe(self._take_tolerance, "stop_when_stable")
        cell.supersede(self)

    def _first_traits(self, comparison: Comparison) -> dict[str, Any]:
        name1, name2 = comparison.names
        return {
            "_key": uuid.uuid4().hex,
            "_runtime": shared_runtime(),
            "_figure": _figure(),
            "_trees": comparison.trees(),
            "_meta": {
                "name1": name1,
                "name2": name2,
                "bokeh": BOKEH_VERSION,
                "loader": comparison.loader_text,
                "self": comparison.same,
                "computes": not self._session.is_saved,
            },
            "_code": comparison.code(comparison.metric, comparison.tolerance),
            "metric": comparison.metric,
            "stop_when_stable": comparison.tolerance,
            "layers1": comparison.initial("layers1"),
            "layers2": comparison.initial("layers2"),
        }

    # What users call

    def run(self, *, block: bool = False) -> None:
        """Start, resume, or start again when the last run has ended.

        Args:
            block: Work in the calling thread and return at the end. For scripts, and
                for front ends that do not hear other threads.

        Raises:
            RuntimeError: If the models are gone, or there is nothing to compute.
        """
        self._session.runs.surroundings = CallerContext.here()
        self._session.runs.start(block=block)

    def pause(self) -> None:
        """Hold after the current batch; `run` and `resume` go on."""
        if self._session.runs.live is not None:
            self._session.runs.live.pause()

    def resume(self) -> None:
        """Go on after a pause."""
        self._session.runs.go_on()

    def stop(self) -> None:
        """End after the current batch; the result so far is kept."""
        if self._session.runs.live is not None:
            self._session.runs.live.stop()

    def wait(self, timeout: float | None = None) -> "CKAResult | None":
        """Wait for the end of the run, which is started if there was none.

        An interrupt stops the run after the current batch, and the result so far is
        kept.

        Args:
            timeout: Seconds to wait at most, or None.

        Returns:
            The result; None if the run was stopped before its first batch.

        Raises:
            TimeoutError: If the run has not ended by then. It goes on.
            RuntimeError: If the run's own thread, in a callback say, would wait for
                itself.
        """
        session = self._session
        if session.is_saved and session.runs.untouched:
            return session.result
        worker = session.runs.wait(timeout)
        if worker is None:
            raise TimeoutError(self._not_yet(timeout))
        if worker.outcome == "error" and worker.error is not None:
            raise worker.error
        return session.result

    def close(self) -> None:
        """Stop the run and free what the page holds. `result` stays."""
        if hasattr(self, "_session"):  # It lacks where the constructor has raised.
            self.stop()
            self._still.forget()
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

    def save_html(self, path: str | Path) -> None:
        """Write one self-contained file: hover, zoom and trends work without a network.

        It is light, unless `theme` is ``"dark"``.

        Args:
            path: Where to; a file that is there is replaced.
        """
        name1, name2 = self._session.comparison.names
        theme = "dark" if self.theme == "dark" else "light"
        still = self._session.still()
        state = {**self.get_state(PAGE_TRAITS), **still, "theme": theme}
        if state["_snapshot"] is not None:
            state |= self._session.frames.with_whole_history(state["_snapshot"])
        page = html.page(
            state,
            title=f"{metric_title(self.metric)} of {name1} and {name2}",
            theme=theme,
            module=page_code(),
            style=str(self._css),
            bokehjs=bokehjs_gz(),
            version=BOKEH_VERSION,
        )
        Path(path).write_text(page, encoding="utf-8")

    def __repr__(self) -> str:
        name1, name2 = self._session.comparison.names
        rows, columns = len(self.layers1), len(self.layers2)
        text = f"CKAExplorer({name1} x {name2}, {rows} x {columns} layers"
        result = self._session.ended_result
        if result is None:
            return f"{text})"
        low, high = _extremes(result)
        return (
            f"{text}, {result.metric} {low:.2f} to {high:.2f}, {result.examples} "
            f"examples in {counted(result.batches, 'batch')})"
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        data, metadata = super()._repr_mimebundle_(**kwargs) or ({}, {})
        if self._still.renderer != "widget":
            data = {}
        data |= forms(self._look(), self._still.renderer)
        self._session.runs.surroundings = CallerContext.here()
        self._still.appears()
        self._appear()
        return data, metadata

    def _look(self) -> Preview:
        result = self._session.ended_result
        if result is None:
            return Preview(repr(self), None)
        matrix, limits = result.matrix.numpy(), self.color_range
        if limits == "fit":
            limits = _figures.fitted_range(matrix, self.palette)
        colors = _figures.PALETTES[self.palette]
        greyed = _figures.exact_cells(
            matrix, result.stderr.numpy(), is_difference=result.is_difference
        )
        picture = png(matrix, colors, limits, greyed=greyed, is_fallback=True)
        return Preview(repr(self), picture)

    def _not_yet(self, timeout: float | None) -> str:
        done = self.progress
        total = "an unknown number" if done.total is None else done.total
        return (
            f"Expected the run to end within {timeout} s, and it is {self.status} at "
            f"batch {done.batches} of {total}. It goes on: wait again, or stop()."
        )

    # Choices in

    @traitlets.validate("layers1", "layers2")
    def _check_layers(self, proposal: Any) -> list[str]:
        choices = "auto" if proposal["value"] is None else proposal["value"]
        try:
            return self._session.choose(proposal["trait"].name, choices)
        except (ValueError, TypeError) as error:
            raise traitlets.TraitError(str(error)) from error

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
    def _check_tolerance(self, proposal: Any) -> Any:
        try:
            check_tolerance(proposal["value"])
        except ValueError as error:
            raise traitlets.TraitError(str(error)) from error
        return proposal["value"]

    @traitlets.validate("color_range")
    def _check_color_range(self, proposal: Any) -> Any:
        value = proposal["value"]
        if isinstance(value, str) and value == "fit":
            return value
        with contextlib.suppress(TypeError, ValueError):
            low, high = (float(end) for end in value)
            if low < high and math.isfinite(low) and math.isfinite(high):
                return [low, high]
        msg = (
            "Expected `color_range` to be 'fit' or two numbers, the lower first, got "
            f"{value!r}."
        )
        raise traitlets.TraitError(msg)

    def _take_layers(self, change: Any) -> None:
        self._session.layers_changed(change["name"], change["new"])

    def _take_metric(self, change: Any) -> None:
        self._session.metric_changed(change["new"])
        self._tell_code()

    def _take_tolerance(self, change: Any) -> None:
        self._session.tolerance = change["new"]
        self._tell_code()

    def _tell_code(self) -> None:
        comparison = self._session.comparison
        self._put({"_code": comparison.code(self.metric, self.stop_when_stable)})

    def _take_status(self, change: Any) -> None:
        if change["new"] in ("done", "stopped", "error"):
            self._still.refresh()

    # What the page says

    def _receive(self, _: Any, content: Any, __: Any) -> None:
        """Take a message in whatever thread it comes: obey, or leave it on the desk."""
        if not isinstance(content, Mapping):
            return
        what = content.get("kind"), content.get("name")
        if what == ("command", "pause"):
            self.pause()
        elif what == ("command", "stop"):
            self.stop()
        elif what[0] == "ack":
            self._acknowledged(content)
        else:
            self._desk.put(content)

    def _acknowledged(self, content: Mapping[str, Any]) -> None:
        with contextlib.suppress(KeyError, TypeError, ValueError):
            page, views = str(content["page"]), int(content["views"])
            epoch, seq = int(content["epoch"]), int(content["seq"])
            self._session.frames.publisher.acknowledge(page, views, epoch, seq)

    def _handle(self, content: Mapping[str, Any]) -> None:
        """Do what a message asks; what goes wrong is shown to who asked."""
        handlers: dict[str, Callable[[Mapping[str, Any]], None]] = {
            "ready": self._on_ready,
            "command": self._on_command,
            "layers": self._on_choice,
            "focus": self._on_choice,
            "view": self._on_choice,
            "tolerance": self._on_tolerance,
            "need_bokeh": self._on_need_bokeh,
            "need_code": self._on_need_code,
        }
        handler = handlers.get(str(content.get("kind")))
        try:
            if handler is not None:
                handler(content)
        except Exception as error:
            self._session.say("error", words(error))

    def _on_ready(self, content: Mapping[str, Any]) -> None:
        page, views = str(content.get("page")), int(content.get("views") or 0)
        frames, runs = self._session.frames, self._session.runs
        frames.publisher.hear(page, views)
        self._still.answered()
        if views:
            self._appear()
        only_probes = runs.live is not None and runs.live.only_probe
        history = None if only_probes else frames.history_message()
        if history is not None:
            self.send(*history)
        if runs.live is not None and not only_probes:
            frames.publisher.greet(page, views)

    def _on_command(self, content: Mapping[str, Any]) -> None:
        runs = self._session.runs
        orders: dict[str, Callable[[], object]] = {
            "run": runs.start,
            "resume": runs.go_on,
            "restart": self._session.restart,
        }
        order = orders.get(str(content.get("name")))
        if order is not None:
            order()

    def _on_choice(self, content: Mapping[str, Any]) -> None:
        for name in CHOICES:
            if name in content:
                setattr(self, name, content[name])

    def _on_tolerance(self, content: Mapping[str, Any]) -> None:
        value = content.get("value")
        self.stop_when_stable = None if value is None else float(value)

    def _on_need_bokeh(self, _: Mapping[str, Any]) -> None:
        version = BOKEH_VERSION
        self.send({"kind": "bokehjs", "version": version}, [bokehjs_gz()])

    def _on_need_code(self, _: Mapping[str, Any]) -> None:
        self.send({"kind": "code", "code": page_code()})

    def _appear(self) -> None:
        """Start, or only probe, when first shown."""
        first, self._appeared = not self._appeared, True
        session = self._session
        if not first or session.is_saved or not session.runs.untouched:
            return
        if self._autostart or not session.comparison.one_shot:
            auto = self._autostart
            with contextlib.suppress(RuntimeError):  # The page shows its words.
                session.runs.start(cautious=auto, only_probe=not auto)

    # What the page is told

    def _put(self, traits: Mapping[str, Any]) -> None:
        """Set traits, in this order."""
        for name, value in traits.items():
            self.set_trait(name, value)

    def open(self) -> None:
        """Open the comm, unless there is one."""
        super().open()
        _leave_replies_to_the_page(self.comm)

    def _send(self, msg: Any, buffers: Any = None) -> None:
        comm = self.comm
        if comm is not None:
            super()._send(msg, buffers=buffers)
            _leave_replies_to_the_page(comm)


def _leave_replies_to_the_page(comm: Any) -> None:
    """Let the page's next message go to any free thread of the kernel.

    ipykernel 7.4 notes on the comm which shell has sent last and routes the page's
    messages there, which is the main shell, blocked while a cell runs. Without the
    note they go to a subshell, as the page asks. An optimization, not a promise: other
    versions have no such note.
    """
    getattr(comm, "__dict__", {}).pop("_reply_subshell_id", None)


@functools.cache
def _figure() -> dict[str, Any]:
    """The page's empty figures, the same for all explorers; they take time to make."""
    return _figures.figure_json(_figures.explorer_figure())


def _names(*models: "nn.Module | None") -> dict[str, str]:
    """Names of the models after the caller's variables, as options of `CKA`."""
    found = zip(NAMES, names_of(*models), models, strict=True)
    return {k: name for k, name, model in found if name and model is not None}


def _extremes(result: "CKAResult") -> tuple[float, float]:
    """Smallest and largest value."""
    known = result.matrix[result.matrix.isfinite()]
    return (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
