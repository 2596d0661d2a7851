"""Forms of a map that need no kernel: a small PNG, and one HTML file with all of it."""

import base64
import html
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._figures import BELOW_ZERO, EXACT

PNG_PIXELS = 400
"""Width or height of the longer side of a preview, about."""

PNG_CELLS = 160
"""A preview of more layers shows evenly spaced ones, and so stays below 60 kB."""

UNDEFINED_COLOR = (160, 160, 160)
PALETTE_STEPS = 253
"""Colors of the map, of the 256 that a PNG can name."""

GREY, BELOW, UNDEFINED = 253, 254, 255
"""The other three: for cells to be greyed, for values below zero, and for none."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: {theme}; }}
body {{ margin: 1rem; }}
{style}
</style>
</head>
<body>
<main id="explorer"></main>
<!-- Holds BokehJS {version}, Copyright (c) Anaconda, Inc., and Bokeh Contributors,
under the BSD 3-Clause License; the notice stands in the script itself. -->
<script type="application/json" id="state">{state}</script>
<script type="text/plain" id="bokehjs">{bokehjs}</script>
<script type="text/plain" id="module">{module}</script>
<script type="module">
const text = (id) => document.getElementById(id).textContent;
const bytes = (code) => Uint8Array.from(atob(code), (c) => c.charCodeAt(0));
const view = (code) => new DataView(bytes(code).buffer);
const revive = (_, value) =>
  typeof value?.["base64,"] === "string" ? view(value["base64,"]) : value;
const model = (values, models) => ({{
  get: (name) => values[name],
  set() {{}},
  save_changes() {{}},
  on() {{}},
  off() {{}},
  send() {{}},
  comm_live: false,
  widget_manager: {{ get_model: async (id) => models[id] }},
}});
const state = JSON.parse(text("state"), revive);
const runtime = model({{ version: {version_json}, gz: view(text("bokehjs")) }}, {{}});
const explorer = model(state, {{ bokehjs: runtime }});
const source = new Blob([bytes(text("module"))], {{ type: "text/javascript" }});
const {{ default: widget }} = await import(URL.createObjectURL(source));
const signal = new AbortController().signal;
await widget.initialize?.({{ model: explorer, signal }});
const el = document.getElementById("explorer");
await widget.render({{ model: explorer, el, signal }});
</script>
</body>
</html>
"""


def page(
    state: Mapping[str, Any],
    *,
    title: str,
    theme: str,
    module: str,
    style: str,
    bokehjs: bytes,
    version: str,
) -> str:
    """One HTML file that shows a state of the widget without kernel or network.

    Args:
        state: Traits by name; bytes stay bytes. Its ``_runtime`` is replaced.
        title: Title of the page, any text.
        theme: ``"light"`` or ``"dark"``, the paper around.
        module: The widget's JavaScript.
        style: The widget's CSS.
        bokehjs: BokehJS, compressed by gzip.
        version: Version of BokehJS.
    """
    values = {**state, "_runtime": "IPY_MODEL_bokehjs"}
    return PAGE.format(
        title=html.escape(title),
        theme=theme,
        style=style.replace("</", "<\\/"),
        state=_script_json(values),
        bokehjs=base64.b64encode(bokehjs).decode(),
        module=base64.b64encode(module.encode()).decode(),
        version=html.escape(version),
        version_json=_script_json(version),
    )


def png(
    matrix: NDArray[np.floating[Any]],
    palette: Sequence[str],
    limits: tuple[float, float],
    *,
    greyed: NDArray[np.bool_] | None = None,
    is_still: bool = False,
) -> bytes:
    """A small picture of a map in the colors of the page; undefined cells are gray.

    Args:
        matrix: Shape (L1, L2); NaN where undefined.
        palette: Colors as ``"#rrggbb"``, for the low end first.
        limits: Values of the first and the last color.
        greyed: Where the value is of no account, shape (L1, L2); None for nowhere.
        is_still: It stands beside a widget, by whose page it is known and hidden.

    Example:
        >>> picture = png(np.eye(3), ["#000000", "#ffffff"], (0.0, 1.0))
        >>> picture[1:4], len(picture) < 2000
        (b'PNG', True)
    """
    few = np.ix_(*(_spread(size) for size in matrix.shape))
    indices = _color_indices(matrix[few], limits)
    if greyed is not None:
        indices[greyed[few]] = GREY
    scale = max(1, round(PNG_PIXELS / max(indices.shape)))
    pixels = indices.repeat(scale, 0).repeat(scale, 1)
    height, width = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", header),
            STILL if is_still else b"",
            _chunk(b"PLTE", _color_table(palette)),
            _chunk(b"IDAT", zlib.compress(_scanlines(pixels), 9)),
            _chunk(b"IEND", b""),
        )
    )


def _script_json(value: Any) -> str:
    """JSON that no text in it can make the browser read as a tag."""
    text = json.dumps(value, default=_encode_bytes, allow_nan=False)
    return text.replace("<", "\\u003c")


def _encode_bytes(value: Any) -> dict[str, str]:
    return {"base64,": base64.b64encode(bytes(value)).decode()}


def _spread(size: int) -> NDArray[np.intp]:
    count = min(size, PNG_CELLS)
    return np.linspace(0, size - 1, count).round().astype(np.intp)


def _color_indices(
    matrix: NDArray[np.floating[Any]], limits: tuple[float, float]
) -> NDArray[np.uint8]:
    low, high = limits
    part = np.clip((matrix - low) / ((high - low) or 1.0), 0.0, 1.0)
    known = np.isfinite(matrix)
    index = np.where(known, part, 0.0) * (PALETTE_STEPS - 1)
    index = np.where((matrix < 0) & (low >= 0), BELOW, index.round())
    return np.where(known, index, UNDEFINED).astype(np.uint8)


def _color_table(palette: Sequence[str]) -> bytes:
    places = np.linspace(0, len(palette) - 1, PALETTE_STEPS).round().astype(int)
    colors = [bytes.fromhex(palette[place].removeprefix("#")) for place in places]
    others = [bytes.fromhex(color.removeprefix("#")) for color in (EXACT, BELOW_ZERO)]
    return b"".join(colors + others) + bytes(UNDEFINED_COLOR)


def _scanlines(pixels: NDArray[np.uint8]) -> bytes:
    """Rows as differences to the row above, which are zeros within a cell."""
    above = np.vstack([np.zeros_like(pixels[:1]), pixels[:-1]])
    filtered = np.empty((len(pixels), pixels.shape[1] + 1), np.uint8)
    filtered[:, 0] = 2
    filtered[:, 1:] = pixels - above
    return filtered.tobytes()


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


STILL = _chunk(b"tEXt", b"Comment\0cka_notebook still")
"""Marks a picture, always at the same place: base64 of it is always the same."""
