"""The engine: both models over one loader, a running result after every batch."""

import platform
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import ExitStack, closing, nullcontext
from functools import partial
from importlib.metadata import version
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from . import hsic, metrics
from ._capture import Capture, probe
from ._checkpoint import Checkpoint, digest, digest_tensors
from ._distributed import is_distributed, merge_ranks
from ._files import PathLike
from ._grams import Grams
from ._guard import OwnRandom, eager, evaluating, placed
from ._inputs import Call, Caller, Forward
from ._layers import Choices, Layer, LayerTree
from ._loaders import batches, check_loaders, empty_loader, length, loader_facts
from ._nested import tensors
from ._pool import Pool, Pooling
from ._result import CKAResult
from ._running import Running

Callback = Callable[[int, int | None, Tensor], object]
Pools = Pool | Mapping[str, Pool]


class CKA:
    """Compares the layers of two models by minibatch CKA.

    Args:
        model1: The model of the rows. It is left as it was found.
        model2: The model of the columns; None compares `model1` with itself, in one
            forward pass per batch.
        model1_name: What it is called; None takes the class name.
        model2_name: Likewise.
        model1_layers: Which layers: None or ``"auto"`` for sensible blocks,
            ``"blocks"``, ``"leaves"``, ``"all"``; a list of exact names, indices into
            the execution order, globs, compiled regular expressions and module
            classes; or a predicate ``(name, module) -> bool``.
        model2_layers: Likewise.
        device: Where to run; None leaves the models where they are.
        metric: A name from `metrics.names`.
        pool: What becomes of tokens and positions: ``"auto"``, ``"flatten"``,
            ``"mean"``, ``"cls"``, ``"last"``, a callable from (n, ...) to (n, ...), or
            a dict from layer names or globs to these.
        forward: ``forward(model, batch)`` for inputs of another kind, or a pair of such
            functions, one for each model.
        autocast: Dtype for `torch.autocast` around the forward passes, or None.

    Raises:
        ValueError: If a layer does not exist, or a choice is unknown.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> loader = [torch.randn(16, 4) for _ in range(3)]
        >>> cka = CKA(model, model1_layers="all")
        >>> result = cka.compare(loader, progress=False)
        >>> result.matrix.shape, result.layers1
        (torch.Size([3, 3]), ('0', '1', '2'))
    """

    def __init__(  # noqa: PLR0913 the positional order is torch_cka's
        self,
        model1: nn.Module,
        model2: nn.Module | None = None,
        model1_name: str | None = None,
        model2_name: str | None = None,
        model1_layers: Choices = None,
        model2_layers: Choices = None,
        device: torch.device | str | None = None,
        *,
        metric: str = "cka",
        pool: Pools = "auto",
        forward: Forward | tuple[Forward | None, Forward | None] | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        _check_model(model1, "model1")
        _check_model(model2 if model2 is not None else model1, "model2")
        if metric not in metrics.names():
            msg = f"Expected `metric` to be one of {metrics.names()}, got {metric!r}."
            raise ValueError(msg)
        self.tree1 = LayerTree(model1, "model1_layers")
        self.tree2 = LayerTree(model1 if model2 is None else model2, "model2_layers")
        self.same = self.tree2.model is self.tree1.model
        if self.same and model2_layers is None:
            model2_layers = model1_layers
        self.name1, self.name2 = _titles(
            self.tree1.model, self.tree2.model, model1_name, model2_name
        )
        self.choices1, self.choices2 = model1_layers, model2_layers
        for tree, choices in ((self.tree1, self.choices1), (self.tree2, self.choices2)):
            tree.check(choices)
        self.device = None if device is None else torch.device(device)
        self.metric = metric
        self.pool = pool
        Pooling(pool)
        self.forwards = forward if isinstance(forward, tuple) else (forward, forward)
        self.autocast = autocast
        self.result: CKAResult | None = None

    def __enter__(self) -> "CKA":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to do: hooks live only inside `compare`."""

    def __call__(self, loader: Iterable[Any], **options: Any) -> CKAResult:
        """The same as `compare`."""
        return self.compare(loader, **options)

    @property
    def model1(self) -> nn.Module:
        """The model of the rows, unwrapped."""
        return self.tree1.model

    @property
    def model2(self) -> nn.Module:
        """The model of the columns, unwrapped."""
        return self.tree2.model

    def compare(
        self,
        loader: Iterable[Any],
        loader2: Iterable[Any] | None = None,
        *,
        paired: bool = True,
        callback: Callback | None = None,
        progress: bool = True,
        max_batches: int | None = None,
        stop_when_stable: float | None = None,
        checkpoint: PathLike | None = None,
    ) -> CKAResult:
        """Run both models over the loader, once, and compare their layers.

        Each batch goes to both models, so a shuffled loader is safe. Random numbers
        that loaders and models draw come from a stream of the run's own: the global
        random state is the same afterwards, so a second run shuffles alike.

        Args:
            loader: Batches: tensors, ``(inputs, labels)``, dicts of arguments, or what
                `forward` understands. Any iterable; its length need not be known.
            loader2: Other inputs for model 2, of the same examples in the same order.
            paired: False says that the two loaders hold different examples. CKA then
                compares unrelated rows, which a note in the result recalls.
            callback: ``callback(batch, total, matrix)`` after every batch, from 1;
                ``total`` is None if unknown, ``matrix`` the running (L1, L2) tensor.
                Raising StopIteration ends the run and keeps the result so far.
            progress: Whether to show a progress bar.
            max_batches: Stop after so many batches.
            stop_when_stable: Stop when the largest standard error is below this, but
                not before eight batches.
            checkpoint: File for the running sums, written every 30 seconds and at the
                end. A later call with the same models, layers and batches goes on from
                there. One file a process under `torch.distributed`.

        Under an initialised `torch.distributed` process group each rank runs its own
        loader, and every rank returns the result of all of them.

        Returns:
            The result, also kept as ``result``; there it is found after an exception or
            interrupt, too, with what was done until then.

        Raises:
            ValueError: If the loader yields nothing, only batches of fewer than four
                examples, or pairs that do not match.
            TypeError: If a batch holds no tensor.
        """
        steps = self._steps(
            loader,
            loader2,
            paired=paired,
            max_batches=max_batches,
            stop_when_stable=stop_when_stable,
            checkpoint=checkpoint,
        )
        with closing(steps):
            running = next(steps)
            bar = tqdm(total=running.total, disable=not progress, unit="batch")
            try:
                for _ in steps:
                    bar.update(running.batches + running.skipped - bar.n)
                    if callback is not None:
                        callback(running.done, running.total, running.matrix())
            except StopIteration:
                pass
            finally:
                bar.close()
                if running.batches:
                    self.result = running.result()
        if is_distributed():
            merge_ranks(running)
        running.finish()
        self.result = running.result()
        for note in running.notes:
            warnings.warn(note, stacklevel=2)
        return self.result

    def export(self) -> dict[str, Any]:
        """The last result as a plain dict; see `CKAResult.export`.

        Raises:
            RuntimeError: If nothing was compared yet.
        """
        if self.result is None:
            msg = "Expected a comparison to export, got none yet. Call compare() first."
            raise RuntimeError(msg)
        return self.result.export()

    def _steps(
        self,
        loader: Iterable[Any],
        loader2: Iterable[Any] | None = None,
        *,
        paired: bool = True,
        max_batches: int | None = None,
        stop_when_stable: float | None = None,
        checkpoint: PathLike | None = None,
        layers1: list[str] | None = None,
        layers2: list[str] | None = None,
    ) -> Generator["Running", None, None]:
        """The running state: before any batch, with the layers known, then after each.

        Closing the generator removes all hooks and restores the models.
        """
        if loader2 is loader and paired:
            loader2 = None
        check_loaders(loader, loader2, paired, max_batches)
        _check_tolerance(stop_when_stable)
        with ExitStack() as stack:
            for model in (self.model1, self.model2):
                stack.enter_context(placed(model, self.device))
            run = _Run(self, loader, loader2, paired, checkpoint)
            stack.callback(run.close)
            run.probe()
            running = run.choose(layers1, layers2, max_batches)
            yield running
            for capture in run.captures:
                stack.enter_context(capture)
            run.resume(running)
            stack.callback(run.keep, running, now=True)
            while max_batches is None or running.done < max_batches:
                if not run.step(running):
                    break
                run.keep(running)
                yield running
                if stop_when_stable and running.is_stable(stop_when_stable):
                    running.notes.append(_stopped_early(running, stop_when_stable))
                    break
            if not is_distributed():  # or else all ranks together have to have some
                running.finish()


class _Run:
    """The moving parts of one run: callers, captures, batches, random numbers."""

    def __init__(
        self,
        cka: CKA,
        loader: Iterable[Any],
        loader2: Iterable[Any] | None,
        paired: bool,
        checkpoint: PathLike | None,
    ) -> None:
        self.cka = cka
        self.loaders = loader, loader2
        self.paired = paired
        labels = [
            f"model{i} ({type(tree.model).__name__})"
            for i, tree in ((1, cka.tree1), (2, cka.tree2))
        ]
        self.callers = [
            Caller(tree.model, label, forward)
            for tree, label, forward in zip(
                (cka.tree1, cka.tree2), labels, cka.forwards, strict=True
            )
        ]
        # The same model on the same inputs runs once.
        self.once = cka.same and loader2 is None and cka.forwards[0] is cka.forwards[1]
        self.random = OwnRandom([caller.device for caller in self.callers])
        self.modules = [list(caller.model.modules()) for caller in self.callers]
        self.pools = [Pooling(cka.pool), Pooling(cka.pool)]
        self.captures: list[Capture] = []
        self.checkpoint = Checkpoint(checkpoint) if checkpoint is not None else None
        self.settings: dict[str, Any] = {}
        if self.checkpoint is not None:
            self.checkpoint.begin(self.random)
        with self.random:
            self.batches = batches(loader, loader2, paired)
        self.sides: tuple[list[int], list[int]] = ([], [])

    def probe(self) -> None:
        """Run the first examples of the first batch, which is put back."""
        with self.random:
            first = next(self.batches, None)
        if first is None:
            raise empty_loader("loader")
        self.batches = chain([first], self.batches)
        calls = self._calls(first, 1)
        if self.checkpoint is not None:
            self.settings["first batch"] = digest_tensors(tensors(first))
        trees = (self.cka.tree1, self.cka.tree2)
        for side, (tree, call) in enumerate(zip(trees, calls, strict=False)):
            probe(tree, partial(self._probe_run, side, call))
        if len(calls) == 1:
            self.cka.tree2.learn(
                {node.module: node.outputs or [] for node in self.cka.tree1.nodes}
            )

    def choose(
        self,
        layers1: list[str] | None,
        layers2: list[str] | None,
        max_batches: int | None,
    ) -> Running:
        """Resolve the choice of layers and make the captures."""
        cka = self.cka
        names1 = cka.tree1.choose(layers1 if layers1 is not None else cka.choices1)
        names2 = cka.tree2.choose(layers2 if layers2 is not None else cka.choices2)
        self.pools[0].check([*names1, *names2])
        found1, found2 = cka.tree1.find(names1), cka.tree2.find(names2)
        if self.once:
            union = list({x.name: x for x in [*found1, *found2]}.values())
            place = {layer.name: row for row, layer in enumerate(union)}
            self.sides = (
                [place[name] for name in names1],
                [place[name] for name in names2],
            )
            self.captures = [self._capture(union, 0)]
        else:
            self.captures = [self._capture(found1, 0), self._capture(found2, 1)]
        lengths = [length(x) for x in self.loaders if x is not None]
        known = [x for x in (*lengths, max_batches) if x is not None]
        total = min(known) if known and (max_batches or None not in lengths) else None
        if max_batches is not None and None in lengths:
            total = max_batches
        running = Running(names1, names2, total)
        running.names, running.metric = (cka.name1, cka.name2), cka.metric
        running.describe = self._provenance
        running.notes += self._notes()
        return running

    def resume(self, running: Running) -> None:
        """Go on from the checkpoint, if there is one, past the batches it holds."""
        if self.checkpoint is None:
            return
        cka = self.cka
        self.settings |= {
            "layers1": list(running.layers1),
            "layers2": list(running.layers2),
            "metric": cka.metric,
            "pool": self.pools[0].describe(),
            "model1": digest(cka.model1),
            "model2": digest(cka.model2),
            "loader": [loader_facts(x) for x in self.loaders if x is not None],
        }
        if not self.checkpoint.found:
            return
        memory = self.checkpoint.resume(running, self.random, self.settings)
        for capture, shifts in zip(self.captures, memory["shifts"], strict=True):
            capture.shifts.update({int(row): how for row, how in shifts.items()})
        after = self.random.save()
        with self.random:
            for _ in range(running.done):
                next(self.batches, None)
        self.random.load(after)

    def keep(self, running: Running, *, now: bool = False) -> None:
        """Write the checkpoint, if there is one and it is time."""
        if self.checkpoint is not None and self.settings:
            shifts = [
                {str(row): how for row, how in capture.shifts.items()}
                for capture in self.captures
            ]
            memory = {"shifts": shifts}
            self.checkpoint.save(running, self.random, self.settings, memory, now=now)

    def step(self, running: Running) -> bool:
        """Take one batch through both models; False when the loader has ended."""
        with self.random:
            pair = next(self.batches, None)
            if pair is None:
                return False
            calls = self._calls(pair, running.done + 1)
            n = calls[0].examples
            if n < hsic.MIN_EXAMPLES:
                running.skip(n)
                return True
            grams = [self._grams(side, call) for side, call in enumerate(calls)]
        if self.once:
            grams = [grams[0].subset(side) for side in self.sides]
        running.add(grams[0], grams[1], n)
        return True

    def close(self) -> None:
        """Let go of the loader's iterator, and so of its worker processes."""
        self.batches = iter(())

    def _capture(self, layers: list[Layer], side: int) -> Capture:
        pool = self.pools[side]
        return Capture(layers, [pool.features(layer.name) for layer in layers])

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

    def _grams(self, side: int, call: Call) -> Grams:
        capture = self.captures[side]
        self.pools[side].begin(call.mask, call.decoder_mask)
        capture.begin(call.examples)
        self._forward(side, call)
        return capture.finish()

    def _forward(self, side: int, call: Call) -> None:
        caller, dtype = self.callers[side], self.cka.autocast
        autocast = (
            torch.autocast(caller.device.type, dtype=dtype) if dtype else nullcontext()
        )
        try:
            with torch.no_grad(), evaluating(self.modules[side]), autocast, eager():
                caller(call, self.pools[side].begin)
        except torch.OutOfMemoryError as error:
            msg = (
                f"Out of memory in {caller.label} with {call.examples} examples. Lower "
                "batch_size, choose fewer layers, or pass autocast=torch.bfloat16; "
                "batch sizes from 64 up give nearly the same precision."
            )
            raise RuntimeError(msg) from error

    def _probe_run(self, side: int, call: Call, count: int | None) -> int:
        caller = self.callers[side]
        if count is not None and count < call.examples:
            call = caller.take(call, count)
        with self.random:
            self._forward(side, call)
        return call.examples

    def _notes(self) -> list[str]:
        trees = {id(t): t for t in (self.cka.tree1, self.cka.tree2)}.values()
        choices = self.cka.choices1, self.cka.choices2
        notes = [
            tree.auto_note()
            for tree, choice in zip(trees, choices, strict=False)
            if choice in (None, "auto")
        ]
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
            "cka_notebook": version("cka-notebook"),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "pool": self.pools[0].describe(),
            "masked": any(pool.masked for pool in self.pools),
            "model1": models[0],
            "model2": models[1],
            "loader1": loader_facts(loader),
            "loader2": loader_facts(loader2) if loader2 is not None else None,
            "paired": self.paired,
        }


