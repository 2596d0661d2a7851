"""The page's figures and the figures of results, without a browser."""

import base64
import copy
import gzip
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bokeh.core.validation import check_integrity
from bokeh.models import (
    ColorBar,
    CustomJSHover,
    CustomJSTickFormatter,
    HoverTool,
    LinearColorMapper,
    Range1d,
)
from support import TESTS
from torch import nn

from cka_notebook import (
    CKA,
    CKAResult,
    _figures,
    plot_cka_comparison,
    plot_cka_heatmap,
    plot_cka_trend,
)

NAN = math.nan
FITS = json.loads((TESTS / "fits.json").read_text())


@pytest.fixture
def result():
    return CKAResult(
        matrix=torch.tensor([[1.0, 0.5, NAN], [0.25, -0.125, NAN]]).double(),
        stderr=torch.tensor([[0.0, 0.01, NAN], [0.02, 0.03, NAN]]).double(),
        layers1=("enc.0", "enc.1"),
        layers2=("a", "b", "c"),
        name1="ResNet",
        name2="ViT",
    )


def source_data(plot, name):
    return plot.select_one({"name": name}).data


# How eyes see less of the colors (Machado et al. 2009, severity 1), from linear RGB
VISION = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
TO_XYZ = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]


def seen(colors, vision):
    """CIELAB of hexadecimal colors, ``(n, 3)``, as these eyes see them."""
    rgb = np.array([[*bytes.fromhex(color[1:])] for color in colors]) / 255
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = np.clip(linear @ np.array(VISION[vision]).T, 0, 1) @ np.array(TO_XYZ).T
    t = xyz / np.sum(TO_XYZ, axis=1)
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    x, y, z = f.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("name", _figures.PALETTES)
def test_every_eye_tells_ten_steps_of_each_palette_apart(name, vision):
    colors = _figures.PALETTES[name]
    steps = seen([colors[k] for k in np.linspace(0, 255, 10).astype(int)], vision)
    apart = np.linalg.norm(steps[:, None] - steps, axis=2)
    assert apart[np.triu_indices(10, 1)].min() >= 5


# The page's figures


@pytest.fixture
def page():
    return _figures.explorer_figure()


@pytest.mark.parametrize(
    "name",
    [
        *("map", "row_trend", "column_trend", "history"),
        *("map_source", "focus_source", "hover_source", "pins_source"),
        *("row_source", "column_source", "history_source", "undefined_source"),
        *("row_band_source", "column_band", "history_band_source", "path_source"),
        *("pending_source", "exact_source"),
        *("columns_range", "rows_range", "value_range", "color_mapper"),
        *("columns_ticker", "rows_ticker", "columns_axis", "rows_axis"),
        *("row_matches", "column_matches"),
    ],
)
def test_the_page_finds_each_model_by_its_name(page, name):
    assert page.get_model_by_name(name) is not None


def test_zoom_is_shared_between_the_map_and_the_trends_beside_it(page):
    shown = page.get_model_by_name("map")
    assert page.get_model_by_name("row_trend").x_range is shown.x_range
    assert page.get_model_by_name("column_trend").y_range is shown.y_range
    assert shown.y_range.start > shown.y_range.end, "row 0 belongs at the top"


def test_the_page_figures_are_sound_and_ask_nothing_of_the_network(page):
    found = check_integrity(page.models)
    assert not found.error
    text = read(_figures.figure_json(page)["doc"])
    assert "map_source" in text
    assert "cdn" not in text.lower()
    assert "http" not in text


def read(doc):
    """A document as the page reads it."""
    return gzip.decompress(base64.b64decode(doc)).decode()


def test_figure_json_names_its_roots_and_its_version(page):
    figures = _figures.figure_json(page)
    assert set(figures["roots"]) == {"map", "row_trend", "column_trend", "history"}
    doc = json.loads(read(figures["doc"]))
    ids = {root["id"] for root in doc["roots"]}
    assert set(figures["roots"].values()) == ids
    assert figures["version"] == doc["version"]


def test_two_pages_share_no_model():
    first, second = _figures.explorer_figure(), _figures.explorer_figure()
    assert not {model.id for model in first.models} & {m.id for m in second.models}


