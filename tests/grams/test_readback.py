"""Copies to the CPU. Those from a GPU are tested in `test_gpu.py`."""

import torch

from cka_notebook._grams.readback import Readback


def test_values_on_the_cpu_are_ready_at_once():
    tensor = torch.arange(6.0).reshape(2, 3)
    copies = Readback(tensor, tensor / 2)
    assert copies.is_ready
    values, halves = copies.values()
    assert values.tolist() == tensor.tolist()
    assert halves.tolist() == (tensor / 2).tolist()


def test_values_can_be_read_twice():
    copies = Readback(torch.ones(2, 2))
    [first], [second] = copies.values(), copies.values()
    assert torch.equal(first, second)


class OnCuda:
    """A tensor that claims to be on a GPU."""

    device = torch.device("cuda")

    def __init__(self, tensor):
        self.tensor = tensor

    def detach(self):
        return self.tensor


class Event:
    """A CUDA event that occurs when the test wants."""

    done = False

    def record(self, stream):
        del stream

    def query(self):
        return self.done

    def synchronize(self):
        self.done = True


def test_values_of_a_gpu_are_not_ready_before_the_event_after_their_copy(monkeypatch):
    event, tensor = Event(), torch.eye(2)
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: None)
    monkeypatch.setattr("cka_notebook._grams.readback._pinned_copy", torch.clone)
    copies = Readback(OnCuda(tensor))
    assert not copies.is_ready
    event.done = True
    assert copies.is_ready
    event.done = False
    [values] = copies.values()
    assert event.done, "waited for the copy"
    assert copies.is_ready
    assert values.tolist() == tensor.tolist()
