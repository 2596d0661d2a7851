"""The package as a whole: what importing loads, what is public, what is committed."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from torch import nn

import cka_notebook

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [
    ROOT / "README.md",
    ROOT / ".github" / "CONTRIBUTING.md",
    ROOT / ".github" / "CHANGELOG.md",
    ROOT / "tests" / "peers" / "README.md",
    ROOT / "tests" / "benchmark" / "README.md",
]
README, CONTRIBUTING = (path.read_text(encoding="utf-8") for path in PAGES[:2])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LAYERS = PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]

CORE = {"CKA", "CKAExplorer", "CKAResult", "hsic", "metrics"}
HEAVY = {
    *("anywidget", "bokeh", "comm", "ipywidgets", "IPython", "lightning"),
    *("matplotlib", "pandas", "traitlets", "transformers", "xarray"),
}
ROOMS = {
    f"cka_notebook.{name}" for name in ("_figures", "_notebook", "_page", "_widget")
}
WIDGETS = {"anywidget", "comm", "ipywidgets", "IPython", "traitlets"}
STEPS = {
    "import cka_notebook": set(),
    "import torch; model, batch = torch.nn.Linear(4, 2), torch.randn(8, 4)": set(),
    "cka_notebook.CKA(model).compare([batch])": set(),
    "cka_notebook.doctor": {"cka_notebook._notebook"},
    "cka_notebook.plot_cka_heatmap(torch.eye(2))": {"bokeh", "cka_notebook._figures"},
    "cka_notebook.CKAExplorer": WIDGETS | ROOMS,
}
"""Uses of the package, and which heavy or private packages each of them loads."""

BARE = """
import sys
from importlib import metadata

version_of = metadata.version

def version(name):
    if name == "cka-notebook":
        raise metadata.PackageNotFoundError(name)
    return version_of(name)

metadata.version = version
sys.modules.update(dict.fromkeys(HEAVY))  # None: importing it is an ImportError

import torch
from cka_notebook import CKA

model = torch.nn.Sequential(torch.nn.Linear(4, 3))
result = CKA(model, model1_layers="all").compare([torch.randn(8, 4)], progress=False)
print(result.provenance["cka_notebook"])
"""


@pytest.mark.slow
def test_each_use_of_the_package_loads_only_what_it_needs():
    program = "".join(f"{step}\nprint(*sys.modules)\n" for step in STEPS)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{program}"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = [set(line.split()) for line in done.stdout.splitlines()]
    assert "torch" in loaded[0]
    expected = set()
    for (step, needed), modules in zip(STEPS.items(), loaded, strict=True):
        expected |= needed
        assert modules & (HEAVY | ROOMS) == expected, step


@pytest.mark.slow
def test_a_checkout_that_is_not_installed_compares_models():
    """On a cluster node there may be torch and a checkout, and nothing else."""
    program = f"HEAVY = {HEAVY}\n{BARE}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == cka_notebook.__version__


@pytest.mark.parametrize("name", sorted(CORE.union(cka_notebook.__all__)))
def test_a_public_name_resolves_and_is_listed(name):
    assert getattr(cka_notebook, name) is not None
    assert name in dir(cka_notebook)
    assert name in cka_notebook.__all__


def test_tab_lists_nothing_private():
    private = [name for name in dir(cka_notebook) if name.startswith("_")]
    assert private == ["__version__"]


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = cka_notebook.no_such_name


def test_the_version_is_that_of_the_metadata():
    assert cka_notebook.__version__ == version("cka-notebook")


def test_there_are_notebooks():
    assert "01_quickstart.ipynb" in [path.name for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_committed_without_outputs(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] for cell in code)
    assert all(cell["execution_count"] is None for cell in code)
    assert "widgets" not in notebook["metadata"]
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(ids) == len(set(ids))


def test_scripts_that_the_readme_runs_exist():
    scripts = re.findall(r"^bash (\S+)", README, flags=re.MULTILINE)
    assert {"notebooks/start", "tests/run"} <= set(scripts)
    assert all((ROOT / script).is_file() for script in scripts)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_a_page_links_to_exist(page):
    targets = [
        target.split("#")[0]
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
        if not target.startswith(("http", "#"))
    ]
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page):
    files = re.findall(
        r"\b(?:cka_notebook|js|notebooks|tests|binder)/[\w./-]*\w",
        " ".join(re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))),
    )
    assert files or page not in PAGES[:2]
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_the_readme_links_to_every_other_page():
    links = {
        (ROOT / target).resolve()
        for target in re.findall(r"\]\(([^)\s]+)\)", README)
        if not target.startswith(("http", "#"))
    }
    assert set(PAGES[1:]) <= links


def test_the_storeys_of_the_package_are_those_of_the_import_contract():
    names = re.findall(r"^(\w+(?: \| \w+)*)  ", CONTRIBUTING, flags=re.MULTILINE)
    shown = [set(line.split(" | ")) for line in names]
    assert shown == [set(line.split(" | ")) for line in LAYERS if "(" not in line]


def test_modules_that_contributing_names_exist():
    modules = re.findall(r"`(_\w+/\w+)`", CONTRIBUTING)
    package = ROOT / "cka_notebook"
    assert modules
    assert [x for x in modules if not (package / f"{x}.py").exists()] == []


@pytest.mark.parametrize("name", ["loader.js", "widget.js", "widget.css"])
def test_the_bundle_names_no_other_site(name):
    bundle = (ROOT / "cka_notebook" / "static" / name).read_text(encoding="utf-8")
    namespaces = "http://www.w3.org/"
    addresses = re.findall(r"(?:https?:)?//[\w-]+(?:\.[\w-]+)+[^\s\"'`]*", bundle)
    assert [url for url in addresses if not url.startswith(namespaces)] == []


@pytest.mark.parametrize("name", ["loader.js", "widget.js"])
def test_the_bundle_exports_its_hooks_as_default_and_nothing_else(name):
    """If there were a named `render`, anywidget would never call `initialize`."""
    bundle = (ROOT / "cka_notebook" / "static" / name).read_text(encoding="utf-8")
    # The bundler gathers all exports in one statement at the end.
    (exported,) = re.findall(r"\bexport\s*\{([^}]*)\}", bundle)
    assert re.fullmatch(r"[\w$]+ as default", exported)
    assert bundle.rstrip().endswith(f"export{{{exported}}};")


@pytest.mark.parametrize(
    "block", re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
)
def test_an_example_of_the_readme_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {
        "model1": nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)),
        "model2": nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)),
        "loader": torch.randn(3, 16, 4).unbind(),
    }
    exec(block, names)
    result = names["result"] if "result" in names else names["explorer"].wait()
    assert result.matrix.shape == (2, 2)
