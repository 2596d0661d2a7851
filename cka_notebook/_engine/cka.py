"""The engine: both models over one loader, a running result after every batch."""

import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, closing
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from cka_notebook import metrics
from cka_notebook._inputs.calls import Forward
from cka_notebook._inputs.loaders import check_loaders
from cka_notebook._inputs.pooling import Pooling, Pools
from cka_notebook._models.choice import Choices
from cka_notebook._models.layer_tree import LayerTree
from cka_notebook._results.files import PathLike
from cka_notebook._results.result import CKAResult

from .borrowed import lent, placed
from .catch_up import CatchUp, OtherBatchesError, PausedRun, catch_up_of
from .distributed import is_distributed, merge_ranks
from .run import Run
from .state import RunState

Callback = Callable[[int, int | None, Tensor], object]


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
            classes; or a predicate ``(name, module) -> bool``. In a glob ``*`` is any
            text, dots too, and ``?`` any character, as in `fnmatch`: ``"layer?.*"`` is
            all that is in the stages of a ResNet, ``"*.attn"`` attention at any depth.
        model2_layers: Likewise.
        device: Where to run; None leaves the models where they are. Models with a
            device map or offloading stay there in any case.
        metric: A name from `metrics.names`.
        pool: What becomes of tokens and positions: ``"auto"``, ``"flatten"``,
            ``"mean"``, ``"cls"``, ``"last"``, a callable from (n, ...) to (n, ...), or
            a dict from layer names or globs to these.
        forward: ``forward(model, batch)`` for inputs of another kind, or a pair of such
            functions, one for each model.
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
        _check_forward_passes(forward, autocast)
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

        Under an initialized `torch.distributed` process group each rank runs its own
        loader, and every rank returns the result of all of them.

        Returns:
            The result, also kept as ``result``; there it is found after an exception or
            interrupt, too, with what was done until then.

        Raises:
            ValueError: If the loader yields nothing, only batches of fewer than four
                examples, or pairs that do not match.
            TypeError: If a batch holds no tensor, or `callback` is no function.
            RuntimeError: If memory runs out.
            FileNotFoundError: If there is no folder for the checkpoint.
        """
        check_callback(callback)
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
                        with lent():
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
        kept: PausedRun | None = None,
    ) -> Generator["RunState", None, None]:
        """The running state: before any batch, with the layers known, then after each.

        Closing the generator removes all hooks and restores the models. A run of which
        something is ``kept`` goes on from there, after other layers have caught up. The
        run's random streams stay in place from its first batch on: `lent` is for what
        is not the run's.
        """
        if loader2 is loader and paired:
            loader2 = None
        check_loaders(loader, loader2, paired, max_batches)
        check_tolerance(stop_when_stable)
        with ExitStack() as stack:
            for model in (self.model1, self.model2):
                stack.enter_context(placed(model, self.device))
            start = None if kept is None else kept.start
            run = Run(self, loader, loader2, paired, checkpoint, start)
            stack.callback(run.close)
            run.probe()
            running = run.choose(layers1, layers2, max_batches)
            late = catch_up_of(running, kept)
            yield late or running
            for capture in run.captures:
                stack.enter_context(capture)
            run.resume(running, anew=late is not None)
            stack.callback(run.keep, running, now=True)
            stack.enter_context(run.random)
            if late is not None:
                yield from _catch_up(run, late)
                late.join(running)
                yield running
            while max_batches is None or running.done < max_batches:
                if not run.step(running):
                    break
                run.keep(running)
                yield running
                if stop_when_stable and running.is_stable(stop_when_stable):
                    running.note_stable(stop_when_stable)
                    break
            if not is_distributed():  # or else all ranks together have to have some
                running.finish()


def _catch_up(run: Run, late: CatchUp) -> Generator[RunState, None, None]:
    """Take the batches done once more, for new layers; ends before the last state."""
    run.restrict(late.inner)
    while not late.is_through:
        if not run.step(late.inner):
            raise OtherBatchesError
        late.follow()
        if not late.is_through:
            yield late
    run.restrict(late)


def check_tolerance(stop_when_stable: float | None) -> None:
    """Raise ValueError for what is no standard error to stop at."""
    if stop_when_stable is not None and not stop_when_stable > 0:
        msg = (
            "Expected `stop_when_stable` to be a standard error above 0, got "
            f"{stop_when_stable!r}."
        )
        raise ValueError(msg)


def check_callback(callback: object) -> None:
    """Raise TypeError for what cannot be called after a batch."""
    if callback is not None and not callable(callback):
        msg = (
            "Expected `callback` to be a function of (batch, total, matrix), or None, "
            f"got {callback!r}."
        )
        raise TypeError(msg)


def _check_model(model: object, argument: str) -> None:
    if not isinstance(model, nn.Module):
        msg = (
            f"Expected `{argument}` to be a torch.nn.Module, got "
            f"{type(model).__name__}."
        )
        raise TypeError(msg)
    if isinstance(model, torch.jit.ScriptModule):
        msg = (
            f"Expected `{argument}` to be a Python module, got a compiled "
            f"{type(model).__name__}, whose layers cannot be looked into. Pass the "
            "model that was scripted or traced."
        )
        raise TypeError(msg)


def _check_forward_passes(forward: object, autocast: object) -> None:
    pair = forward if isinstance(forward, tuple) else (forward, forward)
    if len(pair) != 2 or not all(f is None or callable(f) for f in pair):
        msg = (
            "Expected `forward` to be a function of (model, batch), or a pair of them, "
            f"got {forward!r}."
        )
        raise TypeError(msg)
    if autocast is not None and not isinstance(autocast, torch.dtype):
        msg = (
            "Expected `autocast` to be a dtype such as torch.bfloat16, or None, got "
            f"{autocast!r}."
        )
        raise TypeError(msg)


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
