"""What an explorer compares: two models over a loader, or a saved result.

Between runs the models are held weakly, so that ``del model`` frees their memory
although a notebook's output still refers to the explorer. A model without other
references is kept, because nobody could pass it again.
"""

import inspect
import sys
import weakref
from collections.abc import Generator, Iterable, Mapping
from typing import Any, Protocol

from torch import nn

from cka_notebook._engine.added_layers import PausedRun
from cka_notebook._engine.checkpoint import layers_of
from cka_notebook._engine.checks import check_callback, check_tolerance
from cka_notebook._engine.cka import CKA, Callback
from cka_notebook._engine.estimate import Estimate, free_bytes, size
from cka_notebook._engine.keywords import check_keywords
from cka_notebook._engine.state import RunView
from cka_notebook._inputs.loaders import batch_size, check_loaders, length
from cka_notebook._messages import counted
from cka_notebook._models.choice import choose
from cka_notebook._models.layer_tree import LayerTree, Outputs
from cka_notebook._models.tree_rows import Rows
from cka_notebook._results.result import CKAResult

from .saved_tree import SIDES, Columns, Side, columns_of, rows_of
from .source import call_around_layers

RUN_OPTIONS = ("paired", "max_batches", "stop_when_stable", "checkpoint", "callback")
"""Options of `CKA.compare` that an explorer also takes."""

OWN_OPTIONS = ("autostart", "theme")
"""Options that only an explorer takes."""

NAMES = ("model1_name", "model2_name")

MEMORY_SHARE = 0.7
"""A run that nobody has asked for pauses if it needs more of the free memory."""

OWN_REFERENCES = 2
"""References to a model in a list while they are counted: the list and the call."""


class Comparison(Protocol):
    """What an explorer needs to know of the thing it shows."""

    names: tuple[str, str]
    same: bool
    metric: str
    is_difference: bool
    tolerance: float | None
    callback: Callback | None
    loader_text: str
    one_shot: bool

    def trees(self) -> dict[str, Columns]:
        """The layer trees, as columns for the page."""

    def initial(self, side: Side) -> list[str]:
        """Layers that are chosen at first."""

    def choose(self, side: Side, choices: Any) -> list[str]:
        """Names of the chosen layers."""

    def prepare(self, metric: str) -> None:
        """Get what a run needs; RuntimeError if it is gone."""

    def steps(
        self, choices: Mapping[Side, Any], paused: PausedRun | None = None
    ) -> Generator[RunView, None, None]:
        """The engine's running states; those of a paused run in other layers."""

    def too_large(self, estimate: Estimate) -> str | None:
        """A message if a run may not fit into memory."""

    def release(self) -> None:
        """Keep only weak references to the models until the next run."""

    def close(self) -> None:
        """Release models, loaders and functions; there is no next run."""

    def code(self, metric: str, tolerance: float | None) -> list[str]:
        """The call that repeats this comparison, around its two lists of layers."""


