"""The first five minutes of a researcher in JupyterLab: what she sees, asserted."""

import io
import json
import re

import nbformat
import numpy as np
import pytest
from bokeh.palettes import Magma256
from PIL import Image
from support.five_minutes import (
    AFTER,
    AGAIN,
    BLOCK,
    CELLS,
    CHOICE,
    COPY,
    GONE,
    HELD,
    IS_TYPED_INTO,
    KEPT,
    LAST,
    LISTEN_TO,
    OLD,
    PLACE,
    RUN_WITHOUT_WAITING,
    SHOWN,
    TREND,
    TYPE_INTO,
    TYPED,
)
from support.lab import Notebook, Page

pytestmark = pytest.mark.browser


@pytest.fixture
def notebook(page, server):
    server.add("minutes.ipynb", CELLS)
    notebook = Notebook(page, server, "minutes.ipynb")
    notebook.run(0)
    return notebook


def test_the_ideal_five_minutes(notebook, page, server):
    notebook.run(SHOWN)
    sees_names_and_trees_at_once(notebook)
    sees_the_map_sharpen(notebook)
    types_in_another_cell(notebook)
    hovers_and_scrolls(notebook)
    clicks_a_cell_and_walks_on(notebook)
    adds_attention_in_a_pause(notebook)
    reloads_the_page(notebook)
    lets_it_end_when_stable(notebook)
    copies_the_call(notebook)
    keeps_the_result(notebook)
    saves_the_notebook(notebook, server.root / "minutes.ipynb")
    opens_the_page_she_sends(page.context.new_page(), server.root)
    page.bring_to_front()
    runs_the_cell_again(notebook)
    sees_what_a_run_will_take(notebook)
    interrupts_a_blocking_run(notebook)
    deletes_the_models(notebook)
    assert notebook.foreign_requests == []
    assert notebook.errors == []


def sees_names_and_trees_at_once(notebook):
    count, _ = notebook.executed()[SHOWN]
    assert count == 2, "the cell has its number while the run goes on"
    assert notebook.explorer.locator(".cka-names").inner_text().split() == [
        "base",
        "\u00d7",
        "tuned",
    ]
    trees = notebook.explorer.get_by_role("tree")
    assert trees.count() == 2
    for tree in trees.all():
        folded = tree.get_by_role("treeitem", name="[0\u201311]")
        assert "ViTLayer \u00d712" in folded.inner_text()
        assert folded.get_attribute("aria-checked") == "true"
        for part in ("embeddings", "layernorm", "pooler"):
            row = tree.get_by_role("treeitem", name=part).first
            assert row.get_attribute("aria-checked") == "true"
            assert re.search(r"\d", row.inner_text()), "how many parameters"
    counts = notebook.explorer.locator(".cka-tree-count").all_inner_texts()
    assert [text.startswith("15 of ") for text in counts] == [True, True]


def sees_the_map_sharpen(notebook):
    notebook.until(lambda: notebook.batch >= 5, "the fifth batch")
    assert notebook.status == "running"
    assert notebook.image()["shape"] == [15, 15]
    titles = notebook.explorer.locator(".cka-axis-title").all_text_contents()
    assert titles == ["tuned", "base"], "of the columns, of the rows"
    tree = notebook.explorer.get_by_role("tree").first
    first = tree.get_by_role("treeitem", name="embeddings").first
    assert "17\u00d716" in first.inner_text(), "output shapes come with the probe"
    early, before = largest_error(notebook), notebook.image()["values"]
    # The estimate of few batches is rough: it falls for sure over many more of them.
    many = max(60, 3 * notebook.batch)
    notebook.until(lambda: notebook.batch >= many, "more batches")
    notebook.until(lambda: notebook.image()["values"] != before, "a sharper map")
    assert largest_error(notebook) < early
    line = notebook.progress
    assert re.search(
        r"^\d+/5\s000 batches · [\d\s]+ examples · [\d\s]+ examples/s", line
    )
    assert re.search(
        r" · \d+:\d\d < \d+:\d\d · GPU 3\.1/80 GB · mean 0\.\d{3} · "
        r"diagonal 0\.\d{3} · largest ± ",
        line.replace("\u202f", " "),
    )


def largest_error(notebook):
    return float(notebook.progress.split("\u00b1")[1])


def types_in_another_cell(notebook):
    notebook.page.evaluate(TYPE_INTO, TYPED)
    notebook.until(lambda: notebook.page.evaluate(IS_TYPED_INTO, TYPED), "a cursor")
    notebook.page.keyboard.type("base.training")
    notebook.page.keyboard.press("Control+Enter")
    notebook.until(lambda: notebook.text(TYPED) == "False", "the answer of the kernel")
    assert notebook.status == "running"


