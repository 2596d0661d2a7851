"""Interactive Bokeh figures: those that the page embeds, and those of results."""

from .page import explorer_figure, figure_json
from .results import plot_cka_comparison, plot_cka_heatmap, plot_cka_trend
from .shared import PALETTES

__all__ = [
    "PALETTES",
    "explorer_figure",
    "figure_json",
    "plot_cka_comparison",
    "plot_cka_heatmap",
    "plot_cka_trend",
]
