"""Parts of the figures of results: axes with names, maps, numbers, lines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import bokeh.palettes
import numpy as np
from bokeh.models import (
    BasicTicker,
    ColumnDataSource,
    CustomJSHover,
    CustomJSTickFormatter,
    HoverTool,
    Image,
    LinearColorMapper,
    Range1d,
    Text,
)
from bokeh.models.annotations import ColorBar, Legend
from bokeh.models.glyphs import Patches
from bokeh.plotting import figure

from cka_notebook._messages import metric_title

from .shared import (
    BELOW_ZERO,
    DIVERGING,
    LABEL_FONT_SIZE,
    PALETTES,
    TRANSPARENT,
    add,
    exact_cells,
    fitted_range,
    greyed,
    hatched,
    two_numbers,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bokeh.models import Axis
    from numpy.typing import NDArray

LABEL_PIXELS: Final = 14
"""Height of a tick label: text of 11 px and a gap of 3 px."""

MAP_PIXELS: Final = 480
"""Width of a map without its labels; chosen to fit a notebook cell."""

NUMBER_PIXELS: Final = 24
"""Width of a number in a cell, with a gap."""

ROOM: Final = 0.03
"""Share of a fitted value axis beyond each end, where half of a marker lies."""

LABEL_CHARACTERS: Final = 28
"""Longer names are shortened in the middle; hovering shows the whole name."""

MARKERS: Final = ("circle", "square", "triangle", "diamond", "inverted_triangle")
DASHES: Final = ("solid", "dashed", "dotted", "dashdot")
"""Lines differ not only in color."""


@dataclass(frozen=True)
class Map:
    """The matrix of a result, or a bare array, with the names of its layers."""

    values: NDArray[np.float64]
    stderr: NDArray[np.float64]
    layers1: list[str]
    layers2: list[str]
    name1: str
    name2: str
    metric: str
    is_difference: bool

    @property
    def measure(self) -> str:
        """The name of the measure as figures show it."""
        return metric_title(self.metric)

    @property
    def palette(self) -> str:
        """The default palette."""
        return DIVERGING if self.is_difference else "magma"

    @property
    def range(self) -> tuple[float, float] | str:
        """The default range of the colors."""
        return "fit" if self.is_difference else (0.0, 1.0)


def limits(
    values: NDArray[np.float64], wanted: object, palette: str = ""
) -> tuple[float, float]:
    """The values of the first and the last color.

    Args:
        values: The values shown.
        wanted: Two numbers in any kind of sequence, or ``"fit"``.
        palette: Name of the colors, for ``"fit"``.

    Raises:
        ValueError: If there are not two finite numbers in order.
    """
    if isinstance(wanted, str) and wanted == "fit":
        return fitted_range(values, palette)
    found = two_numbers(wanted)
    if found is None:
        msg = f"Expected a range as (low, high) or 'fit', got {wanted!r}."
        raise ValueError(msg)
    return found


def value_limits(
    lines: Sequence[tuple[str, NDArray[np.float64], NDArray[np.float64]]],
    wanted: object,
    palette: str,
) -> tuple[float, float]:
    """Both ends of a value axis; a fitted one also shows the bands and all markers."""
    ends = [(y - np.nan_to_num(e), y + np.nan_to_num(e)) for _, y, e in lines]
    low, high = limits(
        np.concatenate([end for pair in ends for end in pair]), wanted, palette
    )
    room = ROOM * (high - low) if isinstance(wanted, str) else 0.0
    return low - room, high + room


def colors(palette: str) -> list[str]:
    """The colors of a palette, or a ValueError with the names of all."""
    if palette not in PALETTES:
        msg = f"Expected `palette` to be one of {', '.join(PALETTES)}, got {palette!r}."
        raise ValueError(msg)
    return list(PALETTES[palette])


def map_figure(shown: Map, title: str | None, origin: str) -> figure:
    """An empty figure for a map; ``origin`` is the place of row 0."""
    rows, columns = shown.values.shape
    square = MAP_PIXELS * rows / columns
    bottom, top = (rows - 0.5, -0.5) if origin == "upper" else (-0.5, rows - 0.5)
    height = int(min(1.4 * MAP_PIXELS, max(0.5 * MAP_PIXELS, square)))
    plot = figure(
        title=title or f"{shown.name1} x {shown.name2} ({shown.measure})",
        x_range=Range1d(start=-0.5, end=columns - 0.5, bounds="auto"),
        y_range=Range1d(start=bottom, end=top, bounds="auto"),
        frame_width=MAP_PIXELS,
        frame_height=height,
        tools="box_zoom,pan,reset,save",
        toolbar_location="above",
    )
    plot.grid.grid_line_color = None
    _name_axis(plot.xaxis[0], shown.layers2, shown.name2, MAP_PIXELS)
    _name_axis(plot.yaxis[0], shown.layers1, shown.name1, height)
    plot.xaxis[0].major_label_orientation = math.pi / 2
    return plot


def _name_axis(axis: Axis, layers: Sequence[str], name: str, pixels: int) -> None:
    """Label the centers of the cells, as many as fit, also after a zoom."""
    axis.ticker = BasicTicker(
        desired_num_ticks=max(2, min(len(layers), pixels // LABEL_PIXELS)),
        min_interval=1,
        mantissas=[1, 2, 5],
        num_minor_ticks=0,
    )
    prefix = _common_prefix(layers)
    axis.axis_label = f"{name}: {prefix}\u2026" if prefix else name
    axis.formatter = CustomJSTickFormatter(
        args={"names": [_shortened(layer[len(prefix) :]) for layer in layers]},
        code="return names[tick] ?? ''",
    )
    axis.major_label_text_font_size = LABEL_FONT_SIZE


def _common_prefix(names: Sequence[str]) -> str:
    """The dotted prefix that all names share, which need not be repeated on an axis."""
    parents = [name.split(".")[:-1] for name in names] if len(names) > 1 else []
    prefix = ""
    for parts in zip(*parents, strict=False):
        if len(set(parts)) > 1:
            break
        prefix += f"{parts[0]}."
    return prefix


def _shortened(name: str) -> str:
    """A name without its middle, if it is long."""
    if len(name) <= LABEL_CHARACTERS:
        return name
    half = LABEL_CHARACTERS // 2
    return f"{name[:half]}\u2026{name[1 - half :]}"


def draw_image(
    plot: figure, shown: Map, palette: list[str], limits: tuple[float, float]
) -> None:
    """The map itself, with a color bar and a hover text of names, value and error."""
    low, high = limits
    mapper = LinearColorMapper(
        palette=palette,
        low=low,
        high=high,
        low_color=BELOW_ZERO,
        nan_color=TRANSPARENT,
    )
    rows, columns = shown.values.shape
    source = ColumnDataSource(
        {
            "image": [_drawable(shown.values, low)],
            "value": [shown.values.astype(np.float32)],
            "stderr": [shown.stderr.astype(np.float32)],
            "x": [-0.5],
            "y": [-0.5],
            "dw": [columns],
            "dh": [rows],
        },
        name="cka_matrix",
    )
    image = Image(image="image", x="x", y="y", dw="dw", dh="dh", color_mapper=mapper)
    drawn = plot.add_glyph(source, image)
    plot.add_tools(_hover(shown, drawn))
    plot.add_layout(ColorBar(color_mapper=mapper, width=12, padding=8), "right")


def _drawable(values: NDArray[np.float64], low: float) -> NDArray[np.float32]:
    """Values as float32, where the color for negative values is left to these.

    Bokeh gives it to every value below the range, so other values are raised to its
    lower end; also those which only rounding has put below it.
    """
    drawable = values.astype(np.float32)
    least = np.float32(low)
    if least < np.float64(low):
        least = np.nextafter(least, np.float32(np.inf))
    drawable[((values >= 0) | (low < 0)) & (drawable < least)] = least
    return drawable


def _hover(shown: Map, drawn: Any) -> HoverTool:
    def named(layers: list[str]) -> CustomJSHover:
        return CustomJSHover(
            args={"names": layers}, code="return names[Math.round(value)] ?? ''"
        )

    return HoverTool(
        renderers=[drawn],
        tooltips=[
            (shown.name1, "$y{name}"),
            (shown.name2, "$x{name}"),
            (shown.measure, "@value{0.0000} \u00b1 @stderr{0.0000}"),
        ],
        formatters={"$y": named(shown.layers1), "$x": named(shown.layers2)},
    )


def draw_undefined(plot: figure, cells: NDArray[np.bool_]) -> None:
    """Hatch undefined cells."""
    add(plot, "undefined_source", hatched(), **_boxes(cells))


def draw_exact(plot: figure, shown: Map) -> None:
    """Grey out the cells of a difference that say nothing."""
    cells = exact_cells(shown.values, shown.stderr, is_difference=shown.is_difference)
    add(plot, "exact_source", greyed(), **_boxes(cells))


def _boxes(cells: NDArray[np.bool_]) -> dict[str, list[float]]:
    """Edges of boxes over cells; neighbors in a row share one box."""
    left, right, top, bottom = [], [], [], []
    for row, line in enumerate(cells):
        for start, end in _stretches(line):
            left.append(start - 0.5)
            right.append(end - 0.5)
            top.append(row - 0.5)
            bottom.append(row + 0.5)
    return {"left": left, "right": right, "top": top, "bottom": bottom}


def _stretches(line: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Start and end (exclusive) of each stretch of true values."""
    edges = np.flatnonzero(np.diff(np.r_[False, line, False].astype(int))).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def draw_numbers(
    plot: figure,
    values: NDArray[np.float64],
    palette: Sequence[str],
    limits: tuple[float, float],
) -> None:
    """Write each value into its cell: upright in cells too narrow for it."""
    width = MAP_PIXELS / values.shape[1]
    height = (plot.frame_height or MAP_PIXELS) / len(values)
    rows, columns = np.nonzero(~np.isnan(values))
    numbers = values[rows, columns]
    text = Text(
        text="text",
        text_color="color",
        text_align="center",
        text_baseline="middle",
        text_font_size="10px",
        angle=math.pi / 2 if width < NUMBER_PIXELS <= height else 0,
    )
    add(
        plot,
        "numbers",
        text,
        x=columns,
        y=rows,
        text=[f"{number:z.2f}" for number in numbers],
        color=[_ink(number, palette, limits) for number in numbers],
    )


