"""The widget in JupyterLab and Chromium: what a reader of a notebook sees and does."""

import contextlib
import shutil

import ipykernel
import numpy as np
import pytest
from support import ROOT, wire_examples
from support.lab import (
    HURRY,
    LONG,
    SETUP,
    SHOW,
    SHOW_TO_THE_END,
    SVG,
    Notebook,
    Page,
    execute,
    saved,
)

from cka_notebook import CKAExplorer, _figures

pytestmark = pytest.mark.browser

QUICKSTART = "01_quickstart.ipynb"


def open_live(page, server, name, count, seconds, *cells):
    show = SHOW.format(count=count, seconds=seconds)
    server.add(name, [SETUP, show, *cells])
    notebook = Notebook(page, server, name)
    notebook.run(0)
    return notebook


def test_the_quickstart_runs_from_top_to_bottom_in_light_and_dark(page, server):
    shutil.copy(ROOT / "notebooks" / QUICKSTART, server.root / QUICKSTART)
    notebook = Notebook(page, server, QUICKSTART)
    notebook.command("notebook:run-all-cells")
    outputs = [output for _, found in notebook.executed() for output in found]
    assert [o for o in outputs if o["output_type"] == "error"] == []
    assert all(count is not None for count, _ in notebook.executed())
    notebook.until(lambda: notebook.status == "done", "the end of the run")
    notebook.until(notebook.image, "the map")
    notebook.click_cell(1, 2)
    value = notebook.explorer.locator(".cka-focus-value")
    notebook.until(lambda: value.inner_text().strip(), "the value of the cell")
    notebook.screenshot("quickstart-light")
    color = "(element) => getComputedStyle(element).color"
    light = notebook.explorer.evaluate(color)
    notebook.command("apputils:change-theme", {"theme": "JupyterLab Dark"})
    notebook.until(
        lambda: notebook.explorer.evaluate(color) != light,
        "the colors of the dark theme",
    )
    notebook.screenshot("quickstart-dark")
    notebook.command("apputils:change-theme", {"theme": "JupyterLab Light"})
    assert notebook.foreign_requests == []
    assert notebook.errors == []


GATED = """
import threading
arrives, ready = threading.Event(), threading.Event()

class Gated(Slow):
    "Batches that do not come before they are let in: the data may be far away."
    def __iter__(self):
        assert arrives.wait(90)
        for number, batch in enumerate(super().__iter__()):
            assert number == 0 or ready.wait(90)
            yield batch

explorer = CKAExplorer(net(3), net(4), Gated(8, 0), model1_layers="all")
explorer
"""


def test_a_labelled_map_is_there_before_any_data_and_colors_with_the_first_batch(
    page, server
):
    cells = ["arrives.set()", "ready.set()"]
    server.add("gated.ipynb", [SETUP, GATED, *cells])
    notebook = Notebook(page, server, "gated.ipynb")
    notebook.run(0)
    notebook.run(1)
    explorer = notebook.explorer
    row = explorer.get_by_role("treeitem", name="5, Tanh")
    notebook.until(lambda: row.count() == 2, "a layer in both trees")
    assert row.first.get_attribute("aria-checked") == "true"
    shown = notebook.until(notebook.image, "a map")
    assert np.isnan(np.float32(shown["values"])).all(), "an empty one"
    titles = explorer.locator(".cka-axis-title").all_text_contents()
    assert titles == ["Sequential B", "Sequential A"], "of the columns, of the rows"
    explorer.locator(".cka-map").scroll_into_view_if_needed()
    notebook.screenshot("before-any-data")
    notebook.run(2)
    notebook.until(lambda: notebook.batch == 1, "the first batch of eight")
    values = notebook.until(notebook.image, "the map")["values"]
    assert np.isfinite(np.float32(values)).all(), "colors of one batch"
    notebook.run(3)
    notebook.until(lambda: notebook.status == "done", "the end of the run")
    assert notebook.batch == 8