def test_palettes_travel_whole_and_run_from_dark_to_bright(page):
    palettes = _figures.figure_json(page)["palettes"]
    for name, colors in _figures.PALETTES.items():
        assert palettes[name] == "".join(c.removeprefix("#") for c in colors)
        first, last = (sum(bytes.fromhex(colors[k][1:])) for k in (0, -1))
        assert first < last


# Heatmaps


def test_heatmap_draws_the_values_of_the_result_unchanged(result):
    plot = plot_cka_heatmap(result)
    data = source_data(plot, "cka_matrix")
    np.testing.assert_array_equal(data["image"][0], result.matrix.numpy())
    np.testing.assert_allclose(data["stderr"][0], result.stderr.numpy(), rtol=1e-6)
    assert not check_integrity([plot]).error


def test_heatmap_range_is_fixed_unless_asked_otherwise(result):
    mapper = plot_cka_heatmap(result).select_one(LinearColorMapper)
    assert (mapper.low, mapper.high) == (0, 1)
    assert mapper.low_color not in {None, *mapper.palette}
    fitted = plot_cka_heatmap(result, color_range="fit").select_one(LinearColorMapper)
    assert (fitted.low, fitted.high) == (0, 1)
    narrow = plot_cka_heatmap(result, layers2=["b"], color_range="fit")
    assert narrow.select_one(LinearColorMapper).high == 0.5


@pytest.mark.parametrize("example", FITS, ids=lambda example: str(example["values"]))
def test_a_fitted_range_is_that_of_the_page(example):
    values = np.array(example["values"], dtype=float)
    found = _figures.fitted_range(values, example.get("palette", ""))
    assert found == pytest.approx(tuple(example["range"]))


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
    assert float(np.nanmin(image)) >= -0.1, "no color but those of the palette"
    trend = plot_cka_trend(less - result, list(result.layers1)[:1])
    assert (trend.y_range.start, trend.y_range.end) == (-0.25, 0.25)


def test_cells_of_a_difference_without_an_error_are_grey(result):
    errors = torch.tensor([[5e-9, 0.01, NAN], [NAN, 1e-4, 0.0]]).double()
    plain = replace(result, stderr=errors)
    less = plain - replace(result, stderr=torch.zeros(2, 3).double())
    plot = plot_cka_heatmap(less, annot=True)
    boxes = {"left": [-0.5], "right": [0.5], "top": [-0.5], "bottom": [0.5]}
    assert source_data(plot, "exact_source") == boxes, "neither rare nor undefined ones"
    assert plot.select_one({"name": "exact"}).fill_color == _figures.EXACT
    assert source_data(plot, "numbers")["text"][0] == "0.00", "the value stays"
    assert source_data(plot_cka_heatmap(plain), "exact_source")["left"] == []
    masked = plot_cka_heatmap(less, mask_below=0.1)
    assert source_data(masked, "exact_source")["left"] == []


def test_layers_with_themselves_are_grey_in_a_difference_of_two_results():
    torch.manual_seed(0)
    loader = [torch.randn(16, 8) for _ in range(6)]
    layers = [nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)]
    models = [nn.Sequential(*layers), nn.Sequential(*copy.deepcopy(layers))]
    with torch.no_grad():
        models[1][0].weight += torch.randn(8, 8)
    first, second = (CKA(m, m).compare(loader, progress=False) for m in models)
    difference = second - first
    cells = _figures.exact_cells(
        difference.matrix.numpy(), difference.stderr.numpy(), is_difference=True
    )
    np.testing.assert_array_equal(cells, np.eye(len(cells), dtype=bool))


@pytest.mark.parametrize("vision", VISION)
def test_every_eye_tells_that_grey_from_each_color_of_a_difference(vision):
    steps = seen(_figures.PALETTES["puor"], vision)
    apart = np.linalg.norm(steps - seen([_figures.EXACT], vision), axis=1)
    assert apart.min() >= 5
    assert apart[128] >= 40, "the middle, where these cells would be"


