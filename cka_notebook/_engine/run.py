"""One run: both models over one loader, batch by batch."""

import platform
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import chain
from typing import Any, Protocol

import torch
from torch import nn

from cka_notebook._capture.capture import Capture
from cka_notebook._capture.probe import probe
from cka_notebook._grams.buffer import GramBuffer
from cka_notebook._grams.packing import MIN_EXAMPLES
from cka_notebook._grams.pairs import LayerGrams
from cka_notebook._inputs.calls import Call, Caller, Forward
from cka_notebook._inputs.loaders import batches, empty_loader, length, loader_facts
from cka_notebook._inputs.nested import describe, tensors
from cka_notebook._inputs.pooling import Pooling, Pools
from cka_notebook._messages import first_few
from cka_notebook._models.choice import Choices
from cka_notebook._models.layer_tree import LayerTree
from cka_notebook._models.nodes import Layer
from cka_notebook._models.offloading import is_dispatched
from cka_notebook._results.files import PathLike
from cka_notebook._version import __version__

from .borrowed import RandomStreams, eager, evaluating
from .checkpoint import Checkpoint, digest, digest_tensors
from .estimate import Estimate, Timing
from .state import RunState


class Plan(Protocol):
    """What is compared and how: the settings of a `CKA`."""

    tree1: LayerTree
    tree2: LayerTree
    same: bool
    name1: str
    name2: str
    choices1: Choices
    choices2: Choices
    metric: str
    pool: Pools
    forwards: tuple[Forward | None, Forward | None]
    autocast: torch.dtype | None
    device: torch.device | None


