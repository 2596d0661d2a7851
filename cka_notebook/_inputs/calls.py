"""From a batch of any shape to a call of the model."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cka_notebook._models.offloading import execution_device

from .arguments import Signature, inner_model
from .examples import (
    count_examples,
    count_items,
    first_examples,
    input_axis,
    no_examples,
)
from .masks import MaskReader
from .nested import as_mapping, move

Forward = Callable[[nn.Module, Any], Any]


class Call(NamedTuple):
    """Arguments of one call of a model.

    Attributes:
        args: Positional arguments, on the model's device.
        kwargs: Keyword arguments, on the model's device.
        examples: Number of examples n.
        mask: Attention mask of shape (n, tokens), or None.
        decoder_mask: Attention mask of the decoder's tokens, or None.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    examples: int
    mask: Tensor | None = None
    decoder_mask: Tensor | None = None


class Caller:
    """Calls one model on batches: finds its arguments, device and batch axis.

    Args:
        model: The model. Not modified.
        label: What messages call it, such as ``model1 (ResNet)``.
        forward: ``forward(model, batch)`` instead of all rules; gets the whole batch,
            its tensors on the model's device.

    Attributes:
        masks: Reads the masks of its calls.
    """

    def __init__(
        self, model: nn.Module, label: str, forward: Forward | None = None
    ) -> None:
        self.model = model
        self.label = label
        self.forward = forward
        self.device = model_device(model, label)
        self.axis = input_axis(model)
        self.masks = MaskReader(inner_model(model))
        self._signature = Signature(model, label)
        # Their arguments are not ours: a user's `forward` or a PEFT wrapper calls them.
        self._called_by_others = {inner_model(model)} - {model}
        self._called_by_others |= {model} if forward is not None else set()

    def prepare(self, batch: Any, number: int) -> Call:
        """Arguments for this batch, moved to the model's device.

        Args:
            batch: What the loader yielded.
            number: Which batch it is, from 1, for messages.

        Raises:
            TypeError: If no tensor can be found in the batch.
            ValueError: If a required argument of the model's forward is missing.
        """
        if self.forward is not None:
            return self._whole(move(batch, self.device), number)
        args, kwargs = self._signature.arguments(batch, number)
        args, kwargs = move(args, self.device), move(kwargs, self.device)
        n = count_examples((*args, *kwargs.values()), self.axis)
        if n is None:
            raise no_examples(self.label, batch, number)
        masks = self.masks.read(self._signature.bind(args, kwargs), batch)
        return Call(args, kwargs, n, *move(masks, self.device))

    def _whole(self, batch: Any, number: int) -> Call:
        """The call of a user's ``forward``, which gets the batch as it is."""
        n = count_examples(batch, self.axis)
        if n is None:
            n = count_items(batch)
        if n is None:
            raise no_examples(self.label, batch, number)
        given = as_mapping(batch)
        masks = self.masks.read(given if isinstance(given, Mapping) else {}, given)
        return Call((batch,), {}, n, *masks)

    def __call__(self, call: Call, on_masks: Callable[..., None] | None = None) -> Any:
        """Run the model.

        Args:
            call: What `prepare` has made of a batch.
            on_masks: Called with the attention masks that a user's ``forward``, or an
                adapter, passes to the model: they may differ from those of the call.
        """
        with self._reported_masks(on_masks):
            if self.forward is None:
                return self.model(*call.args, **call.kwargs)
            return self.forward(self.model, *call.args)

    def take(self, call: Call, count: int) -> Call:
        """The same call with its first ``count`` examples only."""

        def cut(value: Any) -> Any:
            return first_examples(value, count, examples=call.examples, axis=self.axis)

        masks = call.mask, call.decoder_mask
        cut_masks = (mask[:count] if mask is not None else None for mask in masks)
        return Call(tuple(map(cut, call.args)), cut(call.kwargs), count, *cut_masks)

    @contextmanager
    def _reported_masks(self, on_masks: Callable[..., None] | None) -> Iterator[None]:
        """Report the masks with which this thread calls the model, or the inner one."""
        thread = threading.get_ident()

        def report(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            masks = self.masks.read(self._signature.bind(args, kwargs))
            is_masked = any(mask is not None for mask in masks)
            if on_masks is not None and is_masked and threading.get_ident() == thread:
                on_masks(*masks)

        handles = [
            module.register_forward_pre_hook(report, with_kwargs=True)
            for module in self._called_by_others
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def model_device(model: nn.Module, label: str) -> torch.device:
    """Device on which the model expects its inputs.

    Raises:
        ValueError: If a parameter is on the meta device, which stores no numbers, and
            nothing loads it when it is needed.
    """
    device = execution_device(model)
    if device is not None:
        return device
    weights = [*model.parameters(), *model.buffers()]
    if any(tensor.is_meta for tensor in weights):
        msg = (
            f"Expected {label} with weights, got parameters on the 'meta' device. "
            "Load them first, for instance with model.to_empty(device='cpu') and "
            "model.load_state_dict(...)."
        )
        raise ValueError(msg)
    return weights[0].device if weights else torch.get_default_device()
