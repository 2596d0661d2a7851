"""User state that a run borrows and restores: devices, encoders, the compiler."""

import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from cka_notebook._grams import precision
from cka_notebook._models.offloading import is_dispatched
from cka_notebook._undo import Undo, undoing

from .modes import Shared, held, switched_off


@undoing
def without_nested_tensors(undo: Undo, encoders: list[nn.TransformerEncoder]) -> None:
    """Keep torch's encoders from passing nested tensors to their layers.

    In evaluation mode they do so if there is padding, and nested tensors have no Gram
    matrix. The switch is that of the module, because torch's other one counts for all
    threads; the last of several runs restores it.
    """
    for encoder in encoders:
        undo.enter(held(switched_off(encoder, "use_nested_tensor")))


@undoing
def placed(undo: Undo, model: nn.Module, device: torch.device | None) -> None:
    """The model on ``device``, and back afterwards; dispatched models stay.

    Raises:
        ValueError: If the model is on several devices, or ``device`` is "meta".
    """
    homes = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    if device is not None and device.type == "meta":
        msg = "Expected a device that stores data, got 'meta'. Leave device=None."
        raise ValueError(msg)
    if device is None or homes == {device} or is_dispatched(model):
        return
    if len(homes) > 1:
        msg = (
            f"Cannot move {type(model).__name__} to one device: its parameters are on "
            f"{homes}. Leave device=None, and inputs follow the model."
        )
        raise ValueError(msg)
    for home in homes:
        undo.add(model.to, home)
    model.to(device)


@undoing
def torch_settings(undo: Undo, kinds: Iterable[str]) -> None:
    """Torch's settings, as they are found, after whatever interrupts a block.

    Torch's own context managers restore them too, unless they are interrupted.

    Args:
        undo: Restores them.
        kinds: Types of the devices on which the block computes.
    """
    for kind in kinds:
        undo.add(_restore, kind, _settings(kind))
        undo.add(precision.let_go, kind, precision.held(kind))
    undo.add(torch.set_grad_enabled, torch.is_grad_enabled())


def _settings(kind: str) -> tuple[Any, ...]:
    nesting = torch.autocast_increment_nesting()
    torch.autocast_decrement_nesting()
    return (
        nesting,
        torch.is_autocast_enabled(kind),
        torch.get_autocast_dtype(kind),
        torch.is_autocast_cache_enabled(),
    )


def _restore(kind: str, found: tuple[Any, ...]) -> None:
    now = _settings(kind)
    if now == found:
        return
    nesting, enabled, dtype, caches = found
    for _ in range(nesting, now[0]):
        torch.autocast_decrement_nesting()
    if nesting == 1:  # the number inside of one more
        torch.clear_autocast_cache()
    torch.set_autocast_enabled(kind, enabled)
    torch.set_autocast_dtype(kind, dtype)
    torch.set_autocast_cache_enabled(caches)


def eager() -> AbstractContextManager[Any]:
    """Run eagerly: graphs compiled earlier do not contain the hooks."""
    # Without this module, which takes seconds to import, nothing was compiled.
    compiled = "torch._dynamo" in sys.modules
    if compiled and hasattr(torch.compiler, "set_stance"):
        return held(_STANCE)  # Torch has one for all threads.
    return nullcontext()


def _force_eager(undo: Undo) -> None:
    frames = sys.modules["torch._dynamo.eval_frame"]
    # No public function returns the stance, which is needed to restore it.
    undo.add(setattr, frames, "_stance", frames._stance)  # noqa: SLF001
    torch.compiler.set_stance("force_eager")


_STANCE = Shared(_force_eager)