def test_the_page_and_the_figures_have_one_grey():
    css = Path(_figures.__file__).parents[1] / "static" / "widget.css"
    colors = re.findall(r"--cka-exact:\s*([^;}]+)", css.read_text())
    assert {"#" + color[1:] * (6 // len(color[1:])) for color in colors} == {
        _figures.EXACT
    }


def test_only_negative_values_fall_below_a_range_and_hover_says_what_they_are():
    plot = plot_cka_heatmap(np.array([[0.25, -0.125]]), color_range=(0.5, 1.0))
    assert source_data(plot, "cka_matrix")["image"][0].tolist() == [[0.5, -0.125]]
    assert source_data(plot, "cka_matrix")["value"][0].tolist() == [[0.25, -0.125]]
    assert plot.select_one(LinearColorMapper).low_color == "#2a9d8f"


def test_heatmap_row_0_is_at_the_top_and_hover_knows_every_name(result):
    plot = plot_cka_heatmap(result)
    assert plot.y_range.start > plot.y_range.end
    (hover,) = plot.select({"type": HoverTool})
    names = {tuple(js.args["names"]) for js in plot.select({"type": CustomJSHover})}
    assert names == {result.layers1, result.layers2}
    assert [label for label, _ in hover.tooltips] == ["ResNet", "ViT", "CKA"]
    assert "@value" in hover.tooltips[2][1]
    assert "@stderr" in hover.tooltips[2][1]
    assert plot.select_one(ColorBar) is not None


def test_heatmap_labels_lose_their_shared_prefix_and_their_middle():
    long = [f"encoder.layer.{k}.{'x' * 60}.dense" for k in range(3)]
    plot = plot_cka_heatmap(np.eye(3), layers1=long, layers2=["a", "b", "c"])
    formatter = plot.yaxis[0].formatter
    assert isinstance(formatter, CustomJSTickFormatter)
    shown = formatter.args["names"]
    assert all(len(name) == 28 and "\u2026" in name for name in shown)
    assert [name[0] for name in shown] == ["0", "1", "2"]
    assert plot.yaxis[0].axis_label == "model1: encoder.layer.\u2026"


def test_the_first_row_may_be_at_the_bottom_and_zooms_with_its_like(result):
    plot = plot_cka_heatmap(result, origin="lower")
    assert (plot.y_range.start, plot.y_range.end) == (-0.5, 1.5)
    image = source_data(plot, "cka_matrix")["image"][0]
    np.testing.assert_array_equal(image, result.matrix.numpy())
    grid = plot_cka_comparison([result, torch.ones(3, 3)], origin="lower")
    first, second = (child[0] for child in grid.children)
    assert first.y_range is not second.y_range


def test_undefined_cells_are_hatched_in_one_stretch_per_row(result):
    data = source_data(plot_cka_heatmap(result), "undefined_source")
    assert data == {
        "left": [1.5, 1.5],
        "right": [2.5, 2.5],
        "top": [-0.5, 0.5],
        "bottom": [0.5, 1.5],
    }


def test_masked_cells_are_neither_drawn_nor_hatched():
    matrix = np.full((3, 3), 0.5)
    matrix[0, 2] = NAN
    plot = plot_cka_heatmap(matrix, mask_upper=True, annot=True)
    image = source_data(plot, "cka_matrix")["image"][0]
    assert np.isnan(image[np.triu_indices(3, 1)]).all()
    assert len(source_data(plot, "numbers")["text"]) == 6
    assert source_data(plot, "undefined_source")["left"] == []


@pytest.mark.parametrize("wanted", ["fit", (0.7, 1.0)])
def test_no_positive_value_falls_below_a_range_in_float32(result, wanted):
    least = torch.full_like(result.matrix, 0.7)
    least[0, 0] = 0.9
    plot = plot_cka_heatmap(replace(result, matrix=least), color_range=wanted)
    low = plot.select_one(LinearColorMapper).low
    image = plot.select_one({"name": "cka_matrix"}).data["image"][0]
    assert low == 0.7
    assert (image.astype(np.float64) >= low).all()


def test_values_below_a_threshold_are_left_out_and_undefined_ones_are_not(result):
    plot = plot_cka_heatmap(result, mask_below=0.3)
    image = source_data(plot, "cka_matrix")["image"][0]
    np.testing.assert_array_equal(image, [[1, 0.5, NAN], [NAN, NAN, NAN]])
    assert len(source_data(plot, "undefined_source")["left"]) == 2


def test_numbers_are_read_on_every_color(result):
    data = source_data(plot_cka_heatmap(result, annot=True), "numbers")
    assert data["text"] == ["1.00", "0.50", "0.25", "-0.12"]
    assert data["color"] == ["black", "white", "white", "black"]
    less = replace(result, matrix=torch.zeros_like(result.matrix)) - result
    data = source_data(plot_cka_heatmap(less, annot=True), "numbers")
    assert data["text"][0] == "-1.00"
    assert data["color"][0] == "white", "on the dark end of two colors"


def test_layers_of_a_result_are_picked_in_the_order_asked_for(result):
    plot = plot_cka_heatmap(result, layers1=["enc.1"], layers2=["b", "a"])
    image = source_data(plot, "cka_matrix")["image"][0]
    np.testing.assert_array_equal(image, [[-0.125, 0.25]])


def test_a_bare_tensor_that_requires_grad_is_drawn():
    plot = plot_cka_heatmap(torch.eye(2, requires_grad=True))
    assert source_data(plot, "cka_matrix")["image"][0].tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers1": ["enc.2"]}, r"`layers1` names 'enc\.2', .*'enc\.1'"),
        ({"palette": "jet"}, "Expected `palette` to be one of magma, .* got 'jet'"),
        ({"origin": "bottom"}, "Expected `origin` to be .* got 'bottom'"),
        ({"color_range": (1, 0)}, r"Expected a range .* got \(1, 0\)"),
        ({"color_range": "auto"}, "Expected a range .* got 'auto'"),
    ],
)
def test_wrong_options_of_a_heatmap_are_named(result, options, message):
    with pytest.raises(ValueError, match=message):
        plot_cka_heatmap(result, **options)


