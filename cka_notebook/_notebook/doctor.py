"""Facts for a bug report, and whether explorers can be displayed here."""

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from cka_notebook._messages import counted

from .cell import front_end
from .fallback import VARIABLE, renderer

NEEDED = ("cka-notebook", "torch", "bokeh", "anywidget", "ipywidgets")
OPTIONAL = ("ipykernel", "jupyterlab_widgets", "jupyterlab", "notebook", "marimo")
"""Packages that some front ends need here, others in their own environment."""

NOTEBOOKS = ("Jupyter", "VS Code", "Google Colab", "Kaggle", "Databricks", "marimo")

HINTS = {
    "Jupyter": (
        "If the cell stays empty: anywidget and jupyterlab_widgets must also be "
        "installed in the environment that runs Jupyter itself. Install them there, "
        "restart Jupyter and reload the page."
    ),
    "VS Code": (
        "If the cell stays empty: VS Code may need to load anywidget's script from a "
        'CDN. Allow it with "jupyter.widgetScriptSources": ["jsdelivr.com", '
        '"unpkg.com"] in the settings and reload the window.'
    ),
    "Google Colab": (
        "If the explorer does not move: background threads may be unable to reach the "
        "page. Call explorer.run(block=True)."
    ),
}
NO_NOTEBOOK = (
    "Show the explorer in a notebook. Without one, CKA(model1, model2).compare(loader) "
    "computes the result and explorer.save_html(path) writes a page for the browser."
)
OLD_KERNEL = (
    "ipykernel 6 cannot receive messages from the page while a cell is running. "
    "Upgrade it: pip install -U ipykernel."
)


class Report(str):
    """A text that was printed already, so a notebook does not show it again."""

    __slots__ = ()

    def _ipython_display_(self) -> None:
        """Show nothing."""


def doctor() -> str:
    """Print versions, whether explorers can be displayed, and what to do if not.

    Computes, sends and changes nothing. The report contains no paths.

    Returns:
        The printed text.

    Example:
        >>> report = doctor()  # doctest: +ELLIPSIS
        cka-notebook ...
        ...
        >>> "torch" in report
        True
    """
    text = Report("\n".join([*_versions(), *_places(), *_verdict()]))
    print(text)  # noqa: T201 its purpose
    return text


def _versions() -> list[str]:
    found = {name: _version(name) for name in (*NEEDED, *OPTIONAL)}
    python = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    lines = [_line("cka-notebook", found["cka-notebook"]), _line("python", python)]
    return lines + [
        _line(name, number)
        for name, number in found.items()
        if name != "cka-notebook" and (number or name in NEEDED)
    ]


def _places() -> list[str]:
    return [
        _line("front end", front_end() or "none (not in a notebook)"),
        *(_line("device", device) for device in _devices()),
    ]


def _devices() -> list[str]:
    """The processor, and the other devices that torch can use."""
    found = [f"cpu, {counted(torch.get_num_threads(), 'thread')}"]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            gigabytes = card.total_memory / 2**30
            found.append(f"cuda:{index}, {card.name}, {gigabytes:.0f} GB")
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def _verdict() -> list[str]:
    """Whether widgets can be displayed, and what to do if not."""
    name, obstacle = front_end(), _obstacle()
    if obstacle is not None:
        reason, remedy = obstacle
        return [_line("widgets", f"not shown: {reason}"), f"- {remedy}"]
    hints = [HINTS[name]] if name in HINTS else []
    kernel = _version("ipykernel")
    if kernel is not None and kernel.startswith("6."):
        hints.append(OLD_KERNEL)
    return [_line("widgets", "should be shown"), *_listed(hints)]


def _obstacle() -> tuple[str, str] | None:
    """Why widgets cannot be displayed, and the remedy; None if they can."""
    missing = [name for name in NEEDED if _version(name) is None]
    if missing:
        names = " ".join(missing)
        return f"{names} is not installed", f"pip install {names}"
    try:
        kind = renderer()
    except ValueError as error:
        return f"invalid {VARIABLE}", str(error)
    if kind != "widget":
        return f"{VARIABLE}={kind} turns them off", f"Unset {VARIABLE}."
    if front_end() not in NOTEBOOKS:
        return "not in a notebook", NO_NOTEBOOK
    if not _has_comms():
        return "the kernel cannot reach the page", "pip install -U ipykernel"
    return None


def _has_comms() -> bool:
    """Whether comms reach a page. Outside of a kernel they do nothing."""
    import comm  # noqa: PLC0415 may be missing

    return front_end() == "marimo" or comm.create_comm.__module__ != "comm"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _listed(hints: list[str]) -> list[str]:
    return [f"- {hint}" for hint in hints]


def _line(label: str, value: str | None) -> str:
    return f"{label:<19}{value or 'not installed'}"
