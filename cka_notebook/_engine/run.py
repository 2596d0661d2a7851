"""One run: all sides over one loader, batch by batch."""

import platform
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any, Protocol

import torch

from cka_notebook._capture.streams import RandomStreams, seeded
from cka_notebook._grams.buffer import GramBuffer
from cka_notebook._grams.packing import MIN_EXAMPLES
from cka_notebook._grams.pairs import LayerGrams
from cka_notebook._inputs.calls import Call, shape_of
from cka_notebook._inputs.loaders import (
    batches,
    drawing_from,
    empty_loader,
    is_empty,
    length,
    loader_facts,
)
from cka_notebook._inputs.pooling import Pools
from cka_notebook._inputs.usage import Usage
from cka_notebook._results.atomic import PathLike
from cka_notebook._undo import Undo

from .borrowed import torch_settings
from .checkpoint import Checkpoint, Whole
from .estimate import Estimate
from .facts import run_notes, run_provenance, shared_note, short_note, used_note
from .fingerprint import of_function, of_model
from .memory import Memory
from .side import (
    LiveModel,
    ModelSpec,
    choose_layers,
    explaining_memory,
    make_sides,
)
from .state import RunState
from .tokens import left_out_of
from .totals import Axis

TRIED = 16
"""The probe searches this many batches for one that is large enough."""


MAY_DIFFER = "loader", "device"
"""What ranks need not have in common."""


class Plan(Protocol):
    """What is compared and how: the settings of a `CKA`."""

    specs: tuple[ModelSpec, ModelSpec]
    metric: str
    pool: Pools
    autocast: torch.dtype | None
    device: torch.device | None


