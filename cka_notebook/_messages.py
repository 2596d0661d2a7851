"""Parts of messages, and messages with their severity or kind as a field."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Literal, Self

import torch

SHOWN = 3
"""Maximum number of names that a message lists."""

MOST_LETTERS = 200
"""Maximum length of a value in a message."""


Code = Literal[
    "alias",  # the same module as an earlier row of the tree
    "called_repeatedly",  # each call is a layer of its own
    "model",  # the model itself, which repeats its last layer
    "no_batch_axis",  # no axis of the output, or not always one, is the batch
    "no_tensor",  # no output, or none with a strided, real, floating-point tensor
    "no_variance",  # the U-centered Gram matrix is zero
    "not_called",
    "not_finite",
    "not_in_result",  # a row of a saved result that was not compared
]
"""Kinds of reasons why a layer cannot be chosen, or is undefined."""


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

    def __new__(cls, text: str, *, grave: bool = False) -> Self:
        note = super().__new__(cls, text)
        note.grave = grave
        return note


class Reason(str):
    """Why a layer cannot be chosen, or is undefined.

    Args:
        text: For people.
        code: Its kind, for programs.

    Example:
        >>> reason = Reason("called 2 times", "called_repeatedly")
        >>> reason, reason.code
        ('called 2 times', 'called_repeatedly')
    """

    code: Code

    def __new__(cls, text: str, code: Code) -> Self:
        reason = super().__new__(cls, text)
        reason.code = code
        return reason

    def __getnewargs__(self) -> tuple[str, Code]:  # type: ignore[override]
        """Arguments of `__new__`, for copies and pickles."""
        return str(self), self.code


def is_grave(note: str) -> bool:
    """Whether a note casts doubt on the whole matrix; a plain string does not."""
    return isinstance(note, Note) and note.grave


def code_of(reason: str | None) -> Code | None:
    """The kind of a reason; None of a plain string, as old files have it."""
    return reason.code if isinstance(reason, Reason) else None


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    Example:
        >>> counted(1, "batch"), counted(3, "batch"), counted(0, "layer")
        ('1 batch', '3 batches', '0 layers')
    """
    ending = "es" if noun.endswith("ch") else "s"
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{ending}"


def first_few(names: Sequence[str]) -> str:
    """The first few names, quoted.

    Example:
        >>> print(first_few(["a", "b"]), first_few("abcd"))
        'a', 'b' 'a', 'b', 'c', ...
    """
    listed = ", ".join(map(repr, names[:SHOWN]))
    return f"{listed}, ..." if len(names) > SHOWN else listed


def with_article(noun: str) -> str:
    """A noun, such as the name of a class, with its article.

    Example:
        >>> with_article("DataLoader"), with_article("int"), with_article("ndarray")
        ('a DataLoader', 'an int', 'an ndarray')
    """
    is_spelled = noun[:2].lower() == "nd"
    return f"{'an' if noun[:1].lower() in 'aeio' or is_spelled else 'a'} {noun}"


def shortened(value: object) -> str:
    """A value in a message, whatever it is.

    Example:
        >>> shortened("ab"), shortened(10**9999), shortened("ab" * 200)
        ("'ab'", 'a value of type int', "'abababababababababababababababa...")
    """
    try:
        text = repr(value)
    except Exception:  # of a foreign class, or of too many digits
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= MOST_LETTERS else f"{text[:32]}..."


def metric_title(metric: str) -> str:
    """Name of a measure in titles and hover texts.

    Example:
        >>> metric_title("cka difference")
        'CKA difference'
    """
    return metric.replace("cka", "CKA")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question that suggests the names most similar to a wrong one, or nothing.

    Example:
        >>> did_you_mean("fc1", ["fc", "conv", "fc2"])
        " Did you mean 'fc' or 'fc2'?"
        >>> did_you_mean("head", ["fc"])
        ''
    """
    candidates = list(dict.fromkeys(known))
    near = difflib.get_close_matches(name, candidates, n=3, cutoff=0.4)
    *first, last = map(repr, near or [""])
    choices = f"{', '.join(first)} or {last}" if first else last
    return f" Did you mean {choices}?" if near else ""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: then nothing else follows from an attempt that failed.

    Example:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(ValueError())
        (True, False)
    """
    kinds = torch.OutOfMemoryError, MemoryError
    causes = (error, error.__cause__)
    texts = "can't allocate memory", "out of memory"
    return any(isinstance(x, kinds) or _says(str(x), texts) for x in causes)


def _says(text: str, parts: Iterable[str]) -> bool:
    return any(part in text for part in parts)


def error_text(error: BaseException) -> str:
    """The message of an error, or at least its type, and the notes added to it.

    Example:
        >>> error_text(ValueError("no room")), error_text(KeyboardInterrupt())
        ('no room', 'KeyboardInterrupt')
    """
    text = str(error) or type(error).__name__
    notes = getattr(error, "__notes__", ())
    return " ".join([f"{text.rstrip('.')}.", *notes]) if notes else text
