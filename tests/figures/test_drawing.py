"""Parts of the figures of results: names, maps, numbers, lines."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from bokeh.models import CustomJSTickFormatter, LinearColorMapper, Text

from cka_notebook import CKAResult, plot_cka_heatmap, plot_cka_trend

NAN = math.nan


def source_data(plot, name):
    return plot.select_one({"name": name}).data


def test_only_negative_values_get_the_color_below_a_range_and_hover_shows_them():
    plot = plot_cka_heatmap(np.array([[0.25, -0.125]]), color_range=(0.5, 1.0))
    assert source_data(plot, "cka_matrix")["image"][0].tolist() == [[0.5, -0.125]]
    assert source_data(plot, "cka_matrix")["value"][0].tolist() == [[0.25, -0.125]]
    assert plot.select_one(LinearColorMapper).low_color == "#2a9d8f"


def test_labels_lose_their_shared_prefix_and_their_middle():
    long = [f"encoder.layer.{k}.{'x' * 60}.dense" for k in range(3)]
    plot = plot_cka_heatmap(np.eye(3), layers1=long, layers2=["a", "b", "c"])
    formatter = plot.yaxis[0].formatter
    assert isinstance(formatter, CustomJSTickFormatter)
    shown = formatter.args["names"]
    assert all(len(name) == 28 and "\u2026" in name for name in shown)
    assert [name[0] for name in shown] == ["0", "1", "2"]
    assert plot.yaxis[0].axis_label == "model1: encoder.layer.\u2026"


def test_undefined_cells_are_hatched_in_one_stretch_per_row(result):
    data = source_data(plot_cka_heatmap(result), "undefined_source")
    assert data == {
        "left": [1.5, 1.5],
        "right": [2.5, 2.5],
        "top": [-0.5, 0.5],
        "bottom": [0.5, 1.5],
    }


@pytest.mark.parametrize("wanted", ["fit", (0.7, 1.0)])
def test_no_positive_value_is_rounded_below_a_range(result, wanted):
    least = torch.full_like(result.matrix, 0.7)
    least[0, 0] = 0.9
    plot = plot_cka_heatmap(replace(result, matrix=least), color_range=wanted)
    low = plot.select_one(LinearColorMapper).low
    image = plot.select_one({"name": "cka_matrix"}).data["image"][0]
    assert low == 0.7
    assert (image.astype(np.float64) >= low).all()


def test_numbers_are_readable_on_every_color(result):
    data = source_data(plot_cka_heatmap(result, annot=True), "numbers")
    assert data["text"] == ["1.00", "0.50", "0.25", "-0.12"]
    assert data["color"] == ["black", "white", "white", "black"]
    less = replace(result, matrix=torch.zeros_like(result.matrix)) - result
    data = source_data(plot_cka_heatmap(less, annot=True), "numbers")
    assert data["text"][0] == "-1.00"
    assert data["color"][0] == "white", "on the dark end of the palette"


def test_a_number_that_rounds_to_0_has_no_sign():
    values = np.array([[-0.0, -0.004, 0.004, -0.006]])
    data = source_data(plot_cka_heatmap(values, annot=True), "numbers")
    assert data["text"] == ["0.00", "0.00", "0.00", "-0.01"]


@pytest.mark.parametrize(("shape", "is_upright"), [((2, 4), False), ((2, 40), True)])
def test_numbers_are_upright_in_narrow_cells(shape, is_upright):
    plot = plot_cka_heatmap(np.ones(shape), annot=True)
    assert (plot.select_one(Text).angle != 0) == is_upright


def test_a_fitted_axis_shows_the_whole_band(result):
    less = replace(result, matrix=result.matrix - 0.25) - result
    errors = replace(less, stderr=torch.full_like(less.stderr, 0.05))
    plot = plot_cka_trend(errors, ["enc.0"])
    assert plot.y_range.start < -0.3 < 0.3 < plot.y_range.end


def test_the_legend_hides_no_line(result):
    plot = plot_cka_trend(result, ["enc.0", "enc.1"])
    (legend,) = plot.legend
    assert legend in plot.right
    assert [item.label.value for item in legend.items] == ["enc.0", "enc.1"]


def test_the_band_of_a_line_has_the_gaps_of_the_line():
    matrix = torch.tensor([[0.5, 0.5, NAN, 0.25, 0.25, 0.25]])
    layers = tuple("abcdef")
    result = CKAResult(matrix, torch.full((1, 6), 0.125), ("x",), layers)
    band = source_data(plot_cka_trend(result, "x"), "x band")
    assert [sorted(set(stretch)) for stretch in band["xs"]] == [[0, 1], [3, 4, 5]]
    assert [max(stretch) for stretch in band["ys"]] == [0.625, 0.375]


def test_lines_differ_in_more_than_color():
    names = [str(k) for k in range(6)]
    plot = plot_cka_trend(np.eye(6), names)
    looks = {
        (str(line.glyph.line_dash), scatter.glyph.marker)
        for line, scatter in zip(
            plot.renderers[1::3], plot.renderers[2::3], strict=True
        )
    }
    assert len(looks) == 6
