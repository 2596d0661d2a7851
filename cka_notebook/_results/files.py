"""Files of tensors and facts: safetensors with a JSON header, written atomically."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

PathLike = str | os.PathLike[str]


def write(
    path: PathLike,
    kind: str,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    later_facts: Mapping[str, Any] | None = None,
) -> None:
    """Write tensors and facts; the file appears complete or not at all.

    Args:
        path: The file.
        kind: Kind and version of the file.
        tensors: Tensors by name.
        facts: Values for JSON by name.
        later_facts: The same, for facts that the first readers of this kind of file do
            not know, in a place they do not read.

    Raises:
        FileNotFoundError: If its folder does not exist.
    """
    check_folder(path)
    target = Path(path)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    copies = {name: value.cpu().contiguous().clone() for name, value in tensors.items()}
    try:
        header = {"format": kind, "json": json.dumps(facts)}
        if later_facts:
            header["later"] = json.dumps(later_facts)
        save_file(copies, part, header)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def check_folder(path: PathLike) -> None:
    """Raise FileNotFoundError if the folder of a file does not exist."""
    folder = Path(path).parent
    if not folder.is_dir():
        msg = (
            f"Cannot write {Path(path).name!r}: folder {str(folder)!r} does not exist. "
            "Create it first."
        )
        raise FileNotFoundError(msg)


def read(path: PathLike, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write` wrote. Nothing in the file is executed.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is of another kind or version.
    """
    if not Path(path).is_file():
        msg = f"No {kind} file at {str(path)!r}."
        raise FileNotFoundError(msg)
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 not a dict
    except Exception as error:
        msg = f"Expected a file of format {kind!r}, got {str(path)!r}: {error}."
        raise ValueError(msg) from error
    if header.get("format") != kind:
        msg = (
            f"Expected a file of format {kind!r}, got {header.get('format')!r} in "
            f"{str(path)!r}."
        )
        raise ValueError(msg)
    later = json.loads(header.get("later", "{}"))
    return tensors, {**json.loads(header["json"]), **later}
