"""From a batch to the arguments of a model's forward.

A batch may be a tensor; a tuple or list whose first items are inputs; a dataclass; or a
mapping such as Hugging Face's BatchEncoding, whose keys are the arguments of `forward`.
"""

import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Unpack, get_origin

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from cka_notebook._messages import first_few

from .examples import is_list_of_images, is_ragged
from .lines import LABELS, LONGEST, Form, call_line, looks_like_labels, no_examples
from .nested import as_mapping, describe, has_tensor

TOLD = ("mask", "len", "idx", "ind", "ids")
"""Parts of the names of arguments that take small integers and no labels."""

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments."""


class Signature:
    """The parameters of a model's forward.

    Args:
        model: The model. Not modified.
        label: What messages call it, such as ``model1 (ResNet)``.
    """

    def __init__(self, model: nn.Module, label: str) -> None:
        self._model, self._label = model, label
        self._parameters = _parameters_of(model)
        self._names = {parameter.name for parameter in self._parameters}
        self._required = [p.name for p in self._parameters if _is_required(p)]
        self._takes_any = any(map(_takes_any, self._parameters))
        self._by_name = [
            p.name for p in self._parameters if p.name in self._required and _by_name(p)
        ]
        self.note: str | None = None
        self.form = Form(None)

    @property
    def accepts(self) -> int:
        """How many inputs the model takes: those that it needs, or any number."""
        return len(self._required) or LONGEST

    def remedies(self, given: Mapping[str, Any]) -> Iterator[str]:
        """Sentences that help with an error of a call with these arguments."""
        if _needs_decoder_inputs(self._model, self._names, given) and not any(
            key in given for key in LABELS
        ):
            shifts = hasattr(self._model, "prepare_decoder_input_ids_from_labels")
            labels = "'labels' or " if shifts or "labels" in self._names else ""
            line = call_line([*self.form.given, "decoder_input_ids=..."])
            yield (
                f"The decoder of {self._label} has no inputs: add {labels}"
                f"'decoder_input_ids' to the batches, or pass {line}."
            )

    def bind(self, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        """All arguments of a call by name."""
        names = (parameter.name for parameter in self._parameters)
        return dict(zip(names, args, strict=False)) | kwargs

    def arguments(self, batch: Any, number: int) -> Arguments:
        """Arguments made of a batch; ``form`` is that of the first one.

        Args:
            batch: What the loader yielded.
            number: Which batch it is, from 1, for messages.

        Raises:
            TypeError: If there is no tensor in the batch.
            ValueError: If a required argument is missing.
        """
        args, kwargs = self._arguments(batch, number)
        if number == 1:
            self.form = Form(batch, args, kwargs)
        return args, kwargs

    def _arguments(self, whole: Any, number: int) -> Arguments:
        batch = as_mapping(whole)
        is_one = isinstance(batch, Tensor | PackedSequence) or is_list_of_images(batch)
        if is_one or (len(self._required) < 2 and is_ragged(batch)):
            return self._positional((batch,), whole, number)
        if isinstance(batch, Mapping):
            return self._named(batch, whole, number)
        if isinstance(batch, Sequence) and not isinstance(batch, str | bytes) and batch:
            items = [as_mapping(item) for item in batch[:2]]
            if not isinstance(items[0], Mapping):
                return self._positional(batch, whole, number)
            if len(items) == 1 or not _are_examples(*items):
                return self._named(items[0], batch[0], number, "batch[0]")
        raise no_examples(self._label, batch, number)

    def _positional(self, batch: Sequence[Any], whole: Any, number: int) -> Arguments:
        count = max(1, len(self._required))
        if self._by_name and count == 1:
            return (), {self._by_name[0]: batch[0]}
        if self._by_name or count > len(batch):
            raise self._not_positional(whole, count, number)
        if count == len(batch) > 1 and number == 1:
            self._note_labels(batch)
        return tuple(batch[:count]), {}

    def _note_labels(self, batch: Sequence[Any]) -> None:
        """Note if what looks like labels is the last input."""
        name, places = self._required[-1], [f"batch[{i}]" for i in range(len(batch))]
        if _may_be_labels(batch[0], batch[-1], name):
            item = "second" if len(batch) == 2 else "last"
            line = call_line([*places[:-1], f"{name}=..."])
            self.note = (
                f"{self._label} gets the {item} item of each batch as {name!r}. If "
                f"that contains labels, pass {line}."
            )

    def _not_positional(self, batch: Any, count: int, number: int) -> ValueError:
        """The error for inputs that are too few, or can only be given by name."""
        items = batch if isinstance(batch, list | tuple) else [batch]
        places = Form(batch).inputs
        if len(places) < min(count, len(items)):  # some of them may look like labels
            places = [f"batch[{i}]" for i in range(len(items))]
        missing = ", ".join(repr(name) for name in self._required[len(items) :])
        why = f"missing: {missing}" if missing else "it takes them by name only"
        inputs = items[0] if len(items) == 1 else batch
        return ValueError(
            f"Expected {count} inputs per batch for {self._label}, got "
            f"{describe(inputs)} in batch {number}; {why}. Yield a dict of arguments, "
            f"or pass {self._line(places)}."
        )

    def _line(self, places: Sequence[str], given: Mapping[str, str] = {}) -> str:
        """The option that calls the model with these inputs, and gaps for others."""
        rest = iter(places)
        pairs = [(n, given.get(n) or next(rest, "...")) for n in self._required]
        gap = next((i for i, (_, x) in enumerate(pairs) if x == "..."), len(pairs))
        return call_line(
            f"{name}={place}" if name in self._by_name or i >= gap else place
            for i, (name, place) in enumerate(pairs)
        )

    def _named(
        self, batch: Mapping[str, Any], whole: Any, number: int, place: str = "batch"
    ) -> Arguments:
        """Arguments from a mapping, those by name that can be given so."""
        given = self._keywords(batch, whole, number, place)
        only = [p.name for p in self._parameters if p.kind is p.POSITIONAL_ONLY]
        first = itertools.takewhile(given.__contains__, only)
        return tuple(given.pop(name) for name in list(first)), given

    def _keywords(
        self, batch: Mapping[str, Any], whole: Any, number: int, place: str
    ) -> dict[str, Any]:
        if not batch:
            raise no_examples(self._label, whole, number)
        given = {key: value for key, value in batch.items() if self._takes(key)}
        missing = [name for name in self._required if name not in given]
        if missing or not given:
            return self._only_input(batch, missing, number, place)
        if _needs_decoder_inputs(self._model, self._names, given):
            return self._decoder_inputs(given, batch) | given
        return given

    def _takes(self, key: str) -> bool:
        if key in LABELS:
            return key in self._required
        return key in self._names or self._takes_any

    def _only_input(
        self, batch: Mapping[str, Any], missing: list[str], number: int, place: str
    ) -> dict[str, Any]:
        """The one input of a batch for a forward of one argument, whatever its key."""
        inputs = [k for k, v in batch.items() if k not in LABELS and has_tensor(v)]
        if not inputs:
            raise no_examples(self._label, batch, number)
        if len(inputs) == 1 and len(missing) == 1 and inputs[0] not in self._names:
            return {missing[0]: batch[inputs[0]]}
        wanted = ", ".join(repr(name) for name in sorted(missing))
        arguments = first_few([p.name for p in self._parameters])
        got = ", ".join(repr(key) for key in batch)
        msg = (
            f"Expected batches with {wanted or f'one of {arguments}'} for "
            f"{self._label}, got keys {got} in batch {number}. Rename the keys in the "
            f"loader, or pass {self._line_of(inputs, place)}."
        )
        raise ValueError(msg)

    def _line_of(self, keys: list[str], place: str) -> str:
        """The option that calls the model with the inputs of a mapping."""
        places = {key: f"{place}[{key!r}]" for key in keys}
        if len(self._required) > 1:
            others = [x for key, x in places.items() if key not in self._required]
            return self._line(others, places)
        given = ", ".join(places.values()) or "..."
        whole = call_line([place])
        return f"{whole} if it takes the whole batch, or model({given})"

    def _decoder_inputs(
        self, given: dict[str, Any], batch: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Inputs of the decoder: the shifted labels, else the encoder's tokens.

        Models that cannot shift labels for others do so themselves. Where there is
        neither, nothing is added: some models begin by themselves.
        """
        ids, mask = given.get("input_ids"), given.get("attention_mask")
        labels = batch.get("labels")
        shift = getattr(self._model, "prepare_decoder_input_ids_from_labels", None)
        if isinstance(labels, Tensor) and (shift or "labels" in self._names):
            # Labels of -100 are padding, by the convention of all losses.
            mask = (labels != -100).long()
            found = {"labels": labels}
            if shift is not None:
                found = {"decoder_input_ids": shift(labels)}
        elif ids is not None:
            found = {"decoder_input_ids": ids}
        else:
            return {}
        if mask is not None and "decoder_attention_mask" in self._names:
            found["decoder_attention_mask"] = mask
        return found