def test_the_map_sharpens_batch_by_batch_and_ends_as_the_result(page, server):
    code = "import json; r = explorer.wait(90); print(json.dumps(r.matrix.tolist()))"
    notebook = open_live(page, server, "live.ipynb", 300, 0.4, HURRY, code)
    notebook.run(1)
    seen = set()

    def sharpens():
        image = notebook.image()
        if image and image["shape"] == [6, 8] and notebook.batch:
            seen.add(tuple(np.float32(image["values"])))
        return len(seen) >= 4

    notebook.until(sharpens, "four maps of different batches")
    assert 1 <= notebook.batch < 300
    notebook.run(2)
    notebook.until(lambda: notebook.status == "done", "the end of the run")
    result = np.float32(eval(notebook.answer(3)))
    shown = np.float32(notebook.until(notebook.image, "the map")["values"])
    np.testing.assert_array_equal(shown.reshape(6, 8), result)
    assert notebook.batch == 300
    _, drawing = saved(notebook, "svg")
    step = min(255, int(256 * result[0, 0]))
    red, green, blue = bytes.fromhex(_figures.PALETTES["magma"][step][1:])
    first = next(drawing.iter(f"{SVG}g")).find(f"{SVG}path")
    assert first.get("fill") == f"rgb({red},{green},{blue})"
    assert first.get("d").startswith("M0 0H")
    assert notebook.foreign_requests == []
    assert notebook.errors == []


def test_choices_and_orders_of_the_page_reach_python_and_back(page, server):
    notebook = open_live(
        page, server, "choices.ipynb", LONG, 0.1,
        "print(explorer.status, explorer.focus)",
        "explorer.focus = ('0', '0')",
        f"explorer.stop(); print(explorer.wait(90).batches < {LONG}, explorer.status)",
        "print(len(explorer.layers1), explorer.palette)",
    )  # fmt: skip
    notebook.run(1)
    notebook.until(lambda: notebook.batch >= 2, "the second batch")
    notebook.explorer.get_by_role("button", name="Pause").click()
    notebook.until(lambda: notebook.status == "paused", "the pause")
    notebook.click_cell(4, 6)
    notebook.until(lambda: notebook.marked() == [4, 6], "the marked cell")
    # A cell and a message of the page may overtake each other.
    notebook.until(
        lambda: notebook.answer(2) == "paused ('4', '6')", "the focus in Python"
    )
    held = notebook.batch
    notebook.explorer.get_by_role("button", name="Resume").click()
    notebook.until(lambda: notebook.batch > held, "a batch after the pause")
    notebook.run(3)
    notebook.until(lambda: notebook.marked() == [0, 0], "the cell marked by Python")
    notebook.run(4)
    assert notebook.text(4).strip() == "True stopped"
    notebook.until(lambda: notebook.status == "stopped", "the end")
    notebook.run(5)
    assert notebook.text(5).strip() == "6 magma"
    assert notebook.foreign_requests == []


@pytest.mark.skipif(
    ipykernel.version_info[0] < 7, reason="ipykernel 6 hears nothing while a cell runs"
)
def test_a_cell_that_waits_does_not_deafen_the_explorer(page, server):
    """Pause and Resume are heard while a cell is blocked in `wait`."""
    wait = "r = explorer.wait(900); print(explorer.status, r.batches)"
    notebook = open_live(page, server, "waiting.ipynb", LONG, 0.1, wait)
    notebook.run(1)
    waiting = "window.jupyterapp.commands.execute('notebook:run-cell')"
    select = "window.jupyterapp.shell.currentWidget.content.activeCellIndex = 2"
    page.evaluate(f"() => {{ {select}; void {waiting}; }}")
    notebook.until(lambda: notebook.batch >= 2, "the second batch")
    notebook.explorer.get_by_role("button", name="Pause").click()
    notebook.until(lambda: notebook.status == "paused", "the pause")
    held = notebook.batch
    notebook.explorer.get_by_role("button", name="Resume").click()
    notebook.until(lambda: notebook.batch > held, "a batch after the pause")
    assert notebook.text(2) == "", "the cell waits"
    notebook.explorer.get_by_role("button", name="Stop").click()
    notebook.until(lambda: notebook.status == "stopped", "the end")
    ended = f"stopped {notebook.batch}\n"
    notebook.until(lambda: notebook.text(2) == ended, "the end of the cell")