def _check_tolerance(stop_when_stable: float | None) -> None:
    if stop_when_stable is not None and not stop_when_stable > 0:
        msg = (
            "Expected `stop_when_stable` to be a standard error above 0, got "
            f"{stop_when_stable!r}."
        )
        raise ValueError(msg)


def _stopped_early(running: Running, tolerance: float) -> str:
    return (
        f"Stopped after {running.done} batches: the largest standard error is below "
        f"{tolerance:g}."
    )


def _check_model(model: object, argument: str) -> None:
    if not isinstance(model, nn.Module):
        msg = (
            f"Expected `{argument}` to be a torch.nn.Module, got "
            f"{type(model).__name__}."
        )
        raise TypeError(msg)


def _unequal(
    callers: list[Caller], first: Call, second: Call, number: int
) -> ValueError:
    return ValueError(
        f"Expected both models to get the same examples, got {first.examples} for "
        f"{callers[0].label} and {second.examples} for {callers[1].label} in batch "
        f"{number}. Use the same batch_size in both loaders, or pass paired=False if "
        "they hold different examples."
    )


def _titles(
    model1: nn.Module, model2: nn.Module, name1: str | None, name2: str | None
) -> tuple[str, str]:
    """Two names that differ, unless the model is the same."""
    title1 = name1 or type(model1).__name__
    title2 = name2 or (title1 if model1 is model2 else type(model2).__name__)
    if title1 == title2 and model1 is not model2:
        return (
            title1 if name1 else f"{title1} A",
            title2 if name2 and not name1 else f"{title2} B",
        )
    return title1, title2


def _model_facts(model: nn.Module) -> dict[str, Any]:
    parameters = list(model.parameters())
    return {
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "parameters": sum(p.numel() for p in parameters),
        "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in parameters}),
        "devices": sorted({str(p.device) for p in parameters}),
    }
