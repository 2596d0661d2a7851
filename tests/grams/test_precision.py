"""Our products are float32 whatever the user allows, and the settings come back."""

import pytest
import torch

from cka_notebook._grams import precision
from cka_notebook._grams.precision import exact, reduces_float32


def test_a_setting_for_one_type_of_device_does_not_slow_down_another():
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        assert reduces_float32("cuda")
        assert not reduces_float32("cpu")
        with exact(torch.device("cpu")):
            assert torch.backends.cuda.matmul.allow_tf32
        with exact(torch.device("cuda")):
            assert not reduces_float32("cuda")
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_older_torch_has_one_setting_for_all_devices(monkeypatch, kind):
    monkeypatch.setattr(precision, "_matmul_backend", lambda _: None)
    torch.set_float32_matmul_precision("medium")
    try:
        assert reduces_float32(kind)
        with exact(torch.device("cpu")):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_autocast_is_off_inside_and_on_again_outside():
    x = torch.randn(4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        with exact(x.device):
            assert (x @ x).dtype == torch.float32
        assert (x @ x).dtype == torch.bfloat16


def test_settings_come_back_after_an_exception():
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(KeyboardInterrupt), exact(torch.device("cpu")):
            raise KeyboardInterrupt
        assert torch.get_float32_matmul_precision() == "medium"
        assert reduces_float32("cpu")
    finally:
        torch.set_float32_matmul_precision("highest")
