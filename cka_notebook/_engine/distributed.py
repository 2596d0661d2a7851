"""One result of many processes: `torch.distributed` adds up what each has summed."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .state import RunState


def is_distributed() -> bool:
    """Whether this process belongs to an initialized group of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def merge_ranks(running: RunState) -> None:
    """Make the state of every rank that of all of them together.

    Every rank must come here, with the same layers.

    Raises:
        ValueError: If the ranks compare different layers.
    """
    tensors, facts = running.save()
    ranks: list[Any] = [None] * dist.get_world_size()
    layers = list(running.layers1), list(running.layers2)
    dist.all_gather_object(ranks, (layers, facts))
    for rank, (theirs, _) in enumerate(ranks):
        if theirs != layers:
            msg = (
                "Expected the same layers on every rank, got others on rank "
                f"{rank}: {theirs}. Name them with model1_layers and model2_layers."
            )
            raise ValueError(msg)
    device = _device()
    merged = {name: _reduced(name, value, device) for name, value in tensors.items()}
    running.load(merged, _together([facts for _, facts in ranks]))


def _reduced(name: str, value: Tensor, device: torch.device) -> Tensor:
    """Sums are added; the first bad batch of a layer is that of any rank."""
    moved = value.to(device, copy=True)
    largest = name.startswith("bad")
    dist.all_reduce(moved, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM)
    return moved


def _together(facts: list[dict[str, Any]]) -> dict[str, Any]:
    counts = {
        key: sum(each[key] for each in facts)
        for key in ("batches", "skipped", "examples")
    }
    problems: list[dict[str, str]] = [{}, {}]
    for each in facts:
        for side in (0, 1):
            problems[side] = each["problems"][side] | problems[side]
    return counts | {"problems": problems}


def _device() -> torch.device:
    """Where the group's backend wants its tensors."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
