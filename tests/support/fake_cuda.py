"""CUDA tensors without a GPU, to count what the engine would launch.

Torch's fake tensors have shapes and devices, but no values. On a build without CUDA
they lack the device guard that many operations ask for; here they borrow that of the
meta device, which does nothing. `torch.cuda` answers as with one idle GPU.
"""

import ctypes
import math
from collections import Counter, defaultdict
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cka_notebook._capture import probe
from cka_notebook._capture.rows import Match, Prints
from cka_notebook._engine.state import RunState
from cka_notebook._grams import gpu_buffer, gpu_products
from cka_notebook._grams.buffer import GramBuffer

CUDA = torch.device("cuda:0")
_CUDA_TYPE, _META_TYPE = 1, 14  # c10::DeviceType

_FREE = {
    "aten::_reshape_alias",
    "aten::_to_copy",  # counted as a copy only if it crosses devices or dtypes
    "aten::_unsafe_view",
    "aten::alias",
    "aten::as_strided",
    "aten::detach",
    "aten::diagonal",
    "aten::empty.memory_format",
    "aten::empty_like",
    "aten::empty_strided",
    "aten::expand",
    "aten::new_empty",
    "aten::permute",
    "aten::select.int",
    "aten::slice.Tensor",
    "aten::split.Tensor",
    "aten::split_with_sizes",
    "aten::squeeze.dim",
    "aten::t",
    "aten::transpose.int",
    "aten::unbind.int",
    "aten::unsqueeze",
    "aten::view",
    "aten::view.dtype",
    "prim::device",
}
"""Operations that launch nothing."""

_PHASES = (
    (GramBuffer, "add", "layers"),
    (GramBuffer, "add_unshifted", "layers"),
    (GramBuffer, "_flush", "centering"),
    (RunState, "add", "pairs"),
)

_READS = "aten::_local_scalar_dense", "aten::allclose", "aten::equal"

_JUDGED = {
    "differences": 0.0,
    "equal": True,
    "follow": Match.EXACTLY,
    "shuffled": False,
    "_varies": True,
}
"""What the probe makes of values, which there are none of."""


def _lend_guard():
    library = next(Path(torch.__file__).parent.glob("lib/libc10.*"))
    registry = (ctypes.c_void_p * 32).in_dll(
        ctypes.CDLL(str(library)), "_ZN3c104impl26device_guard_impl_registryE"
    )
    if not registry[_CUDA_TYPE]:
        registry[_CUDA_TYPE] = registry[_META_TYPE]


class Recorder(TorchDispatchMode):
    """Counts launches on the device and bytes that they move, and notes waits.

    Attributes:
        launches: By phase, how many of each operation.
        nbytes: By phase, read and written on the device.
        waits: Operations for which the host waits.
        features: By batch, bytes of the features of all layers.
        layers: Layers of this batch that were reduced.
    """

    def __init__(self):
        super().__init__()
        self._phases = ["other"]
        self.clear()

    def clear(self):
        """Start counting from zero."""
        self.launches, self.nbytes = defaultdict(Counter), Counter()
        self.waits, self.features, self.layers = [], 0, 0

    @contextmanager
    def phase(self, name):
        """What is done in the block belongs to this phase."""
        self._phases.append(name)
        try:
            yield
        finally:
            self._phases.pop()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        if name in _READS:
            return self._read(name, args)
        made = func(*args, **(kwargs or {}))
        full = f"{name}.{func._overloadname}".removesuffix(".default")
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        taken = [x for x in tree_leaves(made) if isinstance(x, torch.Tensor)]
        if name in ("aten::_to_copy", "aten::copy_"):
            self._copy(name, given, taken, args, kwargs or {})
        elif full not in _FREE and any(x.is_cuda for x in (*given, *taken)):
            self._launch(full, given, taken)
        return made

    def _launch(self, name, given, taken):
        phase = self._phases[-1]
        self.launches[phase][name] += 1
        self.nbytes[phase] += _moved(given, taken)

    def _read(self, name, args):
        """What the host reads: something plausible, since there are no values."""
        x = args[0]
        if x.is_cuda:
            self.waits.append(name)
        if name in ("aten::allclose", "aten::equal"):
            return True
        return 1.0 if x.is_floating_point() else x.dtype is torch.bool or 1

    def _copy(self, name, given, taken, args, kwargs):
        source = given[-1] if name == "aten::copy_" else given[0]
        kinds = {source.device.type, taken[0].device.type}
        if "cuda" not in kinds:
            return
        self._launch(name, [source], taken)
        is_async = kwargs.get("non_blocking") or (name == "aten::copy_" and args[2:])
        if len(kinds) > 1 and not is_async:
            self.waits.append(f"{name} {source.device.type} to {taken[0].device.type}")


