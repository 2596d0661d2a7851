"""One model of a comparison: how it runs, and the Gram matrices of its layers.

A side is the rows or the columns of the matrix. It gets its Gram matrices from a model
that runs once per batch; sides that compare a model with itself share that run.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from cka_notebook._capture.capture import Capture
from cka_notebook._capture.hooks import Hook
from cka_notebook._capture.probe import Probed, probe
from cka_notebook._capture.rewinding import rewound
from cka_notebook._capture.shuffling import Scatter
from cka_notebook._grams.buffer import GramBuffer
from cka_notebook._grams.packing import PackedGrams
from cka_notebook._grams.pairs import LayerGrams
from cka_notebook._inputs.calls import Call, Caller, Forward
from cka_notebook._inputs.counting import Examples
from cka_notebook._inputs.nested import describe
from cka_notebook._inputs.pooling import Pooling, Pools
from cka_notebook._messages import error_text, is_out_of_memory
from cka_notebook._models.choice import Choices
from cka_notebook._models.layer_tree import LayerTree
from cka_notebook._models.nodes import Layer
from cka_notebook._undo import Undo, unhook

from .borrowed import eager, without_nested_tensors
from .checks import for_each
from .estimate import Timing
from .lengths import TextLengths
from .memory import ModelMemory
from .modes import Evaluation
from .tokens import Tokens


@dataclass(frozen=True)
class ModelSpec:
    """One model of a comparison, as the user has described it.

    Attributes:
        tree: Its layers.
        name: Its name in titles and notes.
        choices: Which layers are compared.
        forward: ``forward(model, batch)``, or None to call the model itself.
        examples: ``examples(batch)`` gives the number of examples, or None.
    """

    tree: LayerTree
    name: str
    choices: Choices = None
    forward: Forward | None = None
    examples: Examples | None = None

    def runs_like(self, other: "ModelSpec") -> bool:
        """Whether one forward pass serves both."""
        same = self.tree.model is other.tree.model
        same = same and self.examples is other.examples
        return same and self.forward is other.forward


class Settings(Protocol):
    """What all models of a comparison have in common."""

    pool: Pools
    autocast: torch.dtype | None


class LiveModel:
    """A model in memory, which runs once per batch.

    Args:
        spec: The model.
        argument: The argument that holds it, for messages.
        settings: How it runs.

    Attributes:
        name: Its name in titles and notes.
        caller: Calls it on batches.
        pooling: Turns activations into features.
        tokens: Which tokens count.
        lengths: How much of its layers is text length.
        changed: Names of what its forward pass changed in the probe, and is left with:
            buffers, and attributes that the next pass depends on.
        by_size: Number of examples by whose size alone the batch axes were found, or 0.
        threaded: Names of modules that it calls in threads of its own, and whether
            they are in training mode there.
        draws: Whether its forward pass draws random numbers.
        uncut: Shapes of inputs that the probe could not cut, if it refused layers.
    """

    def __init__(self, spec: ModelSpec, argument: str, settings: Settings) -> None:
        model = spec.tree.model
        label = f"{argument} ({type(model).__name__})"
        self.name = spec.name
        self.tree = spec.tree
        self.caller = Caller(model, label, spec.forward, spec.examples)
        self.pooling = Pooling(settings.pool, self.caller.masks.resampled)
        self.tokens = Tokens(self.tree, self.pooling, self.caller.masks)
        self.lengths = TextLengths([])
        self.changed: list[str] = []
        self.by_size = 0
        self.draws = False
        self.uncut: list[tuple[int, ...]] = []
        self.threaded: dict[str, bool] = {}
        self._autocast = settings.autocast
        self._evaluation = Evaluation(model.modules())
        self._encoders = [
            module
            for module in model.modules()
            if isinstance(module, nn.TransformerEncoder)
            and hasattr(module, "use_nested_tensor")
        ]
        self._last_pass = 0, 0.0
        self._places: dict[str, int] = {}
        self._capture: Capture

    @property
    def device(self) -> torch.device:
        """Where the model expects its inputs."""
        return self.caller.device

    def prepare(self, batch: Any, number: int) -> Call:
        """What the model is called with; see `Caller.prepare`."""
        return self.caller.prepare(batch, number, self._outputs)

    def probe(self, call: Call) -> None:
        """Learn the model's layers, from a few examples of a batch."""
        self.caller.learn_rows(call, self._outputs)
        versions = _buffer_versions(self.tree.model)

        def run(rows: Sequence[int] | None) -> int:
            return self._timed(call if rows is None else self.caller.pick(call, rows))

        probed = probe(self.tree, run, call.examples)
        is_doubtful = bool(probed.refused or probed.by_size) and not self.caller.grouped
        if is_doubtful and self.caller.may_group(call):
            # The model may run, and pair the examples with rows of others.
            self.caller.grouped = True
            grouped = probe(self.tree, run, call.examples)
            if _doubtfulness(grouped) >= _doubtfulness(probed):
                self.caller.grouped = False
                grouped = probe(self.tree, run, call.examples)
            probed = grouped
        if not self.tree.calls:
            raise self._never_called()
        changed = _changed_buffers(self.tree.model, versions)
        self.changed = list(dict.fromkeys([*changed, *probed.state]))
        self.by_size, self.threaded = probed.by_size, probed.threaded
        self.draws = probed.draws
        self.uncut = self.caller.uncut(call) if probed.refused else []

    @property
    def timing(self) -> Timing:
        """How long the last pass of the probe took; the first one warms up."""
        examples, seconds = self._last_pass
        return Timing(examples, self.tree.calls, seconds)

    def capture(self, layers: Sequence[Layer], buffer: GramBuffer, first: int) -> None:
        """Prepare to capture these layers.

        Args:
            layers: The layers.
            buffer: Where their Gram matrices go.
            first: The number of the first of them there.
        """
        self.tokens.decide(layers)
        features = [self.pooling.features(layer.name) for layer in layers]
        self._places = {layer.name: place for place, layer in enumerate(layers)}
        self.lengths = TextLengths(list(self._places))
        self._capture = Capture(layers, features, buffer, first)

    def capturing(self) -> Capture:
        """The context in which the hooks exist."""
        return self._capture

    def places(self, layers: Iterable[str]) -> list[int]:
        """The places of these layers among those that are captured."""
        return [self._places[layer] for layer in layers]

    def only(self, places: Iterable[int]) -> None:
        """Capture the layers at these places alone, from the next batch on."""
        self._capture.only(places)

    def run(self, call: Call) -> None:
        """Run the model on a batch; its Gram matrices go to the buffer."""
        self.pooling.begin(call.mask, call.decoder_mask)
        self._capture.begin(call.examples)
        self._forward(call)
        self._capture.finish()

    def grams(self, packed: PackedGrams) -> LayerGrams:
        """The Gram matrices of this model, from all those of the batch."""
        grams = self._capture.grams(packed)
        masks = self.pooling.masks
        if masks and self.tokens.padded:
            self.lengths.add(grams, masks)
        if masks and (self.tokens.unmasked or self.tokens.padded):
            self.tokens.look_for_padding()
        return grams

    @property
    def scatters(self) -> list[tuple[str, str, Scatter]]:
        """Model, layer and scatter of the layers watched for random batches."""
        return [(self.name, layer, x) for layer, x in self._capture.scatters]

    def save(self) -> ModelMemory:
        """What was learned from the batches so far."""
        scatters = [scatter.save() for _, scatter in self._capture.scatters]
        return ModelMemory(
            self.pooling.masked,
            self.lengths.save(),
            self.tokens.padding,
            tuple(scatters),
        )

    def load(self, memory: ModelMemory) -> None:
        """Continue from what `save` gave."""
        self.pooling.masked = memory.masked
        self.lengths.load(*memory.lengths)
        self.tokens.padding = memory.padding
        pairs = zip(self._capture.scatters, memory.scatters, strict=True)
        for (_, scatter), state in pairs:
            scatter.load(state)

    @contextmanager
    def explaining(self, call: Call) -> Iterator[None]:
        """Add the model and its inputs to errors of a forward pass."""
        with explaining_memory(self.caller.label, call):
            try:
                yield
            except Exception as error:
                if not is_out_of_memory(error):
                    self._add_notes(error, call)
                raise

    def _never_called(self) -> ValueError:
        return ValueError(
            f"Expected `forward` to call {self.caller.label}, but it called no part of "
            "it. It gets the model to call as its first argument: "
            "forward=lambda model, batch: model(batch)."
        )

    def _add_notes(self, error: Exception, call: Call) -> None:
        is_of_pool = "`pool`" in error_text(error)
        inputs = [describe(value) for value in call.args]
        inputs += [f"{key}={describe(value)}" for key, value in call.kwargs.items()]
        given = f"{self.caller.label}: {', '.join(inputs)}."
        if self.caller.forward is not None:
            error.add_note(f"`forward` was called with {given}")
        else:
            error.add_note(f"Inputs of {given}")
        for remedy in () if is_of_pool else self.caller.remedies(error, call):
            error.add_note(remedy)

    def _timed(self, call: Call) -> int:
        self.pooling.begin(call.mask, call.decoder_mask)
        undo = Undo()
        with undo, undo:
            self.tokens.watch(call.examples, undo)
            started = time.perf_counter()
            self._forward(call)
        self._last_pass = call.examples, time.perf_counter() - started
        return call.examples

    def _outputs(self, call: Call) -> list[Any]:
        """What the model and `forward` return; a user's function may return a loss."""
        seen: list[Any] = []
        model, undo = self.tree.model, Undo()
        hook = Hook(lambda *given: seen.append(given[2]))
        with undo, undo:
            undo.enter(rewound(model))
            undo.add(unhook, model, hook)
            model.register_forward_hook(hook)
            seen.append(self._forward(call))
        return seen

    def _forward(self, call: Call) -> Any:
        device, dtype = self.device.type, self._autocast
        autocast = torch.autocast(device, dtype=dtype) if dtype else nullcontext()
        undo = Undo()
        with self.explaining(call), undo, undo, torch.no_grad(), autocast:
            undo.enter(self._evaluation)
            undo.enter(without_nested_tensors(self._encoders))
            undo.enter(eager())
            return self.caller(call, self.pooling.learn)