def inner_model(model: nn.Module) -> nn.Module:
    """The model that a PEFT wrapper adapts; any other model itself."""
    inner = getattr(model, "get_base_model", None)
    found = inner() if callable(inner) else model
    return found if isinstance(found, nn.Module) else model


def _needs_decoder_inputs(
    model: nn.Module, names: set[str], given: Mapping[str, Any]
) -> bool:
    """Whether this is an encoder-decoder model that was given inputs for one half."""
    is_both = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    has_inputs = "decoder_input_ids" in given or "decoder_inputs_embeds" in given
    return bool(is_both) and "decoder_input_ids" in names and not has_inputs


def _are_examples(first: Mapping[str, Any], second: Any) -> bool:
    """Whether these are two examples that were not collated into a batch."""
    return isinstance(second, Mapping) and set(first) == set(second)


def _parameters_of(model: nn.Module) -> list[inspect.Parameter]:
    """Parameters of the model's forward; none if Python cannot see them.

    A PEFT wrapper takes any arguments and passes them on, so the inner model counts.
    """
    try:
        signature = inspect.signature(inner_model(model).forward)
    except (TypeError, ValueError):
        return []
    return list(signature.parameters.values())


def _takes_any(parameter: inspect.Parameter) -> bool:
    """Whether this is ``**kwargs`` without a list of what it may contain.

    Hugging Face's ``**kwargs: Unpack[...]`` are settings, not columns of a data set.
    """
    kind = parameter.annotation
    is_listed = get_origin(kind) is Unpack or "Unpack[" in str(kind)
    return parameter.kind is parameter.VAR_KEYWORD and not is_listed


def _by_name(parameter: inspect.Parameter) -> bool:
    return parameter.kind is parameter.KEYWORD_ONLY


def _may_be_labels(inputs: Any, value: Any, name: str) -> bool:
    """Whether an argument that is not called labels gets what looks like them."""
    is_told = name in (*LABELS, "y", "classes", "class_labels")
    is_told = is_told or any(part in name for part in TOLD)
    return not is_told and looks_like_labels(inputs, value)


def _is_required(parameter: inspect.Parameter) -> bool:
    is_named = parameter.kind in (
        parameter.POSITIONAL_ONLY,
        parameter.POSITIONAL_OR_KEYWORD,
        parameter.KEYWORD_ONLY,
    )
    return is_named and parameter.default is parameter.empty
