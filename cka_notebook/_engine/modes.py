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
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from threading import get_ident
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import nn
from torch.compiler import is_dynamo_compiling
from torch.nn.parallel import DataParallel


class Shared:
    """A process-wide change: the first to enter makes it, the last to leave undoes it.

    Args:
        change: Creates the context manager of the change.
    """

    def __init__(self, change: Callable[[], AbstractContextManager[Any]]) -> None:
        self._change = change
        self._lock = threading.RLock()
        self._users = 0
        self._made: AbstractContextManager[Any]

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._made = self._change()
                self._made.__enter__()
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._made.__exit__(None, None, None)


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


class _Installed:
    """The descriptor is part of `torch.nn.Module`."""

    def __enter__(self) -> None:
        nn.Module.training = _TrainingFlag()  # type: ignore[assignment]

    def __exit__(self, *_: object) -> None:
        del nn.Module.training


LEASE = Shared(_Installed)
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
        self._flips = [_flip_of(module) for module in others]
        self._exits = ExitStack()

    def __enter__(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(LEASE)
            stack.enter_context(_seen(self._flags))
            for flip in self._flips:
                stack.enter_context(flip)
            self._exits = stack.pop_all()

    def __exit__(self, *_: object) -> None:
        self._exits.close()


@contextmanager
def _seen(flags: dict[int, bool]) -> Iterator[None]:
    """These flags in this thread, instead of those of the modules themselves."""
    thread = get_ident()
    outer = _passes.get(thread)
    _passes[thread] = {**(outer or {}), **flags}
    try:
        yield
    finally:
        if outer is None:
            del _passes[thread]
        else:
            _passes[thread] = outer


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


_flips: WeakKeyDictionary[nn.Module, Shared] = WeakKeyDictionary()
"""For the modules above: their own flag, which is False while any run needs it."""


def _flip_of(module: nn.Module) -> Shared:
    reference = ref(module)  # The dictionary must not keep its own keys.
    return _flips.setdefault(module, Shared(lambda: _flipped(reference())))


@contextmanager
def _flipped(module: nn.Module | None) -> Iterator[None]:
    if module is None or not module.training:
        yield
        return
    module.training = False
    try:
        yield
    finally:
        module.training = True