class Side:
    """The rows or the columns of the matrix.

    Args:
        spec: The model.
        model: What runs it, alone or together with another side.

    Attributes:
        layers: Names of the chosen layers.
        rows: Their places among the layers that the model captures.
    """

    def __init__(self, spec: ModelSpec, model: LiveModel) -> None:
        self.spec = spec
        self.model = model
        self.layers: list[str] = []
        self.rows: list[int] = []

    @property
    def name(self) -> str:
        """The model's name in titles and notes."""
        return self.spec.name

    @property
    def tree(self) -> LayerTree:
        """All layers."""
        return self.spec.tree

    def learn(self) -> None:
        """Take the result of the probe, if another side's tree has it."""
        self.tree.recall(self.model.tree.outputs)

    def choose(self, layers: list[str] | None) -> None:
        """Choose these layers; None resolves the user's choice."""
        choices = self.spec.choices if layers is None else layers
        self.layers = self.tree.choose(choices)

    def found(self) -> list[Layer]:
        """The chosen layers."""
        return self.tree.find(self.layers)

    @property
    def doubts(self) -> dict[str, list[str]]:
        """Chosen layers, by what the probe could not tell about their rows."""
        found: dict[str, list[str]] = {}
        for layer in self.found():
            for doubt in layer.output.doubts:
                found.setdefault(doubt, []).append(layer.name)
        return found

    def restrict(self, layers: Iterable[str]) -> None:
        """Take these layers alone, which are among the captured ones."""
        self.rows = self.model.places(layers)

    def grams(self, given: dict[LiveModel, LayerGrams]) -> LayerGrams:
        """The Gram matrices of one batch, from those that each model gave."""
        return given[self.model].subset(self.rows)


