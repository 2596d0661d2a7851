"""What a checkpoint holds, checked before a run continues from it."""

import random
from collections.abc import Mapping
from typing import Any, get_args

import torch
from torch import Tensor

from cka_notebook._grams.products import Shift
from cka_notebook._results import contents
from cka_notebook._results.files import Spec, expect, expect_count, expect_type

STREAMS = ("start.", "random.")

WORDS = 624
"""Of a state of the Mersenne Twister, in Python and in numpy."""


def check(specs: Mapping[str, Spec], facts: dict[str, Any]) -> None:
    """Raise ValueError if these are not the tensors and facts of a run."""
    for key in ("settings", "run", "memory"):
        expect_type(facts.get(key), dict, f"`{key}`")
    settings, run = facts["settings"], facts["run"]
    layers = [settings.get(key) for key in ("layers1", "layers2")]
    for names in layers:
        contents.check_texts(names, "layers")
    grid = len(layers[0]), len(layers[1])
    contents.check_sums(specs, "run.", grid)
    for number, size in enumerate(grid):
        contents.check_tensor(specs, f"run.bad{number}", (size,), (torch.float32,))
    for prefix in STREAMS:
        _check_streams(specs, prefix)
    for key in ("batches", "skipped", "examples"):
        expect_count(run.get(key), f"`{key}`")
    _check_problems(run.get("problems"))
    _check_memory(specs, facts["memory"])
    done = run["batches"] + run["skipped"]
    contents.check_tensor(specs, "prints", (done, 2), (torch.int64,))


def check_values(tensors: Mapping[str, Tensor]) -> None:
    """Raise an error if sums are negative or generators refuse the streams."""
    contents.check_values(tensors)
    for prefix in STREAMS:
        python = tuple(tensors[f"{prefix}python"].tolist())
        random.Random().setstate((3, python, None))
        words = tensors[f"{prefix}numpy"].numpy()
        fits = bool((words >= 0).all() and (words < 1 << 32).all())
        position, has_gauss, _ = tensors[f"{prefix}numpy_rest"].tolist()
        # numpy accepts any position and would read past the state.
        fits &= 0 <= position <= WORDS and has_gauss in (0, 1)
        expect(fits, f"its random stream {prefix}numpy is invalid")
        torch.Generator().set_state(tensors[f"{prefix}torch0"])


def _check_streams(specs: Mapping[str, Spec], prefix: str) -> None:
    for name, shape, dtype in (
        ("python", (WORDS + 1,), torch.int64),
        ("python_gauss", (), torch.float64),
        ("numpy", (WORDS,), torch.int64),
        ("numpy_rest", (3,), torch.float64),
        ("torch0", tuple(torch.get_rng_state().shape), torch.uint8),
    ):
        contents.check_tensor(specs, prefix + name, shape, (dtype,))


def _check_problems(problems: Any) -> None:
    expect_type(problems, list, "`problems`")
    expect(len(problems) == 2, f"it has `problems` of {len(problems)} models")
    for reasons in problems:
        _check_reasons(reasons, "problems")


def _check_memory(specs: Mapping[str, Spec], memory: dict[str, Any]) -> None:
    shifts: Any = memory.get("shifts")
    _check_reasons(shifts, "shifts")
    unknown = {*shifts.values()} - {*get_args(Shift)}
    expect(not unknown, f"it has `shifts` of other kinds than {get_args(Shift)}")
    models: Any = memory.get("models")
    expect_type(models, list, "`models`")
    for number, model in enumerate(models):
        expect_type(model, dict, "`models`")
        expect_type(model.get("masked"), bool, "`masked`")
        expect_type(model.get("pairs"), (int, float), "`pairs`")
        expect_type(model.get("scatters"), list, "`scatters`")
        for row, scatter in enumerate(model["scatters"]):
            _check_scatter(specs, f"memory.{number}.{row}.", scatter)


def _check_scatter(specs: Mapping[str, Spec], prefix: str, scatter: Any) -> None:
    """Raise ValueError if these are not the numbers and tensors of a scatter."""
    expect_type(scatter, list, "`scatters`")
    expect(len(scatter) == 4, f"it has `scatters` of {len(scatter)} numbers")
    expect_type(scatter[3], list, "`scatters`")
    for number in (*scatter[:3], *scatter[3]):
        expect_count(number, "`scatters`")
    own = {name: x.shape for name, x in specs.items() if name.startswith(prefix)}
    width = own.get(f"{prefix}totals.0", ())
    shapes = [("totals", 0, width), ("totals", 1, width), ("totals", 2, ())]
    shapes += [("totals", 3, ())] if own else []
    for number in range(len(scatter[3])):
        shapes += [("sums", number, width), ("norms", number, ())]
    expected = {f"{prefix}{kind}.{i}": shape for kind, i, shape in shapes if own}
    expect(own == expected, f"its tensors {prefix} are not those of a scatter")


def _check_reasons(content: Any, what: str) -> None:
    """Raise ValueError unless these are texts by layer number."""
    contents.check_reasons(content, what)
    are_numbers = all(key.isdecimal() and len(key) < 9 for key in content)
    expect(are_numbers, "its layers are not numbers")
