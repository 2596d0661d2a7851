"""The engine: compares two models over one loader, with a result after every batch."""

import warnings
from collections.abc import Callable, Generator, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from cka_notebook._capture.streams import RandomStreams, lent
from cka_notebook._inputs.calls import Forward
from cka_notebook._inputs.counting import Examples
from cka_notebook._inputs.loaders import check_loaders
from cka_notebook._inputs.pooling import Pooling, Pools
from cka_notebook._inputs.remedies import check_device, known_device
from cka_notebook._models.choice import Choices
from cka_notebook._models.layer_tree import LayerTree
from cka_notebook._models.offloading import is_dispatched
from cka_notebook._results.atomic import PathLike
from cka_notebook._results.result import CKAResult
from cka_notebook._undo import Undo

from .added_layers import CatchUp, OtherBatchesError, PausedRun, catch_up_of
from .borrowed import placed
from .checks import (
    as_list,
    check_autocast,
    check_callback,
    check_metric,
    check_model,
    check_names,
    check_no_loader,
    check_tolerance,
    for_each,
    pair,
)
from .distributed import Ranks, all_ranks, check_settings, merge_ranks
from .keywords import explains_keywords, other_method
from .modes import LEASE, held
from .run import Run
from .side import ModelSpec
from .state import RunState, RunView

Callback = Callable[[int, int | None, Tensor], object]
Forwards = Forward | tuple[Forward | None, Forward | None] | None
ExampleCounts = Examples | tuple[Examples | None, Examples | None] | None


