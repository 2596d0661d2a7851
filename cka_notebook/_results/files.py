"""Files of tensors and facts: safetensors with a JSON header and a checksum.

A file begins with the length of its header, eight bytes. The header, padded to eight
bytes, names the dtype, the shape and the place of each tensor in the data that follow;
its entry `__metadata__` holds the facts as JSON. Files are parsed here, because a file
from elsewhere can be damaged or made to harm: nothing in it counts before it is
checked, and time and memory stay in proportion to its size.
"""

import errno
import hashlib
import json
import math
import os
import re
import reprlib
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from . import atomic
from .atomic import PathLike

MAX_HEADER = 32 << 20
"""Bytes; the names and reasons of 50 000 layers take a quarter."""

MAX_VALUES = 2_000_000
"""Values in the JSON of a header, each of which takes up to a hundred bytes."""

MAX_DEPTH = 64
"""Maximum depth of nested lists and objects in the JSON of a header."""

MAX_AXES = 8

LENGTH = 8
"""Bytes of the length of the header, and what the header is padded to."""

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

UNSIGNED = "0" * 64
"""What the header has in place of the checksum of header and data while it is taken."""

ENTRIES = {"format", "json", "later"}
"""The entries of a header that files without a checksum have."""

OTHERS = {
    b"PK\x03\x04": "a zip archive, as torch.save and numpy.savez write",
    b"\x80": "a pickle",
    b"\x93NUMPY": "an array of numpy.save",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "compressed with gzip",
}
"""Other kinds of files by their first bytes."""


class Spec(NamedTuple):
    """What the header says of a tensor: its dtype, shape and place in the data."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


Check = Callable[[Mapping[str, Spec], dict[str, Any]], None]
"""Raises ValueError, which names the fault, for tensors and facts of another kind."""

ValuesCheck = Callable[[Mapping[str, Tensor]], None]
"""Raises ValueError for tensors with values that cannot be."""


def write(
    path: PathLike,
    kind: str,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    later_facts: Mapping[str, Any] | None = None,
    *,
    kept: str = "",
    check: Check | None = None,
    check_values: ValuesCheck | None = None,
) -> None:
    """Write tensors and facts; the file appears complete or not at all.

    Args:
        path: The file.
        kind: Kind and version of the file.
        tensors: Tensors by name.
        facts: Values for JSON by name.
        later_facts: The same, for facts that the first readers of this kind of file do
            not know, in a place they do not read.
        kept: Where the content is if it cannot be written, in a sentence.
        check: As in `read`, which must accept the file.
        check_values: As in `read`.

    Raises:
        OSError: If it cannot be written; see `atomic.replace`.
        TypeError: If a fact has a type that JSON does not have.
        ValueError: If `read` would not accept the file.
    """
    # Wide types first, so that each tensor is aligned. Copies, because the checksum
    # comes before the data, which other threads could change.
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    data = [_bytes_of(tensors[name].detach().cpu().clone()) for name in order]
    metadata = {"sha256": UNSIGNED, "format": kind, "json": json.dumps(facts)}
    if later_facts:
        metadata["later"] = json.dumps(later_facts)
    head = _packed({"__metadata__": metadata, **_places(tensors, order)})
    try:
        _facts(*_parse(head[LENGTH:], sum(map(len, data))), kind, check)
        if check_values is not None:
            check_values(tensors)
    except ValueError as error:
        msg = f"Cannot write {os.fspath(path)!r}: {error}. {kept}"
        raise ValueError(msg) from error
    sha = hashlib.sha256(head)
    for piece in data:
        sha.update(piece)
    signed = head.replace(UNSIGNED.encode(), sha.hexdigest().encode(), 1)
    atomic.replace(path, [signed, *data], kept)


def read(
    path: PathLike,
    kind: str,
    check: Check | None = None,
    check_values: ValuesCheck | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write` wrote. Nothing in the file is executed.

    Args:
        path: The file.
        kind: Kind and version that it must have.
        check: What else tensors and facts must be, asked before the tensors are read.
        check_values: What else the tensors must hold.

    Returns:
        The tensors, which own their memory, and the facts.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is anything other than a whole file of that kind.
    """
    atomic.check_name(path)
    with blamed(path, kind), _opened(path, kind) as file:
        head, size = _head(file)
        metadata, specs = _parse(head[LENGTH:], size)
        facts = _facts(metadata, specs, kind, check)
        tensors = _tensors(file, specs, head, metadata.get("sha256"))
        if check_values is not None:
            check_values(tensors)
        return tensors, facts