class Run:
    """The moving parts of one run: callers, captures, batches, random numbers.

    Args:
        plan: What is compared.
        loader: Batches.
        loader2: Batches for model 2, or None.
        paired: Whether both are of the same examples.
        checkpoint: File for the running sums, or None.
        start: Where the random streams begin, if not where the global ones are.
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
        self.loaders = loader, loader2
        self.paired = paired
        self.trees = plan.tree1, plan.tree2
        self.callers = [
            Caller(tree.model, f"model{i} ({type(tree.model).__name__})", forward)
            for i, (tree, forward) in enumerate(
                zip(self.trees, plan.forwards, strict=True), 1
            )
        ]
        # The same model on the same inputs runs once.
        self.once = (
            plan.same and loader2 is None and plan.forwards[0] is plan.forwards[1]
        )
        self.random = RandomStreams([caller.device for caller in self.callers])
        self.modules = [list(caller.model.modules()) for caller in self.callers]
        self.pools = [Pooling(plan.pool), Pooling(plan.pool)]
        self.buffer = GramBuffer(0)
        self.captures: list[Capture] = []
        self.checkpoint = Checkpoint(checkpoint) if checkpoint is not None else None
        self.settings: dict[str, Any] = {}
        if self.checkpoint is not None:
            self.checkpoint.begin(self.random)
        if start is not None:
            self.random.load(start)
        self.start = self.random.save()
        with self.random:
            self.batches = batches(loader, loader2, paired)
        self.examples, self.loading = 0, 0.0
        self.passes: dict[int, tuple[int, float]] = {}
        self.places: list[dict[str, int]] = []
        self.sides: list[list[int]] = []
        self.changing: list[list[str]] = []

    def probe(self) -> None:
        """Run the first examples of the first batch, which is put back."""
        started = time.perf_counter()
        with self.random:
            first = next(self.batches, None)
        if first is None:
            raise empty_loader("loader")
        self.loading = time.perf_counter() - started
        self.batches = chain([first], self.batches)
        calls = self._calls(first, 1)
        self.examples = calls[0].examples
        if self.checkpoint is not None:
            self.settings["first batch"] = digest_tensors(tensors(first))
        for side, (tree, call) in enumerate(zip(self.trees, calls, strict=False)):
            versions = _versions(tree.model)
            probe(tree, partial(self._probe_run, side, call))
            self.changing.append(_changed(tree.model, versions))
        if len(calls) == 1:
            tree1, tree2 = self.trees
            tree2.learn({node.module: node.outputs or [] for node in tree1.nodes})

    def choose(
        self,
        layers1: list[str] | None,
        layers2: list[str] | None,
        max_batches: int | None,
    ) -> RunState:
        """Resolve the choice of layers and make the captures."""
        plan = self.plan
        names1 = plan.tree1.choose(layers1 if layers1 is not None else plan.choices1)
        names2 = plan.tree2.choose(layers2 if layers2 is not None else plan.choices2)
        self.pools[0].check([*names1, *names2])
        found1, found2 = plan.tree1.find(names1), plan.tree2.find(names2)
        if self.once:
            union = list({x.name: x for x in [*found1, *found2]}.values())
            self.captures = self._capture(union)
            self.places = 2 * [_places(union)]
        else:
            self.captures = self._capture(found1, found2)
            self.places = [_places(found1), _places(found2)]
        lengths = [length(x) for x in self.loaders if x is not None]
        running = RunState(names1, names2, _total(lengths, max_batches))
        running.names, running.metric = (plan.name1, plan.name2), plan.metric
        running.provenance, running.start = self._provenance(), self.start
        running.estimate = self._estimate(running)
        self.restrict(running)
        running.notes += self._notes()
        running.scatters = [
            (title, name, scatter)
            for title, capture in zip(running.names, self.captures, strict=False)
            for name, scatter in capture.scatters
        ]
        return running

    def restrict(self, running: RunState) -> None:
        """Compute the layers of this state alone, which are among those chosen."""
        layers = running.layers1, running.layers2
        self.sides = [
            [place[name] for name in names]
            for place, names in zip(self.places, layers, strict=True)
        ]
        rows = [[*self.sides[0], *self.sides[1]]] if self.once else self.sides
        for capture, wanted in zip(self.captures, rows, strict=True):
            capture.only(wanted)

    def resume(self, running: RunState, *, anew: bool = False) -> None:
        """Go on from the checkpoint, if there is one, past the batches it holds.

        Args:
            running: Takes up its sums.
            anew: Leave them: a run that goes on with other layers will replace them.
        """
        if self.checkpoint is None:
            return
        plan = self.plan
        self.settings |= {
            "layers1": list(running.layers1),
            "layers2": list(running.layers2),
            "metric": plan.metric,
            "pool": self.pools[0].describe(),
            "model1": digest(plan.tree1.model),
            "model2": digest(plan.tree2.model),
            "loader": [loader_facts(x) for x in self.loaders if x is not None],
        }
        if anew or not self.checkpoint.found:
            return
        memory = self.checkpoint.resume(running, self.random, self.settings)
        shifts = memory["shifts"].items()
        self.buffer.shifts.update({int(number): how for number, how in shifts})
        after = self.random.save()
        with self.random:
            for _ in range(running.done):
                next(self.batches, None)
        self.random.load(after)

    def keep(self, running: RunState, *, now: bool = False) -> None:
        """Write the checkpoint, if there is one and it is time."""
        if self.checkpoint is not None and self.settings:
            shifts = self.buffer.shifts.items()
            memory = {"shifts": {str(number): how for number, how in shifts}}
            self.checkpoint.save(running, self.random, self.settings, memory, now=now)

    def step(self, running: RunState) -> bool:
        """Take one batch through both models; False when the loader has ended.

        The run's random streams are in place.
        """
        pair = next(self.batches, None)
        if pair is None:
            return False
        calls = self._calls(pair, running.done + 1)
        n = calls[0].examples
        if n < MIN_EXAMPLES:
            running.skip()
            return True
        grams = self._grams(calls)
        running.provenance["masked"] = any(pool.masked for pool in self.pools)
        first, second = self.sides
        running.add(grams[0].subset(first), grams[-1].subset(second), n)
        return True

    def close(self) -> None:
        """Let go of the loader's iterator, and so of its worker processes."""
        self.batches = iter(())

    def _capture(self, *sides: list[Layer]) -> list[Capture]:
        """Captures of these layers of one model or of both, into one buffer."""
        self.buffer = GramBuffer(sum(map(len, sides)))
        captures, first = [], 0
        for pool, layers in zip(self.pools, sides, strict=False):
            features = [pool.features(layer.name) for layer in layers]
            captures.append(Capture(layers, features, self.buffer, first))
            first += len(layers)
        return captures

    def _calls(self, pair: tuple[Any, Any], number: int) -> list[Call]:
        first = self.callers[0].prepare(pair[0], number)
        if self.once:
            return [first]
        second = self.callers[1].prepare(pair[1], number)
        if first.examples != second.examples:
            if self.paired:
                raise _unequal(self.callers, first, second, number)
            n = min(first.examples, second.examples)
            pairs = zip(self.callers, (first, second), strict=True)
            first, second = (caller.take(call, n) for caller, call in pairs)
        return [first, second]

    def _grams(self, calls: list[Call]) -> list[LayerGrams]:
        """The Gram matrices of one batch, of each model that runs."""
        self.buffer.begin(calls[0].examples)
        for side, call in enumerate(calls):
            capture = self.captures[side]
            self.pools[side].begin(call.mask, call.decoder_mask)
            capture.begin(call.examples)
            with _saying_where(self.callers[side], call):
                self._forward(side, call)
            capture.finish()
        with _saying_where(self.callers[side], call):
            packed = self.buffer.finish()
        return [capture.grams(packed) for capture in self.captures]

    def _forward(self, side: int, call: Call) -> None:
        caller, dtype = self.callers[side], self.plan.autocast
        autocast = (
            torch.autocast(caller.device.type, dtype=dtype) if dtype else nullcontext()
        )
        with torch.no_grad(), evaluating(self.modules[side]), autocast, eager():
            caller(call, self.pools[side].learn)

    def _probe_run(self, side: int, call: Call, count: int | None) -> int:
        caller = self.callers[side]
        if count is not None and count < call.examples:
            call = caller.take(call, count)
        started = time.perf_counter()
        with self.random, _saying_where(caller, call):
            self._forward(side, call)
        # The last pass counts: the first one warms up.
        self.passes[side] = call.examples, time.perf_counter() - started
        return call.examples

    def _estimate(self, running: RunState) -> Estimate:
        """What the run will take; the time on CPUs only, where launches take none."""
        on_cpu = all(caller.device.type == "cpu" for caller in self.callers)
        layers = [len(place) for place in self.places[: len(self.captures)]]
        grid = len(running.layers1), len(running.layers2)
        memory = Estimate.of_memory(sum(layers), grid, self.examples, on_cpu=on_cpu)
        # Other processes load while this one computes.
        alone = not any(getattr(x, "num_workers", 0) for x in self.loaders)
        passes = [
            Timing(examples, self.trees[side].calls, seconds)
            for side, (examples, seconds) in self.passes.items()
        ]
        if not on_cpu:
            return memory
        return memory.with_time(running.total, self.loading if alone else 0.0, passes)

    def _notes(self) -> list[str]:
        choices = self.plan.choices1, self.plan.choices2
        notes = [
            tree.auto_note()
            for tree, choice in zip(self.trees, choices, strict=True)
            if choice in (None, "auto")
        ]
        notes += [tree.axis_note() for tree in self.trees]
        titles = self.plan.name1, self.plan.name2
        notes += [
            f"{title} changes {first_few(names)} when it runs, in evaluation mode, "
            "too: it is not left as it was found, and a batch depends on those before. "
            "Compare "
            "copy.deepcopy(model) to keep the model as it is."
            for title, names in zip(titles, self.changing, strict=False)
            if names
        ]
        notes += [_placement_note(x, self.plan.device) for x in self.callers]
        if self.loaders[1] is not None and not self.paired:
            notes.append(
                "The two loaders hold different examples (paired=False), so CKA "
                "compares unrelated rows and says nothing about the data. To compare "
                "data sets, compare the two self-similarity matrices CKA(model) of "
                "each, or the same examples before and after a change."
            )
        return [note for note in dict.fromkeys(notes) if note]

    def _provenance(self) -> dict[str, Any]:
        models = [_model_facts(caller.model) for caller in self.callers]
        loader, loader2 = self.loaders
        return {
            "cka_notebook": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "pool": self.pools[0].describe(),
            "masked": False,
            "model1": models[0],
            "model2": models[1],
            "loader1": loader_facts(loader),
            "loader2": loader_facts(loader2) if loader2 is not None else None,
            "paired": self.paired,
        }


