"""What every test starts from: one thread, the same random numbers."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    """The same random numbers in every test, whatever ran before it."""
    torch.manual_seed(0)