def test_a_reload_in_mid_run_shows_the_present_state(page, server):
    notebook = open_live(page, server, "reload.ipynb", LONG, 0.1, "explorer.stop()")
    notebook.run(1)
    notebook.until(lambda: notebook.batch >= 5, "the fifth batch")
    notebook.command("docmanager:save")
    before = notebook.batch
    page.reload()
    notebook.wait_until_ready()
    notebook.until(lambda: notebook.batch > before, "a later batch after the reload")
    assert notebook.status == "running"
    notebook.until(notebook.image, "the map")
    notebook.click_cell(2, 3)
    notebook.until(lambda: notebook.marked() == [2, 3], "the marked cell")
    history = notebook.until(
        lambda: 1 in (found := notebook.history()) and found,
        "a history that goes back to before the reload",
    )
    past = {b: error for b, error in history.items() if b <= before}
    assert all(error > 0 for batch, error in past.items() if batch > 1), past
    shown = notebook.batch
    notebook.until(lambda: notebook.batch > shown, "live frames")
    notebook.run(2)
    notebook.until(lambda: notebook.status == "stopped", "the end")
    assert notebook.foreign_requests == []


def test_keys_on_the_map_leave_the_notebook_alone(page, server):
    notebook = open_live(page, server, "keys.ipynb", 8, 0.01)
    notebook.run(1)
    notebook.until(lambda: notebook.status == "done", "the end of the run")
    notebook.until(notebook.image, "the map")
    count = "() => window.jupyterapp.shell.currentWidget.content.widgets.length"
    before = page.evaluate(count)
    notebook.click_cell(1, 1)
    for key in ("b", "a", "x", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    notebook.until(lambda: notebook.marked() == [1, 2], "the cell that the keys mark")
    assert page.evaluate(count) == before


def test_layers_are_chosen_and_run_with_the_keyboard_alone(page, server):
    show = (
        'explorer = CKAExplorer(net(3), net(4), Slow(4, 0.01), model1_layers="all", '
        'model2_layers="all", autostart=False)\nexplorer'
    )
    ask = "print(explorer.layers1, explorer.wait(90).matrix.shape)"
    server.add("keyboard.ipynb", [SETUP, show, ask])
    notebook = Notebook(page, server, "keyboard.ipynb")
    notebook.run(0)
    notebook.run(1)
    explorer = notebook.explorer
    last = explorer.get_by_role("treeitem", name="5, Tanh").first
    notebook.until(lambda: "12" in last.inner_text(), "the shapes of the probe")
    explorer.focus()
    presets = explorer.get_by_role("button", name="None").first
    press_until(notebook, "Tab", presets)
    page.keyboard.press("Space")
    press_until(notebook, "Tab", explorer.get_by_role("tree").first)
    page.keyboard.press("Home")
    for _ in range(3):
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Space")
    press_until(notebook, "Shift+Tab", explorer.get_by_role("button", name="Run"))
    page.keyboard.press("Enter")
    notebook.until(lambda: notebook.status == "done", "the end of the run")
    notebook.run(2)
    assert notebook.text(2).strip() == "['0', '1', '2'] torch.Size([3, 8])"


def press_until(notebook, key, target):
    """Press a key until an element has the keyboard's focus."""
    has_focus = "(element) => element === document.activeElement"
    for _ in range(60):
        if target.evaluate(has_focus):
            return
        notebook.page.keyboard.press(key)
    raise AssertionError(f"{key} never came to {target}")


def test_running_the_cell_again_frees_the_old_explorer(page, server):
    count = "import ipywidgets; print(len(ipywidgets.widgets.widget._instances))"
    cells = count, "explorer.stop()"
    notebook = open_live(page, server, "again.ipynb", LONG, 0.05, *cells)
    notebook.run(1)
    notebook.until(lambda: notebook.batch >= 1, "the first batch")
    notebook.run(2)
    first = notebook.text(2)
    for _ in range(3):
        notebook.run(1)
        notebook.until(lambda: notebook.status == "running", "the next run")
    notebook.run(2)
    assert notebook.text(2) == first
    notebook.until(lambda: notebook.page.locator(".cka").count() == 1, "one view")
    notebook.run(3)


def test_a_restarted_kernel_leaves_the_map_to_look_at_and_is_said(page, server):
    notebook = open_live(page, server, "gone.ipynb", LONG, 0.05)
    notebook.run(1)
    notebook.until(lambda: notebook.batch >= 2, "batches")
    notebook.until(notebook.image, "the map")
    page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"
        ".restart()"
    )
    badge = notebook.explorer.locator(".cka-badge")
    notebook.until(lambda: badge.inner_text() == "No kernel", "the badge")
    words = notebook.explorer.locator(".cka-message")
    notebook.until(
        lambda: "No answer from the kernel" in words.first.inner_text(), "the words"
    )
    notebook.click_cell(1, 2)
    caption = notebook.explorer.locator(".cka-row-caption")
    notebook.until(lambda: caption.inner_text().strip(), "the trend of a row")
    assert notebook.image()


