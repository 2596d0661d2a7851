"""What every test starts from: one thread, fixed random numbers, a browser to share."""

from importlib.util import find_spec

import pytest
import torch
from support.lab import CHROMIUM_OPTIONS, SECONDS, Server, chromium

torch.set_num_threads(1)

if find_spec("triton") is None:
    collect_ignore = ["benchmark/gpu/kernels.py"]


def pytest_collection_modifyitems(items):
    """Start with the browser tests.

    Under pytest-xdist they then form the first worker's share, and the second, which
    helps out from the other end, starts a JupyterLab only if it gets that far.
    """
    items.sort(key=lambda item: item.get_closest_marker("browser") is None)


@pytest.fixture(autouse=True)
def _seed():
    """The same random numbers in every test, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """The JupyterLab that all tests of a worker share; ask for `server` instead."""
    lab = Server(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.close()


@pytest.fixture
def server(lab):
    """JupyterLab as if just started."""
    lab.reset()
    yield lab
    lab.shut_kernels_down()


@pytest.fixture(scope="session")
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
    """An empty page that shares nothing with those of other tests."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    context.set_default_timeout(1000 * SECONDS)
    yield context.new_page()
    context.close()