class Live:
    """Two models over one loader, or over two.

    Args:
        model1: The model of the rows.
        model2: The model of the columns; None compares `model1` with itself.
        loader: Batches.
        loader2: Batches for model 2, or None.
        options: Options of `CKA` and of its `compare`.

    Raises:
        TypeError: If an option is unknown or of the wrong kind.
    """

    is_difference = False

    def __init__(
        self,
        model1: nn.Module,
        model2: nn.Module | None,
        loader: Iterable[Any],
        loader2: Iterable[Any] | None,
        options: Mapping[str, Any],
    ) -> None:
        check_options(options)
        self._loader, self._loader2 = loader, loader2
        self._run_options = {k: v for k, v in options.items() if k in RUN_OPTIONS}
        # It may change during a run, so the session checks it after each batch.
        tolerance = self._run_options.pop("stop_when_stable", None)
        self.tolerance = check_tolerance(tolerance)
        # The session calls it, because its errors are shown and do not end the run.
        self.callback: Callback | None = self._run_options.pop("callback", None)
        check_callback(self.callback)
        paired = self._run_options.get("paired", True)
        check_loaders(loader, loader2, paired, self._run_options.get("max_batches"))
        self._options = {k: v for k, v in options.items() if k not in RUN_OPTIONS}
        self._cka: CKA | None = CKA(model1, model2, **self._options)
        self._models = _Models(model1, model2 if model2 is not None else model1)
        self.names = self._cka.name1, self._cka.name2
        # A later run starts elsewhere, where variables have other names.
        self._options |= dict(zip(NAMES, self.names, strict=True))
        self.same = self._cka.same
        self.metric = self._cka.metric
        self.loader_text = describe_loader(loader)
        self.one_shot = hasattr(loader, "__next__") or hasattr(loader2, "__next__")
        self._first_choices: dict[Side, Any] = {
            "layers1": self._cka.specs[0].choices,
            "layers2": self._cka.specs[1].choices,
        }
        self._has_run = False
        self._trees: dict[str, Columns] = {}
        self._rows: dict[Side, Rows] = {}
        self._outputs: dict[Side, Outputs] = {}

    def trees(self) -> dict[str, Columns]:
        """The layer trees as columns; between runs, those of the last run."""
        if self._cka is not None:
            tree1, tree2 = _trees_of(self._cka).values()
            if not self._trees or (tree1.probed and tree2.probed):
                columns = tree1.columns()
                both = columns, columns if self.same else tree2.columns()
                self._trees = dict(zip(("model1", "model2"), both, strict=True))
        return self._trees

    def initial(self, side: Side) -> list[str]:
        """The layers that the constructor chose, as far as known before a probe."""
        return self.choose(side, self._first_choices[side])

    def choose(self, side: Side, choices: Any) -> list[str]:
        """Names of the chosen layers.

        Raises:
            ValueError: If a name or pattern matches nothing, with the nearest names.
        """
        cka = self._cka  # Another thread may release it.
        if cka is None:
            return _choose(self._rows[side], choices)
        return choose(_trees_of(cka)[side].rows(side), choices)

    def prepare(self, metric: str) -> None:
        """Create the comparison by this measure.

        Raises:
            RuntimeError: If a model is gone.
        """
        if self._cka is None or self._cka.metric != metric:
            self._remember()
            model1, model2 = self._models.hold()
            cka = CKA(model1, model2, **{**self._options, "metric": metric})
            for side, tree in _trees_of(cka).items():
                tree.recall(self._outputs[side])
            self._cka = cka

    def steps(
        self, choices: Mapping[Side, Any], paused: PausedRun | None = None
    ) -> Generator[RunView, None, None]:
        """The engine's running states.

        Args:
            choices: The chosen layers by side.
            paused: A paused run to continue in these layers, or None.
        """
        if self._cka is None:
            msg = "Call prepare() before steps()."
            raise RuntimeError(msg)
        options = dict(self._run_options)
        if self._has_run and paused is None and self._is_of_others(choices):
            del options["checkpoint"]
        self._has_run = True
        return self._cka._steps(  # noqa: SLF001 the explorer is the engine's other loop
            self._loader, self._loader2, **options, **choices, paused=paused
        )

    def _is_of_others(self, choices: Mapping[Side, Any]) -> bool:
        """Whether the checkpoint holds other layers, of an earlier run here."""
        path = self._run_options.get("checkpoint")
        layers = None if path is None else layers_of(path)
        if layers is None:
            return False
        every = {**self._first_choices, **choices}
        return layers != tuple(self.choose(side, every[side]) for side in SIDES)

    def too_large(self, estimate: Estimate) -> str | None:
        """A message if the Gram matrices of a batch may not fit into memory."""
        parameter = next(self._models.hold()[0].parameters(), None)
        free = free_bytes(parameter.device if parameter is not None else None)
        if free is None or estimate.nbytes <= MEMORY_SHARE * free:
            return None
        return (
            f"{estimate.layers} layers and batches of {estimate.examples} examples "
            f"need about {size(estimate.nbytes)}, but only {size(free)} is free. "
            "Choose fewer layers or a smaller batch_size, or resume to run anyway."
        )

    def release(self) -> None:
        """Keep only weak references to the models until the next run."""
        self.trees()
        self._remember()
        self._cka = None
        self._models.release()

    def close(self) -> None:
        """Release models, loaders and functions; there is no next run."""
        self.release()
        self._models = _Models()
        self._loader, self._loader2, self.callback = (), None, None
        self._options, self._first_choices = {}, {}

    def _remember(self) -> None:
        """Keep those parts of the layer trees that hold no model: rows and outputs."""
        if self._cka is not None:
            trees = _trees_of(self._cka)
            rows = {side: tree.rows(side) for side, tree in trees.items()}
            self._rows = {side: each.without_modules() for side, each in rows.items()}
            self._outputs = {side: tree.outputs for side, tree in trees.items()}

    def code(self, metric: str, tolerance: float | None) -> list[str]:
        """The call that repeats this comparison, around its two lists of layers.

        Its variables have the names of the explorer's arguments. The path of a
        checkpoint is left out: it is private to this machine, and changes no number.
        """
        models = ["model1"] if self.same else ["model1", "model2"]
        loaders = ["loader"] if self._loader2 is None else ["loader", "loader2"]
        options = {**self._options, "metric": metric}
        run = {**self._run_options, "stop_when_stable": tolerance}
        run.pop("checkpoint", None)
        return call_around_layers(models, options, loaders, run)


