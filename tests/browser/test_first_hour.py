"""What everybody does first in JupyterLab: click into a tree."""

import pytest
from support.lab import LONG, SETUP, SHOW, Notebook

pytestmark = pytest.mark.browser

ENOUGH = SHOW.format(count=LONG, seconds=0.05)
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