def _doubtfulness(probed: Probed) -> tuple[bool, int]:
    """Smaller for a probe that tells more."""
    return bool(probed.by_size), probed.refused


def make_sides(
    specs: Iterable[ModelSpec], settings: Settings, *, same_inputs: bool
) -> list[Side]:
    """A side for each model; sides with one model and the same inputs share its run."""
    sides: list[Side] = []
    for number, spec in enumerate(specs, 1):
        shared = [x.model for x in sides if same_inputs and x.spec.runs_like(spec)]
        live = shared or [LiveModel(spec, f"model{number}", settings)]
        sides.append(Side(spec, live[0]))
    return sides


def choose_layers(sides: Sequence[Side], layers: Sequence[list[str] | None]) -> None:
    """Resolve the choice of each side; equal choices fail with one message.

    Args:
        sides: The sides, after `Side.learn`.
        layers: The layers of each side; None for the user's choice.

    Raises:
        ValueError: With all that matches nothing, of both sides.
    """
    first, second = sides
    is_same = first.tree.model is second.tree.model and layers[0] is layers[1]
    if is_same and first.spec.choices is second.spec.choices:
        first.choose(layers[0])
    pairs = zip(sides, layers, strict=True)
    for_each(partial(side.choose, names) for side, names in pairs)


def _buffer_versions(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Identity and version of each buffer; an in-place change raises the version."""
    return {
        name: (id(buffer), buffer._version)  # noqa: SLF001 the only sign of a change
        for name, buffer in model.named_buffers()
        if not buffer.is_inference()
    }


def _changed_buffers(model: nn.Module, before: dict[str, tuple[int, int]]) -> list[str]:
    """Names of buffers changed in place; a new one may be only a cache."""
    known = {identity for identity, _ in before.values()}
    now = _buffer_versions(model).items()
    return [name for name, own in now if own[0] in known and own != before.get(name)]


@contextmanager
def explaining_memory(what: str, call: Call) -> Iterator[None]:
    """Say what to do when memory runs out.

    Args:
        what: What needs it, such as a model.
        call: The call that it is for.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise _out_of_memory(what, call) from error
        raise


def _out_of_memory(label: str, call: Call) -> RuntimeError:
    return RuntimeError(
        f"Out of memory in {label} with {call.examples} examples. Lower batch_size, "
        "choose fewer layers, or pass autocast=torch.bfloat16. Precision hardly "
        "depends on batch_size from 64 up."
    )
