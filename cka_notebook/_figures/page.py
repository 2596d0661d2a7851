"""The figures that the page embeds, made here without data.

The page finds their models by name and replaces arrays, ranges and colors. Its half of
this file is ``charts.ts``.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from typing import TYPE_CHECKING, Any

import bokeh
import numpy as np
from bokeh.document import Document
from bokeh.models import (
    BasicTicker,
    BoxZoomTool,
    ColumnDataSource,
    FixedTicker,
    Image,
    Line,
    LinearColorMapper,
    MultiLine,
    PanTool,
    Range1d,
    Rect,
    Scatter,
    Text,
    WheelZoomTool,
)
from bokeh.models.glyphs import Patches
from bokeh.plotting import figure

from .shared import (
    BELOW_ZERO,
    LABEL_FONT_SIZE,
    PALETTES,
    TRANSPARENT,
    add,
    greyed,
    hatched,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bokeh.models.glyph import Glyph

HALO = "#06141f"
"""A dark line around a bright one: together they are seen on every color of a map."""

FOCUS = "#5ce1ff"
"""The color of the frame around the selected cell."""


def explorer_figure() -> Document:
    """The figures of the page, empty: a map, two trends beside it, and the convergence.

    Returns:
        A document with four roots named ``"map"``, ``"row_trend"``, ``"column_trend"``
        and ``"history"``. The map shares its x range with the row trend and its y range
        with the column trend, so they zoom together.
    """
    columns = Range1d(start=0, end=1, name="columns_range")
    rows = Range1d(start=1, end=0, name="rows_range")
    values = Range1d(start=0, end=1, name="value_range")
    document = Document()
    for root in (
        _map(columns, rows),
        _row_trend(columns, values),
        _column_trend(values, rows),
        _history(),
    ):
        document.add_root(root)
    return document


def figure_json(document: Document) -> dict[str, Any]:
    """The document as the page embeds it.

    Args:
        document: The document of `explorer_figure`. Not modified.

    Returns:
        ``doc``, the JSON of Bokeh as base64 of gzip, because a notebook saves one per
        explorer; ``roots``, the id of each figure by name; the ``version`` of Bokeh
        that the page has to load; and the ``palettes``, with which the page draws until
        Bokeh is loaded.
    """
    doc = json.dumps(document.to_json(deferred=False), allow_nan=False)
    return {
        "doc": base64.b64encode(gzip.compress(doc.encode(), mtime=0)).decode(),
        "roots": {str(root.name): str(root.id) for root in document.roots},
        "version": bokeh.__version__,
        "palettes": {name: _packed(colors) for name, colors in PALETTES.items()},
    }


def _map(columns: Range1d, rows: Range1d) -> figure:
    plot = _blank("map", columns, rows, height=400)
    _add_image(plot)
    _add_boxes(plot)
    _add_numbers(plot)
    for name, glyphs in {**_matches(), **_markers()}.items():
        source = ColumnDataSource(_empty("x", "y"), name=name)
        for glyph in glyphs:
            plot.add_glyph(source, glyph)
    for axis, name in ((plot.xaxis[0], "columns"), (plot.yaxis[0], "rows")):
        axis.ticker = FixedTicker(ticks=[], name=f"{name}_ticker")
        axis.name = f"{name}_axis"
    plot.xaxis[0].major_label_orientation = math.pi / 2
    plot.grid.grid_line_color = None
    _add_tools(plot)
    return plot


def _add_image(plot: figure) -> None:
    mapper = LinearColorMapper(
        palette=list(PALETTES["magma"]),
        low=0,
        high=1,
        low_color=BELOW_ZERO,
        nan_color=TRANSPARENT,
        name="color_mapper",
    )
    image = Image(image="image", x="x", y="y", dw="dw", dh="dh", color_mapper=mapper)
    undefined = np.full((1, 1), np.nan, dtype=np.float32)
    add(plot, "map_source", image, image=[undefined], x=[0], y=[0], dw=[1], dh=[1])


def _add_boxes(plot: figure) -> None:
    """Undefined cells, cells still to come, and cells that say nothing."""
    edges = _empty("left", "right", "top", "bottom")
    add(plot, "undefined_source", hatched(), **edges)
    add(plot, "pending_source", hatched("pending", ".", strength=0.5), **edges)
    add(plot, "exact_source", greyed(), **edges)


def _add_numbers(plot: figure) -> None:
    numbers = Text(
        text="text",
        text_color="color",
        text_align="center",
        text_baseline="middle",
        text_font_size=LABEL_FONT_SIZE,
    )
    add(plot, "numbers_source", numbers, **_empty("x", "y", "text", "color"))


def _add_tools(plot: figure) -> None:
    box, wheel = BoxZoomTool(name="zoom_tool"), WheelZoomTool()
    plot.add_tools(box, PanTool(name="pan_tool"), wheel)
    plot.toolbar.active_drag = box
    plot.toolbar.active_scroll = wheel


def _matches() -> dict[str, tuple[Glyph, ...]]:
    """The line of the best path, and marks on the best cell of each column and row.

    The mark of a row, a dot, fits into that of a column, a square.
    """

    def square(color: str, width: float) -> Scatter:
        glyph = Scatter(x="x", y="y", marker="square", size=12, fill_color=None)
        glyph.update(line_color=color, line_width=width)
        return glyph

    dot = Scatter(x="x", y="y", marker="circle", size=6, fill_color="white")
    dot.update(line_color=HALO)
    return {
        "path_source": (
            Line(x="x", y="y", line_color=HALO, line_width=4, line_join="round"),
            Line(x="x", y="y", line_color="white", line_width=2, line_join="round"),
        ),
        "column_matches": (square(HALO, 3.5), square("white", 1.5)),
        "row_matches": (dot,),
    }


def _markers() -> dict[str, tuple[Glyph, ...]]:
    """Frames around the hovered, the pinned and the selected cells."""

    def cell(**line: Any) -> Rect:
        return Rect(x="x", y="y", width=1, height=1, fill_color=None, **line)

    return {
        "hover_source": (
            cell(line_color=HALO, line_width=3, line_alpha=0.7),
            cell(line_color="white", line_width=1),
        ),
        "pins_source": (
            cell(line_color=HALO, line_width=4),
            cell(line_color="white", line_width=2, line_dash="dashed"),
        ),
        "focus_source": (
            cell(line_color=HALO, line_width=5),
            cell(line_color=FOCUS, line_width=2.5),
        ),
    }


def _row_trend(columns: Range1d, values: Range1d) -> figure:
    plot = _blank("row_trend", columns, values, height=110)
    plot.xaxis.ticker = FixedTicker(ticks=[])
    plot.xgrid.grid_line_color = None
    plot.yaxis.ticker = BasicTicker(desired_num_ticks=3, num_minor_ticks=0)
    _add_trend(plot, "row", "circle")
    return plot


def _column_trend(values: Range1d, rows: Range1d) -> figure:
    plot = _blank("column_trend", values, rows, height=400)
    plot.yaxis.ticker = FixedTicker(ticks=[])
    plot.ygrid.grid_line_color = None
    plot.xaxis.ticker = BasicTicker(desired_num_ticks=3, num_minor_ticks=0)
    _add_trend(plot, "column", "square")
    return plot


def _history() -> figure:
    batches = Range1d(start=0, end=1, name="batches_range")
    values = Range1d(start=0, end=1, name="history_range")
    plot = _blank("history", batches, values, height=150)
    plot.xaxis.ticker = BasicTicker(num_minor_ticks=0)
    plot.yaxis.ticker = BasicTicker(desired_num_ticks=4, num_minor_ticks=0)
    _add_trend(plot, "history", "circle")
    return plot


def _add_trend(plot: figure, name: str, marker: str) -> None:
    """One line with its band and points, and the thinner lines of pinned cells."""
    pins = ColumnDataSource(
        _empty("xs", "ys", "color", "dash"), name=f"{name}_pins_source"
    )
    lines = MultiLine(
        xs="xs", ys="ys", line_color="color", line_dash="dash", line_width=1.5
    )
    points = ColumnDataSource(
        _empty("x", "y", "color", "marker"), name=f"{name}_pin_points"
    )
    dots = Scatter(
        x="x", y="y", marker="marker", size=5, line_color="color", fill_color=None
    )
    # A varea would bridge undefined values; patches leave a gap.
    bands = Patches(xs="xs", ys="ys", fill_alpha=0.22, line_color=None)
    bands.name = f"{name}_band"
    add(plot, f"{name}_band_source", bands, **_empty("xs", "ys"))
    source = ColumnDataSource(_empty("x", "y"), name=f"{name}_source")
    line = Line(x="x", y="y", line_width=2, name=f"{name}_line")
    knots = Scatter(x="x", y="y", marker=marker, size=4, name=f"{name}_points")
    plot.add_glyph(pins, lines)
    plot.add_glyph(points, dots)
    for glyph in (line, knots):
        plot.add_glyph(source, glyph)


def _blank(name: str, x_range: Range1d, y_range: Range1d, height: int) -> figure:
    plot = figure(
        name=name,
        x_range=x_range,
        y_range=y_range,
        width=480,
        height=height,
        tools=[],
        toolbar_location=None,
        min_border=0,
        background_fill_alpha=0,
        border_fill_alpha=0,
        outline_line_color=None,  # BokehJS strokes the last path with it once more.
    )
    plot.axis.major_label_text_font_size = LABEL_FONT_SIZE
    plot.axis.minor_tick_line_color = None
    plot.axis.major_tick_in = 0
    plot.axis.major_tick_out = 3
    plot.axis.major_label_standoff = 3
    return plot


def _empty(*columns: str) -> dict[str, Any]:
    return {column: [] for column in columns}


def _packed(palette: Sequence[str]) -> str:
    """All colors of a palette in one string, six hexadecimal digits per color."""
    return "".join(color.removeprefix("#") for color in palette)
