"""Colors and sizes that all figures share."""

from __future__ import annotations

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
"""The palettes offered, dark for 0 and bright for 1; none is a rainbow."""

DIVERGING: Final = "puor"
"""The palette of differences: white for 0, and a color for each side."""

BELOW_ZERO: Final = "#2a9d8f"
"""Unbiased CKA may fall below 0: those cells have a color that no palette has."""

EXACT: Final = "#777777"
"""Likewise the cells of a difference that say nothing; see `exact_cells`."""

NOTHING: Final = "rgba(0, 0, 0, 0)"
"""Cells without a value are left open; hatching is drawn over them."""

LABEL_FONT_SIZE: Final = "11px"
"""Smaller tick labels are hard to read."""


FLAT: Final = 1e-6
"""Values that differ by less are one, and have no range of their own."""


def fitted_range(
    values: NDArray[np.floating[Any]], palette: str = ""
) -> tuple[float, float]:
    """The range that just holds values, as the page fits it: never from below 0.

    Values that are all alike are in the middle of theirs. A diverging palette has 0 in
    the middle.

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
"""Rounding leaves errors of about 1e-8 of layers with themselves."""


def exact_cells(
    values: NDArray[np.floating[Any]],
    stderr: NDArray[np.floating[Any]],
    *,
    is_difference: bool,
) -> NDArray[np.bool_]:
    """Where a difference has no error: equal by construction, it says nothing.

    Such are layers with themselves in both results. A map of one result has none.

    Example:
        >>> values = np.array([[0.0, 0.0, 0.1]])
        >>> stderr = np.array([[0.0, np.nan, 1e-4]])
        >>> exact_cells(values, stderr, is_difference=True)
        array([[ True, False, False]])
    """
    cells: NDArray[np.bool_] = (stderr < NO_ERROR) & ~np.isnan(values)
    return cells & is_difference


def greyed() -> Quad:
    """One grey for those."""
    return Quad(
        left="left",
        right="right",
        top="top",
        bottom="bottom",
        fill_color=EXACT,
        line_color=None,
        name="exact",
    )


def hatched(name: str = "undefined", pattern: str = "/", strength: float = 1.0) -> Quad:
    """Hatching for cells without a value."""
    return Quad(
        left="left",
        right="right",
        top="top",
        bottom="bottom",
        fill_alpha=0.12 * strength,
        line_color=None,
        hatch_pattern=pattern,
        hatch_scale=8,
        hatch_weight=1,
        hatch_alpha=0.5 * strength,
        name=name,
    )


def add(plot: figure, source: str, glyph: Glyph, /, **data: Any) -> None:
    """Draws a glyph of data that are found again by the name of their source."""
    plot.add_glyph(ColumnDataSource(data, name=source), glyph)
