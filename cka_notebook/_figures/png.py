"""A small PNG of a map, made without Bokeh and browser."""

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .shared import BELOW_ZERO, EXACT

PNG_PIXELS = 400
"""Approximate length of the longer side; chosen."""

PNG_CELLS = 160
"""Maximum number of rows or columns; of more layers, evenly spaced ones are shown.

Even noise of 160 x 160 cells compresses to less than 60 kB, the weight of a preview.
"""

UNDEFINED_COLOR = (160, 160, 160)

PALETTE_STEPS = 253
"""Colors of the palette, out of the 256 that a PNG with a color table has."""

GREY, BELOW, UNDEFINED = 253, 254, 255
"""The other three colors: of cells to grey out, below zero, and undefined."""


def png(
    matrix: NDArray[np.floating[Any]],
    palette: Sequence[str],
    limits: tuple[float, float],
    *,
    greyed: NDArray[np.bool_] | None = None,
    is_fallback: bool = False,
) -> bytes:
    """Small PNG of a map in the page's colors; undefined cells are gray.

    Args:
        matrix: Values, ``(L1, L2)``; NaN where undefined.
        palette: Colors as ``"#rrggbb"``, the lowest first.
        limits: Values of the first and the last color.
        greyed: Cells to grey out because they say nothing, ``(L1, L2)``.
        is_fallback: Mark the picture as the fallback of a widget, so that the page
            recognizes and hides it.

    Example:
        >>> picture = png(np.eye(3), ["#000000", "#ffffff"], (0.0, 1.0))
        >>> picture[1:4], len(picture) < 2000
        (b'PNG', True)
    """
    shown = np.ix_(*(_evenly_spaced(size) for size in matrix.shape))
    indices = _color_indices(matrix[shown], limits)
    if greyed is not None:
        indices[greyed[shown]] = GREY
    scale = max(1, round(PNG_PIXELS / max(indices.shape)))
    pixels = indices.repeat(scale, 0).repeat(scale, 1)
    height, width = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", header),
            FALLBACK_MARK if is_fallback else b"",
            _chunk(b"PLTE", _color_table(palette)),
            _chunk(b"IDAT", zlib.compress(_scanlines(pixels), 9)),
            _chunk(b"IEND", b""),
        )
    )


def _evenly_spaced(size: int) -> NDArray[np.intp]:
    count = min(size, PNG_CELLS)
    return np.linspace(0, size - 1, count).round().astype(np.intp)


def _color_indices(
    matrix: NDArray[np.floating[Any]], limits: tuple[float, float]
) -> NDArray[np.uint8]:
    low, high = limits
    share = np.clip((matrix - low) / ((high - low) or 1.0), 0.0, 1.0)
    known = np.isfinite(matrix)
    index = np.where(known, share, 0.0) * (PALETTE_STEPS - 1)
    index = np.where((matrix < 0) & (low >= 0), BELOW, index.round())
    return np.where(known, index, UNDEFINED).astype(np.uint8)


def _color_table(palette: Sequence[str]) -> bytes:
    places = np.linspace(0, len(palette) - 1, PALETTE_STEPS).round().astype(int)
    colors = [bytes.fromhex(palette[place].removeprefix("#")) for place in places]
    others = [bytes.fromhex(color.removeprefix("#")) for color in (EXACT, BELOW_ZERO)]
    return b"".join(colors + others) + bytes(UNDEFINED_COLOR)


def _scanlines(pixels: NDArray[np.uint8]) -> bytes:
    """Rows as differences to the row above (filter 2), which are 0 inside a cell."""
    above = np.vstack([np.zeros_like(pixels[:1]), pixels[:-1]])
    filtered = np.empty((len(pixels), pixels.shape[1] + 1), np.uint8)
    filtered[:, 0] = 2
    filtered[:, 1:] = pixels - above
    return filtered.tobytes()


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


FALLBACK_MARK = _chunk(b"tEXt", b"Comment\0cka_notebook still")
"""At a fixed offset its base64 is fixed, too, and CSS finds the picture by it."""
