"""Batches in containers that are not dicts, tuples or lists."""

from collections import OrderedDict
from dataclasses import dataclass

import torch


@dataclass
class Example:
    """A batch as a dataclass."""

    left: torch.Tensor
    right: torch.Tensor


class Named(OrderedDict):
    """A dict-like of no Mapping's class in other packages; here with attributes."""


class DictLike:
    """Has keys and items by key, and is no Mapping."""

    def __init__(self, **items):
        self._items = items

    def keys(self):
        return self._items.keys()

    def __getitem__(self, key):
        return self._items[key]
