"""Minibatch CKA: running sums over batches, their ratio, its error and its chance."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

SMALLEST = 1e-300
"""Sums of h below this have lost digits: float64 rounds them to multiples of 5e-324."""


@dataclass
class MinibatchCKA:
    """Minibatch CKA (Nguyen et al. 2021) of all layer pairs, with its standard error.

    One batch adds ``h = <U(K), U(L)>`` to each sum, so it weighs n (n - 3), as in the
    official code of the paper. The division happens once, in `compute`. Sums of the
    products of two h give the delta-method standard error of that ratio without keeping
    any batch, and one more sum what it would be by chance. All sums are float64, in the
    units of the activations. In names, x stands for model 1 (rows) and y for model 2
    (columns).

    Attributes:
        xy: Sum of h over batches, ``(L1, L2)``.
        xx: The same of each layer of model 1 with itself, ``(L1,)``.
        yy: The same of model 2, ``(L2,)``.
        xy_xy: Sum over batches of the product of two h of the batch, here of ``xy``
            with itself; the five below are named in the same way.
        null: Sum over batches of ``2 * xx * yy / (n * (n - 3))``, ``(L1, L2)``: the
            variance of ``xy`` under random pairing of the n examples of each batch. NaN
            where n was not given, or not recorded by an older version.
        batches: Number of batches added.

    Example:
        >>> sums = MinibatchCKA.empty(1, 1)
        >>> h = torch.tensor([[3.0]]), torch.tensor([4.0]), torch.tensor([9.0])
        >>> sums.update(*h, examples=16)
        >>> sums.compute()
        tensor([[0.5000]], dtype=torch.float64)
        >>> sums.null_sd()
        tensor([[0.0981]], dtype=torch.float64)
    """

    xy: Tensor
    xx: Tensor
    yy: Tensor
    xy_xy: Tensor
    xy_xx: Tensor
    xy_yy: Tensor
    xx_yy: Tensor
    xx_xx: Tensor
    yy_yy: Tensor
    null: Tensor
    batches: int = 0

    @classmethod
    def empty(cls, rows: int, columns: int, device: torch.device | str = "cpu") -> Self:
        """Sums of no batch, for ``rows`` x ``columns`` layer pairs."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        grid = (rows, columns)
        return cls(
            xy=zeros(*grid),
            xx=zeros(rows),
            yy=zeros(columns),
            xy_xy=zeros(*grid),
            xy_xx=zeros(*grid),
            xy_yy=zeros(*grid),
            xx_yy=zeros(*grid),
            xx_xx=zeros(rows),
            yy_yy=zeros(columns),
            null=zeros(*grid),
        )

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], batches: int) -> Self:
        """What `tensors` gave; without ``null``, as in files of before, that is NaN."""
        null = tensors.get("null")
        if null is None:
            null = torch.full_like(tensors["xy"], torch.nan)
        return cls(**{**tensors, "null": null}, batches=batches)

    def update(
        self, xy: Tensor, xx: Tensor, yy: Tensor, examples: float = math.nan
    ) -> None:
        """Add the h of one batch: ``(L1, L2)``, ``(L1,)`` and ``(L2,)``.

        Args:
            xy: Of all pairs.
            xx: Of each layer of model 1 with itself.
            yy: The same of model 2.
            examples: The number n of examples in the batch, at least 4. Without it,
                the level of chance is not known.
        """
        self.xy += xy
        self.xx += xx
        self.yy += yy
        self.xy_xy.addcmul_(xy, xy)
        self.xy_xx.addcmul_(xy, xx[:, None])
        self.xy_yy.addcmul_(xy, yy)
        self.xx_yy.addcmul_(xx[:, None], yy)
        self.xx_xx.addcmul_(xx, xx)
        self.yy_yy.addcmul_(yy, yy)
        self.null.addcmul_(xx[:, None], yy, value=_null_weight(examples))
        self.batches += 1

    def with_batch(
        self,
        xy: Tensor,
        xx: Tensor,
        yy: Tensor,
        examples: float = math.nan,
        into: Self | None = None,
    ) -> Self:
        """The same as `update`, but these sums stay as they are.

        Args:
            xy: The h of the batch, ``(L1, L2)``.
            xx: The same of each layer of model 1 with itself, ``(L1,)``.
            yy: The same of model 2, ``(L2,)``.
            examples: The number of examples in the batch, as for `update`.
            into: Sums of the same shape on the same device, whose memory is used for
                the result; None allocates it.
        """
        new = self.to(self.xy.device, copy=True) if into is None else into
        rows = xx[:, None]
        torch.add(self.xy, xy, out=new.xy)
        torch.add(self.xx, xx, out=new.xx)
        torch.add(self.yy, yy, out=new.yy)
        torch.addcmul(self.xy_xy, xy, xy, out=new.xy_xy)
        torch.addcmul(self.xy_xx, xy, rows, out=new.xy_xx)
        torch.addcmul(self.xy_yy, xy, yy, out=new.xy_yy)
        torch.addcmul(self.xx_yy, rows, yy, out=new.xx_yy)
        torch.addcmul(self.xx_xx, xx, xx, out=new.xx_xx)
        torch.addcmul(self.yy_yy, yy, yy, out=new.yy_yy)
        weight = _null_weight(examples)
        torch.addcmul(self.null, rows, yy, value=weight, out=new.null)
        new.batches = self.batches + 1
        return new

    def merge(self, other: Self) -> Self:
        """Sums over the batches of both, which must be of the same layers."""
        pairs = zip(self.tensors().items(), other.tensors().values(), strict=True)
        sums = {name: mine + theirs for (name, mine), theirs in pairs}
        return type(self)(**sums, batches=self.batches + other.batches)

    def compute(self) -> Tensor:
        """CKA, ``(L1, L2)`` float64; NaN where a layer has no variance or overflows."""
        return self.xy / self._norm()

    def stderr(self) -> Tensor:
        """Standard error of `compute`, ``(L1, L2)``; NaN with fewer than two batches.

        To first order it is that of the batch jackknife. It holds for random batches
        from one source, and cannot show that batches are not random.
        """
        if self.batches < 2:
            return torch.full_like(self.xy, torch.nan)
        norm = self._norm()
        xx, yy = self.xx[:, None], self.yy
        theta = self.xy / norm
        square = (
            self.xy_xy / norm.square()
            + theta.square() * self._spread_of_norms()
            - theta * (self.xy_xx / xx + self.xy_yy / yy) / norm
        )
        # For identical layers the terms cancel to zero, up to rounding.
        square.clamp_(min=0)
        return (square * self.batches / (self.batches - 1)).sqrt()

    def null_sd(self) -> Tensor:
        """Standard deviation of `compute` by chance, ``(L1, L2)``; NaN if not known.

        If the examples of one model were paired at random with those of the other,
        within each batch, CKA would have the mean 0 and this standard deviation. Both
        hold exactly, whatever the activations: of all U-centered matrices of n
        examples, a space of n (n - 3) / 2 dimensions, permutations mix all directions
        alike. For one batch it is ``sqrt(2 / (n * (n - 3)))``.
        """
        is_known = (self.null >= torch.finfo(self.null.dtype).tiny) & ~self.null.isinf()
        # Sums that have left float64 would give 0 or infinity.
        return torch.where(is_known, self.null.sqrt() / self._norm(), torch.nan)

    def tensors(self) -> dict[str, Tensor]:
        """The sums by name."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name != "batches"
        }

    def to(self, device: torch.device | str, *, copy: bool = False) -> Self:
        """The same sums on another device; a snapshot with ``copy``."""
        tensors = self.tensors().items()
        moved = {name: sums.to(device, copy=copy) for name, sums in tensors}
        return type(self)(**moved, batches=self.batches)

    def _norm(self) -> Tensor:
        square = self.xx[:, None] * self.yy
        norm = square.sqrt()
        outside = (square == 0) | square.isinf()
        norm = torch.where(outside, self.xx.sqrt()[:, None] * self.yy.sqrt(), norm)
        # Sums that have left float64 themselves would give 0 or infinity.
        known = (self.xx >= SMALLEST)[:, None] & (self.yy >= SMALLEST)
        return torch.where(known & norm.isfinite(), norm, torch.nan)

    def _spread_of_norms(self) -> Tensor:
        xx, yy = self.xx[:, None], self.yy
        return (
            self.xx_xx[:, None] / (4 * xx.square())
            + self.yy_yy / (4 * yy.square())
            + self.xx_yy / (2 * xx * yy)
        )


def _null_weight(examples: float) -> float:
    """The variance of ``<A, P B P'>`` over all permutations P, for A and B of norm 1.

    Both are U-centered matrices of that many examples.
    """
    return 2 / (examples * (examples - 3))
