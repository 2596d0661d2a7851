"""What the file of a result holds, checked before it is written and when it is read."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from cka_notebook._messages import Note, Reason
from cka_notebook.metrics import MinibatchCKA

from .files import Spec, expect, expect_count, expect_type

DIFFERENCE = " difference"
"""The suffix of the measure of a difference, for titles."""

COUNTS = ("examples", "batches", "skipped")
LISTS = ("layers1", "layers2", "notes")
TEXTS = ("name1", "name2", "metric")
REASONS = ("undefined1", "undefined2")
OPTIONAL = {"sums_batches", "is_difference", "grave_notes", "codes"}

SUMS = [field.name for field in fields(MinibatchCKA) if field.name != "batches"]

MAPS = ("matrix", "stderr", "null_sd")
LATER_MAPS = {"null_sd"}
LATER_SUMS = {"null"}
"""Maps and sums of a result that files of earlier versions do not have."""

NOT_NEGATIVE = (
    *("stderr", "xx", "yy", "xx_xx", "yy_yy", "xy_xy", "xx_yy"),
    *LATER_MAPS,
    *LATER_SUMS,
)
"""Tensors of squares, or of products of sums of squares, by the end of their name."""


def check(specs: Mapping[str, Spec], facts: dict[str, Any]) -> None:
    """Raise ValueError if these are not the tensors and facts of a result."""
    needed = {*COUNTS, *LISTS, *TEXTS, *REASONS, "provenance"}
    check_keys(facts, needed, needed | OPTIONAL)
    for key in COUNTS:
        expect_count(facts[key], f"`{key}`")
    for key in LISTS:
        check_texts(facts[key], key)
    for key in TEXTS:
        expect_type(facts[key], str, f"`{key}`")
    for key in REASONS:
        check_reasons(facts[key], key)
    expect_type(facts["provenance"], dict, "`provenance`")
    _check_optional(facts)
    _check_tensors(specs, facts)


def check_values(tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError if a sum of squares or a standard deviation is negative."""
    for name, value in tensors.items():
        is_square = name.rpartition(".")[2] in NOT_NEGATIVE
        if is_square and bool((value < 0).any()):
            msg = f"tensor {name!r} has negative values, which no data give"
            raise ValueError(msg)


def check_sums(specs: Mapping[str, Spec], prefix: str, grid: tuple[int, int]) -> None:
    """Raise ValueError if these are not running sums of a matrix of this shape."""
    for name in SUMS:
        if name in LATER_SUMS and prefix + name not in specs:
            continue
        vector = {"x": grid[:1], "y": grid[1:]}
        letters = {*name} - {"_"}
        shape = vector[letters.pop()] if len(letters) == 1 else grid
        check_tensor(specs, prefix + name, shape, (torch.float64,))


def check_tensor(
    specs: Mapping[str, Spec],
    name: str,
    shape: tuple[int, ...],
    dtypes: tuple[torch.dtype, ...],
) -> None:
    """Raise ValueError if there is no tensor of this name, shape and dtype."""
    if name not in specs:
        msg = f"it has no tensor {name!r}"
        raise ValueError(msg)
    dtype, own = specs[name].dtype, specs[name].shape
    expected = f"expected tensor {name!r} to be"
    expect(own == shape, f"{expected} of shape {shape}, got {own}")
    expect(dtype in dtypes, f"{expected} {dtypes[0]}, got {dtype}")


def check_keys(content: Mapping[str, Any], needed: set[str], known: set[str]) -> None:
    """Raise ValueError if a key is missing or unknown."""
    missing = sorted(needed - content.keys())
    expect(not missing, f"it has no {missing[:3]}")
    unknown = sorted(content.keys() - known)
    newer = "which a newer version of this package may know: upgrade cka_notebook"
    expect(not unknown, f"it has {str(unknown[:3])[:99]}, {newer}")


def check_texts(value: Any, what: str) -> None:
    """Raise ValueError unless this is a list of strings."""
    expect_type(value, list, f"`{what}`")
    for text in value:
        expect_type(text, str, f"an item of `{what}`")


def check_reasons(value: Any, what: str) -> None:
    """Raise ValueError unless this is a dict of strings."""
    expect_type(value, dict, f"`{what}`")
    for text in value.values():
        expect_type(text, str, f"a value of `{what}`")


def restore_kinds(facts: dict[str, Any]) -> None:
    """Give the texts in the facts of a file their severity or kind.

    In files written before these were fields, only the measure marks a difference.
    """
    facts.setdefault("is_difference", facts["metric"].endswith(DIFFERENCE))
    grave, codes = {*facts.pop("grave_notes", ())}, facts.pop("codes", {})
    facts["notes"] = [
        Note(text, grave=i in grave) for i, text in enumerate(facts["notes"])
    ]
    for key in REASONS:
        facts[key] = {
            layer: Reason(text, codes[text]) if text in codes else text
            for layer, text in facts[key].items()
        }


def _check_optional(facts: dict[str, Any]) -> None:
    expect_type(facts.get("is_difference", False), bool, "`is_difference`")
    check_reasons(facts.get("codes", {}), "codes")
    grave = facts.get("grave_notes", [])
    expect_type(grave, list, "`grave_notes`")
    for number in grave:
        expect_count(number, "`grave_notes`")


def _check_tensors(specs: Mapping[str, Spec], facts: dict[str, Any]) -> None:
    grid = len(facts["layers1"]), len(facts["layers2"])
    floats = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    known = {*MAPS}
    needed = known - LATER_MAPS
    for name in MAPS:
        if name in LATER_MAPS and name not in specs:
            continue
        check_tensor(specs, name, grid, floats)
    if "sums_batches" in facts:
        expect_count(facts["sums_batches"], "`sums_batches`")
        counts = facts["sums_batches"], facts["batches"]
        expect(
            counts[0] == counts[1], "its sums are of {} batches, not {}".format(*counts)
        )
        check_sums(specs, "sums.", grid)
        known |= {f"sums.{name}" for name in SUMS}
    check_keys(specs, needed, known)