def _total(lengths: list[int | None], max_batches: int | None) -> int | None:
    """Number of batches to come, or None if unknown."""
    if None in lengths:
        return max_batches
    return min(x for x in (*lengths, max_batches) if x is not None)


def _versions(model: nn.Module) -> dict[str, tuple[int, int]]:
    """What tells for each buffer whether it is changed in place."""
    return {
        name: (id(buffer), buffer._version)  # noqa: SLF001 the only sign of it
        for name, buffer in model.named_buffers()
        if not buffer.is_inference()
    }


def _changed(model: nn.Module, before: dict[str, tuple[int, int]]) -> list[str]:
    """Names of the buffers that were changed; a new one may be no more than a cache."""
    same = {identity for identity, _ in before.values()}
    now = _versions(model).items()
    return [name for name, own in now if own[0] in same and own != before.get(name)]


@contextmanager
def _saying_where(caller: Caller, call: Call) -> Iterator[None]:
    """Errors of a forward pass, with the model and the inputs that it had."""
    try:
        yield
    except Exception as error:
        if _is_out_of_memory(error):
            msg = (
                f"Out of memory in {caller.label} with {call.examples} examples. Lower "
                "batch_size, choose fewer layers, or pass autocast=torch.bfloat16; "
                "batch sizes from 64 up give nearly the same precision."
            )
            raise RuntimeError(msg) from error
        inputs = [describe(value) for value in call.args]
        inputs += [f"{key}={describe(value)}" for key, value in call.kwargs.items()]
        error.add_note(f"{caller.label} was given {', '.join(inputs)}.")
        raise


