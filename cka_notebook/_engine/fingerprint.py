"""Fingerprints: whether batches, models and functions are those of an earlier run.

They are the same in every process. A batch is read in samples, so that it costs next to
nothing: its first and last examples, and sums. A function is read by what it does, not
by where it stands: its code, defaults, and the plain values that it takes from around
it. So a notebook cell that is run again defines the same function.
"""

import dis
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from functools import partial
from itertools import chain
from types import CodeType, FunctionType, MethodType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cka_notebook._inputs.nested import as_mapping, attributes, tensors
from cka_notebook._models.offloading import offloaded

MAX_DEPTH = 8
"""Nested objects are read down to this depth."""

MAX_ITEMS = 512
"""Longer lists are read from both ends."""

ENDS = 4096
"""Bytes of the first and of the last example that are read as they are."""

BLOCK, MAX_SUMMED = 4096, 1 << 18
"""A larger array is summed in blocks of this many bytes, evenly spaced."""

PLAIN = (int, float, complex, str, bytes, type(None), Enum, torch.dtype, torch.device)

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Print(NamedTuple):
    """The fingerprint of a batch.

    Attributes:
        layout: Of its structure, shapes and types.
        values: Of its values.
    """

    layout: int
    values: int


def of_batch(batch: Any) -> Print | Callable[[], Print]:
    """The fingerprint of a batch; on a GPU, a function that waits for it.

    Example:
        >>> made = [of_batch(batch) for batch in (["a", "b"], ["a", "c"], ["a"])]
        >>> made[0].layout == made[1].layout, made[0].values == made[1].values
        (True, False)
        >>> made[0].layout == made[2].layout
        False
    """
    reader = _Reader()
    reader.read(batch)
    return reader.finish if reader.must_wait else reader.finish()


def of_function(function: Callable[..., Any] | None) -> str | None:
    """Name and fingerprint of what a function does; None for None.

    Example:
        >>> def scaled(by):
        ...     return lambda x: by * x
        >>> of_function(scaled(2)) == of_function(scaled(2))
        True
        >>> of_function(scaled(2)) == of_function(scaled(3))
        False
    """
    if function is None:
        return None
    reader = _FunctionReader()
    reader.read(function)
    name = getattr(function, "__name__", type(function).__name__)
    return f"{name} ({reader.finish().values % 2**64:016x})"


def of_model(model: nn.Module) -> str:
    """Fingerprint of a model: its modules, what they do, parameters and buffers."""
    reader = _FunctionReader()
    kinds = {type(module): None for module in model.modules()}
    for kind in kinds:
        if not kind.__module__.startswith("torch."):
            reader.read(kind.forward)
    for name, module in model.named_modules():
        kind = type(module)
        extra = module.extra_repr()
        reader.note(f"{name}:{kind.__module__}.{kind.__qualname__}({extra})")
    every = tensors(list(model.state_dict().values()))
    # Each rank of a group has its own part of a `DTensor`.
    present = (x for x in every if not (x.is_meta or hasattr(x, "device_mesh")))
    bits = of_tensors(chain(present, offloaded(model)))
    return f"{bits}{reader.finish().values % 2**64:016x}"


def of_tensors(values: Iterable[Any]) -> str:
    """Digest of the shapes, dtypes and all bits of tensors."""
    sha = hashlib.blake2b(digest_size=16)
    for value in values:
        if isinstance(value, Tensor):
            sha.update(f"{tuple(value.shape)}{value.dtype}".encode())
            raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            sha.update(raw.numpy().tobytes())
    return sha.hexdigest()


