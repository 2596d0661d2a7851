"""From a batch of any shape to a call of the model."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cka_notebook._messages import is_out_of_memory
from cka_notebook._models.nodes import expects_tokens_first
from cka_notebook._models.offloading import execution_device
from cka_notebook._undo import Undo, unhook

from .arguments import Signature, inner_model
from .counting import ExampleCounter, Examples
from .examples import chosen_examples, input_axis, size_of
from .lines import no_examples
from .masks import MaskReader
from .nested import as_mapping, move, private, tensors
from .remedies import remedies

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
        examples: ``examples(batch)`` gives the number of examples, or None.

    Attributes:
        masks: Reads the masks of its calls.
        grouped: Whether inputs may have several rows for each example.
    """

    def __init__(
        self,
        model: nn.Module,
        label: str,
        forward: Forward | None = None,
        examples: Examples | None = None,
    ) -> None:
        self.model = model
        self.label = label
        self.forward = forward
        self.device = model_device(model, label)
        self.axis = input_axis(model)
        self.masks = MaskReader(inner_model(model))
        self._signature = Signature(model, label)
        # Inside of other models, too, these have the examples on the second axis.
        is_turned = self.axis or any(map(expects_tokens_first, model.modules()))
        self.axes = (self.axis, 1 - self.axis) if is_turned else (self.axis,)
        self._counter = ExampleCounter(label, self.axes, examples)
        self.grouped = False
        # Their arguments are not ours: a user's `forward` or a PEFT wrapper calls them.
        self._called_by_others = {inner_model(model)} - {model}
        self._called_by_others |= {model} if forward is not None else set()

    def prepare(
        self,
        batch: Any,
        number: int,
        outputs: Callable[[Call], Any] | None = None,
    ) -> Call:
        """Arguments for this batch, moved to the model's device.

        Args:
            batch: What the loader yielded.
            number: Which batch it is, from 1, for messages.
            outputs: Runs the model on a call and returns its output, from which its
                number of examples is told where inputs disagree.

        Raises:
            TypeError: If no tensor can be found in the batch.
            ValueError: If a required argument of the model's forward is missing, or
                the number of examples cannot be determined.
        """
        if self.forward is not None:
            inputs = move(batch, self.device)
            given = as_mapping(inputs)
            masks = self.masks.read(given if isinstance(given, Mapping) else {}, given)
            call = Call((inputs,), {}, 0, *masks)
        else:
            args, kwargs = self._signature.arguments(batch, number)
            args, kwargs = move(args, self.device), move(kwargs, self.device)
            inputs = dict(enumerate(args)) | kwargs
            masks = self.masks.read(self._signature.bind(args, kwargs), batch)
            call = Call(args, kwargs, 0, *move(masks, self.device))
        see = outputs or self
        n = self._counter.count(inputs, batch, number, lambda: see(call))
        if n is None:
            raise no_examples(self.label, batch, number)
        return call._replace(examples=n)

    def __call__(self, call: Call, on_masks: Callable[..., None] | None = None) -> Any:
        """Run the model on a copy of its inputs.

        Models and users' functions change tensors in place and take keys out of dicts,
        but the loader, the other model and the next probe need the batch as it was.
        Copying it takes less than one operation on it. To notice a change afterwards
        would be too late, and `Tensor._version` does not count those through `.data`
        or through an array.

        Args:
            call: What `prepare` has made of a batch.
            on_masks: Called with the attention masks that a user's ``forward``, or an
                adapter, passes to the model: they may differ from those of the call.
        """
        args, kwargs = private((call.args, call.kwargs))
        undo = Undo()
        with undo, undo:
            self._report_masks(on_masks, undo)
            if self.forward is None:
                return self.model(*args, **kwargs)
            return self.forward(self.model, *args)

    def take(self, call: Call, count: int) -> Call:
        """The same call with its first ``count`` examples only."""
        return self.pick(call, range(count))

    def pick(self, call: Call, rows: Sequence[int]) -> Call:
        """The same call with copies of these examples only, in this order."""

        def pick(value: Any) -> Any:
            return chosen_examples(
                value,
                rows,
                examples=call.examples,
                axes=self.axes,
                grouped=self.grouped,
            )

        masks = call.mask, call.decoder_mask
        picked = (None if mask is None else mask[list(rows)] for mask in masks)
        args = tuple(map(pick, call.args))
        return Call(args, pick(call.kwargs), len(rows), *picked)

    def remedies(self, error: Exception, call: Call) -> Iterator[str]:
        """Sentences that help with an error of this call."""
        inputs = [*call.args, *call.kwargs.values()]
        form = None if self.forward is not None else self._signature.form
        if form is not None:
            yield from self._signature.remedies(call.kwargs)
        accepts = self._signature.accepts
        yield from remedies(
            error, self.model, self.label, inputs, form, accepts=accepts
        )

    @property
    def note(self) -> str | None:
        """What a user should know of how the model is called, or None."""
        return self._signature.note

    def learn_rows(self, call: Call, run: Callable[[Call], Any]) -> None:
        """Learn whether the model needs several rows of an input for each example.

        Args:
            call: What `prepare` has made of a batch.
            run: Runs the model on a call.
        """
        if self.may_group(call):
            try:
                run(self.take(call, min(3, call.examples)))
            except Exception as error:  # inputs no longer match; the probe continues
                if is_out_of_memory(error):
                    raise
                self.grouped = True

    def uncut(self, call: Call) -> list[tuple[int, ...]]:
        """Shapes of inputs that `pick` leaves whole, as they have other rows."""
        known = {1, call.examples}
        return [
            tuple(tensor.shape)
            for tensor in tensors((*call.args, *call.kwargs.values()))
            if not tensor.is_nested and tensor.ndim > 1
            if known.isdisjoint(size_of(tensor, axis) for axis in self.axes)
            if not (self.grouped and tensor.shape[0] % call.examples == 0)
        ]

    def may_group(self, call: Call) -> bool:
        """Whether an input may have several rows for each example."""
        values = (*call.args, *call.kwargs.values())
        sizes = [size_of(tensor, self.axis) for tensor in tensors(values)]
        return any(x > call.examples and x % call.examples == 0 for x in sizes)

    def _report_masks(self, on_masks: Callable[..., None] | None, undo: Undo) -> None:
        """Report the masks with which this thread calls the model, or the inner one."""
        thread = threading.get_ident()

        def report(_: nn.Module, args: Any, kwargs: Any = None) -> None:
            # Another thread may even see this hook without its wish for keywords.
            if on_masks is None or threading.get_ident() != thread:
                return
            masks = self.masks.read(self._signature.bind(args, kwargs))
            if any(mask is not None for mask in masks):
                on_masks(*masks)

        for module in self._called_by_others:
            undo.add(unhook, module, report)
            module.register_forward_pre_hook(report, with_kwargs=True)


def shape_of(call: Call) -> tuple[int, ...]:
    """Shape of one example of a call's first input; empty without a tensor."""
    first = next(tensors((call.args, call.kwargs)), None)
    if first is None or first.is_nested:
        return ()
    return tuple(first.shape[1:])


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
    default = weights[0].device if weights else torch.get_default_device()
    return torch.device("cpu") if default.type == "meta" else default
