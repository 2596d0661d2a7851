"""From a batch of any shape to a call of the model.

A batch may be a tensor; a tuple or list whose first items are inputs; a dataclass; or a
mapping such as Hugging Face's BatchEncoding, whose keys are the arguments of `forward`.
"""

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Unpack, get_origin

import torch
from torch import Tensor, nn

from cka_notebook._models.offloading import execution_device

from .nested import as_mapping, describe, has_tensor, list_length, mapped, move, tensors

Forward = Callable[[nn.Module, Any], Any]
Masks = tuple[Tensor | None, Tensor | None]
"""Attention masks (n, tokens) of the model's and of its decoder's inputs."""

LABELS = ("labels", "label", "label_ids", "target", "targets")
"""Keys that are no input, and make Hugging Face models compute a loss."""


class Call(NamedTuple):
    """Arguments of one call of a model.

    Attributes:
        args: Positional arguments, on the model's device.
        kwargs: Keyword arguments, likewise.
        examples: Number of examples n.
        mask: Attention mask of shape (n, tokens), or None.
        decoder_mask: The same of the decoder's tokens.
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
    """

    def __init__(
        self, model: nn.Module, label: str, forward: Forward | None = None
    ) -> None:
        self.model = model
        self.label = label
        self.forward = forward
        self.device = model_device(model, label)
        self.axis = _input_axis(model)
        inner = _inner(model)
        self._listening = {model} if forward is not None else set()
        self._listening |= {inner} - {model}
        self._signature = _parameters(model)
        self._names = {parameter.name for parameter in self._signature}

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
            moved = move(batch, self.device)
            masks = _masks(as_mapping(moved))
            return Call((moved,), {}, self._examples(moved, number), *masks)
        args, kwargs = self._arguments(as_mapping(batch), number)
        args, kwargs = move(args, self.device), move(kwargs, self.device)
        n = self._examples((*args, *kwargs.values()), number)
        return Call(args, kwargs, n, *_masks(kwargs))

    def __call__(self, call: Call, learn: Callable[..., None] | None = None) -> Any:
        """Run the model.

        Args:
            call: What `prepare` has made of a batch.
            learn: Called with the attention masks that a user's ``forward`` passes to
                the model, or an adapter to the model in it: they may be their own.
        """
        with self._overheard(learn):
            if self.forward is None:
                return self.model(*call.args, **call.kwargs)
            return self.forward(self.model, *call.args)

    def take(self, call: Call, count: int) -> Call:
        """The same call with its first ``count`` examples only."""
        n, axis = call.examples, self.axis

        def batched(value: Tensor) -> bool:
            return value.ndim > axis and value.shape[axis] == n

        def cut(value: Tensor) -> Tensor:
            return value.narrow(axis, 0, count) if batched(value) else value

        def cut_list(value: Any) -> Any:
            examples = len(value) == n and not any(map(batched, tensors(value)))
            return value[:count] if examples else None

        args = tuple(mapped(item, cut, cut_list) for item in call.args)
        kwargs = mapped(call.kwargs, cut, cut_list)
        masks = call.mask, call.decoder_mask
        cut_masks = (mask[:count] if mask is not None else None for mask in masks)
        return Call(args, kwargs, count, *cut_masks)

    @contextmanager
    def _overheard(self, learn: Callable[..., None] | None) -> Iterator[None]:
        """Tell the masks with which this thread calls the model, or what is in it."""
        thread = threading.get_ident()

        def listen(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            masks = _masks(_bound(self._signature, args, kwargs))
            if (
                learn is not None
                and threading.get_ident() == thread
                and any(mask is not None for mask in masks)
            ):
                learn(*masks)

        handles = [
            module.register_forward_pre_hook(listen, with_kwargs=True)
            for module in self._listening
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _examples(self, values: Any, number: int) -> int:
        first = next((t for t in tensors(values) if t.ndim > self.axis), None)
        if first is None:
            count = self._other_length(values)
            if count:
                return count
            msg = (
                f"Expected a batch with a tensor of examples for {self.label}, got "
                f"{describe(values)} in batch {number}. Yield a tensor, (inputs, "
                "labels) or a dict of tensors, or pass forward=lambda model, batch: ..."
            )
            raise TypeError(msg)
        return _listed_images(values) or first.shape[self.axis]

    def _other_length(self, batch: Any) -> int | None:
        """Number of examples in a batch that only a user's ``forward`` understands."""
        if self.forward is None:
            return None
        sized = not isinstance(batch, str | bytes | Mapping | Sequence)
        own = len(batch) if sized and hasattr(batch, "__len__") else None
        return list_length(batch) or own

    def _arguments(
        self, batch: Any, number: int
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if isinstance(batch, Tensor):
            return (batch,), {}
        if isinstance(batch, Mapping):
            return (), self._keywords(batch, number)
        if isinstance(batch, Sequence) and not isinstance(batch, str | bytes) and batch:
            items = [as_mapping(item) for item in batch[:2]]
            if not isinstance(items[0], Mapping):
                return self._positional(batch, number), {}
            if len(items) == 1 or not _same_keys(*items):
                return (), self._keywords(items[0], number)
        msg = (
            f"Expected a batch with a tensor in it for {self.label}, got "
            f"{describe(batch)} in batch {number}. Yield a tensor, (inputs, labels) or "
            "a dict of tensors, or pass forward=lambda model, batch: ..."
        )
        raise TypeError(msg)

    def _positional(self, batch: Sequence[Any], number: int) -> tuple[Any, ...]:
        required = [p.name for p in self._signature if _is_required(p)]
        count = max(1, len(required))
        if count > len(batch):
            missing = ", ".join(repr(name) for name in required[len(batch) :])
            msg = (
                f"Expected batches with {count} inputs for {self.label}, got "
                f"{describe(batch)} in batch {number}: {missing} missing. Yield one "
                "item for each argument, or pass forward=lambda model, batch: ..."
            )
            raise ValueError(msg)
        return tuple(batch[:count])

    def _keywords(self, batch: Mapping[str, Any], number: int) -> dict[str, Any]:
        known = self._names
        takes_any = any(_takes_any(p) for p in self._signature)
        kept = {
            key: value
            for key, value in batch.items()
            if key in known or (takes_any and key not in LABELS)
        }
        kept = {k: v for k, v in kept.items() if k not in LABELS or _required(self, k)}
        required = {p.name for p in self._signature if _is_required(p)}
        if not required.issubset(kept) or not kept:
            return self._single_keyword(batch, required - set(kept), number)
        return _with_decoder(self.model, self._names, kept, batch)

    def _single_keyword(
        self, batch: Mapping[str, Any], missing: set[str], number: int
    ) -> dict[str, Any]:
        """A dict of one input, whatever its key, suits a forward of one argument."""
        inputs = [k for k, v in batch.items() if k not in LABELS and has_tensor(v)]
        if len(inputs) == 1 and len(missing) == 1 and inputs[0] not in self._names:
            return {missing.pop(): batch[inputs[0]]}
        wanted = ", ".join(repr(name) for name in sorted(missing))
        got = ", ".join(repr(key) for key in batch)
        msg = (
            f"Expected batches with {wanted or 'an argument of forward'} for "
            f"{self.label}, got keys {got} in batch {number}. Rename the keys in the "
            "loader, or pass forward=lambda model, batch: ..."
        )
        raise ValueError(msg)


def model_device(model: nn.Module, label: str) -> torch.device:
    """Device on which the model expects its inputs.

    Raises:
        ValueError: If a parameter is on the meta device, where no number exists, and
            nothing loads it when it is needed.
    """
    device = execution_device(model)
    if device is not None:
        return device
    held = [*model.parameters(), *model.buffers()]
    if any(tensor.is_meta for tensor in held):
        msg = (
            f"Expected {label} with weights, got parameters on the 'meta' device. "
            "Load them first, for instance with model.to_empty(device='cpu') and "
            "model.load_state_dict(...)."
        )
        raise ValueError(msg)
    return held[0].device if held else torch.get_default_device()


def _same_keys(first: Mapping[str, Any], second: Any) -> bool:
    """Whether these are two examples that were not put together, not a batch."""
    return isinstance(second, Mapping) and set(first) == set(second)


def _listed_images(values: Any) -> int:
    """Length of a list of images (3, h, w), as detectors take them; 0 if none."""
    values = as_mapping(values)
    items = values.values() if isinstance(values, Mapping) else values
    if not isinstance(values, Mapping | list | tuple):
        return 0
    first = next((x for x in items if isinstance(x, list | tuple)), ())
    images = all(
        isinstance(x, Tensor) and x.ndim == 3 and x.shape[0] in (1, 3) for x in first
    )
    return len(first) if images else 0


def _bound(
    signature: list[inspect.Parameter], args: Any, kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Arguments by name."""
    return dict(zip((p.name for p in signature), args, strict=False)) | kwargs


def _inner(model: nn.Module) -> nn.Module:
    """The model that a PEFT wrapper adapts; any other model itself."""
    inner = getattr(model, "get_base_model", None)
    found = inner() if callable(inner) else model
    return found if isinstance(found, nn.Module) else model


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    """Parameters of the model's forward; none if Python cannot see them.

    A PEFT wrapper takes anything; what it hands it to is more particular.
    """
    try:
        return list(inspect.signature(_inner(model).forward).parameters.values())
    except (TypeError, ValueError):
        return []


def _takes_any(parameter: inspect.Parameter) -> bool:
    """Whether this is ``**kwargs`` without a list of what it may hold.

    Hugging Face's ``**kwargs: Unpack[...]`` are settings, not columns of a data set.
    """
    kind = parameter.annotation
    listed = get_origin(kind) is Unpack or "Unpack[" in str(kind)
    return parameter.kind is parameter.VAR_KEYWORD and not listed


def _is_required(parameter: inspect.Parameter) -> bool:
    named = parameter.kind in (
        parameter.POSITIONAL_ONLY,
        parameter.POSITIONAL_OR_KEYWORD,
        parameter.KEYWORD_ONLY,
    )
    return named and parameter.default is parameter.empty


def _required(caller: Caller, key: str) -> bool:
    return any(p.name == key and _is_required(p) for p in caller._signature)  # noqa: SLF001 a helper of that class


def _with_decoder(
    model: nn.Module, known: set[str], kwargs: dict[str, Any], batch: Mapping[str, Any]
) -> dict[str, Any]:
    """Decoder inputs for encoder-decoder models whose batches carry only labels."""
    config = getattr(model, "config", None)
    if not getattr(config, "is_encoder_decoder", False) or (
        "decoder_input_ids" not in known
        or "decoder_input_ids" in kwargs
        or "decoder_inputs_embeds" in kwargs
    ):
        return kwargs
    labels = batch.get("labels")
    shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    ids, mask = kwargs.get("input_ids"), kwargs.get("attention_mask")
    if isinstance(labels, Tensor) and shift is not None:
        # Labels of -100 are padding, by the convention of all losses.
        ids, mask = shift(labels), (labels != -100).long()
    masked = mask is not None and "decoder_attention_mask" in known
    given = {"decoder_attention_mask": mask} if masked else {}
    return {"decoder_input_ids": ids} | given | kwargs


def _masks(batch: Any) -> Masks:
    if not isinstance(batch, Mapping):
        return None, None
    return _two_axes(batch.get("attention_mask")), _two_axes(
        batch.get("decoder_attention_mask")
    )


def _two_axes(mask: Any) -> Tensor | None:
    return mask if isinstance(mask, Tensor) and mask.ndim == 2 else None


def _input_axis(model: nn.Module) -> int:
    """Batch axis of the model's inputs: 1 if torch's own contract says (L, N, E)."""
    kinds = (nn.RNNBase, nn.MultiheadAttention)
    if isinstance(model, kinds):
        return 0 if model.batch_first else 1
    if isinstance(model, nn.TransformerEncoder | nn.TransformerDecoder):
        model = model.layers[0]
    if isinstance(model, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        return 0 if model.self_attn.batch_first else 1
    if isinstance(model, nn.Transformer):
        return 0 if model.batch_first else 1
    return 0