class Saved:
    """A result without models."""

    one_shot = False
    loader_text = ""
    tolerance: float | None = None
    callback: Callback | None = None

    def __init__(self, result: CKAResult) -> None:
        self.names = result.name1, result.name2
        self.same = False
        self.metric = result.metric
        self.is_difference = result.is_difference
        self._layers: dict[Side, list[str]] = {
            "layers1": list(result.layers1),
            "layers2": list(result.layers2),
        }

    def trees(self) -> dict[str, Columns]:
        """The trees that the layers' names imply."""
        return {
            "model1": columns_of(self.names[0], self._layers["layers1"]),
            "model2": columns_of(self.names[1], self._layers["layers2"]),
        }

    def initial(self, side: Side) -> list[str]:
        """All layers of the result."""
        return self._layers[side]

    def choose(self, side: Side, choices: Any) -> list[str]:
        """Names of the chosen layers."""
        title = self.names[SIDES.index(side)]
        return _choose(rows_of(title, self._layers[side], side), choices)

    def prepare(self, metric: str) -> None:
        """Refuse: there are no models.

        Raises:
            RuntimeError: Always.
        """
        msg = (
            f"Expected models to compute {metric} from, got a saved result. Create an "
            "explorer with CKAExplorer(model1, model2, loader)."
        )
        raise RuntimeError(msg)

    def steps(
        self, choices: Mapping[Side, Any], paused: PausedRun | None = None
    ) -> Generator[RunView, None, None]:
        """No states: nothing to compute."""
        del choices, paused
        yield from ()

    def too_large(self, estimate: Estimate) -> None:
        """Never: no run."""
        del estimate

    def release(self) -> None:
        """Nothing to release."""

    def close(self) -> None:
        """Nothing to release."""

    def code(self, metric: str, tolerance: float | None) -> list[str]:
        """The call that would repeat this comparison, if there is one."""
        if self.is_difference:
            return []  # It takes two calls.
        names = dict(zip(NAMES, self.names, strict=True))
        run = {"stop_when_stable": tolerance}
        options = {**names, "metric": metric}
        return call_around_layers(["model1", "model2"], options, ["loader"], run)


def _trees_of(cka: CKA) -> dict[Side, LayerTree]:
    return {side: spec.tree for side, spec in zip(SIDES, cka.specs, strict=True)}


def _choose(rows: Rows, choices: Any) -> list[str]:
    """Names of the chosen layers; no layers may be chosen while nothing is computed."""
    if isinstance(choices, list | tuple) and not choices:
        return []
    return choose(rows, choices)


class _Models:
    """References to the models: strong during a run, weak afterwards."""

    def __init__(self, *models: nn.Module) -> None:
        self._kinds = [type(model).__name__ for model in models]
        self._weak = [weakref.ref(model) for model in models]
        self._strong = list({id(model): model for model in models}.values())

    def hold(self) -> list[nn.Module]:
        """The models, with strong references from now on."""
        models = [reference() for reference in self._weak]
        for number, (model, kind) in enumerate(
            zip(models, self._kinds, strict=True), 1
        ):
            if model is None:
                msg = (
                    f"Expected model{number} ({kind}) to be alive, but it was deleted "
                    "after the last run. Create a new CKAExplorer."
                )
                raise RuntimeError(msg)
        found = [model for model in models if model is not None]
        self._strong = list({id(model): model for model in found}.values())
        return found

    def release(self) -> None:
        """Drop the strong references, except to models without any other."""
        for place in reversed(range(len(self._strong))):
            if sys.getrefcount(self._strong[place]) > OWN_REFERENCES:
                del self._strong[place]


def check_options(options: Iterable[str]) -> None:
    """Refuse unknown options.

    Raises:
        TypeError: With the known options.
    """
    signature = list(inspect.signature(CKA).parameters)[2:]
    allowed = sorted({*signature, *RUN_OPTIONS, *OWN_OPTIONS})
    check_keywords("CKAExplorer", options, allowed)


def describe_loader(loader: Iterable[Any]) -> str:
    """A loader in a few words, without memory addresses.

    Example:
        >>> describe_loader([1, 2, 3])
        'list, 3 batches'
    """
    data = getattr(loader, "dataset", loader)
    words = [type(data).__name__]
    batches = length(loader)
    if batches is not None:
        words.append(counted(batches, "batch"))
    size = batch_size(loader)
    if size is not None:
        words.append(f"batch size {size}")
    return ", ".join(words)