def hovers_and_scrolls(notebook):
    names = notebook.explorer.locator(".cka-read-names")
    point_until(notebook, lambda: "layers.3" in names.inner_text())
    one, _, other, value, _, error = names.inner_text().split()
    assert (one, other) == ("layers.2", "layers.3")
    assert 0 < float(error) < float(value) < 1
    facts = notebook.explorer.locator(".cka-read-facts").inner_text()
    assert facts.count("ViTLayer 17\u00d716") == 2, "class and shape of both"
    assert "of 15 in row" in facts
    top = notebook.explorer.bounding_box()["y"]
    notebook.page.mouse.wheel(0, 120)
    notebook.until(
        lambda: notebook.explorer.bounding_box()["y"] < top - 50,
        "the notebook to scroll below the map",
    )


def point_until(page, condition):
    """Point at a cell until it is read: the map may have moved below the mouse."""

    def is_read():
        page.point_at(3, 4)
        return condition()

    page.until(is_read, "the cell that is pointed at")


def clicks_a_cell_and_walks_on(notebook):
    notebook.explorer.get_by_role("button", name="Pause").click()
    notebook.until(lambda: notebook.status == "paused", "the pause")
    notebook.click_cell(10, 10)
    notebook.until(lambda: notebook.marked() == [10, 10], "the marked cell")
    row = np.float32(notebook.image()["values"]).reshape(15, 15)[10]
    trend = notebook.page.evaluate(TREND)
    np.testing.assert_allclose(trend["y"], row, rtol=1e-6)
    upper, lower = np.split(np.array(trend["band"]), 2)
    assert all(lower[::-1] < upper)
    color = Magma256[round(255 * float(notebook.image()["values"][2 * 15 + 2]))]
    expected = [*bytes.fromhex(color[1:])]
    notebook.until(
        lambda: np.allclose(pixel(notebook, 2, 2), expected, rtol=0, atol=8),
        f"a cell that is painted {color}",
    )
    caption = notebook.explorer.locator(".cka-row-caption").inner_text()
    assert " ".join(caption.split()) == "layers.9 of base against tuned"
    best = notebook.explorer.locator(".cka-match").first.inner_text()
    names = ["embeddings", *(f"layers.{i}" for i in range(12)), "layernorm", "pooler"]
    assert best.startswith(f"Best match of layers.9 is {names[row.argmax()]} (0.")
    walks_with_the_arrow_keys(notebook)
    notebook.screenshot("five-minutes")


def pixel(notebook, row, col):
    """Red, green and blue in the middle of a cell, as painted."""
    x, y = notebook.page.evaluate(PLACE, [row, col])
    clip = {"x": x, "y": y, "width": 1, "height": 1}
    picture = Image.open(io.BytesIO(notebook.page.screenshot(clip=clip)))
    return picture.convert("RGB").getpixel((0, 0))


def walks_with_the_arrow_keys(notebook):
    notebook.page.keyboard.press("ArrowRight")
    notebook.page.keyboard.press("ArrowUp")
    spoken = notebook.explorer.locator(".cka-grid-layer").get_by_role("status")
    said = r"layers\.8 by layers\.10, 0\.\d\d plus or minus 0\.\d{3}"
    notebook.until(lambda: re.fullmatch(said, spoken.inner_text()), "the words")
    assert notebook.marked() == [10, 10], "the cursor moves, the choice stays"
    notebook.page.keyboard.press("Enter")
    notebook.until(lambda: notebook.marked() == [9, 11], "the cell under the cursor")


def adds_attention_in_a_pause(notebook):
    for name in ("base", "tuned"):
        section = notebook.explorer.get_by_role("region", name=f"Layers of {name}")
        section.get_by_role("searchbox").fill("attention type:ViTAttention")
        section.locator(".cka-found", has_text="12").wait_for()
        section.get_by_role("tree").press("Control+a")
    notebook.until(lambda: all(len(side) == 27 for side in chosen(notebook)), "layers")
    assert not any("mlp" in name for side in chosen(notebook) for name in side)
    missing = notebook.explorer.locator(".cka-missing-words").inner_text()
    assert "24 chosen layers are not computed yet" in missing
    assert "Resume fills the map" in missing
    done = notebook.batch
    notebook.explorer.locator(".cka-message").first.evaluate(LISTEN_TO)
    notebook.explorer.get_by_role("button", name="Resume").click()
    notebook.until(lambda: notebook.image()["shape"] == [27, 27], "the larger map")
    notebook.until(lambda: notebook.batch > done, "a batch after those done before")
    assert notebook.status == "running"
    said = (
        f"Computing 24 new layers over the {done} batches already done; the run then "
        "continues."
    )
    assert said in notebook.page.evaluate("window.said")
    assert notebook.explorer.locator(".cka-message").first.is_hidden(), "and no longer"
    assert notebook.progress.split(" ")[0].endswith("/5\u202f000")
    cone = notebook.history()
    errors = {b: e for b, e in cone.items() if 1 < b <= done}
    assert min(cone) == 1
    assert len({*errors.values()}) > 2, "the marked cell keeps its cone"


def chosen(notebook):
    return json.loads(notebook.answer(CHOICE))