class CKA:
    """Compares the layers of two models by minibatch CKA.

    Args:
        model1: The model of the rows. It is left as it was found.
        model2: The model of the columns; None compares `model1` with itself, in one
            forward pass per batch.
        model1_name: Name of model 1; None takes the class name.
        model2_name: Name of model 2; None takes the class name.
        model1_layers: Which layers: None or ``"auto"`` for sensible blocks,
            ``"blocks"``, ``"leaves"``, ``"all"``; a list of exact names, indices into
            the execution order, globs, compiled regular expressions and module
            classes; or a predicate ``(name, module) -> bool``. In a glob ``*`` is any
            text, dots too, and ``?`` any character, as in `fnmatch`: ``"layer?.*"`` is
            all that is in the stages of a ResNet, ``"*.attn"`` attention at any depth.
            ``"layer:entry"`` is one tensor of what a layer returns:
            ``"encoder:sentence_embedding"`` by its key or field, ``"rnn:1.0"`` for
            ``output[1][0]``. Only exact names and globs choose entries, and a module
            of the same name comes first.
        model2_layers: The same for model 2.
        device: Where to run; None leaves the models where they are. Models with a
            device map or offloading stay there in any case.
        metric: A name from `metrics.names`.
        pool: How tokens and positions are pooled: ``"auto"``, ``"flatten"``,
            ``"mean"``, ``"cls"``, ``"last"``, a callable from (n, ...) to (n, ...), or
            a dict from layer names or globs to these. ``"auto"`` averages sequences
            over the tokens that are not padding, without those many times as long as
            all others, and flattens everything else.
        forward: ``forward(model, batch)`` for other inputs, or a pair of such
            functions, one for each model.
        examples: ``examples(batch)`` gives how many examples a batch has, or a pair of
            such functions; None takes it from the inputs and the model's output.
        autocast: Dtype for `torch.autocast` around the forward passes, or None.

    Raises:
        ValueError: If a layer does not exist, or a choice is unknown.
        TypeError: If an argument is of the wrong kind.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> loader = [torch.randn(16, 4) for _ in range(3)]
        >>> cka = CKA(model, model1_layers="all")
        >>> result = cka.compare(loader, progress=False)
        >>> result.matrix.shape, result.layers1
        (torch.Size([3, 3]), ('0', '1', '2'))
    """

    @explains_keywords
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
        forward: Forwards = None,
        examples: ExampleCounts = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        check_names(model1_name, model2_name)
        check_no_loader(
            model1_layers=model1_layers, model2_layers=model2_layers, device=device
        )
        other = model1 if model2 is None else model2
        check_model(model1, "model1")
        check_model(other, "model2")
        check_metric(metric)
        model1_layers, model2_layers = as_list(model1_layers), as_list(model2_layers)
        tree1 = LayerTree(model1, "model1_layers")
        tree2 = LayerTree(other, "model2_layers")
        self.same = tree2.model is tree1.model
        if self.same and model2_layers is None:
            model2_layers = model1_layers
        self.name1, self.name2 = _titles(
            tree1.model, tree2.model, model1_name, model2_name
        )
        choices = [(tree1, model1_layers), (tree2, model2_layers)]
        same_choice = self.same and model2_layers is model1_layers
        for_each(
            partial(tree.check, choice)
            for tree, choice in choices[: 1 if same_choice else 2]
        )
        self.device = known_device(device)
        models = tree1.model, tree2.model
        if self.device is not None and not all(map(is_dispatched, models)):
            check_device(self.device)
        self.metric = metric
        self.pool = pool
        Pooling(pool)
        forward1, forward2 = pair("forward", "(model, batch)", 2, forward)
        examples1, examples2 = pair("examples", "a batch", 1, examples)
        check_autocast(autocast)
        self.autocast = autocast
        self.specs = (
            ModelSpec(tree1, self.name1, model1_layers, forward1, examples1),
            ModelSpec(tree2, self.name2, model2_layers, forward2, examples2),
        )
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
        return self.specs[0].tree.model

    @property
    def model2(self) -> nn.Module:
        """The model of the columns, unwrapped."""
        return self.specs[1].tree.model

    @explains_keywords
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

        Each batch goes to both models, so a shuffled loader is safe. In the main
        thread, with nothing beside it, loaders and models draw random numbers from
        streams of the run's own, which start where the global ones are. So the global
        random state is unchanged, and a second run shuffles the same way.

        Elsewhere (in another thread, beside another run, beside a thread in code of
        yours) global streams are never set. There a `DataLoader` shuffles and seeds its
        workers by a generator of its own, which starts in the same way. Transforms in
        this process, other samplers and models draw from the global streams.

        Args:
            loader: Batches: tensors, ``(inputs, labels)``, dicts of arguments, or what
                `forward` understands. Any iterable; its length need not be known.
            loader2: Other inputs for model 2, of the same examples in the same order.
            paired: False if the two loaders yield different examples. CKA then compares
                unrelated rows, and a note in the result says so.
            callback: ``callback(batch, total, matrix)`` after every batch, from 1;
                ``total`` is None if unknown, ``matrix`` the running (L1, L2) tensor.
                Raising StopIteration ends the run and keeps the result so far.
            progress: Whether to show a progress bar.
            max_batches: Stop after this number of batches.
            stop_when_stable: Stop when the largest standard error is below this, but
                not before eight batches.
            checkpoint: File for the running sums, written every 30 seconds and at the
                end, however the run ends. A later call with the same models, functions
                and batches resumes from it, to the same bits. Any other call is
                refused; a batch is known by its shapes, sums, first and last example.
                Random transforms repeat their numbers in the main thread and in worker
                processes alone. Give each rank of a group its own file.

        Under an initialized `torch.distributed` process group each rank runs its own
        loader, of any length, and every rank returns the result of all of them. All
        must have the same weights, layers and settings. If one fails, or its process is
        killed (which shows within a minute), all end with an error that names it.

        Returns:
            The result, also stored in ``result``, where a partial result remains after
            an exception or interrupt.

        Raises:
            ValueError: If the loader yields nothing, only batches of fewer than four
                examples, or pairs that do not match, or if the checkpoint is that of
                another comparison.
            TypeError: If a batch contains no tensor, or `callback` is not callable.
            RuntimeError: If memory runs out, or another rank has failed.
            FileNotFoundError: If the folder of the checkpoint does not exist.
        """
        with all_ranks() as ranks:
            check_callback(callback)
            steps = self._steps(
                loader,
                loader2,
                paired=paired,
                max_batches=max_batches,
                stop_when_stable=stop_when_stable,
                checkpoint=checkpoint,
                ranks=ranks,
            )
            state = self._consumed(steps, callback, progress=progress, ranks=ranks)
            if isinstance(state, RunState) and ranks is not None:
                merge_ranks(ranks, state)
        state.finish()
        self.result = state.result()
        for note in state.notes:
            warnings.warn(note, stacklevel=3)  # past the check of keywords
        return self.result

    def _consumed(
        self,
        steps: Generator[RunView, None, None],
        callback: Callback | None,
        *,
        progress: bool,
        ranks: Ranks | None,
    ) -> RunView:
        """The last state of a run in this process."""
        undo = Undo()
        with undo, undo:
            undo.add(steps.close)
            state = next(steps)
            undo.add(self._keep, state)
            # Even a disabled bar takes tqdm's lock, which all forked processes share.
            bar = tqdm(total=state.total, unit="batch") if progress else None
            if bar is not None:
                undo.add(bar.close)
            try:
                for _ in steps:
                    if bar is not None:
                        bar.update(state.done - bar.n)
                    _call_back(callback, state)
                    if ranks is not None:
                        ranks.check()
            except StopIteration:
                pass
        return state

    def _keep(self, state: RunView) -> None:
        """Keep the result of the batches so far, if there are any."""
        if state.batches:
            self.result = state.result()

    def __getattr__(self, name: str) -> Any:
        """Raise AttributeError; for names of other tools, with what there is here."""
        kind, hint = type(self).__name__, other_method(name)
        msg = f"{kind!r} object has no attribute {name!r}.{hint}"
        raise AttributeError(msg, name=name, obj=self)

    def export(self) -> dict[str, Any]:
        """The last result as a plain dict; see `CKAResult.export`.

        Raises:
            RuntimeError: If nothing was compared yet.
        """
        if self.result is None:
            msg = "Nothing to export yet. Call compare() first."
            raise RuntimeError(msg)
        return self.result.export()

    def _steps(  # noqa: PLR0913 what compare takes, and what the explorer has chosen
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
        paused: PausedRun | None = None,
        ranks: Ranks | None = None,
    ) -> Generator[RunView, None, None]:
        """The state of a run before the first batch, then after each batch.

        Closing the generator removes all hooks and restores the models. With
        ``paused``, that run continues here after its new layers have caught up. The
        run's random streams stay in place from its first batch on; `lent` interrupts
        them for code that is not the run's.
        """
        if loader2 is loader and paired:
            loader2 = None
        check_loaders(loader, loader2, paired, max_batches)
        stop_when_stable = check_tolerance(stop_when_stable)
        undo = Undo()
        with undo, undo:
            undo.enter(held(LEASE))
            for spec in self.specs:
                undo.enter(placed(spec.tree.model, self.device))
            start = None if paused is None else paused.start
            models = [spec.tree.model for spec in self.specs]
            random = RandomStreams(x.device for m in models for x in m.parameters())
            undo.add(random.give_back)
            run = Run(self, loader, loader2, paired, random, checkpoint, start)
            undo.add(run.close)
            run.probe()
            state = run.choose((layers1, layers2), max_batches)
            if ranks is not None:
                check_settings(ranks, run.common(state))
            catch_up = catch_up_of(state, paused)
            yield state if catch_up is None else catch_up.view
            undo.add(run.save)
            run.capture(undo)
            run.random.__enter__()
            run.resume(state, max_batches, load_sums=catch_up is None)
            if catch_up is not None:
                yield from _catch_up(run, catch_up, state)
                run.restrict(state)
                yield state
            yield from _take_batches(run, state, max_batches, stop_when_stable)
            run.note_missing(state)
            if ranks is None:  # Else only all ranks together must have batches.
                state.finish()


def _take_batches(
    run: Run, state: RunState, max_batches: int | None, tolerance: float | None
) -> Generator[RunState, None, None]:
    """The state after each batch, until the run is over."""
    while max_batches is None or state.done < max_batches:
        if not run.step(state):
            return
        run.save(now=False)
        yield state
        if tolerance and state.is_stable(tolerance):
            state.note_stable(tolerance)
            return


def _catch_up(
    run: Run, catch_up: CatchUp, state: RunState
) -> Generator[RunView, None, None]:
    """Repeat the batches of a paused run for new layers, and let these join it.

    Yields the state after each batch but the last, after which all layers are equal.
    """
    run.restrict(catch_up.inner)
    while not catch_up.is_complete:
        # The checkpoint keeps what the paused run has done.
        if not run.step(catch_up.inner, keeps=False):
            raise OtherBatchesError
        catch_up.check()
        if not catch_up.is_complete:
            yield catch_up.view
    catch_up.join()
    run.at_bound = state


def _call_back(callback: Callback | None, state: RunView) -> None:
    if callback is not None:
        with lent():
            callback(state.done, state.total, state.matrix())


def _titles(
    model1: nn.Module, model2: nn.Module, name1: str | None, name2: str | None
) -> tuple[str, str]:
    """The names of both models, different unless the model is the same."""
    title1 = name1 or type(model1).__name__
    title2 = name2 or (title1 if model1 is model2 else type(model2).__name__)
    if title1 == title2 and model1 is not model2:
        return (
            title1 if name1 else f"{title1} A",
            title2 if name2 and not name1 else f"{title2} B",
        )
    return title1, title2
