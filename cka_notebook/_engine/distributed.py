"""One result from many processes: `torch.distributed` adds up their sums."""

from collections import ChainMap
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .state import RunState


def is_distributed() -> bool:
    """Whether this process belongs to an initialized group of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def merge_ranks(state: RunState) -> None:
    """Give every rank the state of all of them together.

    Every rank must call this, with the same layers.

    Raises:
        ValueError: If the ranks compare different layers.
    """
    tensors, facts = state.save()
    own = dist.get_rank()
    facts["problems"] = [axis.problems_of(own) for axis in state.axes]
    ranks: list[Any] = [None] * dist.get_world_size()
    layers = [list(axis.layers) for axis in state.axes]
    dist.all_gather_object(ranks, (layers, facts))
    for rank, (theirs, _) in enumerate(ranks):
        if theirs != layers:
            msg = (
                f"Expected the same layers on every rank, but rank {rank} has "
                f"{theirs}. Choose them by name with model1_layers and model2_layers."
            )
            raise ValueError(msg)
    device = _device()
    merged = {name: _reduced(name, value, device) for name, value in tensors.items()}
    state.load(merged, _together([facts for _, facts in ranks]))


def _reduced(name: str, value: Tensor, device: torch.device) -> Tensor:
    """The sum over ranks; for bad batches -1, none, since the problems tell of them."""
    if name.startswith("bad"):
        return torch.full_like(value, -1.0)
    moved = value.to(device, copy=True)
    dist.all_reduce(moved, dist.ReduceOp.SUM)
    return moved


def _together(facts: list[dict[str, Any]]) -> dict[str, Any]:
    """The facts of all ranks as those of one run."""
    counts = {
        key: sum(each[key] for each in facts)
        for key in ("batches", "skipped", "examples")
    }
    # The first rank with a problem names it.
    by_axis = zip(*(each["problems"] for each in facts), strict=True)
    return counts | {"problems": [dict(ChainMap(*axis)) for axis in by_axis]}


def _device() -> torch.device:
    """The device on which the group's backend expects tensors."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