@contextmanager
def blamed(path: PathLike, kind: str) -> Iterator[None]:
    """Name the file in every error about its content."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        fault = str(error) or type(error).__name__
        if not isinstance(error, ValueError):
            fault = f"{type(error).__name__}: {fault}"
        msg = f"Expected a file of format {kind!r}, got {os.fspath(path)!r}: {fault}."
        raise ValueError(msg) from error


def expect(holds: bool, fault: str) -> None:
    """Raise ValueError with this fault if something does not hold."""
    if not holds:
        raise ValueError(fault)


def expect_type(value: Any, kind: type | tuple[type, ...], what: str) -> None:
    """Raise ValueError unless this has one of these exact types: True is no int."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if type(value) not in kinds:
        names = " or ".join(x.__name__ for x in kinds)
        msg = f"expected {what} of type {names}, got {reprlib.repr(value)}"
        raise ValueError(msg)


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a tensor, which is contiguous and on the CPU."""
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return raw.data


def _places(tensors: Mapping[str, Tensor], order: list[str]) -> dict[str, Any]:
    """The entries of tensors in a header."""
    sizes = [tensors[name].numel() * tensors[name].itemsize for name in order]
    ends = list(accumulate(sizes))
    return {
        name: {
            "dtype": NAMES.get(tensors[name].dtype, str(tensors[name].dtype)),
            "shape": list(tensors[name].shape),
            "data_offsets": [end - size, end],
        }
        for name, size, end in zip(order, sizes, ends, strict=True)
    }


def _packed(header: dict[str, Any]) -> bytes:
    """A header with its length, padded so that the data is aligned."""
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH)
    return len(text).to_bytes(LENGTH, "little") + text


@contextmanager
def _opened(path: PathLike, kind: str) -> Iterator[BinaryIO]:
    try:
        # Before opening it: opening a pipe waits, and a device may react.
        mode = Path(path).stat().st_mode
        expect(stat.S_ISREG(mode), "it is a folder or a device, not a file")
        with Path(path).open("rb") as file:
            yield file
    except (FileNotFoundError, NotADirectoryError) as error:
        msg = f"No {kind} file at {os.fspath(path)!r}."
        raise FileNotFoundError(errno.ENOENT, msg) from error
    except OSError as error:
        msg = f"Cannot read {os.fspath(path)!r}: {error.strerror or error}."
        raise OSError(error.errno, msg) from error


def _head(file: BinaryIO) -> tuple[bytes, int]:
    """The header with its length, and the number of bytes after it."""
    size = os.fstat(file.fileno()).st_size
    expect(size > 0, "it is empty")
    first = file.read(LENGTH)
    length = int.from_bytes(first, "little")
    if length > min(size - LENGTH, MAX_HEADER):
        other = next((k for start, k in OTHERS.items() if first.startswith(start)), "")
        is_cut = size < LENGTH or length <= MAX_HEADER
        fault = "it ends within its header" if is_cut else "it has no such header"
        raise ValueError(f"it is {other}" if other else fault)
    head = first + file.read(length)
    expect(len(head) == LENGTH + length, "it ends within its header")
    return head, size - LENGTH - length


def _parse(header: bytes, size: int) -> tuple[dict[str, str], dict[str, Spec]]:
    """Metadata and tensors of a header, before ``size`` bytes of data."""
    expect(len(header) <= MAX_HEADER, f"its header has {len(header)} bytes")
    content = _object(header.decode())
    metadata = content.pop("__metadata__", {})
    expect_type(metadata, dict, "metadata")
    for value in metadata.values():
        expect_type(value, str, "metadata")
    specs = {name: _spec(name, entry) for name, entry in content.items()}
    at = 0
    for name, spec in sorted(specs.items(), key=_place):
        where = f"tensor {reprlib.repr(name)} is at byte {spec.begin}, expected {at}"
        expect(spec.begin == at, where)
        at = spec.end
    fault = f"its tensors have {at} bytes, but {size} follow the header"
    expect(at == size, fault)
    return metadata, specs


def _place(item: tuple[str, Spec]) -> tuple[int, int]:
    return item[1].begin, item[1].end


def _spec(name: str, entry: Any) -> Spec:
    what = f"entry of tensor {reprlib.repr(name)}"
    expect_type(entry, dict, what)
    are_known = entry.keys() == {"dtype", "shape", "data_offsets"}
    expect(are_known, f"the {what} has other keys than dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    known = isinstance(dtype, str) and dtype in DTYPES
    expect(known, f"the {what} has the dtype {reprlib.repr(dtype)}")
    for numbers in (shape, offsets):
        expect_type(numbers, list, what)
        for number in numbers:
            expect_count(number, what)
    expect(len(shape) <= MAX_AXES, f"the {what} has {len(shape)} axes")
    expect(len(offsets) == 2, f"the {what} has {len(offsets)} offsets")
    begin, end = offsets
    expected = math.prod(shape) * DTYPES[dtype].itemsize
    fault = f"the {what} has {end - begin} bytes, but its shape needs {expected}"
    expect(end - begin == expected, fault)
    return Spec(DTYPES[dtype], tuple(shape), begin, end)


def expect_count(value: Any, what: str) -> None:
    """Raise ValueError unless this is a count."""
    expect_type(value, int, what)
    if not 0 <= value < 1 << 53:
        msg = f"expected {what} from 0 to 2 ** 53, got {reprlib.repr(value)}"
        raise ValueError(msg)


def _object(text: str) -> dict[str, Any]:
    """A JSON object of bounded size and depth, in which no key is repeated."""
    # Outside of strings, each comma and bracket is at most one value.
    marks = re.sub(r'"(?>[^"\\]+|\\.?)*+"?|[^][{},"]+', "", text, flags=re.DOTALL)
    expect(len(marks) <= MAX_VALUES, "its header has too many values")
    steps = [1 if mark in "[{" else -1 for mark in marks if mark != ","]
    depth = max(accumulate(steps), default=0)
    expect(depth <= MAX_DEPTH, f"its header is {depth} levels deep")
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        msg = f"its header is no JSON: {error}"
        raise ValueError(msg) from error
    expect_type(value, dict, "header")
    return value  # type: ignore[no-any-return]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    expect(len(content) == len(pairs), "its header repeats a key")
    return content


def _facts(
    metadata: dict[str, str], specs: dict[str, Spec], kind: str, check: Check | None
) -> dict[str, Any]:
    """The facts in the metadata, checked."""
    _check_kind(metadata, kind)
    facts = {**_object(metadata["json"]), **_object(metadata.get("later", "{}"))}
    if check is not None:
        check(specs, facts)
    return facts


def _check_kind(metadata: dict[str, str], kind: str) -> None:
    """Check the format, and that all entries are there and none is unknown."""
    own = metadata.get("format", "")
    name, _, version = own.rpartition("/")
    if own != kind and name == kind.rpartition("/")[0] and version.isdecimal():
        # As text first: the number of a hostile file may be too long to convert.
        is_newer = len(version) > 9 or int(version) > int(kind.rpartition("/")[2])
        newer = "newer than this package: upgrade cka_notebook"
        older = "of an older version of cka_notebook, which has to read it"
        raise ValueError(f"its format is {own[:99]!r}, {newer if is_newer else older}")
    expect(own == kind, f"its format is {reprlib.repr(own)}")
    expect("json" in metadata, "it has no facts")
    unknown = metadata.keys() - ENTRIES
    is_known = not unknown or "sha256" in unknown
    expect(is_known, f"it has no checksum, but {reprlib.repr(unknown)}")


def _unsigned(head: bytes, checksum: str) -> bytes:
    """A header as it was when its checksum, the first thing in it, was taken."""
    return head.replace(checksum.encode(), UNSIGNED.encode(), 1)


def _tensors(
    file: BinaryIO, specs: Mapping[str, Spec], head: bytes, checksum: str | None
) -> dict[str, Tensor]:
    """The tensors after a header, each in its own memory."""
    unsigned = head if checksum is None else _unsigned(head, checksum)
    sha, tensors = hashlib.sha256(unsigned), {}
    for name, spec in sorted(specs.items(), key=_place):
        tensors[name] = torch.empty(spec.shape, dtype=spec.dtype, device="cpu")
        data = _bytes_of(tensors[name])
        count = file.readinto(data)  # type: ignore[attr-defined]
        expect(count == len(data), "it ends within its data")
        sha.update(data)
        is_known = spec.dtype != torch.bool or bytes(data).strip(b"\0\1") == b""
        expect(is_known, f"tensor {reprlib.repr(name)} is neither true nor false")
    is_whole = checksum is None or sha.hexdigest() == checksum
    expect(is_whole, "its checksum is wrong: it is damaged")
    return tensors
