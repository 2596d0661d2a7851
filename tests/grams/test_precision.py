"""Our products are float32 whatever the user allows, and the settings come back."""

import contextlib
import threading
from functools import cache

import pytest
import torch

from cka_notebook._grams import precision
from cka_notebook._grams.precision import (
    exact,
    outside_inference_mode,
    reduces_float32,
    undisturbed,
)


def test_a_setting_for_one_type_of_device_does_not_slow_down_another():
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        assert reduces_float32("cuda")
        assert not reduces_float32("cpu")
        with exact(torch.device("cpu")):
            assert torch.backends.cuda.matmul.allow_tf32
        with undisturbed(torch.device("cuda")):
            assert torch.backends.cuda.matmul.allow_tf32, "no product depends on it"
        with exact(torch.device("cuda")):
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
            assert reduces_float32("cuda"), "the user's setting"
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_older_torch_has_one_setting_for_all_devices(monkeypatch, kind):
    monkeypatch.setattr(precision, "_matmul_backend", lambda _: None)
    monkeypatch.setattr(precision, "_full_float32", cache(precision._FullFloat32))
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


def threads_of(kind, count):
    """Settings that threads see which need exact products at the same time."""
    inside, seen = threading.Barrier(count), []

    def run():
        with exact(torch.device(kind)):
            inside.wait()
            seen.append(torch.get_float32_matmul_precision())
            inside.wait()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def test_runs_at_the_same_time_see_the_users_setting_and_put_it_back():
    torch.set_float32_matmul_precision("medium")
    try:
        with exact(torch.device("cpu")):
            assert reduces_float32("cpu"), "the user's setting, not that of a run"
        assert reduces_float32("cpu")
        threads_of("cpu", 3)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.skipif(
    not hasattr(torch.backends, "fp32_precision"), reason="needs a newer torch"
)
def test_a_setting_that_is_inherited_stays_inherited():
    matmul = torch.backends.mkldnn.matmul
    matmul.fp32_precision = "none"
    torch.backends.mkldnn.fp32_precision = "bf16"
    try:
        assert matmul.fp32_precision == "bf16"
        with exact(torch.device("cpu")):
            assert matmul.fp32_precision == "ieee"
        assert matmul.fp32_precision == "bf16"
        torch.backends.mkldnn.fp32_precision = "ieee"
        assert matmul.fp32_precision == "ieee"
    finally:
        torch.backends.mkldnn.fp32_precision = "none"
        torch.set_float32_matmul_precision("highest")


def test_what_an_interrupt_leaves_can_be_undone():
    torch.set_float32_matmul_precision("medium")
    try:
        before = precision.held("cpu")
        block = exact(torch.device("cpu"))
        block.__enter__()
        del block  # as if an interrupt came before its `with` began
        precision.let_go("cpu", before)
        assert precision.held("cpu") == 0
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def modes():
    return torch.is_inference_mode_enabled(), torch.is_grad_enabled()


def test_there_is_no_inference_mode_inside_and_the_same_one_outside():
    with outside_inference_mode():
        assert modes() == (False, True), "as it was"
    with torch.inference_mode():
        for error in (None, KeyboardInterrupt):
            with contextlib.suppress(KeyboardInterrupt), outside_inference_mode():
                assert modes() == (False, False)
                assert not torch.ones(1).is_inference()
                if error is not None:
                    raise error
            assert modes() == (True, False)
    assert modes() == (False, True)


def test_a_block_that_an_interrupt_has_suspended_changes_nothing_when_it_is_freed():
    with torch.inference_mode():
        suspended = outside_inference_mode()
        suspended.__enter__()
    with torch.inference_mode():
        del suspended
        assert modes() == (True, False)
    assert modes() == (False, True)


@pytest.mark.parametrize("place", ["set_grad_enabled", "inference_mode"])
def test_an_interrupt_at_the_start_of_the_block_leaves_inference_mode(
    monkeypatch, place
):
    def strike(*_, **__):
        monkeypatch.undo()
        raise KeyboardInterrupt

    with torch.inference_mode():
        monkeypatch.setattr(torch, place, strike)
        with pytest.raises(KeyboardInterrupt), outside_inference_mode():
            pass
        assert modes() == (True, False)
