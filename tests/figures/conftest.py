"""The result that the tests of figures draw."""

import math

import pytest
import torch

from cka_notebook import CKAResult

NAN = math.nan


@pytest.fixture
def result():
    return CKAResult(
        matrix=torch.tensor([[1.0, 0.5, NAN], [0.25, -0.125, NAN]]).double(),
        stderr=torch.tensor([[0.0, 0.01, NAN], [0.02, 0.03, NAN]]).double(),
        layers1=("enc.0", "enc.1"),
        layers2=("a", "b", "c"),
        name1="ResNet",
        name2="ViT",
    )
