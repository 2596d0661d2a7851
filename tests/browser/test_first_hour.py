"""What everybody does first in JupyterLab: click into a tree, run again, hide it."""

import pytest
from support.lab import LONG, MAKE, SETUP, SHOW, Notebook

pytestmark = pytest.mark.browser

ENOUGH = SHOW.format(count=LONG, seconds=0.05)
RERUNS = 20
STOP = "explorer.stop()"


def opened(page, server, name, *cells):
    server.add(name, [SETUP, *cells, STOP])
    notebook = Notebook(page, server, name)
    notebook.run(0)
    return notebook


def click_slowly(page, target):
    """Click as a hand does: a moment passes before the button is let go."""
    target.scroll_into_view_if_needed()
    box = target.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.wait_for_timeout(120)
    page.mouse.up()


def is_drawn(notebook):
    """Whether the plots have taken the place of the sketch."""
    explorer = notebook.explorer
    return explorer.count() == 1 and not explorer.locator(".cka-not-yet").count()


def test_the_first_click_into_each_tree_counts_while_a_run_is_on(page, server):
    ask = "print(len(explorer.layers1), len(explorer.layers2))"
    notebook = opened(page, server, "click.ipynb", ENOUGH, ask)
    notebook.run(1)
    notebook.until(lambda: notebook.batch >= 2, "the second batch")
    explorer = notebook.explorer
    rows = explorer.get_by_role("treeitem", name="1, Tanh")
    notebook.until(lambda: rows.count() == 2, "both trees")
    for number in range(2):
        page.locator(".jp-Cell .cm-content").first.click()
        click_slowly(page, rows.nth(number).locator(".cka-box"))
        assert rows.nth(number).get_attribute("aria-checked") == "false"
    page.locator(".jp-Cell .cm-content").first.click()
    root = explorer.get_by_role("treeitem", name="Sequential").first
    click_slowly(page, root.locator(".cka-twist"))
    assert root.get_attribute("aria-expanded") == "false"
    notebook.until(lambda: notebook.answer(2) == "5 7", "the choice in Python")
    notebook.run(3)


def test_the_cell_is_run_again_while_a_run_is_on_and_each_time_the_map_lives(
    page, server
):
    notebook = opened(page, server, "rerun.ipynb", ENOUGH)
    for number in range(RERUNS):
        notebook.run(1)
        notebook.until(lambda: is_drawn(notebook), f"the plots of run {number}")
        words = notebook.explorer.locator(".cka-waiting").text_content()
        assert "cannot be drawn" not in words
        notebook.until(lambda: notebook.batch >= 1, f"a batch of run {number}")
        page.wait_for_timeout(37 * number % 200)
    notebook.run(2)
    notebook.until(lambda: notebook.status == "stopped", "the end")
    assert notebook.errors == []
    notebook.screenshot("rerun")


HIDE = """(hidden) => {
  window.jupyterapp.shell.currentWidget.content.widgets[1].outputHidden = hidden;
}"""


def test_an_explorer_in_a_collapsed_output_is_drawn_when_it_is_opened(page, server):
    notebook = opened(page, server, "hidden.ipynb", ENOUGH)
    page.evaluate(HIDE, True)
    notebook.run(1)
    page.wait_for_timeout(3000)
    page.evaluate(HIDE, False)
    notebook.until(lambda: is_drawn(notebook), "the plots")
    notebook.until(lambda: notebook.batch >= 2, "batches")
    notebook.click_cell(1, 2)
    notebook.until(lambda: notebook.marked() == [1, 2], "the marked cell")
    notebook.run(2)
    notebook.until(lambda: notebook.status == "stopped", "the end")
    assert notebook.errors == []


TABS = f"""
import ipywidgets
{MAKE.format(count=LONG, seconds=0.05)}
explorer.run()
ipywidgets.Tab([ipywidgets.Label("first"), explorer], titles=["one", "two"])
"""


def test_an_explorer_in_a_tab_is_drawn_when_the_tab_is_chosen(page, server):
    notebook = opened(page, server, "tabs.ipynb", TABS)
    notebook.run(1)
    page.wait_for_timeout(3000)
    page.get_by_role("tab", name="two").click()
    notebook.until(lambda: is_drawn(notebook), "the plots")
    notebook.until(lambda: notebook.batch >= 2, "batches")
    notebook.click_cell(1, 2)
    notebook.until(lambda: notebook.marked() == [1, 2], "the marked cell")
    notebook.screenshot("tab")
    notebook.run(2)
    notebook.until(lambda: notebook.status == "stopped", "the end")
    assert notebook.errors == []
