"""User state that a run borrows and restores: devices, encoders, the compiler."""

import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from cka_notebook._models.offloading import is_dispatched

from .modes import Shared


@contextmanager
def without_nested_tensors(encoders: list[nn.TransformerEncoder]) -> Iterator[None]:
    """Keep torch's encoders from passing nested tensors to their layers.

    In evaluation mode they do so if there is padding, and nested tensors have no Gram
    matrix. The switch is that of the module, because torch's other one counts for all
    threads; the last of several runs restores it.
    """
    with _nested_lock:
        for encoder in encoders:
            count, own = _unnested.get(encoder, (0, encoder.use_nested_tensor))
            _unnested[encoder] = count + 1, own
            encoder.use_nested_tensor = False
    try:
        yield
    finally:
        with _nested_lock:
            for encoder in encoders:
                count, own = _unnested.pop(encoder)
                if count > 1:
                    _unnested[encoder] = count - 1, own
                else:
                    encoder.use_nested_tensor = own


_nested_lock = threading.Lock()
_unnested: dict[nn.TransformerEncoder, tuple[int, bool]] = {}
"""How many runs an encoder is in, and its own setting."""


@contextmanager
def placed(model: nn.Module, device: torch.device | None) -> Iterator[None]:
    """The model on ``device``, and back afterwards; dispatched models stay.

    Raises:
        ValueError: If the model is on several devices, or ``device`` is "meta".
    """
    homes = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    if device is not None and device.type == "meta":
        msg = "Expected a device that stores data, got 'meta'. Leave device=None."
        raise ValueError(msg)
    if device is None or homes == {device} or is_dispatched(model):
        yield
        return
    if len(homes) > 1:
        msg = (
            f"Cannot move {type(model).__name__} to one device: its parameters are on "
            f"{homes}. Leave device=None, and inputs follow the model."
        )
        raise ValueError(msg)
    try:
        model.to(device)
        yield
    finally:
        for home in homes:
            model.to(home)


def eager() -> AbstractContextManager[Any]:
    """Run eagerly: graphs compiled earlier do not contain the hooks."""
    # Without this module, which takes seconds to import, nothing was compiled.
    compiled = "torch._dynamo" in sys.modules
    if compiled and hasattr(torch.compiler, "set_stance"):
        return _STANCE  # Torch has one for all threads.
    return nullcontext()


_STANCE = Shared(lambda: torch.compiler.set_stance("force_eager"))
