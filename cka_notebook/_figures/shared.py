"""Colors, ranges and glyphs that all figures share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any, Final

import bokeh.palettes
import numpy as np
from bokeh.models import ColumnDataSource, Quad

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bokeh.models.glyph import Glyph
    from bokeh.plotting import figure
    from numpy.typing import NDArray

PALETTES: Final[dict[str, Sequence[str]]] = {
    "magma": bokeh.palettes.Magma256,
    "viridis": bokeh.palettes.Viridis256,
    "cividis": bokeh.palettes.Cividis256,
    "inferno": bokeh.palettes.Inferno256,
    "greys": bokeh.palettes.Greys256,
    "puor": bokeh.palettes.interp_palette(bokeh.palettes.PuOr11, 256),
}
"""All palettes, from dark to bright; none is a rainbow."""

DIVERGING: Final = "puor"
"""The palette of differences: white for 0 and one color for each sign."""

BELOW_ZERO: Final = "#2a9d8f"
"""The color of cells below 0, which unbiased CKA can reach; in no palette."""

EXACT: Final = "#777777"
"""The color of the cells of a difference that say nothing; see `exact_cells`."""

TRANSPARENT: Final = "rgba(0, 0, 0, 0)"
"""The color of undefined cells, over which hatching is drawn."""

LABEL_FONT_SIZE: Final = "11px"
"""The size of tick labels; smaller ones are hard to read."""

FLAT: Final = 1e-6
"""Values that differ by less count as equal, since their own range would be noise."""


def two_numbers(value: Any) -> tuple[float, float] | None:
    """Two finite numbers in order, from any kind of sequence; None for anything else.

    Example:
        >>> two_numbers(np.array([0, 0.5])), two_numbers([1, 0]), two_numbers("01")
        ((0.0, 0.5), None, None)
    """
    if isinstance(value, str | bytes | Set | Mapping):
        return None
    value = value.detach() if hasattr(value, "detach") else value
    try:
        ends = list(value)
        low, high = map(float, ends)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None
    is_wrong = any(isinstance(end, str | bytes | bool) for end in ends)
    is_range = low < high and math.isfinite(high - low)
    return (low, high) if is_range and not is_wrong else None


def fitted_range(
    values: NDArray[np.floating[Any]], palette: str = ""
) -> tuple[float, float]:
    """The range of the values as the page fits it, from 0 or above.

    The range of equal values extends 0.05 to both sides. That of a diverging palette
    has 0 in the middle.

    Example:
        >>> fitted_range(np.array([0.25, np.nan, 0.75])), fitted_range(np.array([-0.5]))
        ((0.25, 0.75), (0.0, 0.05))
        >>> fitted_range(np.array([0.25, -0.5]), DIVERGING)
        (-0.5, 0.5)
    """
    known = values[~np.isnan(values)]
    if palette == DIVERGING:
        most = float(np.abs(known).max(initial=0.0))
        return (-most, most) if most > FLAT else (-1.0, 1.0)
    if known.size == 0:
        return 0.0, 1.0
    low = max(0.0, float(known.min()))
    high = max(low, float(known.max()))
    return (low, high) if high - low > FLAT else (max(0.0, low - 0.05), high + 0.05)


NO_ERROR: Final = 1e-7
"""Smaller errors count as 0: rounding leaves about 1e-8 for a layer with itself."""


def exact_cells(
    values: NDArray[np.floating[Any]],
    stderr: NDArray[np.floating[Any]],
    *,
    is_difference: bool,
) -> NDArray[np.bool_]:
    """Where a difference has no error: it is 0 by construction and says nothing.

    This is the case for a layer compared with itself in both results. The map of a
    single result has no such cells.

    Example:
        >>> values = np.array([[0.0, 0.0, 0.1]])
        >>> stderr = np.array([[0.0, np.nan, 1e-4]])
        >>> exact_cells(values, stderr, is_difference=True)
        array([[ True, False, False]])
    """
    cells: NDArray[np.bool_] = (stderr < NO_ERROR) & ~np.isnan(values)
    return cells & is_difference


EDGES: Final[dict[str, Any]] = {x: x for x in ("left", "right", "top", "bottom")}
"""The edges of a box are columns of the same names."""


def greyed() -> Quad:
    """The glyph over the cells of `exact_cells`."""
    return Quad(**EDGES, fill_color=EXACT, line_color=None, name="exact")


def hatched(name: str = "undefined", pattern: str = "/", strength: float = 1.0) -> Quad:
    """The glyph over undefined cells."""
    return Quad(
        **EDGES,
        fill_alpha=0.12 * strength,
        line_color=None,
        hatch_pattern=pattern,
        hatch_scale=8,
        hatch_weight=1,
        hatch_alpha=0.5 * strength,
        name=name,
    )


def add(plot: figure, source: str, glyph: Glyph, /, **data: Any) -> None:
    """Add a glyph whose data source is found by its name."""
    plot.add_glyph(ColumnDataSource(data, name=source), glyph)
