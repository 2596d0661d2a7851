"""Sentences about a result, with their severity and kind as fields."""

from collections.abc import Mapping
from typing import Any, Literal

Code = Literal["no_variance", "not_finite", "no_output"]
"""Kinds of reasons: a zero Gram matrix; NaN, Inf or overflow; no usable output."""


class Note(str):
    """A sentence that the reader of a result should know.

    Args:
        text: The sentence.
        grave: Whether it casts doubt on the whole matrix.

    Example:
        >>> note = Note("The batches are not random.", grave=True)
        >>> note, note.grave
        ('The batches are not random.', True)
    """

    grave: bool

    def __new__(cls, text: str, *, grave: bool = False) -> "Note":
        note = super().__new__(cls, text)
        note.grave = grave
        return note


class Reason(str):
    """Why a layer is undefined.

    Args:
        text: The reason, to follow "undefined, ".
        code: Its kind.

    Example:
        >>> reason = Reason("not finite in batch 3", "not_finite")
        >>> reason, reason.code
        ('not finite in batch 3', 'not_finite')
    """

    code: Code

    def __new__(cls, text: str, code: Code) -> "Reason":
        reason = super().__new__(cls, text)
        reason.code = code
        return reason


def is_grave(note: str) -> bool:
    """Whether a note casts doubt on the whole matrix; a plain string does not."""
    return isinstance(note, Note) and note.grave


def code_of(reason: str) -> Code | None:
    """The kind of a reason; None of a plain string, from a file without kinds."""
    return reason.code if isinstance(reason, Reason) else None


def codes_of(reasons: Mapping[str, str]) -> dict[str, Any]:
    """The kinds of these reasons, by layer, where they are known."""
    codes = {layer: code_of(reason) for layer, reason in reasons.items()}
    return {layer: code for layer, code in codes.items() if code is not None}