def test_matrices_that_do_not_fit_are_named():
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


def test_the_band_of_a_line_has_a_gap_where_the_line_has_one():
    matrix = torch.tensor([[0.5, 0.5, NAN, 0.25, 0.25, 0.25]])
    layers = tuple("abcdef")
    result = CKAResult(matrix, torch.full((1, 6), 0.125), ("x",), layers)
    band = source_data(plot_cka_trend(result, "x"), "x band")
    assert [sorted(set(stretch)) for stretch in band["xs"]] == [[0, 1], [3, 4, 5]]
    assert [max(stretch) for stretch in band["ys"]] == [0.625, 0.375]


def test_a_column_runs_over_the_layers_of_model_1(result):
    plot = plot_cka_trend(result, ["b", "a"], along="columns")
    np.testing.assert_array_equal(source_data(plot, "b")["y"], [0.5, -0.125])
    assert [item.label.value for item in plot.legend[0].items] == ["b", "a"]


def test_a_single_name_is_one_line(result):
    one, listed = (plot_cka_trend(result, layers) for layers in ("enc.1", ["enc.1"]))
    for plot in (one, listed):
        assert [item.label.value for item in plot.legend[0].items] == ["enc.1"]


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


def test_without_layers_the_diagonal_is_drawn_if_there_is_one(result):
    plot = plot_cka_trend(torch.eye(3))
    assert source_data(plot, "diagonal")["y"].tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match=r"as of ViT for the diagonal, got 2 and 3"):
        plot_cka_trend(result)
    with pytest.raises(ValueError, match="Expected `along` to be 'rows' or 'columns'"):
        plot_cka_trend(result, ["a"], along="diagonal")


# Comparisons


def test_maps_side_by_side_share_colors_and_those_of_one_shape_the_zoom(result):
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


def test_comparison_of_nothing_or_with_missing_titles_is_refused(result):
    with pytest.raises(ValueError, match="got 0 results and no titles"):
        plot_cka_comparison([])
    with pytest.raises(ValueError, match="got 1 results and 2 titles"):
        plot_cka_comparison([result], titles=["a", "b"])
