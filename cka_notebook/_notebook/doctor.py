"""What a bug report needs, and whether an explorer can be seen here."""

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from cka_notebook._messages import counted

from .cell import front_end
from .fallback import VARIABLE, renderer

NEEDED = ("cka-notebook", "torch", "bokeh", "anywidget", "ipywidgets")
IN_PLACES = ("ipykernel", "jupyterlab_widgets", "jupyterlab", "notebook", "marimo")
"""Packages that some front ends need here, and others where they run themselves."""

NOTEBOOKS = ("Jupyter", "VS Code", "Google Colab", "Kaggle", "Databricks", "marimo")

HINTS = {
    "Jupyter": (
        "An empty cell: anywidget and jupyterlab_widgets must be installed where "
        "Jupyter itself runs, too, which may be another environment. Install them "
        "there, start Jupyter anew and reload the page."
    ),
    "VS Code": (
        "An empty cell: VS Code may have to load anywidget's own script from a CDN. "
        'Allow it with "jupyter.widgetScriptSources": ["jsdelivr.com", "unpkg.com"] in '
        "the settings, and reload the window."
    ),
    "Google Colab": (
        "An explorer that does not move: a thread may not reach the page from here. "
        "Call explorer.run(block=True)."
    ),
}
NO_NOTEBOOK = (
    "Show the explorer in a notebook. Without one, CKA(model1, model2).compare(loader) "
    "computes, and explorer.save_html(path) writes a page for the browser."
)
OLD_KERNEL = (
    "ipykernel 6 does not hear the page while a cell runs: pip install -U ipykernel."
)


class Report(str):
    """A text that a notebook does not show once more, for it was printed."""

    __slots__ = ()

    def _ipython_display_(self) -> None:
        """Show nothing."""


def doctor() -> str:
    """Print what is installed here, whether an explorer can be seen, and what to do.

    Nothing is computed, sent or changed. Paths and names of files are not in it.

    Returns:
        What was printed.

    Example:
        >>> report = doctor()  # doctest: +ELLIPSIS
        cka-notebook ...
        ...
        >>> "torch" in report
        True
    """
    text = Report("\n".join([*_versions(), *_places(), *_verdict()]))
    print(text)  # noqa: T201 what it is called for
    return text


def _versions() -> list[str]:
    found = {name: _version(name) for name in (*NEEDED, *IN_PLACES)}
    python = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    lines = [_line("cka-notebook", found["cka-notebook"]), _line("python", python)]
    return lines + [
        _line(name, number)
        for name, number in found.items()
        if name != "cka-notebook" and (number or name in NEEDED)
    ]


def _places() -> list[str]:
    return [
        _line("front end", front_end() or "none: no notebook"),
        *(_line("device", device) for device in _devices()),
    ]


def _devices() -> list[str]:
    """The processor, and what torch can compute on besides."""
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
    """Whether widgets can be seen, and what to do if not."""
    where, why = front_end(), _obstacle()
    if why is not None:
        return [_line("widgets", f"not shown: {why[0]}"), f"- {why[1]}"]
    hints = [HINTS[where]] if where in HINTS else []
    kernel = _version("ipykernel")
    if kernel is not None and kernel.startswith("6."):
        hints.append(OLD_KERNEL)
    return [_line("widgets", "shown, as far as can be told here"), *_listed(hints)]


def _obstacle() -> tuple[str, str] | None:
    """Why no widget can be seen, and the remedy; None if nothing is in the way."""
    missing = [name for name in NEEDED if _version(name) is None]
    if missing:
        names = " ".join(missing)
        return f"{names} is not installed", f"pip install {names}"
    try:
        kind = renderer()
    except ValueError as error:
        return f"{VARIABLE} has a wrong value", str(error)
    if kind != "widget":
        return f"{VARIABLE}={kind} leaves them out", f"Unset {VARIABLE}."
    if front_end() not in NOTEBOOKS:
        return "there is no notebook", NO_NOTEBOOK
    if not _has_comms():
        return "the kernel has no way to the page", "pip install -U ipykernel"
    return None


def _has_comms() -> bool:
    """Whether comms are those of a kernel, and not the ones that do nothing."""
    import comm  # noqa: PLC0415 anywidget's, which may be missing

    return front_end() == "marimo" or comm.create_comm.__module__ != "comm"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _listed(hints: list[str]) -> list[str]:
    return [f"- {hint}" for hint in hints]


def _line(what: str, value: str | None) -> str:
    return f"{what:<19}{value or 'not installed'}"
