"""The figures that the page embeds, without a browser."""

import base64
import gzip
import json

import pytest
from bokeh.core.validation import check_integrity

from cka_notebook import _figures


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


def test_the_map_and_the_trends_beside_it_zoom_together(page):
    shown = page.get_model_by_name("map")
    assert page.get_model_by_name("row_trend").x_range is shown.x_range
    assert page.get_model_by_name("column_trend").y_range is shown.y_range
    assert shown.y_range.start > shown.y_range.end, "row 0 belongs at the top"


def test_the_figures_of_the_page_are_valid_and_need_no_network(page):
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


def test_two_explorers_share_no_bokeh_model():
    first, second = _figures.explorer_figure(), _figures.explorer_figure()
    assert not {model.id for model in first.models} & {m.id for m in second.models}


def test_palettes_are_sent_whole_and_run_from_dark_to_bright(page):
    palettes = _figures.figure_json(page)["palettes"]
    for name, colors in _figures.PALETTES.items():
        assert palettes[name] == "".join(c.removeprefix("#") for c in colors)
        first, last = (sum(bytes.fromhex(colors[k][1:])) for k in (0, -1))
        assert first < last
