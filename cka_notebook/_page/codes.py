"""Values in one or two bytes each, for what is drawn and never computed with.

A code ``k`` stands for ``low + k * step``; for a standard error, which a band shows,
for ``most * (k / 254) ** 2``, so that small ones are told apart. The largest code is
NaN. ``protocol.ts`` reads them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Header = dict[str, Any]
"""What is sent with some arrays, as JSON."""

Floats = NDArray[np.float32]
Codes = NDArray[np.unsignedinteger[Any]]


def value_codes(
    values: Floats, kind: type[np.unsignedinteger[Any]]
) -> tuple[Codes, dict[str, float]]:
    """Codes of values, evenly over their range, and what ``low`` and ``step`` are.

    Example:
        >>> codes, scale = value_codes(np.float32([0, 0.5, np.nan, 1]), np.uint8)
        >>> codes.tolist(), scale["low"], round(scale["step"], 5)
        ([0, 127, 255, 254], 0.0, 0.00394)
    """
    nothing = np.iinfo(kind).max
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    step = (high - low) / (nothing - 1)
    return _coded((values - low) / (step or 1.0), kind), {"low": low, "step": step}


def error_codes(errors: Floats) -> tuple[Codes, float]:
    """Codes of standard errors, on the scale of their roots, and the largest of them.

    Example:
        >>> codes, most = error_codes(np.float32([0, 0.01, 0.04, np.nan]))
        >>> codes.tolist(), round(most, 5)
        ([0, 127, 254, 255], 0.04)
    """
    most = float(np.max(errors, where=np.isfinite(errors), initial=0.0))
    return _coded(np.sqrt(errors / (most or 1.0)) * 254, np.uint8), most


def _coded(
    steps: NDArray[np.floating[Any]], kind: type[np.unsignedinteger[Any]]
) -> Codes:
    known = np.where(np.isfinite(steps), steps, np.iinfo(kind).max)
    return np.rint(known).astype(kind)