def test_a_theme_set_in_python_wins_over_that_of_the_notebook(page, server):
    themes = ("dark", "auto")
    cells = [f"explorer.theme = {theme!r}" for theme in themes]
    notebook = open_live(page, server, "themes.ipynb", 3, 0.01, *cells)
    notebook.run(1)
    notebook.until(lambda: notebook.status == "done", "the end of the run")
    shown = lambda: notebook.explorer.get_attribute("data-theme")  # noqa: E731
    assert shown() == "light"
    hint = "(input) => getComputedStyle(input, '::placeholder').color"
    search = notebook.explorer.locator(".cka-search").first
    for index, theme in enumerate(("dark", "light"), 2):
        notebook.run(index)
        notebook.until(lambda theme=theme: shown() == theme, f"the {theme} theme")
        muted = {"dark": "rgb(163, 171, 182)", "light": "rgb(91, 99, 110)"}[theme]
        assert search.evaluate(hint) == muted, "a hint that can be read"
        notebook.screenshot(f"theme-{theme}")


def test_on_a_fine_screen_the_map_has_all_its_pixels_and_nothing_moves(
    browser, tmp_path
):
    CKAExplorer.from_result(wire_examples.result()).save_html(tmp_path / "map.html")
    context = browser.new_context(
        device_scale_factor=2, reduced_motion="reduce", forced_colors="active"
    )
    with contextlib.closing(context):
        shown = Page(context.new_page(), "file://")
        shown.page.goto((tmp_path / "map.html").as_uri())
        shown.until(shown.image, "the map")
        canvas = shown.explorer.locator(".cka-map canvas").first
        pixels = canvas.evaluate("(element) => element.width / element.clientWidth")
        assert pixels == pytest.approx(2, abs=0.02)
        style = "(element) => getComputedStyle(element)"
        button = shown.explorer.locator(".cka-button").first
        moves = button.evaluate(f"(e) => ({style})(e).transitionDuration")
        assert moves == "0s"
        bar = shown.explorer.locator(".cka-bar-fill")
        adjusted = bar.evaluate(f"(e) => ({style})(e).forcedColorAdjust")
        assert adjusted == "none", "or else the bar would not be seen"


def test_a_notebook_reopened_with_its_state_shows_the_map_without_a_kernel(
    page, server
):
    path = server.root / "reopened.ipynb"
    execute(path, [SETUP, SHOW_TO_THE_END.format(count=4, seconds=0.05)])
    server.trust(path)
    notebook = Notebook(page, server, "reopened.ipynb")
    assert notebook.until(notebook.image, "the map")["shape"] == [6, 8]
    assert notebook.status == "done"
    notebook.click_cell(2, 3)
    notebook.until(lambda: notebook.marked() == [2, 3], "the marked cell")
    words = notebook.explorer.get_by_text("nothing computes here")
    notebook.until(words.is_visible, "a word of the saved page")
    assert not notebook.explorer.get_by_role("button", name="Restart").is_visible()
    notebook.screenshot("reopened")
    assert notebook.foreign_requests == []