def reloads_the_page(notebook):
    notebook.until(lambda: notebook.batch >= 5, "the fifth batch")
    notebook.command("docmanager:save")
    before = notebook.batch
    notebook.page.reload()
    notebook.wait_until_ready()
    notebook.until(lambda: notebook.batch > before, "a later batch after the reload")
    assert notebook.until(notebook.image, "the map")["shape"] == [27, 27]
    assert notebook.status == "running"


def lets_it_end_when_stable(notebook):
    tolerance = notebook.explorer.get_by_label("Stop when the largest standard error")
    tolerance.fill(f"{0.9 * largest_error(notebook):.4f}")
    tolerance.press("Enter")
    notebook.until(lambda: notebook.status == "done", "the early end")
    assert notebook.batch < 5000
    message = notebook.explorer.get_by_text("all standard errors are below")
    assert f"after {notebook.batch} batches" in message.inner_text()
    assert "Stopped after" in notebook.explorer.inner_text(), "also in the notes"


def copies_the_call(notebook):
    same, state = notebook.answer(COPY).split("\n")
    assert same == "True True"
    code, tolerance = json.loads(state)
    field = notebook.explorer.get_by_label("Stop when the largest standard error")
    assert float(field.input_value()) == tolerance
    access = ["clipboard-read", "clipboard-write"]
    notebook.page.context.grant_permissions(access)
    button = notebook.explorer.get_by_role("button", name="Copy as code")
    button.evaluate(LISTEN_TO)
    button.click()
    notebook.until(
        lambda: notebook.page.evaluate("window.said"), "a word of the button"
    )
    assert notebook.page.evaluate("window.said")[0] == "Copied"
    assert notebook.page.evaluate("navigator.clipboard.readText()") == code
    assert code.count("attention") == 24


def keeps_the_result(notebook):
    bits, rest, matrix = notebook.answer(KEPT).split("\n")
    assert bits == "True True"
    assert rest.startswith("True 2.")
    shown = np.float32(notebook.image()["values"]).reshape(27, 27)
    np.testing.assert_array_equal(shown, np.float32(json.loads(matrix)))


def saves_the_notebook(notebook, path):
    notebook.run(LAST)
    notebook.command("docmanager:save")
    saved = json.loads(path.read_text(encoding="utf-8"))
    nbformat.validate(saved)
    data = saved["cells"][LAST]["outputs"][0]["data"]
    text = "".join(data["text/plain"])
    assert text.startswith("CKAExplorer(base x tuned, 27 x 27 layers, cka 0.")
    assert len(data["image/png"]) < 80_000
    assert "widgets" not in saved["metadata"]
    assert path.stat().st_size < 310_000


def opens_the_page_she_sends(page, folder):
    page.route(re.compile("^https?:"), lambda route: route.abort())
    shown = Page(page, "file://")
    page.goto((folder / "for_supervisor.html").as_uri())
    shown.until(shown.image, "the map")
    assert shown.image()["shape"] == [27, 27]
    value = shown.explorer.locator(".cka-read-value")
    point_until(shown, lambda: "\u00b1" in value.inner_text())
    assert shown.foreign_requests == []
    assert shown.errors == []
    page.close()


def runs_the_cell_again(notebook):
    for _ in range(2):
        notebook.run(OLD)
        notebook.run(SHOWN)
        notebook.until(lambda: notebook.status == "running", "the new run")
    notebook.until(lambda: notebook.batch >= 1, "its first batch")
    # The old run ends after the batch that it is at.
    notebook.until(
        lambda: notebook.answer(AGAIN) == "1 stopped True", "the end of the old run"
    )


def sees_what_a_run_will_take(notebook):
    notebook.run(HELD)
    cell = notebook.page.locator(".jp-CodeCell").nth(HELD)
    line = cell.locator(".cka-progress-line")
    size = "15 \u00d7 15 layers over list, 5000 batches, batch size 16"
    takes = rf"{size} · (about .*, )?0\.\d MB of Gram matrices"
    notebook.until(
        lambda: line.count() and re.fullmatch(takes, line.inner_text()),
        "what the run will take",
    )
    field = cell.get_by_label("Stop when the largest standard error")
    assert field.input_value() == "0.001"


def interrupts_a_blocking_run(notebook):
    notebook.page.evaluate(RUN_WITHOUT_WAITING, BLOCK)
    cell = notebook.page.locator(".jp-CodeCell").nth(HELD)
    progress = cell.locator(".cka-progress-line")
    notebook.until(
        lambda: progress.count() and re.match(r"\d+/5\s000", progress.inner_text()),
        "the first batch",
    )
    notebook.command("notebook:interrupt-kernel")
    notebook.until(lambda: "KeyboardInterrupt" in ends(notebook), "the end of the cell")
    notebook.wait_until_ready()
    # For a moment after an interrupt the kernel still drops what it is asked.
    words = notebook.until(lambda: notebook.answer(AFTER), "an answer")
    assert words == "stopped True 0 0"


def ends(notebook):
    """Names of the errors in the blocked cell."""
    _, outputs = notebook.executed()[BLOCK]
    return [output.get("ename") for output in outputs]


def deletes_the_models(notebook):
    assert notebook.answer(GONE) == "[None, None] torch.Size([15, 15])"