class Run:
    """The moving parts of one run: sides, batches, random numbers, checkpoint.

    Args:
        plan: What is compared.
        loader: Batches.
        loader2: Batches for model 2, or None.
        paired: Whether both loaders yield the same examples.
        random: The random streams of the run.
        checkpoint: File for the running sums, or None.
        start: Random streams to start from, instead of the global ones.

    Attributes:
        at_bound: The state to write to the checkpoint, if the run is between batches.
    """

    def __init__(
        self,
        plan: Plan,
        loader: Iterable[Any],
        loader2: Iterable[Any] | None,
        paired: bool,
        random: RandomStreams,
        checkpoint: PathLike | None,
        start: dict[str, torch.Tensor] | None = None,
    ) -> None:
        self.plan = plan
        self.loaders = [loader] if loader2 is None else [loader, loader2]
        self.paired = paired
        self.sides = make_sides(plan.specs, plan, same_inputs=loader2 is None)
        self.models = list(dict.fromkeys(side.model for side in self.sides))
        self.buffer, self.widest = GramBuffer(0), 0
        self.settings: dict[str, Any] = {}
        self.random = random
        self.checkpoint = Checkpoint(checkpoint) if checkpoint is not None else None
        if self.checkpoint is not None:
            self.checkpoint.begin(self.random)
        if start is not None:
            self.random.load(start)
        self.start = self.random.save()
        self.batches: Iterator[tuple[Any, Any]] = iter(())
        self.usage = Usage()
        self._taken, self._taken_all = 0, False
        self.at_bound: RunState | None = None
        self._kinds = {"cpu", *(model.device.type for model in self.models)}
        self.examples, self.loading_seconds = 0, 0.0
        self._sizes: set[tuple[int, ...]] = set()

    def probe(self) -> None:
        """Run some examples of the first batches, which the run then takes again."""
        undo = Undo()
        with undo, undo, self.random:
            undo.enter(torch_settings(self._kinds))
            self._probe()

    def _probe(self) -> None:
        loader, *other = self.loaders
        loader2 = self._own(other[0]) if other else None
        self.batches = batches(self._own(loader), loader2, self.paired)
        calls = self._first_calls()
        self.examples = calls[0].examples
        for model, call in zip(self.models, calls, strict=True):
            model.probe(call)
        for side in self.sides:
            side.learn()

    def _first_calls(self) -> list[Call]:
        """The calls on the first batch that is large enough; the run takes it again."""
        taken: list[tuple[Any, Any]] = []
        found: list[Call] = []
        for number in range(1, TRIED + 1):
            started = time.perf_counter()
            batch = self._next()
            if batch is None:
                break
            self.loading_seconds = time.perf_counter() - started
            taken.append(batch)
            if self._is_empty(batch):
                continue
            calls = self._calls(batch, number)
            if not found or calls[0].examples > found[0].examples:
                found = calls
            if calls[0].examples >= MIN_EXAMPLES:
                break
        self.batches, self._taken = chain(taken, self.batches), len(taken)
        if not found:
            raise empty_loader("loader", len(taken), self.usage.before)
        return found

    def choose(
        self, layers: Sequence[list[str] | None], max_batches: int | None
    ) -> RunState:
        """Resolve the choice of layers and prepare to capture them.

        Args:
            layers: The layers of each side; None for the user's choice.
            max_batches: Number of batches after which the run ends, or None.
        """
        choose_layers(self.sides, layers)
        every = chain.from_iterable(side.layers for side in self.sides)
        self.models[0].pooling.check(list(every))
        counts = self._capture()
        rows, columns = (
            Axis(side.layers, side.name, side.doubts.get("alike", ()))
            for side in self.sides
        )
        total = _total([length(x) for x in self.loaders], max_batches)
        state = RunState(rows, columns, total, self.plan.metric)
        state.start = self.start
        state.provenance = run_provenance(self.sides, self.loaders, paired=self.paired)
        state.estimate = self._estimate(state, sum(counts))
        state.notes += run_notes(
            self.sides,
            self.models,
            self.plan.device,
            unrelated=len(self.loaders) > 1 and not self.paired,
        )
        state.scatters = [x for model in self.models for x in model.scatters]
        state.last_notes = [
            partial(note, model.name)
            for model in self.models
            for note in (
                model.tokens.unmasked_note,
                model.tokens.empty_note,
                model.lengths.note,
            )
        ]
        self.restrict(state)
        return state

    def restrict(self, state: RunState) -> None:
        """Compute only the layers of this state, which are among those chosen."""
        for side, axis in zip(self.sides, state.axes, strict=True):
            side.restrict(axis.layers)
        for model in self.models:
            shared = [side.rows for side in self.sides if side.model is model]
            model.only(chain(*shared))

    def capture(self, undo: Undo) -> None:
        """Give the models hooks."""
        for model in self.models:
            undo.enter(model.capturing())

    def resume(
        self, state: RunState, max_batches: int | None, *, load_sums: bool = True
    ) -> None:
        """Continue from the checkpoint, if there is one, after the batches in it.

        The run's random streams are in place.

        Args:
            state: Gets its sums.
            max_batches: Number of batches after which the run ends, or None.
            load_sums: False to leave them: a run that continues with other layers
                will replace them.
        """
        if self.checkpoint is None:
            return
        self.settings = self._settings(state)
        if not (load_sums and self.checkpoint.exists):
            return
        self.checkpoint.check(self.settings, max_batches)
        taken = map(self._given, self.batches)
        memory = self.checkpoint.resume(state, self.random, taken)
        self.buffer.shifts.update(memory.shifts)
        with self.checkpoint.blamed():
            for model, own in zip(self.models, memory.models, strict=True):
                model.load(own)
        self._note_masks(state)

    def save(self, *, now: bool = True) -> None:
        """Write the checkpoint, if there is one: as of the end of the last batch.

        If the run is in the middle of a batch, as of the end of an earlier one, which
        was kept a few milliseconds ago.

        Args:
            now: Do not wait until the next write is due.
        """
        if self.checkpoint is None:
            return
        if self.at_bound is not None and (now or self.checkpoint.must_keep()):
            self.checkpoint.keep(partial(self._whole, self.at_bound))
        if now or self.checkpoint.is_due():
            self.checkpoint.write(self.settings)

    def _whole(self, state: RunState) -> Whole:
        """All that a run needs to continue after this batch."""
        models = tuple(model.save() for model in self.models)
        memory = Memory(dict(self.buffer.shifts), models)
        return Whole(state, state.totals, self.random.save(), memory)

    def step(self, state: RunState, *, keeps: bool = True) -> bool:
        """Run all sides on one batch; False when the loader has ended.

        The run's random streams are in place.

        Args:
            state: Gets the batch.
            keeps: Whether the checkpoint is to have this state.
        """
        self.at_bound = None
        undo = Undo()
        with undo, undo:
            undo.enter(torch_settings(self._kinds))
            more = self._step(state)
        self._taken = max(state.done, self._taken)
        self.at_bound = state if keeps else None
        return more

    def _step(self, state: RunState) -> bool:
        batch = self._next()
        if batch is None:
            return False
        if self.checkpoint is not None:
            self.checkpoint.add(self._given(batch))
        if self._is_empty(batch):
            state.skip()
            return True
        calls = self._calls(batch, state.done + 1)
        n = calls[0].examples
        if n < MIN_EXAMPLES:
            state.skip()
            self._sizes |= {shape_of(call) for call in calls}
            state.sizes_vary = len(self._sizes) > len(calls)
            return True
        given = self._drawn_grams(calls, state.done + 1)
        rows, columns = (side.grams(given) for side in self.sides)
        state.add(rows, columns, n)
        self._note_masks(state)
        return True

    def _note_masks(self, state: RunState) -> None:
        state.provenance["masked"] = any(x.pooling.masked for x in self.models)

    def close(self) -> None:
        """Release the loader's iterator, and so its worker processes."""
        self.batches = iter(())
        self.usage.end(self._taken)

    def note_missing(self, state: RunState) -> None:
        """Note which of the loader's batches did not arrive here."""
        promised = _total([length(x) for x in self.loaders], None)
        if self._taken_all and promised is not None and state.done < promised:
            state.notes.append(short_note(state.done, promised, self.usage.is_shared))
        elif self.usage.is_shared:
            state.notes.append(shared_note(state.done))
        if self.usage.before:
            state.notes.append(used_note(self.usage.before, state.done))

    def _given(self, batch: tuple[Any, Any]) -> Any:
        """What the loaders have yielded."""
        return batch if len(self.loaders) > 1 else batch[0]

    def _is_empty(self, batch: tuple[Any, Any]) -> bool:
        """Whether it contains no example."""
        return all(map(is_empty, batch[: len(self.loaders)]))

    def _own(self, loader: Iterable[Any]) -> Iterable[Any]:
        """The loader; beside others who draw, one with the run's own generator."""
        if self.random.is_shared:
            loader = drawing_from(loader, self.random.generator)
        return self.usage.of(loader)

    def _next(self) -> tuple[Any, Any] | None:
        """The next batch, or None at the end."""
        batch = next(self.batches, None)
        self._taken_all = batch is None
        return batch

    def _capture(self) -> list[int]:
        """Prepare the captures of all models; the number of layers of each."""
        layers = [
            # By name: sides that share a model may share layers.
            {x.name: x for s in self.sides if s.model is model for x in s.found()}
            for model in self.models
        ]
        counts = list(map(len, layers))
        every = chain.from_iterable(found.values() for found in layers)
        self.widest = max((layer.output.features for layer in every), default=0)
        self.buffer = GramBuffer(sum(counts), self.widest)
        for number, (model, found) in enumerate(zip(self.models, layers, strict=True)):
            first = sum(counts[:number])
            model.capture(list(found.values()), self.buffer, first)
        return counts

    def _calls(self, batch: tuple[Any, Any], number: int) -> list[Call]:
        """The calls of all models on a batch, with equally many examples."""
        # A model that two sides share runs on the batch of the first.
        pairs = list(zip(self.models, batch, strict=False))
        calls = [model.prepare(own, number) for model, own in pairs]
        sizes = [call.examples for call in calls]
        if len(set(sizes)) == 1:
            return calls
        if self.paired:
            raise _unequal(self.models, sizes, number)
        both = zip(self.models, calls, strict=True)
        return [model.caller.take(call, min(sizes)) for model, call in both]

    def _drawn_grams(
        self, calls: list[Call], number: int
    ) -> dict[LiveModel, LayerGrams]:
        """The Gram matrices of one batch, from random numbers that are its own.

        So a run that resumes need not run the models on the batches already done: the
        loader draws for each batch what it drew before, and the models do too.
        """
        if self.random.is_shared or not any(model.draws for model in self.models):
            return self._grams(calls)
        seed = zlib.crc32(self.start["torch0"].numpy().tobytes()) + (number << 32)
        undo = Undo()
        with undo, undo:
            undo.enter(seeded(seed, [model.device for model in self.models]))
            return self._grams(calls)

    def _grams(self, calls: list[Call]) -> dict[LiveModel, LayerGrams]:
        """The Gram matrices of one batch, by model."""
        self.buffer.begin(calls[0].examples)
        for model, call in zip(self.models, calls, strict=True):
            model.run(call)
        with explaining_memory("the Gram matrices of both models", calls[0]):
            packed = self.buffer.finish()
        return {model: model.grams(packed) for model in self.models}

    def _estimate(self, state: RunState, layers: int) -> Estimate:
        """Expected memory and time; time only on CPUs, where calls are synchronous."""
        devices = [model.device for model in self.models]
        device = next((x for x in devices if x.type != "cpu"), devices[0])
        grid = len(state.layers1), len(state.layers2)
        memory = Estimate.of_memory(layers, grid, self.examples, device, self.widest)
        if device.type != "cpu":
            return memory
        # Other processes load while this one computes.
        alone = not any(getattr(x, "num_workers", 0) for x in self.loaders)
        loading = self.loading_seconds if alone else 0.0
        passes = [model.timing for model in self.models]
        return memory.with_time(state.total, loading, passes)

    def common(self, state: RunState) -> dict[str, Any]:
        """What all ranks must have in common: nothing but the batches may differ."""
        settings = self._settings(state)
        return {key: settings[key] for key in settings if key not in MAY_DIFFER}

    def _settings(self, state: RunState) -> dict[str, Any]:
        """What a run that continues a checkpoint must have in common with it."""
        pooling, sides = self.models[0].pooling, list(enumerate(self.sides, 1))
        python = ".".join(platform.python_version_tuple()[:2])
        pools = pooling.functions.items()
        return {
            "layers1": list(state.layers1),
            "layers2": list(state.layers2),
            "metric": state.metric,
            "pool": pooling.describe(),
            "tokens left out": left_out_of(model.tokens for model in self.models),
            "autocast": str(self.plan.autocast),
            "paired": self.paired,
            "version of torch": torch.__version__,
            "version of Python": python,
            **{f"model{i}": of_model(side.tree.model) for i, side in sides},
            **{f"forward of model{i}": of_function(x.spec.forward) for i, x in sides},
            **{f"examples of model{i}": of_function(x.spec.examples) for i, x in sides},
            **{f"pool of {layers!r}": of_function(pool) for layers, pool in pools},
            "loader": [loader_facts(loader) for loader in self.loaders],
        }


def _total(lengths: list[int | None], max_batches: int | None) -> int | None:
    """Number of batches of the whole run, or None if unknown."""
    if None in lengths:
        return max_batches
    return min(x for x in (*lengths, max_batches) if x is not None)


def _unequal(models: list[LiveModel], sizes: list[int], number: int) -> ValueError:
    given = " and ".join(
        f"{size} for {model.caller.label}"
        for model, size in zip(models, sizes, strict=True)
    )
    return ValueError(
        f"Expected both models to get the same examples, got {given} in batch "
        f"{number}. Use the same batch_size in both loaders, or pass paired=False if "
        "they hold different examples."
    )
