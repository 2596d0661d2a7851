"""Measures of similarity that are made of Gram matrices.

`similarity` computes one of them of two arrays. What the engine computes batch by batch
keeps running sums only, so it can be merged over batches, files and processes.
"""

from .cka import MinibatchCKA
from .measures import similarity

__all__ = ["MinibatchCKA", "names", "similarity"]


def names() -> list[str]:
    """Names accepted by `metric=`; `similarity` knows more.

    Example:
        >>> names()
        ['cka']
    """
    return ["cka"]
