"""Colors and sizes that all figures share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import bokeh.palettes
from bokeh.models import ColumnDataSource, Quad

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bokeh.models.glyph import Glyph
    from bokeh.plotting import figure

PALETTES: Final[dict[str, Sequence[str]]] = {
    "magma": bokeh.palettes.Magma256,
    "viridis": bokeh.palettes.Viridis256,
    "cividis": bokeh.palettes.Cividis256,
    "inferno": bokeh.palettes.Inferno256,
    "greys": bokeh.palettes.Greys256,
}
"""The palettes offered, dark for 0 and bright for 1; none is a rainbow."""

BELOW_ZERO: Final = "#2a9d8f"
"""Unbiased CKA may fall below 0: those cells have a color that no palette has."""

NOTHING: Final = "rgba(0, 0, 0, 0)"
"""Cells without a value are left open; hatching is drawn over them."""

LABEL_FONT_SIZE: Final = "11px"
"""Smaller tick labels are hard to read."""


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