def _ink(number: float, palette: Sequence[str], limits: tuple[float, float]) -> str:
    """Black or white, whichever is easier to read on the color of the cell."""
    low, high = limits
    share = min(1.0, max(0.0, (number - low) / (high - low)))
    color = palette[round(share * (len(palette) - 1))]
    red, green, blue = (int(color[k : k + 2], 16) / 255 for k in (1, 3, 5))
    luminance = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
    return "black" if luminance > 0.18 or number < 0 <= low else "white"


def trend_figure(
    shown: Map,
    names: Sequence[str],
    title: str | None,
    limits: tuple[float, float],
    *,
    diagonal: bool,
) -> figure:
    """An empty figure for lines over the layers in ``names``."""
    what = "layer by layer" if diagonal else f"against {shown.name2}"
    plot = figure(
        title=title or f"{shown.name1} {what} ({shown.measure})",
        x_range=Range1d(start=-0.5, end=len(names) - 0.5, bounds="auto"),
        y_range=Range1d(start=limits[0], end=limits[1]),
        frame_width=MAP_PIXELS,
        frame_height=MAP_PIXELS // 2,
        tools="box_zoom,pan,reset,save",
        toolbar_location="above",
    )
    # Beside the lines: inside of the frame it would hide some of them.
    plot.add_layout(Legend(click_policy="mute"), "right")
    _name_axis(
        plot.xaxis[0], names, shown.name1 if diagonal else shown.name2, MAP_PIXELS
    )
    plot.xaxis[0].major_label_orientation = math.pi / 2
    plot.yaxis[0].axis_label = shown.measure
    return plot


