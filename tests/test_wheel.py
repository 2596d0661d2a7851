"""The wheel, as pip makes and installs it: complete, and importable by itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with nothing but the installed wheel in it."""
    wheels, site = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, ROOT]
    subprocess.run([*pip, *build], check=True)
    [wheel] = wheels.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    return site


def test_the_wheel_holds_every_file_of_the_package(site):
    package = ROOT / "cka_notebook"
    expected = {
        file.relative_to(ROOT).as_posix()
        for file in package.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    installed = {
        file.relative_to(site).as_posix()
        for file in (site / "cka_notebook").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {"cka_notebook/py.typed", "cka_notebook/static/widget.js"} <= expected
    assert installed == expected


def test_the_wheel_holds_only_the_package_and_its_metadata(site):
    unexpected = [
        entry.name
        for entry in site.iterdir()
        if entry.name != "cka_notebook" and not entry.name.endswith(".dist-info")
    ]
    assert unexpected == []


def test_the_installed_wheel_shows_its_page_half(site):
    program = """
import pathlib, sys
import cka_notebook
assert pathlib.Path(cka_notebook.__file__).is_relative_to(sys.argv[1])
loader = pathlib.Path(cka_notebook.__file__).parent / "static" / "loader.js"
assert str(cka_notebook.CKAExplorer._esm) == loader.read_text(encoding="utf-8")
assert "export" in cka_notebook._page.runtime.page_code()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(site)],
        cwd=site,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