def _is_out_of_memory(error: Exception) -> bool:
    kinds = torch.OutOfMemoryError, MemoryError
    return isinstance(error, kinds) or "can't allocate memory" in str(error)


def _places(layers: list[Layer]) -> dict[str, int]:
    return {layer.name: row for row, layer in enumerate(layers)}


def _unequal(
    callers: list[Caller], first: Call, second: Call, number: int
) -> ValueError:
    return ValueError(
        f"Expected both models to get the same examples, got {first.examples} for "
        f"{callers[0].label} and {second.examples} for {callers[1].label} in batch "
        f"{number}. Use the same batch_size in both loaders, or pass paired=False if "
        "they hold different examples."
    )


def _placement_note(caller: Caller, device: torch.device | None) -> str | None:
    """What to say if a model does not go to the device that was asked for."""
    if device is None or not is_dispatched(caller.model):
        return None
    here = caller.device
    if here.type == device.type and device.index in (None, here.index):
        return None
    return (
        f"{type(caller.model).__name__} stays where its device map or offloading has "
        f"put it and computes on '{here}': `device` moves only models in one place."
    )


def _model_facts(model: nn.Module) -> dict[str, Any]:
    parameters = list(model.parameters())
    return {
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "parameters": sum(p.numel() for p in parameters),
        "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in parameters}),
        "devices": sorted({str(p.device) for p in parameters}),
    }