def _in_phase(recorder, owner, name, phase):
    """A patch of a method that makes it a phase."""
    method = getattr(owner, name)

    def call(self, *args, **kwargs):
        if phase == "layers":
            recorder.layers += 1
            recorder.features += args[0].nbytes
        with recorder.phase(phase):
            return method(self, *args, **kwargs)

    return mock.patch.object(owner, name, call)


def _moved(given, taken):
    """Bytes of distinct tensors: of views of the same numbers once."""
    parts = {}
    for x in (*given, *taken):
        if x.device.type == "cuda":
            place = x.untyped_storage()._cdata, x.storage_offset()
            parts[place] = max(parts.get(place, 0), x.itemsize * _stored(x))
    return sum(parts.values())


def _stored(x):
    """Numbers of a tensor; of an expanded one, those in memory."""
    strides = zip(x.shape, x.stride(), strict=True)
    return math.prod(size for size, stride in strides if stride)


class _Event:
    """An event that has always occurred."""

    def __init__(self, **_):
        pass

    def record(self, *_):
        pass

    def query(self):
        return True

    def synchronize(self):
        pass

    def elapsed_time(self, _):
        return 1.0


_tensor = torch.tensor


def _tensor_by_copy(data, *, device=None, **options):
    """`torch.tensor`, which under a mode of ours does not know fake devices."""
    made = _tensor(data, device="cpu", **options)
    home = torch.device(torch.get_default_device() if device is None else device)
    if home.type == "cpu":
        return made
    return torch.empty(made.shape, dtype=made.dtype, device="cpu").to(home)


@contextmanager
def fake_cuda(product="split"):
    """Fake tensors on CUDA; yields the `Recorder` of what is done with them.

    Args:
        product: Type of the products of float32 layers that are found to be fastest.
    """

    def seconds(candidate, *_):
        is_split = isinstance(candidate, gpu_products.SplitProduct)
        return 1.0 if is_split is (product == "split") else 2.0

    _lend_guard()
    answers = {
        "Event": _Event,
        "current_device": lambda: 0,
        "current_stream": lambda *_: None,
        "device": lambda *_: ExitStack(),
        "get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8, device="cpu"),
        "is_available": lambda: True,
        "is_current_stream_capturing": lambda: False,
        "is_bf16_supported": lambda *_: True,
        "is_initialized": lambda: True,
        "mem_get_info": lambda *_: (60 << 30, 80 << 30),
        "set_rng_state": lambda *_: None,
        "synchronize": lambda *_: None,
    }
    recorder = Recorder()
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        stack.enter_context(mock.patch.object(torch, "tensor", _tensor_by_copy))
        stack.enter_context(mock.patch.object(Prints, "varied", 9))
        for name, answer in _JUDGED.items():
            patch = mock.patch.object(
                probe, name, lambda *_, answer=answer, **__: answer
            )
            stack.enter_context(patch)
        for module in (gpu_products, gpu_buffer):
            patch = mock.patch.object(module, "multiplies_halves", return_value=True)
            stack.enter_context(patch)
        stack.enter_context(mock.patch.object(gpu_products, "gpu_seconds", seconds))
        # What a Triton kernel launches does not pass through torch.
        stack.enter_context(
            mock.patch.object(gpu_buffer, "has_fused", return_value=False)
        )
        stack.enter_context(mock.patch.dict(gpu_buffer._timed, clear=True))
        for owner, name, phase in _PHASES:
            stack.enter_context(_in_phase(recorder, owner, name, phase))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(recorder)
        yield recorder
