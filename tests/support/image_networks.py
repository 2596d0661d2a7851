"""Networks of timm on the meta device, where neither weights nor images take memory."""

import sys
from types import ModuleType
from unittest import mock

import pytest
import torch

from cka_notebook._models.layer_tree import LayerTree
from cka_notebook._models.nodes import Output

PARTS = ("ops", "ops.misc", "transforms", "transforms.functional", "datasets", "utils")
"""What timm imports of torchvision, for classes that these networks do not use."""


class _Absent(type):
    """A class of which every attribute is its name."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _AbsentModule(ModuleType):
    """A module that has every class."""

    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Absent(name, (), {})


def import_timm():
    """The package timm, without torchvision, which must fit torch's build."""
    pytest.importorskip("huggingface_hub")
    names = ["torchvision", *(f"torchvision.{part}" for part in PARTS)]
    modules = {name: _AbsentModule(name) for name in names}
    for name in names[1:]:
        parent, _, part = name.rpartition(".")
        setattr(modules[parent], part, modules[name])
    before = {name: sys.modules.get(name) for name in names}
    with mock.patch.dict(sys.modules, modules):
        timm = pytest.importorskip("timm")
        imported = {k: v for k, v in sys.modules.items() if k not in before}
    sys.modules.update(imported)
    return timm


def tree_of(name):
    """The layer tree of a network after one pass, by shapes alone."""
    with torch.device("meta"):
        model = import_timm().create_model(name)
        side = model.default_cfg["input_size"][-1]
        return _probed(model.eval(), torch.zeros(2, 3, side, side))


def _probed(model, images):
    tree = LayerTree(model)
    found, order = {}, iter(range(10**6))

    def note(module, _, output):
        while isinstance(output, tuple | list):
            output = output[0]
        shape = tuple(getattr(output, "shape", ()))
        has_batch = shape and shape[0] % len(images) == 0
        reason = None if has_batch else "no batch axis"
        call = Output(next(order), (None, *shape[1:]), reason=reason)
        found.setdefault(module, []).append(call)

    handles = [module.register_forward_hook(note) for module in model.modules()]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    tree.learn(found)
    return tree
