"""How much of a layer is the length of its texts.

A mean over T tokens may be little more than 1 / T. That number is one more feature of
each text, so its Gram matrix is one more row of those of a batch, at next to no cost.
"""

from math import sqrt

import torch
from torch import Tensor

from cka_notebook._grams.buffer import GramBuffer
from cka_notebook._grams.pairs import LayerGrams, batch_products, sums_device
from cka_notebook._messages import Note, counted, first_few

MOSTLY = 0.5
"""CKA with the text length from which a layer is said to be mostly that."""

MASKS = 2
"""Those of the inputs and of a decoder."""

DEVIATIONS = 4
"""Standard deviations of chance that it must exceed as well, for few examples."""


class TextLengths:
    """CKA of each layer of one model with 1 / T, T the number of tokens of a text.

    Args:
        layers: Names of the layers, in the order of their Gram matrices.
    """

    def __init__(self, layers: list[str]) -> None:
        self._layers = layers
        self._buffer = GramBuffer(MASKS)
        self._pairs = 0.0
        self._sums: Tensor | None = None

    def add(self, grams: LayerGrams, masks: list[Tensor]) -> None:
        """Add the products of one batch.

        Args:
            grams: The Gram matrices of the layers.
            masks: One or two masks (n, tokens), above 0 at tokens.
        """
        if not len(grams.packed):
            return
        z, n = grams.packed.z, len(masks[0])
        self._buffer.begin(n)
        for number, mask in enumerate(masks):
            tokens = (mask > 0).sum(1, keepdim=True).clamp_min(1)
            self._buffer.add((1 / tokens).to(z), number)
        lengths = LayerGrams(self._buffer.finish(), list(range(len(masks))), {})
        xy, xx, yy = batch_products(grams, lengths, sums_device(z.device))
        new = torch.stack([xy, xx[:, None].expand_as(xy), yy.expand_as(xy)])
        # Layers without a Gram matrix, or with one that is not finite, skip a batch.
        new = torch.where(new.isfinite().all(0), new, 0.0)
        self._sums = new if self._sums is None else self._sums.to(new.device) + new
        self._pairs += n * (n - 3)

    def note(self, model: str) -> Note | None:
        """What to say of the layers that are mostly text length. Waits for the device.

        Args:
            model: Name of the model.
        """
        if self._sums is None:
            return None
        xy, xx, yy = self._sums.cpu()
        values = (xy / (xx * yy).sqrt()).nan_to_num(0, 0, 0).amax(1)
        chance = DEVIATIONS * sqrt(2 / self._pairs)
        rows = (values > max(MOSTLY, chance)).nonzero().flatten().tolist()
        if not rows:
            return None
        names = [self._layers[row] for row in rows]
        count = f" ({counted(len(names), 'layer')})" if len(names) > 1 else ""
        verb = "is" if len(names) == 1 else "are"
        return Note(
            f"{model}: {first_few(names)}{count} {verb} mostly text length: CKA with 1 "
            f"/ (number of tokens) is up to {float(values.max()):.2f}. Compare texts "
            "of one length, or other tokens with pool='last'.",
            grave=True,
        )

    def save(self) -> tuple[Tensor | None, float]:
        """The sums, which later batches replace and do not change."""
        return self._sums, self._pairs

    def load(self, sums: Tensor | None, pairs: float) -> None:
        """Continue from what `save` gave.

        Raises:
            ValueError: If it was given by other layers.
        """
        if sums is not None and sums.shape[:2] != (3, len(self._layers)):
            msg = f"text lengths of {len(self._layers)} layers, got {sums.shape}"
            raise ValueError(msg)
        self._sums, self._pairs = sums, pairs
