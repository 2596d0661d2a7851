"""Models that accelerate has spread over devices or offloaded, which move by its hooks.

Weights of an offloaded module are on ``meta`` but for the time of its forward pass.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def is_dispatched(model: nn.Module) -> bool:
    """Whether a device map or offloading says where the parts of a model are."""
    return hasattr(model, "hf_device_map") or execution_device(model) is not None


def execution_device(model: nn.Module) -> torch.device | None:
    """Where the first module with a hook of accelerate computes; None without any."""
    for module in model.modules():
        for hook in _hooks(module):
            device = getattr(hook, "execution_device", None)
            if device is not None:
                return torch.device(device)
    return None


def offloaded(model: nn.Module) -> Iterator[Tensor]:
    """Weights that are on ``meta`` between two calls, loaded a module at a time."""
    for module in model.modules():
        if not any(getattr(part, "offload", False) for part in _hooks(module)):
            continue
        hook = vars(module)["_hf_hook"]
        away = [name for name, held in module.state_dict().items() if held.is_meta]
        hook.pre_forward(module)
        try:
            state = module.state_dict()
            yield from (state[name] for name in away if not state[name].is_meta)
        finally:
            hook.post_forward(module, torch.empty(0))


def _hooks(module: nn.Module) -> tuple[Any, ...]:
    hook = vars(module).get("_hf_hook")
    return tuple(getattr(hook, "hooks", (hook,))) if hook is not None else ()
