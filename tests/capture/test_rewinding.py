"""A probe leaves nothing in the model, and says what the model keeps between calls."""

import random

import numpy as np
import pytest
import torch
import transformers as hf
from support import zoo
from support.configs import SMALL
from support.reference import assert_right, compare
from torch import nn

from cka_notebook._capture.hooks import Hook
from cka_notebook._capture.rewinding import MAX_BYTES, Rewinder, rewound
from cka_notebook._capture.streams import seeded

ALL = {"model1_layers": "all", "model2_layers": "all"}


class Keeping(nn.Module):
    """Keeps what a function makes of its state and its features."""

    def __init__(self, keep):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(10, 8), nn.Linear(8, 3)
        self.keep, self.state = keep, None
        self.history, self.cache = [], {"last": {}}
        self.register_buffer("level", torch.zeros(8))
        self.plain = torch.zeros(8)

    def forward(self, x):
        return self.head(self.keep(self, torch.tanh(self.body(x))))


def attribute(model, x):
    x = x if model.state is None else x + 0.5 * model.state
    model.state = x
    return x


def listed(model, x):
    model.history.append(x.mean(0))
    return x + torch.stack(model.history).sum(0)


def nested(model, x):
    model.cache["last"]["x"] = x + model.cache["last"].get("x", 0)
    return model.cache["last"]["x"]


def tensor_in_place(model, x):
    model.plain += x.mean(0)
    return x + model.plain


def new_buffer(model, x):
    model.level = model.level + x.mean(0)
    return x + model.level


def new_attribute(model, x):
    model.extra = getattr(model, "extra", 0) + x.mean(0)
    return x + model.extra


STATES = {
    "state": attribute,
    "history": listed,
    "cache.last": nested,
    "plain": tensor_in_place,
    "level": new_buffer,
    "extra": new_attribute,
}


def held(model):
    return (
        model.state,
        list(model.history),
        dict(model.cache["last"]),
        model.plain.tolist(),
        model.level.tolist(),
        hasattr(model, "extra"),
    )


@pytest.mark.parametrize("name", STATES)
def test_a_state_is_restored_after_the_probe_and_named_in_a_note(name):
    model, batches = Keeping(STATES[name]), zoo.batches_of()
    before = held(model)
    with rewound(model):
        model(batches[0])
        model(batches[1])
    assert held(model) == before
    result = compare(model, batches=batches, **ALL)
    [note] = [x for x in result.notes if "changes" in x]
    assert repr(name) in note or f"'{name}." in note
    assert "depends on the ones before" in note
    assert_right(result, Keeping(STATES[name]), Keeping(STATES[name]), batches)


def test_what_no_later_pass_depends_on_needs_no_note():
    def recorded(model, x):
        model.state, model.cache["last"]["mean"] = x, x.mean()
        return x

    model, batches = Keeping(recorded), zoo.batches_of()
    result = compare(model, batches=batches, **ALL)
    assert result.notes == []


def test_random_streams_are_where_they_were():
    class Drawing(nn.Module):
        def forward(self, x):
            return x + torch.randn(()) + random.random() + np.random.rand()  # noqa: NPY002

    def drawn():
        return torch.rand(2).tolist(), random.random(), np.random.rand()  # noqa: NPY002

    with rewound(Drawing()):
        expected = drawn()
    model = Drawing()
    rewinder = Rewinder(model)
    assert not rewinder.drew
    model(torch.ones(1))
    assert rewinder.drew
    rewinder.rewind()
    assert not rewinder.drew
    assert drawn() == expected


def test_lists_and_sets_are_the_same_objects_with_the_same_contents():
    model = Keeping(attribute)
    model.seen, model.names = [1, 2], {"a"}
    seen, names = model.seen, model.names
    with rewound(model):
        model.seen.append(3)
        model.names.add("b")
        model.seen = None
    assert model.seen is seen
    assert model.names is names
    assert (seen, names) == ([1, 2], {"a"})


def test_parameters_and_lazy_modules_are_left_alone():
    model = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2))
    with rewound(model), torch.no_grad():
        model(torch.randn(4, 5))
        model[1].weight += 1
    assert model[0].weight.shape == (3, 5)
    assert model(torch.randn(4, 5)).shape == (4, 2)


def test_large_buffers_are_not_copied(monkeypatch):
    assert MAX_BYTES >= 1 << 20
    monkeypatch.setattr("cka_notebook._capture.rewinding.MAX_BYTES", 100)
    model = Keeping(attribute)
    model.register_buffer("large", torch.zeros(100))
    model.register_buffer("small", torch.zeros(10))
    with rewound(model):
        model.large += 1
        model.small += 1
    assert (float(model.large[0]), float(model.small[0])) == (1, 0)


def test_an_error_restores_the_model_too():
    model = Keeping(attribute)

    def run():
        with rewound(model):
            model(torch.randn(4, 10))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    assert model.state is None


class Hooking(nn.Module):
    """Gives a part of itself a hook in its first pass, as transformers' models do."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(10, 8), nn.Linear(8, 3)
        self.is_hooked = False

    def forward(self, x):
        if not self.is_hooked:
            self.body.register_forward_hook(lambda *given: given[2] + 1)
            self.head.register_forward_pre_hook(lambda _, given: (given[0] * 2,))
            self.is_hooked = True
        return self.head(self.body(x))


def test_hooks_that_a_model_sets_itself_exist_once():
    model, other = Hooking(), Hooking()
    other.load_state_dict(model.state_dict())
    x = torch.randn(8, 10)
    rewinder = Rewinder(model)
    for _ in range(3):
        model(x)
        rewinder.rewind()
        assert not model.body._forward_hooks
        assert not model.head._forward_pre_hooks
    assert torch.equal(model(x), other(x))
    compare(model, batches=[x])
    assert torch.equal(model(x), other(x))


def test_hooks_of_another_run_stay():
    model = Hooking()
    rewinder = Rewinder(model)
    hook = Hook(lambda *_: None)
    model.body.register_forward_hook(hook)
    model(torch.randn(8, 10))
    rewinder.rewind()
    assert list(model.body._forward_hooks.values()) == [hook]


@pytest.mark.parametrize("first", [False, True])
def test_hidden_states_of_transformers_are_right_after_a_run(first):
    config = hf.LlamaConfig(**SMALL, output_hidden_states=True)
    model = hf.LlamaModel(config).eval()
    ids = torch.randint(0, 100, (8, 5))
    count = len(model(ids).hidden_states) if first else SMALL["num_hidden_layers"] + 1
    compare(model, batches=[{"input_ids": ids}])
    assert len(model(ids).hidden_states) == count


def drawn():
    return torch.rand(()).item(), np.random.rand(), random.random()  # noqa: NPY002


def test_seeded_numbers_leave_the_streams_where_they_were():
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    found = []
    for seed in (5, 5, 6, 2**40):
        with seeded(seed, [torch.device("cpu")]):
            found.append(drawn())
    assert found[0] == found[1]
    assert len(set(found)) == 3
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002


def test_seeded_streams_come_back_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(KeyError), seeded(1, []):
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)
