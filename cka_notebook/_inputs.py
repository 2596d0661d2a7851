"""From a batch of any shape to a call of the model, and from loaders to batches.

A batch may be a tensor; a tuple or list whose first items are inputs; a dataclass; or a
mapping such as Hugging Face's BatchEncoding, whose keys are the arguments of `forward`.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Forward = Callable[[nn.Module, Any], Any]

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
        self._signature = _parameters(model)

    def prepare(self, batch: Any, number: int) -> Call:
        """Arguments for this batch, moved to the model's device.

        Args:
            batch: What the loader yielded.
            number: Which batch it is, from 1, for messages.

        Raises:
            TypeError: If no tensor can be found in the batch.
            ValueError: If a required argument of the model's forward is missing.
        """
        batch = _as_mapping(batch)
        if self.forward is not None:
            moved = move(batch, self.device)
            return Call((moved,), {}, self._examples(moved, number), *_masks(moved))
        args, kwargs = self._arguments(batch, number)
        args, kwargs = move(args, self.device), move(kwargs, self.device)
        n = self._examples((*args, *kwargs.values()), number)
        return Call(args, kwargs, n, *_masks(kwargs))

    def __call__(self, call: Call) -> Any:
        """Run the model."""
        if self.forward is not None:
            return self.forward(self.model, *call.args)
        return self.model(*call.args, **call.kwargs)

    def take(self, call: Call, count: int) -> Call:
        """The same call with its first ``count`` examples only."""
        n, axis = call.examples, self.axis

        def cut(value: Tensor) -> Tensor:
            batched = value.ndim > axis and value.shape[axis] == n
            return value.narrow(axis, 0, count) if batched else value

        args, kwargs = _map(call.args, cut), _map(call.kwargs, cut)
        mask = call.mask[:count] if call.mask is not None else None
        other = call.decoder_mask[:count] if call.decoder_mask is not None else None
        return Call(args, kwargs, count, mask, other)

    def _examples(self, values: Any, number: int) -> int:
        first = next((t for t in tensors(values) if t.ndim > self.axis), None)
        if first is None:
            msg = (
                f"Expected a batch with a tensor of examples for {self.label}, got "
                f"{describe(values)} in batch {number}. Yield a tensor, (inputs, "
                "labels) or a dict of tensors, or pass forward=lambda model, batch: ..."
            )
            raise TypeError(msg)
        return first.shape[self.axis]

    def _arguments(
        self, batch: Any, number: int
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if isinstance(batch, Tensor):
            return (batch,), {}
        if isinstance(batch, Mapping):
            return (), self._keywords(batch, number)
        if isinstance(batch, Sequence) and not isinstance(batch, str | bytes) and batch:
            first = _as_mapping(batch[0])
            if isinstance(first, Mapping):
                return (), self._keywords(first, number)
            return self._positional(batch, number), {}
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
        known = {p.name for p in self._signature}
        takes_any = any(p.kind is p.VAR_KEYWORD for p in self._signature)
        kept = {
            key: value
            for key, value in batch.items()
            if key in known or (takes_any and key not in LABELS)
        }
        kept = {k: v for k, v in kept.items() if k not in LABELS or _required(self, k)}
        required = {p.name for p in self._signature if _is_required(p)}
        if not required.issubset(kept) or not kept:
            return self._single_keyword(batch, required - set(kept), number)
        return _with_decoder(self.model, kept, batch)

    def _single_keyword(
        self, batch: Mapping[str, Any], missing: set[str], number: int
    ) -> dict[str, Any]:
        """A dict of one input, whatever its key, suits a forward of one argument."""
        inputs = [k for k, v in batch.items() if k not in LABELS and _has_tensor(v)]
        if len(inputs) == 1 and len(missing) == 1:
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
        ValueError: If a parameter is on the meta device, where no number exists.
    """
    held = [*model.parameters(), *model.buffers()]
    if any(tensor.is_meta for tensor in held) and not hasattr(model, "hf_device_map"):
        msg = (
            f"Expected {label} with weights, got parameters on the 'meta' device. "
            "Load them first, for instance with model.to_empty(device='cpu') and "
            "model.load_state_dict(...)."
        )
        raise ValueError(msg)
    real = next((tensor for tensor in held if not tensor.is_meta), None)
    return real.device if real is not None else torch.get_default_device()


def move(value: Any, device: torch.device) -> Any:
    """The same nested value with its tensors on ``device``."""
    return _map(value, lambda tensor: tensor.to(device, non_blocking=True))


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in a nested value."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)


def describe(value: Any) -> str:
    """A value in a few words, for messages."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with keys {list(value)}"
    if isinstance(value, list | tuple):
        kinds = ", ".join(type(item).__name__ for item in value[:4])
        return f"a {type(value).__name__} of {len(value)} ({kinds})"
    return f"a {type(value).__name__}"


def _as_mapping(batch: Any) -> Any:
    """Dataclasses and dict-likes (BatchEncoding) as mappings, the rest unchanged."""
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type | Mapping):
        names = [item.name for item in dataclasses.fields(batch)]
        return {name: getattr(batch, name) for name in names}
    if not isinstance(batch, Mapping) and hasattr(batch, "keys"):
        return {key: batch[key] for key in batch.keys()}  # noqa: SIM118 only keys() is promised
    return batch


def _map(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _map(item, change) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_map(item, change) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(_map(item, change) for item in value)
    return value


def _has_tensor(value: Any) -> bool:
    return next(tensors(value), None) is not None


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    """Parameters of the model's forward; none if Python cannot see them."""
    try:
        return list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return []


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
    model: nn.Module, kwargs: dict[str, Any], batch: Mapping[str, Any]
) -> dict[str, Any]:
    """Decoder inputs for encoder-decoder models whose batches carry only labels."""
    config = getattr(model, "config", None)
    known = set(inspect.signature(model.forward).parameters)
    if not getattr(config, "is_encoder_decoder", False) or (
        "decoder_input_ids" not in known
        or "decoder_input_ids" in kwargs
        or "decoder_inputs_embeds" in kwargs
    ):
        return kwargs
    labels = batch.get("labels")
    shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if isinstance(labels, Tensor) and shift is not None:
        return {**kwargs, "decoder_input_ids": shift(labels)}
    return {**kwargs, "decoder_input_ids": kwargs.get("input_ids")}


def _masks(batch: Any) -> tuple[Tensor | None, Tensor | None]:
    if not isinstance(batch, Mapping):
        return None, None
    found = [batch.get("attention_mask"), batch.get("decoder_attention_mask")]
    first, second = (
        mask if isinstance(mask, Tensor) and mask.ndim == 2 else None for mask in found
    )
    return first, second


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
