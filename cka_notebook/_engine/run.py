"""One run: all sides over one loader, batch by batch."""

import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain
from typing import Any, Protocol

import torch

from cka_notebook._grams.buffer import GramBuffer
from cka_notebook._grams.packing import MIN_EXAMPLES
from cka_notebook._grams.pairs import LayerGrams
from cka_notebook._inputs.calls import Call, shape_of
from cka_notebook._inputs.loaders import batches, empty_loader, length, loader_facts
from cka_notebook._inputs.nested import tensors
from cka_notebook._inputs.pooling import Pools
from cka_notebook._results.files import PathLike

from .borrowed import RandomStreams
from .checkpoint import Checkpoint, digest, digest_tensors
from .estimate import Estimate
from .facts import run_notes, run_provenance
from .side import LiveModel, ModelSpec, explaining_memory, make_sides
from .state import Axis, RunState
from .tokens import left_out_of


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
        checkpoint: File for the running sums, or None.
        start: Random streams to start from, instead of the global ones.
    """

    def __init__(
        self,
        plan: Plan,
        loader: Iterable[Any],
        loader2: Iterable[Any] | None,
        paired: bool,
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
        self.random = RandomStreams([model.device for model in self.models])
        self.checkpoint = Checkpoint(checkpoint) if checkpoint is not None else None
        if self.checkpoint is not None:
            self.checkpoint.begin(self.random)
        if start is not None:
            self.random.load(start)
        self.start = self.random.save()
        with self.random:
            self.batches = batches(loader, loader2, paired)
        self.examples, self.loading_seconds = 0, 0.0
        self._sizes: set[tuple[int, ...]] = set()

    def probe(self) -> None:
        """Run the first examples of the loader, whose batches are put back."""
        with self.random:
            first, calls = self._first()
        self.examples = calls[0].examples
        if self.checkpoint is not None:
            self.settings["first batch"] = digest_tensors(tensors(first))
        for model, call in zip(self.models, calls, strict=True):
            with self.random:
                model.probe(call)
        for side in self.sides:
            side.learn()

    def choose(
        self, layers: Sequence[list[str] | None], max_batches: int | None
    ) -> RunState:
        """Resolve the choice of layers and prepare to capture them.

        Args:
            layers: The layers of each side; None for the user's choice.
            max_batches: Number of batches after which the run ends, or None.
        """
        for side, names in zip(self.sides, layers, strict=True):
            side.choose(names)
        every = chain.from_iterable(side.layers for side in self.sides)
        self.models[0].pooling.check(list(every))
        counts = self._capture()
        rows, columns = (Axis(side.layers, side.name) for side in self.sides)
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
            for note in (model.tokens.unmasked_note, model.lengths.note)
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

    def capturing(self) -> ExitStack:
        """The context in which the models have hooks."""
        with ExitStack() as stack:
            for model in self.models:
                stack.enter_context(model.capturing())
            return stack.pop_all()

    def resume(self, state: RunState, *, load_sums: bool = True) -> None:
        """Continue from the checkpoint, if there is one, after the batches in it.

        Args:
            state: Gets its sums.
            load_sums: False to leave them: a run that continues with other layers
                will replace them.
        """
        if self.checkpoint is None:
            return
        self.settings |= self._settings(state)
        if not (load_sums and self.checkpoint.exists):
            return
        memory = self.checkpoint.resume(state, self.random, self.settings)
        shifts = memory["shifts"].items()
        self.buffer.shifts.update({int(number): how for number, how in shifts})
        for model, lengths in zip(self.models, memory.get("lengths", []), strict=False):
            model.lengths.load(lengths)
        after = self.random.save()
        with self.random:
            for _ in range(state.done):
                next(self.batches, None)
        self.random.load(after)

    def save(self, state: RunState, *, now: bool = False) -> None:
        """Write the checkpoint, if there is one and it is time."""
        if self.checkpoint is not None and self.settings:
            shifts = self.buffer.shifts.items()
            memory = {
                "shifts": {str(number): how for number, how in shifts},
                "lengths": [model.lengths.save() for model in self.models],
            }
            self.checkpoint.save(state, self.random, self.settings, memory, now=now)

    def step(self, state: RunState) -> bool:
        """Run all sides on one batch; False when the loader has ended.

        The run's random streams are in place.
        """
        batch = self._next()
        if batch is None:
            return False
        calls = self._calls(batch, state.done + 1)
        n = calls[0].examples
        if n < MIN_EXAMPLES:
            state.skip()
            self._sizes |= {shape_of(call) for call in calls}
            state.sizes_vary = len(self._sizes) > len(calls)
            return True
        given = self._grams(calls)
        state.provenance["masked"] = any(x.pooling.masked for x in self.models)
        rows, columns = (side.grams(given) for side in self.sides)
        state.add(rows, columns, n)
        return True

    def close(self) -> None:
        """Release the loader's iterator, and so its worker processes."""
        self.batches = iter(())

    def _first(self) -> tuple[tuple[Any, Any], list[Call]]:
        """The first batch with examples, and its calls; what was taken is put back."""
        taken: list[tuple[Any, Any]] = []
        started = time.perf_counter()
        while (batch := self._next()) is not None:
            self.loading_seconds = time.perf_counter() - started
            taken.append(batch)
            calls = self._calls(batch, len(taken))
            if calls[0].examples:
                self.batches = chain(taken, self.batches)
                return batch, calls
        raise empty_loader("loader", len(taken))

    def _next(self) -> tuple[Any, Any] | None:
        """The next batch, or None at the end."""
        try:
            return next(self.batches, None)
        except RuntimeError as error:
            if "stack expects each tensor to be equal size" in str(error):
                error.add_note(
                    "The loader cannot make one tensor of examples of different "
                    "sizes. Resize or pad them, or pass it a collate_fn."
                )
            raise

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

    def _settings(self, state: RunState) -> dict[str, Any]:
        """What a run that continues a checkpoint must have in common with it."""
        models = enumerate(self.sides, 1)
        return {
            "layers1": list(state.layers1),
            "layers2": list(state.layers2),
            "metric": state.metric,
            "pool": self.models[0].pooling.describe(),
            "tokens left out": left_out_of(model.tokens for model in self.models),
            **{f"model{number}": digest(side.tree.model) for number, side in models},
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
