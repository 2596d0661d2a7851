"""Text and picture of an explorer, for where its widget is not shown."""

from typing import TYPE_CHECKING, Any

from cka_notebook import _figures
from cka_notebook._figures.png import png
from cka_notebook._messages import counted, shortened

from .fallback import Preview

if TYPE_CHECKING:
    from cka_notebook._results.result import CKAResult

ColorRange = tuple[float, float] | str
"""Values of the first and the last color, or ``"fit"``."""


def preview(
    text: str, result: "CKAResult | None", palette: str, color_range: ColorRange
) -> Preview:
    """The explorer as text and, once there is a result, as a picture.

    Args:
        text: The explorer in words, as `summary` gives them.
        result: The result of the last run that has ended.
        palette: Name of the map's colors.
        color_range: As the map has it.
    """
    if result is None:
        return Preview(text, None)
    matrix = result.matrix.numpy()
    limits = (
        _figures.fitted_range(matrix, palette)
        if isinstance(color_range, str)
        else color_range
    )
    greyed = _figures.exact_cells(
        matrix, result.stderr.numpy(), is_difference=result.is_difference
    )
    colors = _figures.PALETTES[palette]
    return Preview(text, png(matrix, colors, limits, greyed=greyed, is_fallback=True))


def summary(title: str, result: "CKAResult | None") -> str:
    """What is compared, in one line, and the range of values of a result.

    Args:
        title: What is compared.
        result: The result of the last run that has ended, or None.
    """
    if result is None:
        return f"CKAExplorer({title})"
    known = result.matrix[result.matrix.isfinite()]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    return (
        f"CKAExplorer({title}, {result.metric} {low:.2f} to {high:.2f}, "
        f"{result.examples} examples in {counted(result.batches, 'batch')})"
    )


def checked_color_range(value: Any) -> list[float] | str:
    """A color range as traits hold it.

    Raises:
        ValueError: If it is neither ``"fit"`` nor two numbers in order.
    """
    if isinstance(value, str) and value == "fit":
        return value
    numbers = _figures.two_numbers(value)
    if numbers is not None:
        return list(numbers)
    msg = (
        "Expected `color_range` to be 'fit' or (low, high) with low < high, got "
        f"{shortened(value)}."
    )
    raise ValueError(msg)
