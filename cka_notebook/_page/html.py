"""One HTML file that shows an explorer without a kernel."""

import base64
import html
import json
from collections.abc import Mapping
from typing import Any

from cka_notebook._results import atomic

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
<!-- Contains BokehJS {version}, Copyright (c) Anaconda, Inc., and Bokeh Contributors,
under the BSD 3-Clause License; the script itself includes the notice. -->
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
    """The text of an HTML file that shows an explorer without kernel or network.

    Args:
        state: Traits of the explorer by name; ``_runtime`` is replaced.
        title: Title of the page, any text.
        theme: ``"light"`` or ``"dark"``: the background around the explorer.
        module: The page half, a JavaScript module.
        style: The CSS of the explorer.
        bokehjs: BokehJS, compressed with gzip.
        version: Version of BokehJS.

    Raises:
        ValueError: If the state contains NaN or infinity, which JSON does not have.
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


def write(path: atomic.PathLike, text: str) -> None:
    """Write the text of an HTML file, which appears complete or not at all.

    Raises:
        OSError: If it cannot be written; see `atomic.replace`.
    """
    # A name may contain half of a surrogate pair, which UTF-8 cannot encode.
    content = text.encode("utf-8", "xmlcharrefreplace")
    atomic.replace(path, [content], "Nothing is lost: call save_html again.")


def _script_json(value: Any) -> str:
    """JSON in which no string can be read as a tag by the browser."""
    text = json.dumps(value, default=_encode_bytes, allow_nan=False)
    return text.replace("<", "\\u003c")


def _encode_bytes(value: Any) -> dict[str, str]:
    return {"base64,": base64.b64encode(bytes(value)).decode()}
