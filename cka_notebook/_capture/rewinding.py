"""Leaves no trace of a forward pass: what it changed in a model, and random streams."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cka_notebook._undo import Undo, undoing

from .hooks import can_be_hooked
from .streams import Rewinding

MAX_BYTES = 256 << 20
"""Buffers up to this size, all together, are copied. More hold weights or caches."""

MAX_DEPTH = 3
"""Containers in attributes of modules are looked into this deep."""

_OF_MODULES = set(vars(nn.Module())) - {"_buffers"}
"""Attributes that torch itself keeps in a module."""


@undoing
def rewound(undo: Undo, model: nn.Module) -> None:
    """Restore afterwards what forward passes inside the block have changed."""
    undo.add(Rewinder(model).rewind)


class Rewinder:
    """What a model and the random streams were, to be restored after each pass.

    Buffers, plain attributes of modules and the containers in them are restored, and
    hooks that the model has given itself, but no parameters, and nothing outside of the
    model.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._random = Rewinding(x.device for x in model.parameters())
        self._contents: list[_Contents] = []
        self._tensors: list[_Copy] = []
        self._room = MAX_BYTES
        self._hooks = [(hooks, set(hooks)) for hooks in _hooks_of(model)]
        seen: set[int] = set()
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule) or _is_of_torch(module):
                continue
            for key, value in _own(module).items():
                self._note(value, f"{name}.{key}".lstrip("."), 0, seen)
            self._contents.append(_Contents(name, module, _own(module)))

    @property
    def drew(self) -> bool:
        """Whether random numbers were drawn since."""
        return self._random.drew

    def changed(self) -> list[str]:
        """Names of attributes and buffers that are no longer what they were."""
        names = [name for each in self._contents for name in each.changed()]
        return [*names, *(each.name for each in self._tensors if each.is_changed)]

    def rewind(self, *, only_random: bool = False, other_numbers: bool = False) -> None:
        """Restore everything.

        Args:
            only_random: Only the random streams.
            other_numbers: Then draw from these what the first pass did not draw.
        """
        if other_numbers:
            self._random.skip()
        else:
            self._random.rewind()
        if only_random:
            return
        restored = [contents.restore() for contents in self._contents]
        if any(restored):
            self._remove_hooks()
        for tensor in self._tensors:
            tensor.restore()

    def _remove_hooks(self) -> None:
        """Remove the hooks of a model that was made to forget that it has them.

        Transformers' models install some in their first pass, and keep a flag. Hooks
        of runs in other threads stay.
        """
        for hooks, known in self._hooks:
            for key in set(hooks) - known:
                if not _is_ours(hooks.get(key)):
                    hooks.pop(key, None)

    def _note(self, value: Any, name: str, depth: int, seen: set[int]) -> None:
        """Remember what a value holds, if it can change in place."""
        if id(value) in seen or depth > MAX_DEPTH or isinstance(value, nn.Module):
            return
        seen.add(id(value))
        if isinstance(value, Tensor):
            self._copy(value, name)
        elif isinstance(value, dict | list | set):
            self._contents.append(_Contents(name, value, _copied(value)))
            items = value.values() if isinstance(value, dict) else value
            names = value if isinstance(value, dict) else [""] * len(value)
            for key, item in zip(names, items, strict=True):
                self._note(item, f"{name}.{key}".rstrip("."), depth + 1, seen)

    def _copy(self, tensor: Tensor, name: str) -> None:
        size = tensor.numel() * tensor.element_size()
        if _can_change(tensor) and size <= self._room:
            self._room -= size
            self._tensors.append(_Copy(name.replace("_buffers.", ""), tensor))


class _Contents(NamedTuple):
    """What a module or container held."""

    name: str
    owner: Any
    held: Any

    def changed(self) -> Iterator[str]:
        """Names of what it no longer holds."""
        now = _copied(self.owner)
        if not isinstance(self.held, dict):
            same = len(now) == len(self.held)
            if not same or any(map(_differs, now, self.held)):
                yield self.name
            return
        for key in {**self.held, **now}:
            if key not in now or key not in self.held or now[key] is not self.held[key]:
                yield f"{self.name}.{key}".replace("_buffers.", "").lstrip(".")

    def restore(self) -> bool:
        """Let it hold the same as before; whether it did not."""
        if not any(True for _ in self.changed()):
            return False
        owner, held = self.owner, self.held
        if isinstance(owner, nn.Module):
            for key in set(_own(owner)) - set(held):
                del owner.__dict__[key]
            owner.__dict__.update(held)
        elif isinstance(owner, list):
            owner[:] = held
        else:
            owner.clear()
            owner.update(held)
        return True


class _Copy:
    """A tensor, and a copy of what it held."""

    def __init__(self, name: str, tensor: Tensor) -> None:
        self.name, self._tensor = name, tensor
        self._held = tensor.detach().clone()
        self._version = tensor._version  # noqa: SLF001 the only sign of a change

    @property
    def is_changed(self) -> bool:
        """Whether it was changed in place."""
        return self._tensor._version != self._version  # noqa: SLF001 as above

    def restore(self) -> None:
        """Put back what it held."""
        if self.is_changed:
            with torch.no_grad():
                self._tensor.detach().copy_(self._held)
            self._version = self._tensor._version  # noqa: SLF001 as above


def _hooks_of(model: nn.Module) -> Iterator[dict[int, Any]]:
    """The forward hooks of all modules, by number."""
    for module in model.modules():
        if can_be_hooked(module):
            yield module._forward_hooks  # noqa: SLF001 torch does not list hooks
            yield module._forward_pre_hooks  # noqa: SLF001 as above


def _is_ours(hook: Any) -> bool:
    """Whether a hook belongs to a run."""
    package, _, _ = __name__.partition(".")
    return str(getattr(hook, "__module__", "")).startswith(f"{package}.")


def _own(module: nn.Module) -> dict[str, Any]:
    """Attributes of a module that are not torch's own."""
    return {k: v for k, v in module.__dict__.items() if k not in _OF_MODULES}


def _copied(owner: Any) -> Any:
    if isinstance(owner, nn.Module):
        return _own(owner)
    kind = next(kind for kind in (dict, list, set) if isinstance(owner, kind))
    return kind(owner)


def _differs(one: Any, other: Any) -> bool:
    return one is not other


def _is_of_torch(module: nn.Module) -> bool:
    """Whether this is a layer of torch's: in evaluation mode these keep no state.

    A thread of the user's may train a BatchNorm in the meantime, which must stay,
    and a lazy layer replaces parts of itself for good.
    """
    return type(module).__module__.startswith("torch.nn.")


def _can_change(tensor: Tensor) -> bool:
    """Whether a tensor may hold a state that forward passes change in place."""
    known = tensor.layout == torch.strided and not tensor.is_inference()
    return known and not isinstance(tensor, nn.Parameter) and not tensor.is_meta