class _Reader:
    """Reads a nested value into two digests."""

    def __init__(self) -> None:
        self._layout = hashlib.blake2b(digest_size=8)
        self._values = hashlib.blake2b(digest_size=8)
        self._waiting: list[Tensor] = []
        self._depth = 0
        self._seen: set[int] = set()

    @property
    def must_wait(self) -> bool:
        """Whether `finish` has to wait for a device."""
        return bool(self._waiting)

    def finish(self) -> Print:
        """The fingerprint of what was read."""
        waiting, self._waiting = self._waiting, []
        for sums in waiting:
            self._values.update(repr(sums.tolist()).encode())
        layout, values = self._layout.digest(), self._values.digest()
        return Print(
            int.from_bytes(layout, "big", signed=True),
            int.from_bytes(values, "big", signed=True),
        )

    def note(self, text: str) -> None:
        """Read a text that is not part of the layout."""
        self._values.update(f"{text}\0".encode())

    def read(self, value: Any) -> None:
        """Read a value of any kind."""
        self._layout.update(f"{type(value).__qualname__}\0".encode())
        if isinstance(value, PLAIN):
            self.note(repr(value))
        elif isinstance(value, Tensor):
            self._read_tensor(value)
        elif isinstance(value, np.ndarray | np.generic):
            self._read_array(np.asarray(value))
        elif self._depth < MAX_DEPTH and id(value) not in self._seen:
            self._depth += 1
            self._seen.add(id(value))
            self._read_parts(value)
            self._seen.discard(id(value))
            self._depth -= 1

    def _read_parts(self, value: Any) -> None:
        if callable(value) and not isinstance(value, nn.Module):
            self._read_callable(value)
            return
        if hasattr(value, "__array__"):  # a picture
            self._read_array(np.asarray(value))
            return
        by_key = as_mapping(value)
        if isinstance(by_key, Mapping):
            self._read_items(by_key.items())
        elif isinstance(value, list | tuple):
            self._read_items(value)
        elif isinstance(value, set | frozenset):
            self.note(repr(sorted(map(repr, value))))
        else:
            self._read_items(attributes(value).items())

    def _read_items(self, items: Iterable[Any]) -> None:
        items = list(items)
        self._layout.update(f"{len(items)}\0".encode())
        half = MAX_ITEMS // 2
        for item in items if len(items) <= MAX_ITEMS else items[:half] + items[-half:]:
            self.read(item)

    def _read_callable(self, value: Any) -> None:
        self.note(getattr(value, "__qualname__", ""))

    def _read_tensor(self, value: Tensor) -> None:
        tensor = value.detach()
        text = f"{tuple(tensor.shape)}{tensor.dtype}{tensor.layout}{tensor.device.type}"
        self._layout.update(text.encode())
        if tensor.layout is not torch.strided:
            for part in _parts(tensor):
                self._read_tensor(part)
        elif tensor.is_cpu and tensor.numel():
            size = tensor[0].numel() if tensor.ndim else 1
            flat = _flat(_bits(tensor))
            self._read_bytes(flat.view(torch.uint8).numpy(), size * flat.itemsize)
        elif not tensor.is_meta and tensor.numel():
            self._waiting.append(_sums(_bits(tensor)))

    def _read_array(self, array: np.ndarray[Any, Any]) -> None:
        self._layout.update(f"{array.shape}{array.dtype}".encode())
        if array.dtype.hasobject:
            self._read_items(array.ravel().tolist())
        elif array.size:
            raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            self._read_bytes(raw, raw.size // (len(array) if array.ndim else 1))

    def _read_bytes(self, raw: np.ndarray[Any, Any], size: int) -> None:
        """Read samples of an array: of the first and the last example, and a sum."""
        part = min(size, ENDS)
        self._values.update(raw[:part].tobytes())
        self._values.update(raw[raw.size - part :].tobytes())
        whole = raw.size // BLOCK
        step = max(1, raw.size // MAX_SUMMED)
        blocks = raw[: whole * BLOCK].reshape(whole, BLOCK)[::step].view(np.uint64)
        rest = raw[whole * BLOCK :].sum(dtype=np.uint64)
        self.note(f"{int(blocks.sum(dtype=np.uint64))},{int(rest)}")


class _FunctionReader(_Reader):
    """Reads functions by what they do."""

    def _read_callable(self, value: Any) -> None:
        if isinstance(value, partial):
            self._read_items([value.func, value.args, value.keywords])
        elif isinstance(value, MethodType):
            self._read_items([value.__func__, value.__self__])
        elif isinstance(value, FunctionType):
            self._read_function(value)
        elif isinstance(value, type) or not hasattr(type(value), "__dict__"):
            self.note(f"{value.__module__}.{value.__qualname__}")
        else:
            self._read_object(value)

    def _read_object(self, value: Any) -> None:
        """Read a builtin function by its name, an object by its call and attributes."""
        call = getattr(type(value), "__call__", None)  # noqa: B004 the function itself
        if isinstance(call, FunctionType):
            self._read_items([call, vars(value) if hasattr(value, "__dict__") else {}])
        else:
            name = getattr(value, "__qualname__", "")
            self.note(f"{type(value).__qualname__}.{name}")

    def _read_parts(self, value: Any) -> None:
        if isinstance(value, nn.Module):
            self.note(of_model(value))
        else:
            super()._read_parts(value)

    def _read_function(self, function: FunctionType) -> None:
        self._read_code(function.__code__)
        self._read_items([function.__defaults__, function.__kwdefaults__])
        for value in (*_captured(function), *_globals(function)):
            self._read_around(value)

    def _read_code(self, code: CodeType) -> None:
        self._values.update(code.co_code)
        self.note(repr((code.co_names, code.co_argcount, code.co_kwonlyargcount)))
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._read_code(constant)
            elif isinstance(constant, frozenset):
                self.read(constant)
            else:
                self.note(repr(constant))

    def _read_around(self, value: Any) -> None:
        """Read what a function takes from around it.

        Lists, dictionaries and objects may be where it keeps a log, so their contents
        are not read.
        """
        kinds = (*PLAIN, Tensor, np.ndarray, np.generic, tuple, nn.Module, re.Pattern)
        if isinstance(value, kinds) or callable(value):
            self.read(value)
        else:
            self.note(type(value).__qualname__)


def _captured(function: FunctionType) -> Iterator[Any]:
    """Values of the variables of enclosing functions."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            continue


def _globals(function: FunctionType) -> Iterator[Any]:
    """Values of the global variables that a function reads.

    Functions and classes of other modules count by their names.
    """
    known = function.__globals__
    for name in sorted(_global_names(function.__code__) & known.keys()):
        value = known[name]
        is_code = isinstance(value, FunctionType | type)
        if is_code and value.__module__ != known.get("__name__"):
            yield f"{value.__module__}.{value.__qualname__}"
        else:
            yield value


def _global_names(code: CodeType) -> set[str]:
    found = {x.argval for x in dis.get_instructions(code) if x.opname == "LOAD_GLOBAL"}
    inner = (x for x in code.co_consts if isinstance(x, CodeType))
    return found.union(*map(_global_names, inner))


def _bits(tensor: Tensor) -> Tensor:
    """The numbers of a tensor as integers, which every device sums alike."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    kind = _INTEGERS[tensor.itemsize]
    return tensor if tensor.dtype is kind else tensor.view(kind)


def _flat(tensor: Tensor) -> Tensor:
    """All numbers in memory order, or some of the examples."""
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    stored = tensor.permute(order)
    if stored.is_contiguous():
        return stored.reshape(-1)
    count = len(tensor)
    some = tensor[:: max(1, count // 4)] if count > 8 else tensor
    return torch.cat([some.reshape(-1), tensor[-1:].reshape(-1)])


def _sums(bits: Tensor) -> Tensor:
    """Sums of all numbers, of the first and of the last example."""
    rows = (bits, bits[:1], bits[-1:]) if bits.ndim else (bits,)
    return torch.stack([row.sum(dtype=torch.int64) for row in rows])


def _parts(tensor: Tensor) -> list[Tensor]:
    """The tensors that a sparse or nested one consists of."""
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]  # noqa: SLF001 as they are, not coalesced
    if tensor.layout in (torch.sparse_csr, torch.sparse_csc):
        return [tensor.values()]
    return [tensor.values()] if tensor.is_nested else []
