"""Forward hooks that copies and pickles of a model do not contain."""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.jit._script import RecursiveScriptModule

from cka_notebook._models.layer_tree import LayerTree
from cka_notebook._undo import Undo, undoing, unhook


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

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function

    def __call__(self, *given: Any) -> None:
        self._function(*given)


def _with_keywords(before: Callable[..., None]) -> Callable[..., None]:
    """A function that torch may call without the keywords, which it then ignores.

    Torch keeps a hook and its wish for keywords in two places. Another thread that
    calls the model meanwhile sees one without the other.
    """

    def call(module: nn.Module, args: Any, keywords: Any = None) -> None:
        if keywords is not None:
            before(module, args, keywords)

    return call


def no_hook(*_: Any) -> None:
    """Takes the place of our hook in a copy of a hooked model."""


def _unhooked() -> Callable[..., None]:
    return no_hook


def can_be_hooked(module: nn.Module) -> bool:
    """Whether torch lets a module have hooks: scripted ones and their parts do not."""
    return not isinstance(module, RecursiveScriptModule)


@undoing
def hooked(
    undo: Undo,
    tree: LayerTree,
    after: Callable[..., None],
    before: Callable[..., None] | None = None,
) -> None:
    """Call functions after and before each forward pass of each module.

    Args:
        undo: Removes the hooks.
        tree: Its modules.
        after: ``after(module, args, output)``
        before: ``before(module, args, kwargs)``
    """
    modules = {id(node.module): node.module for node in tree.nodes}.values()
    for module in filter(can_be_hooked, modules):
        hook = Hook(after)
        undo.add(unhook, module, hook)
        module.register_forward_hook(hook)
        if before is not None:
            hook = Hook(_with_keywords(before))
            undo.add(unhook, module, hook)
            module.register_forward_pre_hook(hook, with_kwargs=True)
