"""Evaluation mode for the forward passes of a run, and for nothing else.

The flags themselves are left alone. While there are runs, `torch.nn.Module` has a
descriptor through which a thread that is in a forward pass of a run reads ``training``
as False. All other threads read and set what the user has chosen, so two runs, a run
and a user's training loop, or ``model.eval()`` in the next notebook cell cannot
disturb each other. A model that runs parts of itself in threads of its own runs these
in the user's mode; that buffers change then is noted by the probe.
"""

import sys
import threading
from collections.abc import Callable, Iterable
from threading import get_ident
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import nn
from torch.compiler import is_dynamo_compiling
from torch.nn.parallel import DataParallel

from cka_notebook._undo import Undo, undoing


class Shared:
    """A process-wide change: the first to hold it makes it, the last undoes it.

    Args:
        change: Makes the change, and registers what undoes it.
    """

    def __init__(self, change: Callable[[Undo], object]) -> None:
        self._change = change
        self._lock = threading.RLock()
        self._holders: set[object] = set()
        self._undo = Undo()
        self._is_made = False

    def hold(self, holder: object) -> None:
        """Make the change, unless another holder has."""
        with self._lock:
            self._holders.add(holder)
            if not self._is_made:
                self._undo.__exit__()  # what an interrupt left half done
                self._change(self._undo)
                self._is_made = True

    def release(self, holder: object) -> None:
        """Undo the change, unless another holder needs it."""
        with self._lock:
            self._holders.discard(holder)
            if not self._holders:
                self._is_made = False
                self._undo.__exit__()


@undoing
def held(undo: Undo, shared: Shared) -> None:
    """The context in which a shared change is held."""
    holder = object()
    undo.add(shared.release, holder)
    shared.hold(holder)


_passes: dict[int, dict[int, bool]] = {}
"""For each thread in a forward pass: the flags of its modules, by identity."""

_NO_PASS: dict[int, bool] = {}


class _TrainingFlag:
    """``training`` as the current thread sees it; the module's dict has the user's."""

    def __get__(self, module: nn.Module | None, owner: type | None = None) -> Any:
        if not is_dynamo_compiling():  # It cannot trace what follows.
            flag = _passes.get(get_ident(), _NO_PASS).get(id(module))
            if flag is not None:
                return flag
        try:
            return module.__dict__["training"]
        except KeyError:  # Of a class, or a module that keeps its flag elsewhere.
            name = getattr(owner, "__name__", "Module")
            msg = f"{name!r} object has no attribute 'training'"
            raise AttributeError(msg) from None

    def __set__(self, module: nn.Module, value: bool) -> None:
        # A module that sets its own mode in its forward does so for this pass.
        flags = _passes.get(get_ident(), {})
        if id(module) in flags:
            flags[id(module)] = value
        else:
            module.__dict__["training"] = value

    def __delete__(self, module: nn.Module) -> None:
        del module.__dict__["training"]


def _install(undo: Undo) -> None:
    """Make the descriptor part of `torch.nn.Module`."""
    undo.add(_uninstall)
    nn.Module.training = _TrainingFlag()  # type: ignore[assignment]


def _uninstall() -> None:
    if "training" in vars(nn.Module):
        del nn.Module.training


LEASE = Shared(_install)
"""Held by each run from its probe to its end: changing a class is slow."""


class Evaluation:
    """Evaluation mode for one forward pass of the current thread; enter it for each.

    Args:
        modules: All modules of the model.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._modules = list(modules)  # Their identities must stay valid.
        others = _not_covered(self._modules)
        self._flags = {id(m): False for m in self._modules if m not in others}
        self._flips = [switched_off(module, "training") for module in others]
        self._undo = Undo()

    def __enter__(self) -> None:
        self._undo.enter(held(LEASE))
        self._undo.enter(_seen(self._flags))
        for flip in self._flips:
            self._undo.enter(held(flip))

    def __exit__(self, *_: object) -> None:
        self._undo.__exit__()


@undoing
def _seen(undo: Undo, flags: dict[int, bool]) -> None:
    """These flags in this thread, instead of those of the modules themselves."""
    thread = get_ident()
    outer = _passes.get(thread, _NO_PASS)
    undo.add(_see, thread, outer)
    _passes[thread] = {**outer, **flags}


def _see(thread: int, flags: dict[int, bool]) -> None:
    if flags:
        _passes[thread] = flags
    else:
        _passes.pop(thread, None)


def _not_covered(modules: list[nn.Module]) -> set[nn.Module]:
    """Modules whose flag the descriptor does not show, or not to all that run them.

    Scripted modules keep it in C++, some classes have an attribute of their own, and
    replicas of a DataParallel inside the model run in other threads. Before torch 2.6,
    compiled parts cannot be made to run eagerly.
    """
    if "torch._dynamo" in sys.modules and not hasattr(torch.compiler, "set_stance"):
        return set(modules)
    replicated = {
        part
        for module in modules
        if isinstance(module, DataParallel)
        for part in module.modules()
    }
    return {
        module
        for module in modules
        if module in replicated
        or "training" not in vars(module)
        or any(
            "training" in vars(c) for c in type(module).__mro__ if c is not nn.Module
        )
    }


_switches: WeakKeyDictionary[nn.Module, dict[str, Shared]] = WeakKeyDictionary()
"""Attributes that are False while any run needs it."""


def switched_off(module: nn.Module, attribute: str) -> Shared:
    """The change in which an attribute of a module is False, for all threads."""
    reference = ref(module)  # The dictionary must not keep its own keys.
    changes = _switches.setdefault(module, {})
    return changes.setdefault(
        attribute, Shared(lambda undo: _switch_off(undo, reference(), attribute))
    )


def _switch_off(undo: Undo, module: nn.Module | None, attribute: str) -> None:
    if module is not None and getattr(module, attribute):
        undo.add(setattr, module, attribute, True)
        setattr(module, attribute, False)
