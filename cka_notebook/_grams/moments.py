"""The moments of layers about whose shift nothing is decided yet."""

import torch
from torch import Tensor


class Moments:
    """Moments of the layers of a group, which its U-centering asks for.

    Args:
        like: A tensor on their device, of their dtype.
        size: Layers of a group at most.

    Attributes:
        means: The squared norm of the mean that a shift has removed, ``(size,)``; 0 of
            layers that are not noted.
    """

    def __init__(self, like: Tensor, size: int) -> None:
        self.means, self._raw = like.new_zeros(2, size).unbind()
        self._is_used = False

    def note(self, slot: int, raw: Tensor | None, mean: Tensor | None) -> None:
        """Note a layer that was shifted by its mean.

        Args:
            slot: Its place in the group.
            raw: Trace of the Gram matrix of its features as given, if known.
            mean: The squared norm of its mean.
        """
        self._is_used = True
        if raw is not None:
            self._raw[slot] = raw
        if mean is not None:
            self.means[slot] = mean

    def take(self, shifted: Tensor) -> Tensor:
        """Traces of the Gram matrices of the features as given; forgets the group.

        Args:
            shifted: Those of the features as they were multiplied, ``(g,)``.
        """
        if not self._is_used:
            return shifted
        known = self._raw[: len(shifted)]
        traces = torch.where(known > 0, known, shifted)
        self._raw.zero_()
        self.means.zero_()
        self._is_used = False
        return traces
