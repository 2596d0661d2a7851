"""Interactive figures of results, for `bokeh.plotting.show` or `save`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.layouts import gridplot

from cka_notebook._messages import counted, did_you_mean, first_few

from . import drawing
from .drawing import Map

if TYPE_CHECKING:
    from bokeh.models import GridPlot
    from bokeh.plotting import figure
    from numpy.typing import ArrayLike, NDArray

    from cka_notebook._results.result import CKAResult


def plot_cka_heatmap(  # noqa: PLR0913 options of a figure, all by name
    result: CKAResult | ArrayLike,
    *,
    layers1: Sequence[str] | None = None,
    layers2: Sequence[str] | None = None,
    title: str | None = None,
    palette: str | None = None,
    annot: bool = False,
    mask_upper: bool = False,
    mask_below: float | None = None,
    origin: str = "upper",
    color_range: ArrayLike | None = None,
) -> figure:
    """A heatmap with names, values and errors on hover.

    Undefined cells are hatched, and values below 0 have a color of their own. Colors
    mean the same in every figure unless `color_range` is given. In a difference of two
    results, cells whose standard error is 0 are grey: they are 0 by construction and
    say nothing.

    Args:
        result: A `CKAResult`, or a matrix of shape ``(L1, L2)``. Not modified.
        layers1: For a result, the rows to show, in this order. For a matrix, the names
            of its rows.
        layers2: The same for the columns.
        title: Title of the figure; by default both names and the measure.
        palette: A name in `PALETTES`; by default ``"magma"``, and for a difference of
            two results ``"puor"``, which has 0 in the middle.
        annot: Write the values into the cells.
        mask_upper: Hide the cells above the diagonal, redundant in a symmetric map.
        mask_below: Hide values below this one.
        origin: Position of the first row: ``"upper"``, or ``"lower"`` as in torch_cka.
        color_range: Values of the first and the last color, in any kind of sequence, or
            ``"fit"``: from the lowest value shown, but not below 0, to the highest;
            with ``"puor"`` symmetric around 0. None is 0 to 1, and for a difference
            ``"fit"``.

    Raises:
        ValueError: If a layer is not in the result, the number of names does not match
            the matrix, or palette, origin or range are invalid.

    Example:
        >>> plot = plot_cka_heatmap(np.eye(3), layers1=["a", "b", "c"])
        >>> plot.title.text
        'model1 x model2 (CKA)'
    """
    shown = _map_of(result, layers1, layers2)
    if origin not in {"upper", "lower"}:
        msg = f"Expected `origin` to be 'upper' or 'lower', got {origin!r}."
        raise ValueError(msg)
    hidden = np.triu(np.full(shown.values.shape, mask_upper), k=1)
    hidden |= shown.values < (-np.inf if mask_below is None else mask_below)
    undefined = np.isnan(shown.values) & ~hidden
    shown = replace(shown, values=np.where(hidden, np.nan, shown.values))
    palette = palette or shown.palette
    wanted = shown.range if color_range is None else color_range
    limits = drawing.limits(shown.values, wanted, palette)
    colors = drawing.colors(palette)
    plot = drawing.map_figure(shown, title, origin)
    drawing.draw_image(plot, shown, colors, limits)
    drawing.draw_undefined(plot, undefined)
    drawing.draw_exact(plot, shown)
    if annot:
        drawing.draw_numbers(plot, shown.values, colors, limits)
    return plot


def plot_cka_trend(
    result: CKAResult | ArrayLike,
    layers: Sequence[str] | str | None = None,
    *,
    along: str = "rows",
    layers1: Sequence[str] | None = None,
    layers2: Sequence[str] | None = None,
    title: str | None = None,
    value_range: ArrayLike | None = None,
) -> figure:
    """Lines with bands of one standard error: layers against all of the other model.

    Args:
        result: A `CKAResult`, or a matrix of shape ``(L1, L2)``. Not modified.
        layers: One or more layers of model 1, or of model 2 with ``along="columns"``;
            each gets a line. None draws the diagonal: layer i against layer i.
        along: ``"rows"`` or ``"columns"``.
        layers1: As in `plot_cka_heatmap`.
        layers2: As in `plot_cka_heatmap`.
        title: Title of the figure; by default the names and the measure.
        value_range: Range of the value axis, or ``"fit"``, which shows all bands whole;
            by default like the `color_range` of `plot_cka_heatmap`.

    Raises:
        ValueError: If a layer is unknown, `along` is invalid, or the models have
            different numbers of layers and therefore no diagonal.

    Example:
        >>> plot = plot_cka_trend(np.eye(3), ["1"], layers1="012", layers2="abc")
        >>> [item.label.value for item in plot.legend[0].items]
        ['1']
    """
    shown = _map_of(result, layers1, layers2)
    if along not in {"rows", "columns"}:
        msg = f"Expected `along` to be 'rows' or 'columns', got {along!r}."
        raise ValueError(msg)
    if along == "columns":
        shown = Map(
            *(shown.values.T, shown.stderr.T, shown.layers2, shown.layers1),
            *(shown.name2, shown.name1, shown.metric, shown.is_difference),
        )
    if isinstance(layers, str):
        layers = [layers]
    lines = _diagonal(shown) if layers is None else _rows(shown, layers)
    names = shown.layers1 if layers is None else shown.layers2
    wanted = shown.range if value_range is None else value_range
    limits = drawing.value_limits(lines, wanted, shown.palette)
    plot = drawing.trend_figure(shown, names, title, limits, diagonal=layers is None)
    for k, (label, values, stderr) in enumerate(lines):
        drawing.draw_line(plot, label, values, stderr, names, k)
    return plot


def plot_cka_comparison(
    results: Mapping[str, CKAResult | ArrayLike] | Sequence[CKAResult | ArrayLike],
    *,
    titles: Sequence[str] | None = None,
    columns: int = 3,
    **heatmap: Any,
) -> GridPlot:
    """Heatmaps side by side with the same colors; maps of equal shape zoom together.

    Args:
        results: Results or matrices, or a dict of them by title.
        titles: One title for each result.
        columns: Maximum number of maps in a row.
        heatmap: Options of `plot_cka_heatmap`, the same for all maps.

    Raises:
        ValueError: If there are no results, or not as many titles as results.

    Example:
        >>> grid = plot_cka_comparison({"before": np.eye(3), "after": np.ones((3, 3))})
        >>> [child[0].title.text for child in grid.children]
        ['before', 'after']
    """
    if isinstance(results, Mapping):
        titles, results = list(results), list(results.values())
    if not results or (titles is not None and len(titles) != len(results)):
        msg = (
            f"Expected results and a title for each, got {len(results)} results and "
            f"{'no' if titles is None else len(titles)} titles."
        )
        raise ValueError(msg)
    plots = [
        plot_cka_heatmap(result, title=titles[k] if titles else None, **heatmap)
        for k, result in enumerate(results)
    ]
    drawing.link(plots)
    return gridplot(list[Any](plots), ncols=columns)


def _map_of(
    source: CKAResult | ArrayLike,
    layers1: Sequence[str] | None,
    layers2: Sequence[str] | None,
) -> Map:
    matrix = getattr(source, "matrix", source)
    values = _array(matrix)
    if values.ndim != 2:
        msg = f"Expected a matrix of shape (L1, L2), got shape {values.shape}."
        raise ValueError(msg)
    stderr = _array(getattr(source, "stderr", np.full(values.shape, np.nan)))
    own1, own2 = getattr(source, "layers1", None), getattr(source, "layers2", None)
    rows, names1 = _chosen(layers1, own1, values.shape[0], "layers1")
    columns, names2 = _chosen(layers2, own2, values.shape[1], "layers2")
    cells = np.ix_(rows, columns)
    return Map(
        values[cells],
        stderr[cells],
        names1,
        names2,
        str(getattr(source, "name1", "model1")),
        str(getattr(source, "name2", "model2")),
        str(getattr(source, "metric", "cka")),
        bool(getattr(source, "is_difference", False)),
    )


def _array(values: Any) -> NDArray[np.float64]:
    """A tensor on any device, or anything that NumPy accepts, as a float64 array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def _chosen(
    wanted: Sequence[str] | None, own: Sequence[str] | None, size: int, argument: str
) -> tuple[list[int], list[str]]:
    """Positions and names of the rows or columns to show."""
    if own is None:
        names = [str(k) for k in range(size)] if wanted is None else list(wanted)
        if len(names) != size:
            msg = f"Expected {size} names in `{argument}`, got {len(names)}."
            raise ValueError(msg)
        return list(range(size)), names
    positions = {name: k for k, name in enumerate(own)}
    names = list(own if wanted is None else wanted)
    if unknown := [name for name in names if name not in positions]:
        msg = (
            f"`{argument}` contains {unknown[0]!r}, which is not in the result."
            f"{did_you_mean(unknown[0], own)} The result has "
            f"{counted(len(own), 'layer')}: {first_few(list(own))}."
        )
        raise ValueError(msg)
    return [positions[name] for name in names], names


_Trend = tuple[str, "NDArray[np.float64]", "NDArray[np.float64]"]


def _diagonal(shown: Map) -> list[_Trend]:
    rows, columns = shown.values.shape
    if rows != columns:
        msg = (
            f"The diagonal needs the same number of layers in {shown.name1} and "
            f"{shown.name2}, got {rows} and {columns}. Pass `layers` to plot single "
            "rows."
        )
        raise ValueError(msg)
    return [("diagonal", shown.values.diagonal(), shown.stderr.diagonal())]


def _rows(shown: Map, layers: Sequence[str]) -> list[_Trend]:
    rows, names = _chosen(layers, shown.layers1, len(shown.layers1), "layers")
    return [
        (name, shown.values[row], shown.stderr[row])
        for row, name in zip(rows, names, strict=True)
    ]
