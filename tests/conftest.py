"""What every test starts from: one thread, the same random numbers, a browser."""

import pytest
import torch
from support.lab import CHROMIUM_OPTIONS, SECONDS, Server, chromium

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    """The same random numbers in every test, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """JupyterLab."""
    server = Server(tmp_path_factory.mktemp("lab"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def browser():
    """Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if chromium() is None:
        pytest.skip("no Chromium found: install it, or set CHROMIUM to its path")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=list(CHROMIUM_OPTIONS)
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page with nothing of another test in it."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    context.set_default_timeout(1000 * SECONDS)
    yield context.new_page()
    context.close()
