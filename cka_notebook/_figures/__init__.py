"""Bokeh figures: those that the page embeds and those of results, and a small PNG."""

from .page import explorer_figure, figure_json
from .results import plot_cka_comparison, plot_cka_heatmap, plot_cka_trend
from .shared import (
    BELOW_ZERO,
    DIVERGING,
    EXACT,
    PALETTES,
    exact_cells,
    fitted_range,
    two_numbers,
)

__all__ = [
    "BELOW_ZERO",
    "DIVERGING",
    "EXACT",
    "PALETTES",
    "exact_cells",
    "explorer_figure",
    "figure_json",
    "fitted_range",
    "plot_cka_comparison",
    "plot_cka_heatmap",
    "plot_cka_trend",
    "two_numbers",
]
