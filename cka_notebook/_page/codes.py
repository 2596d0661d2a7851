"""Values as codes of one or two bytes, precise enough to draw but not to compute with.

A code ``k`` stands for the value ``low + k * step``, or for the standard error
``most * (k / 254) ** 2``: on a square root scale, small errors stay distinct. The
largest code is NaN. ``protocol.ts`` decodes them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Header = dict[str, Any]
"""The JSON part of a message; arrays travel as its buffers."""

Floats = NDArray[np.float32]
Codes = NDArray[np.unsignedinteger[Any]]


def floats(values: Tensor) -> Floats:
    """Little-endian float32 on the CPU in row-major order, as values are sent."""
    return np.ascontiguousarray(values.detach().cpu().numpy(), "<f4")


def value_codes(
    values: Floats, kind: type[np.unsignedinteger[Any]]
) -> tuple[Codes, dict[str, float]]:
    """Codes evenly spaced over the range of the values, with ``low`` and ``step``.

    Example:
        >>> codes, scale = value_codes(np.float32([0, 0.5, np.nan, 1]), np.uint8)
        >>> codes.tolist(), scale["low"], round(scale["step"], 5)
        ([0, 127, 255, 254], 0.0, 0.00394)
    """
    undefined = np.iinfo(kind).max
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    step = (high - low) / (undefined - 1)
    return _rounded((values - low) / (step or 1.0), kind), {"low": low, "step": step}


def error_codes(errors: Floats) -> tuple[Codes, float]:
    """Codes of standard errors on a square root scale, and the largest error.

    Example:
        >>> codes, most = error_codes(np.float32([0, 0.01, 0.04, np.nan]))
        >>> codes.tolist(), round(most, 5)
        ([0, 127, 254, 255], 0.04)
    """
    most = float(np.max(errors, where=np.isfinite(errors), initial=0.0))
    return _rounded(np.sqrt(errors / (most or 1.0)) * 254, np.uint8), most


def _rounded(
    steps: NDArray[np.floating[Any]], kind: type[np.unsignedinteger[Any]]
) -> Codes:
    known = np.where(np.isfinite(steps), steps, np.iinfo(kind).max)
    return np.rint(known).astype(kind)
