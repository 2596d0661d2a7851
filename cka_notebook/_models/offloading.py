"""Models that accelerate has spread over devices or offloaded.

Its hooks move the weights: an offloaded module has them on ``meta`` except during its
own forward pass.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def is_dispatched(model: nn.Module) -> bool:
    """Whether a device map or offloading places the parts of a model."""
    return hasattr(model, "hf_device_map") or execution_device(model) is not None


def execution_device(model: nn.Module) -> torch.device | None:
    """Device of the first module with a hook of accelerate; None without a hook."""
    for module in model.modules():
        for hook in _hooks(module):
            device = getattr(hook, "execution_device", None)
            if device is not None:
                return torch.device(device)
    return None


def offloaded(model: nn.Module) -> Iterator[Tensor]:
    """Weights that are on ``meta`` between calls, loaded one module at a time."""
    for module in model.modules():
        if not any(getattr(part, "offload", False) for part in _hooks(module)):
            continue
        hook = vars(module)["_hf_hook"]
        away = [name for name, x in module.state_dict().items() if x.is_meta]
        hook.pre_forward(module)
        try:
            state = module.state_dict()
            yield from (state[name] for name in away if not state[name].is_meta)
        finally:
            hook.post_forward(module, torch.empty(0))


def _hooks(module: nn.Module) -> tuple[Any, ...]:
    hook = vars(module).get("_hf_hook")
    return tuple(getattr(hook, "hooks", (hook,))) if hook is not None else ()
