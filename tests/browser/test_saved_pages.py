"""Pages that `save_html` writes, in Chromium: a file, without kernel or network."""

import contextlib
import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from support import wire_examples
from support.lab import (
    SVG,
    Page,
    saved,
)
from torch import nn

from cka_notebook import CKAExplorer
from cka_notebook._page import history

pytestmark = pytest.mark.browser


def test_a_saved_page_shows_how_the_error_of_a_cell_has_narrowed(
    page, tmp_path, monkeypatch
):
    # How many maps are kept is else a matter of how fast this machine is just now.
    monkeypatch.setattr(history, "HISTORY_SHARE", 1e9)
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)))
    loader = [torch.randn(32, 8) for _ in range(40)]
    known = {}

    def note(batch, *_):
        known[batch] = float(explorer.result.stderr[0, 2])

    explorer = CKAExplorer(model, None, loader, model1_layers="all", callback=note)
    result = explorer.wait(60)
    explorer.save_html(tmp_path / "cone.html")
    opened = Page(page, "file://")
    page.goto((tmp_path / "cone.html").as_uri())
    opened.until(opened.image, "the map")
    opened.click_cell(0, 2)
    opened.until(lambda: opened.marked() == [0, 2], "the marked cell")
    errors = opened.history()
    assert len(errors) >= 3
    assert errors[40] == pytest.approx(float(result.stderr[0, 2]), rel=1e-5)
    first = min(batch for batch in errors if batch > 1)
    assert errors[first] > 1.5 * errors[40], "a cone narrows"
    shown = {batch: error for batch, error in errors.items() if batch > 1}
    assert shown == pytest.approx({batch: known[batch] for batch in shown}, rel=0.02)
    opened.screenshot("saved-cone")


def test_a_saved_page_works_from_a_file_without_a_network(page, tmp_path):
    shown = Page(page, "file://")
    explorer = CKAExplorer.from_result(wire_examples.result())
    explorer.save_html(tmp_path / "map.html")
    page.context.set_offline(True)
    page.goto((tmp_path / "map.html").as_uri())
    shown.until(shown.image, "the map")
    assert shown.status == "done"
    assert shown.explorer.get_by_text("7/8").count() or shown.batch == 8
    values = np.float32(shown.image()["values"]).reshape(4, 3)
    known = wire_examples.MATRIX.numpy() >= 0
    np.testing.assert_array_equal(values[known], wire_examples.MATRIX.numpy()[known])
    shown.click_cell(1, 2)
    shown.until(lambda: shown.marked() == [1, 2], "the marked cell")
    caption = shown.explorer.locator(".cka-column-caption").inner_text()
    assert wire_examples.HOSTILE[1] in caption or "alert(2)" in caption
    shown.screenshot("saved-page")
    words = shown.explorer.get_by_text("nothing computes here")
    shown.until(words.is_visible, "a word of the saved page")
    assert not shown.explorer.get_by_role("button", name="Restart").is_visible()
    assert not shown.explorer.get_by_text("Stop when").is_visible()
    assert shown.foreign_requests == []
    assert shown.errors == []


def test_a_saved_page_saves_its_map_as_a_drawing_and_as_a_picture(page, tmp_path):
    CKAExplorer.from_result(wire_examples.result()).save_html(tmp_path / "map.html")
    page.context.set_offline(True)
    shown = Page(page, "file://")
    page.goto((tmp_path / "map.html").as_uri())
    shown.until(shown.image, "the map")
    name, drawing = saved(shown, "svg")
    assert name == "SmallNet-OddNet.svg"
    texts = [text.text for text in drawing.iter(f"{SVG}text")]
    assert {"SmallNet", "OddNet", "CKA", "undefined"} <= set(texts)
    assert wire_examples.HOSTILE[0] in texts, "as text"
    assert {element.tag.removeprefix(SVG) for element in drawing.iter()} <= {
        *("svg", "g", "defs", "linearGradient", "stop", "pattern", "rect", "path"),
        *("circle", "text"),
    }
    fills = {path.get("fill") for path in drawing.iter(f"{SVG}path")}
    assert "rgb(42,157,143)" in fills, "a value below 0"
    name, picture = saved(shown, "png")
    assert name == "SmallNet-OddNet.png"
    width, height = struct.unpack(">II", picture[16:24])
    assert (width, height) == tuple(
        2 * int(drawing.get(k)) for k in ("width", "height")
    )
    assert shown.foreign_requests == []
    assert shown.errors == []


@pytest.mark.parametrize(
    ("theme", "screen", "shown_as"),
    [("auto", "dark", "light"), ("dark", "light", "dark")],
)
def test_a_saved_page_is_on_paper_of_its_own_theme(
    browser, tmp_path, theme, screen, shown_as
):
    explorer = CKAExplorer.from_result(wire_examples.result(), theme=theme)
    explorer.save_html(tmp_path / "map.html")
    context = browser.new_context(color_scheme=screen)
    with contextlib.closing(context):
        shown = Page(context.new_page(), "file://")
        shown.page.goto((tmp_path / "map.html").as_uri())
        shown.until(shown.image, "the map")
        assert shown.explorer.get_attribute("data-theme") == shown_as
        assert (corner_brightness(shown.page) > 128) == (shown_as == "light")
        shown.screenshot(f"saved-{theme}-on-{screen}")


def corner_brightness(page):
    """Of the paper that the explorer stands on, from 0 to 255."""
    shot = page.screenshot(clip={"x": 1, "y": 1, "width": 4, "height": 4})
    return Image.open(io.BytesIO(shot)).convert("L").getpixel((2, 2))
