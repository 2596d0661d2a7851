"""What a run has learned from its batches, other than its sums.

It is kept at the end of each batch, and a run that resumes continues with it.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from cka_notebook._capture.shuffling import ScatterState

if TYPE_CHECKING:
    from cka_notebook._grams.products import Shift


PARTS = "totals", "sums", "norms"
"""The tensors of a `ScatterState`."""


class ModelMemory(NamedTuple):
    """What was learned about one model; later batches do not change it.

    Attributes:
        masked: Whether padding was left out of any layer.
        lengths: What `TextLengths.save` gives.
        padding: How many texts had padding, and how many nothing else; None if
            nobody looked.
        scatters: Of the layers watched for random batches.
    """

    masked: bool
    lengths: tuple[Tensor | None, float]
    padding: Tensor | None
    scatters: tuple[ScatterState, ...]

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The same as tensors, and facts for JSON."""
        sums, pairs = self.lengths
        given = {"lengths": sums, "padding": self.padding}
        named = {name: tensor for name, tensor in given.items() if tensor is not None}
        for row, scatter in enumerate(self.scatters):
            parts = scatter.totals, scatter.sums, scatter.norms
            for kind, part in zip(PARTS, parts, strict=True):
                named |= {f"{row}.{kind}.{i}": tensor for i, tensor in enumerate(part)}
        scatters = [[*x[:3], list(x.counts)] for x in self.scatters]
        return named, {"masked": self.masked, "pairs": pairs, "scatters": scatters}

    @classmethod
    def load(
        cls, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
    ) -> "ModelMemory":
        """What `save` gave."""
        scatters = []
        for row, (given, batches, examples, counts) in enumerate(facts["scatters"]):
            parts = [_numbered(tensors, f"{row}.{kind}.") for kind in PARTS]
            totals, sums, norms = parts
            numbers = given, batches, examples
            state = ScatterState(*numbers, totals, sums, norms, tuple(counts))
            scatters.append(state)
        lengths = tensors.get("lengths"), facts["pairs"]
        return cls(facts["masked"], lengths, tensors.get("padding"), tuple(scatters))


class Memory(NamedTuple):
    """What was learned about all models.

    Attributes:
        shifts: How the features of each layer will be shifted.
        models: What was learned about each model.
    """

    shifts: "Mapping[int, Shift]"
    models: tuple[ModelMemory, ...]

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The same as tensors, and facts for JSON."""
        saved = [model.save() for model in self.models]
        named = {
            f"{number}.{name}": tensor
            for number, (tensors, _) in enumerate(saved)
            for name, tensor in tensors.items()
        }
        shifts = {str(number): how for number, how in self.shifts.items()}
        return named, {"shifts": shifts, "models": [facts for _, facts in saved]}

    @classmethod
    def load(cls, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> "Memory":
        """What `save` gave."""
        shifts = {int(number): how for number, how in facts["shifts"].items()}
        models = [
            ModelMemory.load(within(tensors, f"{number}."), own)
            for number, own in enumerate(facts["models"])
        ]
        return cls(shifts, tuple(models))


def within(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin with a prefix, without it."""
    size = len(prefix)
    return {k[size:]: v for k, v in tensors.items() if k.startswith(prefix)}


def _numbered(tensors: Mapping[str, Tensor], prefix: str) -> tuple[Tensor, ...]:
    own = within(tensors, prefix)
    return tuple(own[str(number)] for number in range(len(own)))
