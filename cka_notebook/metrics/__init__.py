"""Measures of similarity that are made of Gram matrices, batch by batch.

Each keeps running sums only, so it can be merged over batches, files and processes.
"""

from .cka import MinibatchCKA

__all__ = ["MinibatchCKA", "names"]


def names() -> list[str]:
    """Names accepted by `metric=`.

    Example:
        >>> names()
        ['cka']
    """
    return ["cka"]