def draw_line(
    plot: figure,
    label: str,
    values: NDArray[np.float64],
    stderr: NDArray[np.float64],
    names: Sequence[str],
    k: int,
) -> None:
    """Line number ``k`` with its band, distinct in color, dash and marker."""
    color = bokeh.palettes.Colorblind8[k % 8]
    data = {"x": np.arange(len(values)), "y": values, "stderr": stderr}
    source = ColumnDataSource({**data, "layer": list(names)}, name=label)
    # A varea would bridge undefined values; patches leave a gap.
    patches = Patches(xs="xs", ys="ys", fill_color=color, fill_alpha=0.2)
    patches.update(line_color=None)
    add(plot, f"{label} band", patches, **_bands(values, stderr))
    shared: dict[str, Any] = {
        "source": source,
        "legend_label": label,
        "muted_alpha": 0.1,
    }
    dash, marker = DASHES[k // 2 % len(DASHES)], MARKERS[k % len(MARKERS)]
    plot.line("x", "y", line_color=color, line_width=2, line_dash=dash, **shared)
    points = plot.scatter("x", "y", color=color, size=6, marker=marker, **shared)
    tips = [("layer", "@layer"), ("value", "@y{0.0000} \u00b1 @stderr{0.0000}")]
    plot.add_tools(HoverTool(renderers=[points], tooltips=tips))


def _bands(
    values: NDArray[np.float64], stderr: NDArray[np.float64]
) -> dict[str, list[NDArray[np.float64]]]:
    """Outlines of one standard error around each stretch of defined values."""
    xs, ys = [], []
    for start, end in _stretches(np.isfinite(values + stderr)):
        at, middle, error = np.arange(start, end), values[start:end], stderr[start:end]
        xs.append(np.r_[at, at[::-1]].astype(float))
        ys.append(np.r_[middle + error, (middle - error)[::-1]])
    return {"xs": xs, "ys": ys}


def link(plots: Sequence[figure]) -> None:
    """Let maps of equal shape zoom together."""
    first: dict[tuple[Any, ...], figure] = {}
    for plot in plots:
        x, y = plot.x_range, plot.y_range
        if isinstance(x, Range1d) and isinstance(y, Range1d):
            leader = first.setdefault((x.end, y.start, y.end), plot)
            plot.x_range, plot.y_range = leader.x_range, leader.y_range
