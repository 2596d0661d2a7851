"""The engine: both models over one loader, a running result after every batch."""

import platform
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import RandomSampler
from tqdm.auto import tqdm

from . import hsic, metrics
from ._capture import Capture, Grams, probe
from ._inputs import Call, Caller, Forward, check_loader, empty_loader, length
from ._layers import Choices, Layer, LayerTree
from ._pool import Pool, Pooling
from ._result import CKAResult

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

    def __init__(
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

        Returns:
            The result, also kept as ``result``; there it is found after an exception or
            interrupt, too, with what was done until then.

        Raises:
            ValueError: If the loader yields nothing, only batches of fewer than four
                examples, or pairs that do not match.
            TypeError: If a batch holds no tensor.
        """
        steps = self._steps(loader, loader2, paired=paired, max_batches=max_batches)
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
        for note in running.notes:
            warnings.warn(note, stacklevel=2)
        return running.result()

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
        layers1: list[str] | None = None,
        layers2: list[str] | None = None,
    ) -> Generator["Running", None, None]:
        """One running state: first before any batch, with the layers known, then after
        each. Closing the generator removes all hooks and restores the models.
        """
        _check_loaders(loader, loader2, paired, max_batches)
        with ExitStack() as stack:
            for model in (self.model1, self.model2):
                stack.enter_context(_placed(model, self.device))
            run = _Run(self, loader, loader2, paired)
            run.probe()
            running = run.choose(layers1, layers2, max_batches)
            stack.callback(run.close)
            yield running
            for capture in run.captures:
                stack.enter_context(capture)
            while running.total is None or running.done < running.total:
                if not run.step(running):
                    break
                yield running
            running.finish()


class Running:
    """The state of a run: sums so far, and what was skipped or undefined.

    Attributes:
        layers1: Names of the rows.
        layers2: Names of the columns.
        total: Number of batches to come in all, or None if unknown.
        batches: Batches in the sums.
        skipped: Batches that were too small.
        examples: Examples in the sums.
        notes: Sentences a reader should know.
    """

    def __init__(
        self, layers1: list[str], layers2: list[str], total: int | None
    ) -> None:
        self.layers1, self.layers2 = tuple(layers1), tuple(layers2)
        self.total = total
        self.batches = self.skipped = self.examples = 0
        self.notes: list[str] = []
        self.describe: Callable[[], dict[str, Any]] = dict
        self.names = ("model1", "model2")
        self.metric = "cka"
        self._sums: metrics.MinibatchCKA | None = None
        self._problems: tuple[dict[int, str], dict[int, str]] = ({}, {})
        self._bad: list[Tensor | None] = [None, None]

    @property
    def done(self) -> int:
        """Batches taken from the loader."""
        return self.batches + self.skipped

    def matrix(self) -> Tensor:
        """CKA so far, ``(L1, L2)`` float64 on the device of the Gram matrices."""
        return self._blank(self.sums.compute())

    def stderr(self) -> Tensor:
        """Its standard error, likewise."""
        return self._blank(self.sums.stderr())

    @property
    def sums(self) -> metrics.MinibatchCKA:
        """The running sums; zeros before the first batch."""
        if self._sums is None:
            return metrics.MinibatchCKA.empty(len(self.layers1), len(self.layers2))
        return self._sums

    @property
    def undefined1(self) -> dict[str, str]:
        """Why rows are undefined, by layer. Waits for the device."""
        return self._reasons(0, self.layers1, self.sums.xx)

    @property
    def undefined2(self) -> dict[str, str]:
        """Why columns are undefined, by layer. Waits for the device."""
        return self._reasons(1, self.layers2, self.sums.yy)

    def result(self) -> CKAResult:
        """The result of the batches so far, on the CPU."""
        undefined1, undefined2 = self.undefined1, self.undefined2
        reasons = [
            f"{name}: {layer!r} is undefined, {reason}."
            for name, undefined in zip(
                self.names, (undefined1, undefined2), strict=True
            )
            for layer, reason in undefined.items()
        ]
        return CKAResult(
            matrix=self.matrix().cpu(),
            stderr=self.stderr().cpu(),
            layers1=self.layers1,
            layers2=self.layers2,
            name1=self.names[0],
            name2=self.names[1],
            metric=self.metric,
            examples=self.examples,
            batches=self.batches,
            skipped=self.skipped,
            notes=[*self.notes, *dict.fromkeys(reasons)],
            undefined1=undefined1,
            undefined2=undefined2,
            provenance=self.describe(),
            sums=self.sums.to("cpu"),
        )

    def add(self, grams1: Grams, grams2: Grams, examples: int) -> None:
        """Add one batch."""
        self.batches += 1
        self.examples += examples
        home = _sums_device(grams1.z.device)
        if self._sums is None:
            shape = len(self.layers1), len(self.layers2)
            self._sums = metrics.MinibatchCKA.empty(*shape, home)
        self._note_problems(grams1, grams2)
        self._sums.add(*_products(grams1, grams2, home))

    def skip(self, examples: int) -> None:
        """Count a batch that is too small for the unbiased estimate."""
        del examples
        self.skipped += 1

    def finish(self) -> None:
        """Say what was skipped.

        Raises:
            ValueError: If every batch was.
        """
        if not self.batches:
            msg = (
                f"Expected batches of at least {hsic.MIN_EXAMPLES} examples, got "
                f"{self.skipped} smaller ones. The unbiased HSIC divides by n - 3: "
                "raise batch_size."
            )
            raise ValueError(msg)
        if self.skipped:
            many = "1 batch" if self.skipped == 1 else f"{self.skipped} batches"
            self.notes.append(
                f"{many} of fewer than {hsic.MIN_EXAMPLES} examples left out: the "
                "unbiased HSIC divides by n - 3."
            )

    def _note_problems(self, *grams: Grams) -> None:
        for side, given in enumerate(grams):
            known = self._problems[side]
            for row, problem in given.problems.items():
                known.setdefault(row, f"{problem} in batch {self.done}")
            traces = _spread(given.traces, given.index)
            bad = self._bad[side]
            if bad is None:
                bad = torch.full_like(traces, -1.0)
            new = ~torch.isfinite(traces) & (bad < 0)
            self._bad[side] = torch.where(new, float(self.done), bad)

    def _blank(self, values: Tensor) -> Tensor:
        """NaN where a layer gave nothing in some batch."""
        rows, columns = (sorted(problems) for problems in self._problems)
        if rows:
            values[rows] = torch.nan
        if columns:
            values[:, columns] = torch.nan
        return values

    def _reasons(
        self, side: int, names: tuple[str, ...], norms: Tensor
    ) -> dict[str, str]:
        if not self.batches:
            return {}
        bad, norms = self._bad[side], norms.cpu()
        first = bad.cpu().tolist() if bad is not None else [-1] * len(names)
        reasons: dict[str, str] = {}
        for row, name in enumerate(names):
            if row in self._problems[side]:
                reasons[name] = self._problems[side][row]
            elif first[row] >= 0:
                reasons[name] = (
                    f"not finite in batch {int(first[row])} (NaN, Inf, or too large to "
                    "square)"
                )
            elif norms[row] == 0:
                reasons[name] = "the same for every example: no variance to compare"
        return reasons


class _Run:
    """The moving parts of one run: callers, captures, batches, random numbers."""

    def __init__(
        self,
        cka: CKA,
        loader: Iterable[Any],
        loader2: Iterable[Any] | None,
        paired: bool,
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
        self.random = _OwnRandom([caller.device for caller in self.callers])
        self.modules = [list(caller.model.modules()) for caller in self.callers]
        self.pools = [Pooling(cka.pool), Pooling(cka.pool)]
        self.captures: list[Capture] = []
        with self.random:
            self.batches = _batches(loader, loader2, paired)
        self.sides: tuple[list[int], list[int]] = ([], [])

    def probe(self) -> None:
        """Run the first examples of the first batch, which is put back."""
        with self.random:
            first = next(self.batches, None)
        if first is None:
            raise empty_loader("loader")
        self.batches = chain([first], self.batches)
        calls = self._calls(first, 1)
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
            both = [_subset(grams[0], side) for side in self.sides]
        else:
            both = grams
        running.add(both[0], both[1], n)
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
        with torch.no_grad(), _evaluating(self.modules[side]), autocast, _eager():
            caller(call)

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
        from . import __version__  # noqa: PLC0415 the package is complete only now

        models = [_model_facts(caller.model) for caller in self.callers]
        loader, loader2 = self.loaders
        return {
            "cka_notebook": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "pool": self.pools[0].describe(),
            "masked": any(pool.masked for pool in self.pools),
            "model1": models[0],
            "model2": models[1],
            "loader1": _loader_facts(loader),
            "loader2": _loader_facts(loader2) if loader2 is not None else None,
            "paired": self.paired,
        }


class _OwnRandom:
    """A random stream of the run's own, swapped in around what it computes.

    It starts where the global stream is, so seeding works as expected, and leaves the
    global stream untouched, so comparing models changes nothing else in a notebook.
    """

    def __init__(self, devices: list[torch.device]) -> None:
        self._cuda = sorted({d.index or 0 for d in devices if d.type == "cuda"})
        self._depth = 0
        self._mine = self._get()

    def __enter__(self) -> None:
        self._depth += 1
        if self._depth == 1:
            self._theirs = self._get()
            self._set(self._mine)

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._mine = self._get()
            self._set(self._theirs)

    def _get(self) -> list[Tensor]:
        cuda = [torch.cuda.get_rng_state(index) for index in self._cuda]
        return [torch.get_rng_state(), *cuda]

    def _set(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        for index, state in zip(self._cuda, states[1:], strict=True):
            torch.cuda.set_rng_state(state, index)


@contextmanager
def _evaluating(modules: list[nn.Module]) -> Iterator[None]:
    """Evaluation mode for one forward pass; each module's own flag comes back."""
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _placed(model: nn.Module, device: torch.device | None) -> Iterator[None]:
    """The model on ``device``, and back afterwards. Dispatched models stay put."""
    held = [*model.parameters(), *model.buffers()]
    homes = {tensor.device for tensor in held}
    if device is None or homes == {device} or hasattr(model, "hf_device_map"):
        yield
        return
    if len(homes) > 1:
        msg = (
            f"Expected {type(model).__name__} on one device to move it, got {homes}. "
            "Leave device=None: inputs then follow the model."
        )
        raise ValueError(msg)
    model.to(device)
    try:
        yield
    finally:
        for home in homes:
            model.to(home)


def _eager() -> Any:
    """No compiled graphs for now: hooks added after compilation are not in them."""
    if hasattr(torch.compiler, "set_stance"):
        return torch.compiler.set_stance("force_eager")
    return nullcontext()


def _products(
    grams1: Grams, grams2: Grams, home: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """The h of one batch for all pairs: ``(L1, L2)``, ``(L1,)``, ``(L2,)``."""
    z1, z2 = grams1.z.to(home), grams2.z.to(home)
    s1, s2 = grams1.scales.to(home).double(), grams2.scales.to(home).double()
    xy = hsic.pair_products(z1, z2) * (s1[:, None] * s2)
    xx = hsic.self_products(z1) * s1.square()
    yy = xx if grams1.z is grams2.z else hsic.self_products(z2) * s2.square()
    rows, columns = _indices(grams1, home), _indices(grams2, home)
    return xy[rows][:, columns], xx[rows], yy[columns]


def _indices(grams: Grams, device: torch.device) -> Tensor:
    """Row of each layer; a layer without one takes any, and is blanked later."""
    return torch.tensor([max(0, i) for i in grams.index], device=device)


def _spread(values: Tensor, index: list[int]) -> Tensor:
    if not len(values):
        return torch.zeros(len(index))
    return values[torch.tensor([max(0, i) for i in index], device=values.device)]


def _subset(grams: Grams, rows: list[int]) -> Grams:
    """The Gram matrices of some layers, in another order."""
    place = {row: i for i, row in enumerate(rows)}
    problems = {place[r]: text for r, text in grams.problems.items() if r in place}
    index = [grams.index[row] for row in rows]
    return Grams(grams.z, grams.scales, grams.traces, index, problems)


def _sums_device(device: torch.device) -> torch.device:
    """Where float64 exists."""
    return torch.device("cpu") if device.type == "mps" else device


def _batches(
    loader: Iterable[Any], loader2: Iterable[Any] | None, paired: bool
) -> Iterator[tuple[Any, Any]]:
    """Pairs of batches; each loader is iterated once."""
    first = iter(loader)
    if loader2 is None:
        return ((batch, batch) for batch in first)
    return _pairs(first, iter(loader2), paired)


def _pairs(
    first: Iterator[Any], second: Iterator[Any], paired: bool
) -> Iterator[tuple[Any, Any]]:
    ended = object()
    number = 0
    while True:
        batch1, batch2 = next(first, ended), next(second, ended)
        if batch1 is ended or batch2 is ended:
            if paired and batch1 is not batch2:
                which = "loader" if batch1 is ended else "loader2"
                msg = (
                    f"Expected paired loaders of equal length, but `{which}` ended "
                    f"after {number} batches. Pass paired=False if they hold different "
                    "examples."
                )
                raise ValueError(msg)
            return
        number += 1
        yield batch1, batch2


def _check_model(model: object, argument: str) -> None:
    if not isinstance(model, nn.Module):
        msg = (
            f"Expected `{argument}` to be a torch.nn.Module, got "
            f"{type(model).__name__}."
        )
        raise TypeError(msg)


def _check_loaders(
    loader: Iterable[Any],
    loader2: Iterable[Any] | None,
    paired: bool,
    max_batches: int | None,
) -> None:
    if max_batches is not None and max_batches < 1:
        msg = f"Expected `max_batches` to be at least 1, got {max_batches!r}."
        raise ValueError(msg)
    check_loader(loader, "loader")
    if loader2 is None:
        return
    check_loader(loader2, "loader2")
    if not paired:
        return
    lengths = length(loader), length(loader2)
    if None not in lengths and lengths[0] != lengths[1]:
        msg = (
            f"Expected paired loaders of equal length, got {lengths[0]} and "
            f"{lengths[1]} batches. Pass paired=False if they hold different examples."
        )
        raise ValueError(msg)
    for each, argument in ((loader, "loader"), (loader2, "loader2")):
        if isinstance(getattr(each, "sampler", None), RandomSampler):
            msg = (
                f"Expected paired loaders in the same order, got a shuffling `{argument}`."
                " Pass shuffle=False to both, or paired=False if they hold different "
                "examples."
            )
            raise ValueError(msg)


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


def _loader_facts(loader: Iterable[Any]) -> dict[str, Any]:
    dataset = getattr(loader, "dataset", None)
    sampler = getattr(loader, "sampler", None)
    return {
        "class": type(loader).__name__,
        "dataset": type(dataset).__name__ if dataset is not None else "",
        "batches": length(loader),
        "batch_size": getattr(loader, "batch_size", None),
        "shuffled": isinstance(sampler, RandomSampler),
    }
