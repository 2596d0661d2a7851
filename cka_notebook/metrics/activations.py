"""Activations of one layer as the user has them, checked and in float64."""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cka_notebook._grams.packing import CONSTANT_UNITS, MIN_EXAMPLES
from cka_notebook._grams.products import scaled, working_dtype
from cka_notebook._messages import with_article

from .centered import CenteredGram, UndefinedError, of_kernel


class Activations:
    """Activations of one layer.

    Args:
        array: Shape ``(n, ...)``: a tensor, or what numpy makes an array of. All axes
            after the first are flattened into features. Not modified.
        name: What it is called in messages.
        device: Where to compute; None is where the array is.

    Raises:
        TypeError: If it does not hold real numbers.
        ValueError: If it has no examples or features, or if a number is not finite.
    """

    def __init__(
        self, array: Any, name: str, device: torch.device | None = None
    ) -> None:
        self.name = name
        tensor = _tensor(array, name)
        if tensor.ndim == 0 or tensor.numel() == 0:
            msg = f"Expected `{name}` of shape (n, ...), got {tuple(tensor.shape)}."
            raise ValueError(msg)
        self._eps = torch.finfo(working_dtype(tensor.dtype)).eps
        if not tensor.is_floating_point():
            self._eps = torch.finfo(torch.float64).eps
        device = device or tensor.device
        if device.type == "mps":  # has no float64
            device = torch.device("cpu")
        rows = tensor.detach().to(device).reshape(len(tensor), -1).double()
        _check_finite(rows, name)
        self.rows = scaled(rows)

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.rows)

    @cached_property
    def linear(self) -> CenteredGram:
        """Gram matrix of the centered activations.

        Raises:
            UndefinedError: If the examples do not differ by more than rounding.
        """
        centered = self.rows - self.rows.mean(0)
        rounding = self._eps * float(self.rows.norm())
        rest = float(centered.norm())
        if rest <= CONSTANT_UNITS * rounding:
            msg = f"`{self.name}` is constant over the examples"
            raise UndefinedError(msg)
        return CenteredGram(self.name, centered, rounding / rest, is_features=True)

    @cached_property
    def cosines(self) -> Tensor:
        """Cosines of all pairs of examples, ``(n, n)``; 0 where one is zero.

        The activations are not centered: a mean of the batch would make the kernel
        depend on the batch.
        """
        tiny = torch.finfo(torch.float64).tiny
        largest = self.rows.abs().amax(1, keepdim=True).clamp_min(tiny)
        directions = torch.nn.functional.normalize(self.rows / largest, dim=1)
        return directions @ directions.T

    @property
    def cosine(self) -> CenteredGram:
        """The same cosines as a kernel."""
        return of_kernel(self.name, self.cosines, self.linear.rounding)


def check_pair(x: Activations, y: Activations) -> None:
    """Raise an error unless both hold the same number of examples, and enough."""
    if len(x) != len(y):
        msg = (
            f"Expected the same number of examples in `{x.name}` and `{y.name}`, got "
            f"{len(x)} and {len(y)}. Row i of both must be the same example."
        )
        raise ValueError(msg)
    if len(x) < MIN_EXAMPLES:
        msg = f"Expected at least {MIN_EXAMPLES} examples, got {len(x)}."
        raise ValueError(msg)


def _tensor(array: Any, name: str) -> Tensor:
    if not isinstance(array, Tensor):
        return _from_numpy(array, name)
    if array.is_complex():
        msg = f"Expected real numbers in `{name}`, got {array.dtype}."
        raise TypeError(f"{msg} Pass torch.view_as_real({name}).")
    is_dense = array.layout == torch.strided and not array.is_nested
    if not is_dense or array.is_quantized or array.is_meta:
        kind = "meta" if array.is_meta else str(array.layout).removeprefix("torch.")
        kind = "quantized" if array.is_quantized else kind
        msg = (
            f"Expected a dense tensor of numbers as `{name}`, got a {kind} one. "
            "`to_dense`, `to_padded_tensor` or `dequantize` may make one of it."
        )
        raise TypeError(msg)
    return array


def _from_numpy(array: Any, name: str) -> Tensor:
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        msg = f"Expected all values of `{name}`, got a masked array. Fill or drop them."
        raise TypeError(msg)
    try:
        values = np.asarray(array)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = with_article(type(array).__name__)
        msg = f"Expected `{name}` to be a tensor or an array, got {kind}: {error}"
        raise TypeError(msg) from None
    if values.dtype.kind not in "biuf":
        kind = f"dtype {values.dtype}"
        if not isinstance(array, np.ndarray):
            kind = f"{with_article(type(array).__name__)} ({kind})"
        msg = (
            f"Expected real numbers in `{name}`, got {kind}. Pass a tensor, or an "
            "array of numbers of shape (n, ...)."
        )
        raise TypeError(msg)
    if values.dtype == np.longdouble:
        values = values.astype(np.float64)
    native = values.astype(values.dtype.newbyteorder("="))  # a copy, thus writable
    return torch.from_numpy(native)


def _check_finite(rows: Tensor, name: str) -> None:
    bad = ~rows.isfinite().all(1)
    if bool(bad.any()):
        first, count = int(bad.nonzero()[0]), int(bad.sum())
        msg = (
            f"Expected finite numbers in `{name}`, got NaN or infinity in {count} of "
            f"{len(rows)} examples, first in example {first}."
        )
        raise ValueError(msg)
