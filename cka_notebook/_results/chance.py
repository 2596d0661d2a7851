"""What CKA two unrelated layers reach by chance, and how unlikely a value then is."""

from typing import Literal

import torch
from torch import Tensor

NOT_KNOWN = torch.tensor(torch.nan, dtype=torch.float64, device="cpu")
"""In place of the standard deviations of all cells."""

UNKNOWN = (
    "The level of chance of this result is not known, because it was saved, or its "
    "checkpoint begun, by a version that did not record it. Run the comparison again."
)
OF_A_DIFFERENCE = (
    "A difference has no level of chance: what two unrelated layers reach says nothing "
    "of how much two values differ. Compare it with its `stderr`, or each of the two "
    "results with its own `floor`."
)

FEW_BATCHES = 5
"""With fewer, chance is skewed: high values are more frequent than a normal
distribution has them."""

Correction = Literal["max"]


def floor_of(null_sd: Tensor, batches: int) -> Tensor:
    """The level of chance of values with these standard deviations by chance."""
    return null_sd * (4 if batches < FEW_BATCHES else 3)


class Chance:
    """What a result knows of chance."""

    matrix: Tensor
    batches: int
    is_difference: bool
    null_sd: Tensor

    @property
    def floor(self) -> Tensor:
        """What two unrelated layers reach by chance, ``(L1, L2)`` float64.

        It is three times `null_sd`, or four times with fewer than five batches, and NaN
        where that is. Values up to it are no better than chance. In simulations, at
        most 2 in 1000 pairs of unrelated layers with 16 or more independent features
        reach more, and 8 in 1000 where few directions or examples hold most of the
        variance.
        """
        return floor_of(self.null_sd, self.batches)

    def p_values(self, correction: Correction | None = None) -> Tensor:
        """How often chance alone gives such a value or a higher one, ``(L1, L2)``.

        Chance means that the n examples of a batch in model 1 are paired with those in
        model 2 at random, one pairing in each batch. Then a value has the mean 0 and
        the standard deviation `null_sd`, exactly and for any activations: with the h of
        a batch, the inner products of its U-centered Gram matrices (Székely & Rizzo
        2014), its square is the sum over batches of ``2 h_xx h_yy / (n (n - 3))``
        divided by the sum of ``h_xx`` and that of ``h_yy``. The p-value is
        ``1 - F(value / null_sd)`` of the normal distribution F, one-sided.

        The normal distribution is an approximation: chance is skewed, and small
        p-values are too small, where few directions hold the variance of both layers,
        the more so in few batches. In simulations of unrelated layers with 64
        independent features, 4.5 to 5.5 % have a p below 0.05, and 0.8 to 1.2 % one
        below 0.01; with 4 features in one batch, 6 and 2 %; with 64 features of
        standard deviations 1, 1/2, 1/3 and so on, 6 to 8 % and 2 to 4 %, and with
        ``correction="max"`` up to half of the maps a p below 0.05.
        Batches must hold independent examples: where they are correlated, such as the
        frames of a video, unrelated layers look related. A low p-value says that two
        layers have something in common, if only their input.

        Args:
            correction: ``"max"`` gives p-values of the highest value in the map (Šidák
                1967): how often the highest of all defined cells would be as high if
                they were independent.

        Returns:
            float64; NaN where the value is undefined or `null_sd` is not known.

        Raises:
            ValueError: If the level of chance is not known in any cell, as in a
                difference, or the correction is unknown.

        Example:
            >>> from cka_notebook import CKAResult
            >>> layers = ("a",), ("x", "y")
            >>> values = torch.tensor([[0.0, 0.2]]), torch.zeros(1, 2)
            >>> result = CKAResult(*values, *layers, null_sd=torch.full((1, 2), 0.1))
            >>> result.p_values()
            tensor([[0.5000, 0.0228]], dtype=torch.float64)
        """
        self.check_chance()
        if correction not in (None, "max"):
            msg = f"Expected `correction` to be None or 'max', got {correction!r}."
            raise ValueError(msg)
        z = self.matrix.double() / self.null_sd
        p: Tensor = torch.special.erfc(z / 2**0.5) / 2
        if correction is None:
            return p
        cells = int((~p.isnan()).sum())
        return -torch.expm1(cells * torch.log1p(-p))

    def check_chance(self) -> None:
        """Check that the level of chance is known.

        Raises:
            ValueError: If there are values, but no level of chance for any.
        """
        if self.null_sd.isnan().all() and not self.matrix.isnan().all():
            raise ValueError(OF_A_DIFFERENCE if self.is_difference else UNKNOWN)
