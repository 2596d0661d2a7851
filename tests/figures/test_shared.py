"""Colors and ranges that all figures share, also for eyes with a color deficiency."""

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from support import TESTS
from torch import nn

from cka_notebook import CKA, _figures

FITS = json.loads((TESTS / "fits.json").read_text())

# Color deficiencies as matrices on linear RGB (Machado et al. 2009, severity 1)
VISION = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
TO_XYZ = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]


def seen(colors, vision):
    """CIELAB of hexadecimal colors as seen with a deficiency, ``(n, 3)``."""
    rgb = np.array([[*bytes.fromhex(color[1:])] for color in colors]) / 255
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = np.clip(linear @ np.array(VISION[vision]).T, 0, 1) @ np.array(TO_XYZ).T
    t = xyz / np.sum(TO_XYZ, axis=1)
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    x, y, z = f.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("name", _figures.PALETTES)
def test_ten_steps_of_each_palette_are_distinct_to_every_eye(name, vision):
    colors = _figures.PALETTES[name]
    steps = seen([colors[k] for k in np.linspace(0, 255, 10).astype(int)], vision)
    apart = np.linalg.norm(steps[:, None] - steps, axis=2)
    assert apart[np.triu_indices(10, 1)].min() >= 5


@pytest.mark.parametrize("example", FITS, ids=lambda example: str(example["values"]))
def test_a_fitted_range_is_the_same_as_in_the_page(example):
    values = np.array(example["values"], dtype=float)
    found = _figures.fitted_range(values, example.get("palette", ""))
    assert found == pytest.approx(tuple(example["range"]))


def test_layers_compared_with_themselves_are_grey_in_a_difference():
    torch.manual_seed(0)
    loader = [torch.randn(16, 8) for _ in range(6)]
    layers = [nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)]
    models = [nn.Sequential(*layers), nn.Sequential(*copy.deepcopy(layers))]
    with torch.no_grad():
        models[1][0].weight += torch.randn(8, 8)
    first, second = (CKA(m, m).compare(loader, progress=False) for m in models)
    difference = second - first
    cells = _figures.exact_cells(
        difference.matrix.numpy(), difference.stderr.numpy(), is_difference=True
    )
    np.testing.assert_array_equal(cells, np.eye(len(cells), dtype=bool))


@pytest.mark.parametrize("vision", VISION)
def test_that_grey_is_distinct_from_the_colors_of_a_difference_to_every_eye(vision):
    steps = seen(_figures.PALETTES["puor"], vision)
    apart = np.linalg.norm(steps - seen([_figures.EXACT], vision), axis=1)
    assert apart.min() >= 5
    assert apart[128] >= 40, "the color of 0, which these cells would have"


def test_the_page_and_the_figures_have_the_same_grey():
    css = Path(_figures.__file__).parents[1] / "static" / "widget.css"
    colors = re.findall(r"--cka-exact:\s*([^;}]+)", css.read_text())
    assert {"#" + color[1:] * (6 // len(color[1:])) for color in colors} == {
        _figures.EXACT
    }
