"""Forward hooks that copies and pickles of a model do not contain."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from cka_notebook._models.layer_tree import LayerTree


class Uncopied:
    """A forward hook that becomes a no-op in copies and pickles of the model.

    A copy of a model made during a run would otherwise contain the run's buffers.
    """

    def __deepcopy__(self, _: dict[int, Any]) -> Callable[..., None]:
        return no_hook

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[()]]:
        return _unhooked, ()


class Hook(Uncopied):
    """A function as a forward hook."""

    def __init__(self, function: Callable[[nn.Module, Any, Any], None]) -> None:
        self._function = function

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        self._function(module, args, output)


def no_hook(*_: Any) -> None:
    """Takes the place of our hook in a copy of a hooked model."""


def _unhooked() -> Callable[..., None]:
    return no_hook


@contextmanager
def hooked(tree: LayerTree, function: Callable[..., None]) -> Iterator[None]:
    """Call ``function(module, args, output)`` after each forward pass of a module."""
    modules = {id(node.module): node.module for node in tree.nodes}.values()
    hook = Hook(function)
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
