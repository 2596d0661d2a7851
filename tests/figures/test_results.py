"""Figures of results, without a browser."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from bokeh.core.validation import check_integrity
from bokeh.models import (
    ColorBar,
    CustomJSHover,
    HoverTool,
    LinearColorMapper,
    Range1d,
)

from cka_notebook import (
    _figures,
    plot_cka_comparison,
    plot_cka_heatmap,
    plot_cka_trend,
)

NAN = math.nan


def source_data(plot, name):
    return plot.select_one({"name": name}).data


# Heatmaps


def test_heatmap_draws_the_values_of_the_result_unchanged(result):
    plot = plot_cka_heatmap(result)
    data = source_data(plot, "cka_matrix")
    np.testing.assert_array_equal(data["image"][0], result.matrix.numpy())
    np.testing.assert_allclose(data["stderr"][0], result.stderr.numpy(), rtol=1e-6)
    assert not check_integrity([plot]).error


def test_the_range_of_a_heatmap_is_fixed_by_default(result):
    mapper = plot_cka_heatmap(result).select_one(LinearColorMapper)
    assert (mapper.low, mapper.high) == (0, 1)
    assert mapper.low_color not in {None, *mapper.palette}
    fitted = plot_cka_heatmap(result, color_range="fit").select_one(LinearColorMapper)
    assert (fitted.low, fitted.high) == (0, 1)
    narrow = plot_cka_heatmap(result, layers2=["b"], color_range="fit")
    assert narrow.select_one(LinearColorMapper).high == 0.5


@pytest.mark.parametrize(
    "limits",
    [
        (0.0, 0.5),
        [0, 0.5],
        np.array([0.0, 0.5], dtype=np.float32),
        torch.tensor([0.0, 0.5], requires_grad=True),
        (np.float64(0), torch.tensor(0.5)),
    ],
    ids=["tuple", "list", "array", "tensor", "scalars"],
)
def test_a_range_is_two_numbers_in_any_kind_of_sequence(result, limits):
    plot = plot_cka_heatmap(result, color_range=limits)
    mapper = plot.select_one(LinearColorMapper)
    assert (mapper.low, mapper.high) == (0, 0.5)
    trend = plot_cka_trend(result, ["enc.0"], value_range=limits)
    assert (trend.y_range.start, trend.y_range.end) == (0, 0.5)
    plot_cka_comparison([result], color_range=limits)


def test_a_difference_has_two_colors_around_0(result):
    less = replace(result, matrix=result.matrix - 0.25)
    plot = plot_cka_heatmap(result - less)
    mapper = plot.select_one(LinearColorMapper)
    assert (mapper.low, mapper.high) == (-0.25, 0.25)
    assert mapper.palette == list(_figures.PALETTES["puor"])
    assert "(CKA difference)" in plot.title.text
    manual = plot_cka_heatmap(less - result, color_range=(-0.1, 0.1))
    image = source_data(manual, "cka_matrix")["image"][0]
    assert np.nanmin(image) == pytest.approx(-0.1)
    assert float(np.nanmin(image)) >= -0.1, "only colors of the palette"
    trend = plot_cka_trend(less - result, list(result.layers1)[:1])
    start, end = trend.y_range.start, trend.y_range.end
    assert start == -end
    assert start == pytest.approx(-0.28, abs=1e-4), "0.25, the band and some room"


def test_cells_of_a_difference_without_an_error_are_grey(result):
    errors = torch.tensor([[5e-9, 0.01, NAN], [NAN, 1e-4, 0.0]]).double()
    plain = replace(result, stderr=errors)
    less = plain - replace(result, stderr=torch.zeros(2, 3).double())
    plot = plot_cka_heatmap(less, annot=True)
    boxes = {"left": [-0.5], "right": [0.5], "top": [-0.5], "bottom": [0.5]}
    assert source_data(plot, "exact_source") == boxes, (
        "no small errors, no undefined cells"
    )
    assert plot.select_one({"name": "exact"}).fill_color == _figures.EXACT
    assert source_data(plot, "numbers")["text"][0] == "0.00", "the value stays"
    assert source_data(plot_cka_heatmap(plain), "exact_source")["left"] == []
    masked = plot_cka_heatmap(less, mask_below=0.1)
    assert source_data(masked, "exact_source")["left"] == []


def test_row_0_is_at_the_top_and_hover_shows_every_name(result):
    plot = plot_cka_heatmap(result)
    assert plot.y_range.start > plot.y_range.end
    (hover,) = plot.select({"type": HoverTool})
    names = {tuple(js.args["names"]) for js in plot.select({"type": CustomJSHover})}
    assert names == {result.layers1, result.layers2}
    assert [label for label, _ in hover.tooltips] == ["ResNet", "ViT", "CKA"]
    assert "@value" in hover.tooltips[2][1]
    assert "@stderr" in hover.tooltips[2][1]
    assert plot.select_one(ColorBar) is not None


def test_the_first_row_may_be_at_the_bottom_and_other_shapes_do_not_zoom_along(result):
    plot = plot_cka_heatmap(result, origin="lower")
    assert (plot.y_range.start, plot.y_range.end) == (-0.5, 1.5)
    image = source_data(plot, "cka_matrix")["image"][0]
    np.testing.assert_array_equal(image, result.matrix.numpy())
    grid = plot_cka_comparison([result, torch.ones(3, 3)], origin="lower")
    first, second = (child[0] for child in grid.children)
    assert first.y_range is not second.y_range


def test_masked_cells_are_neither_drawn_nor_hatched():
    matrix = np.full((3, 3), 0.5)
    matrix[0, 2] = NAN
    plot = plot_cka_heatmap(matrix, mask_upper=True, annot=True)
    image = source_data(plot, "cka_matrix")["image"][0]
    assert np.isnan(image[np.triu_indices(3, 1)]).all()
    assert len(source_data(plot, "numbers")["text"]) == 6
    assert source_data(plot, "undefined_source")["left"] == []


def test_values_below_a_threshold_are_hidden_but_undefined_cells_are_not(result):
    plot = plot_cka_heatmap(result, mask_below=0.3)
    image = source_data(plot, "cka_matrix")["image"][0]
    np.testing.assert_array_equal(image, [[1, 0.5, NAN], [NAN, NAN, NAN]])
    assert len(source_data(plot, "undefined_source")["left"]) == 2


def test_layers_of_a_result_are_shown_in_the_given_order(result):
    plot = plot_cka_heatmap(result, layers1=["enc.1"], layers2=["b", "a"])
    image = source_data(plot, "cka_matrix")["image"][0]
    np.testing.assert_array_equal(image, [[-0.125, 0.25]])


def test_a_bare_tensor_that_requires_grad_is_drawn():
    plot = plot_cka_heatmap(torch.eye(2, requires_grad=True))
    assert source_data(plot, "cka_matrix")["image"][0].tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers1": ["enc.2"]}, r"`layers1` contains 'enc\.2', .*'enc\.1'"),
        ({"palette": "jet"}, "Expected `palette` to be one of magma, .* got 'jet'"),
        ({"origin": "bottom"}, "Expected `origin` to be .* got 'bottom'"),
        ({"color_range": (1, 0)}, r"Expected a range .* got \(1, 0\)"),
        ({"color_range": "auto"}, "Expected a range .* got 'auto'"),
        ({"color_range": "01"}, "Expected a range .* got '01'"),
        ({"color_range": ()}, r"Expected a range .* got \(\)"),
        ({"color_range": (0, 10**400)}, r"Expected a range .* got \(0, 1000"),
        ({"color_range": np.eye(2)}, "Expected a range .* got array"),
    ],
)
def test_invalid_options_of_a_heatmap_are_named(result, options, message):
    with pytest.raises(ValueError, match=message):
        plot_cka_heatmap(result, **options)


def test_matrices_that_do_not_match_their_names_are_an_error():
    with pytest.raises(ValueError, match="Expected 3 names in `layers2`, got 1"):
        plot_cka_heatmap(np.eye(3), layers2=["a"])
    with pytest.raises(ValueError, match=r"Expected a matrix .* got shape \(3,\)"):
        plot_cka_heatmap(np.ones(3))


# Trends


def test_a_row_is_a_line_with_a_band_of_one_standard_error(result):
    plot = plot_cka_trend(result, ["enc.0"])
    data = source_data(plot, "enc.0")
    np.testing.assert_array_equal(data["y"], [1, 0.5, NAN])
    assert data["layer"] == ["a", "b", "c"]
    band = source_data(plot, "enc.0 band")
    np.testing.assert_array_equal(band["xs"], [[0, 1, 1, 0]])
    np.testing.assert_allclose(band["ys"], [[1, 0.51, 0.49, 1]])


def test_a_column_runs_over_the_layers_of_model_1(result):
    plot = plot_cka_trend(result, ["b", "a"], along="columns")
    np.testing.assert_array_equal(source_data(plot, "b")["y"], [0.5, -0.125])
    assert [item.label.value for item in plot.legend[0].items] == ["b", "a"]


def test_a_single_name_is_one_line(result):
    one, listed = (plot_cka_trend(result, layers) for layers in ("enc.1", ["enc.1"]))
    for plot in (one, listed):
        assert [item.label.value for item in plot.legend[0].items] == ["enc.1"]


def test_without_layers_the_diagonal_is_drawn_if_there_is_one(result):
    plot = plot_cka_trend(torch.eye(3))
    assert source_data(plot, "diagonal")["y"].tolist() == [1, 1, 1]
    with pytest.raises(
        ValueError, match="same number of layers in ResNet and ViT, got 2 and 3"
    ):
        plot_cka_trend(result)
    with pytest.raises(ValueError, match="Expected `along` to be 'rows' or 'columns'"):
        plot_cka_trend(result, ["a"], along="diagonal")


# Comparisons


def test_maps_side_by_side_share_colors_and_zoom_if_of_equal_shape(result):
    grid = plot_cka_comparison([result, result, torch.eye(2)], columns=2)
    first, second, third = (child[0] for child in grid.children)
    assert first.x_range is second.x_range
    assert isinstance(third.x_range, Range1d)
    assert third.x_range is not first.x_range
    mappers = [plot.select_one(LinearColorMapper) for plot in (first, second, third)]
    assert {(mapper.low, mapper.high) for mapper in mappers} == {(0, 1)}


def test_comparison_takes_titles_from_a_dict_or_a_list(result):
    named = plot_cka_comparison({"before": result, "after": result})
    listed = plot_cka_comparison([result, result], titles=["before", "after"])
    for grid in (named, listed):
        titles = [child[0].title.text for child in grid.children]
        assert titles == ["before", "after"]


def test_comparing_nothing_or_with_missing_titles_is_an_error(result):
    with pytest.raises(ValueError, match="got 0 results and no titles"):
        plot_cka_comparison([])
    with pytest.raises(ValueError, match="got 1 results and 2 titles"):
        plot_cka_comparison([result], titles=["a", "b"])
