"""Batches that a model or a user's function changes: nobody else sees the change."""

import copy
import dataclasses
from collections import OrderedDict, UserDict, UserList, deque, namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support import containers, zoo
from support.reference import assert_right, compare
from torch import nn

from cka_notebook._inputs.nested import private

Pair = namedtuple("Pair", "x y")


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: torch.Tensor
    meta: dict


def sub(x):
    x.sub_(0.5).div_(3).clamp_(-0.2, 0.2)


def by_data(x):
    sub(x.data)


def by_array(x):
    x.detach().numpy()[:] = 0.1 * x.detach().numpy()


def by_a_view(x):
    x[:, ::2].mul_(-3)


def when_large(x):
    if x.max() > 2.5:
        x.mul_(0.1)


class Changing(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.inner, self.change = zoo.mlp(), change

    def forward(self, x):
        self.change(x)
        return self.inner(x)


@pytest.mark.parametrize("change", [sub, by_data, by_array, by_a_view, when_large])
@pytest.mark.parametrize("kind", [lambda x: x, lambda x: (x, x[:, 0]), lambda x: [x]])
def test_a_model_that_writes_into_its_input_harms_nobody(change, kind):
    model1, model2 = Changing(change), zoo.mlp()
    batches = [kind(x) for x in zoo.batches_of(4)]
    before = copy.deepcopy(batches)
    result = compare(model1, model2, batches)
    assert str(batches) == str(before)
    assert_right(
        result, model1, model2, before,
        call=lambda model, batch: model(
            (batch if isinstance(batch, torch.Tensor) else batch[0]).clone()
        ),
    )  # fmt: skip


def test_views_of_one_data_set_stay_as_they_are():
    data = torch.randn(64, 10)
    before = data.clone()
    model = Changing(sub)
    result = compare(model, batches=data.split(16))
    assert torch.equal(data, before)
    assert_right(
        result, model, model, before.split(16),
        call=lambda model, x: model(x.clone()),
    )  # fmt: skip


def test_tensors_of_an_array_leave_the_array_as_it_is():
    data = np.random.default_rng(0).normal(size=(32, 10)).astype("float32")
    before = data.copy()
    compare(Changing(sub), zoo.mlp(), list(torch.from_numpy(data).split(16)))
    assert np.array_equal(data, before)


@pytest.mark.parametrize("itself", [True, False])
def test_forward_may_take_the_batch_apart(itself):
    def forward(model, batch):
        batch["meta"].pop("id")
        x = batch.pop("x")
        sub(x)
        return model(x)

    batches = [{"x": x, "meta": {"id": [1, 2]}} for x in zoo.batches_of(3)]
    before = copy.deepcopy(batches)
    model = zoo.mlp()
    other = None if itself else zoo.mlp()
    result = compare(model, other, batches, forward=forward)
    assert str(batches) == str(before)
    assert_right(
        result, model, other or model, before,
        call=lambda model, batch: forward(model, copy.deepcopy(batch)),
    )  # fmt: skip


@pytest.mark.parametrize("kind", [SimpleNamespace, Frozen, Pair, UserDict])
def test_forward_may_change_what_is_inside_of_objects(kind):
    second = "y" if kind is Pair else "meta"
    batches = [kind(**{"x": x, second: {"id": [x[0]]}}) for x in zoo.batches_of(3)]

    def of(batch, name):
        return batch[name] if kind is UserDict else getattr(batch, name)

    def forward(model, batch):
        of(batch, second).pop("id").clear()
        sub(of(batch, "x"))
        return model(of(batch, "x"))

    before = copy.deepcopy(batches)
    options = {"forward": forward}
    if kind is SimpleNamespace:
        options["forward"] = lambda model, batch: forward(model, batch[0])
        batches, before = ([(x, torch.zeros(16)) for x in y] for y in (batches, before))
    result = compare(zoo.mlp(), zoo.mlp(), batches, **options)
    assert str(batches) == str(before)
    assert result.examples == 48


class Graph:
    """Like the batches of graph libraries: callable, and all is in a store."""

    def __init__(self, **items):
        vars(self)["_store"] = items

    def __call__(self, *names):
        return ((name, self._store[name]) for name in names)

    def __getattr__(self, name):
        if name not in vars(self).get("_store", ()):
            raise AttributeError(name)
        return self._store[name]

    def __setattr__(self, name, value):
        self._store[name] = value

    def keys(self):
        return self._store.keys()

    def __getitem__(self, name):
        return self._store[name]


def test_a_batch_that_may_be_called_is_copied_too():
    def forward(model, batch):
        sub(batch.x)
        batch.x, batch.meta = batch.x * 3, batch.meta.clear()
        return model(batch.x)

    batches = [Graph(x=x, meta=["a"]) for x in zoo.batches_of(3)]
    before = [x.clone() for x in zoo.batches_of(3)]
    model1, model2 = zoo.mlp(), zoo.mlp()
    result = compare(model1, model2, batches, forward=forward)
    assert all(batch.meta == ["a"] for batch in batches)
    assert all(torch.equal(b.x, x) for b, x in zip(batches, before, strict=True))
    assert_right(
        result, model1, model2, before,
        call=lambda model, x: forward(model, Graph(x=x.clone(), meta=[])),
    )  # fmt: skip


def objects(*items):
    made = np.empty(len(items), dtype=object)
    made[:] = items
    return made


@pytest.mark.parametrize(
    ("entry", "change"),
    [
        ({1}, lambda entry: entry.add(2)),
        (deque([[1], 2]), lambda entry: entry[0].append(entry.pop())),
        (UserList([[1], 2]), lambda entry: entry[0].append(entry.pop())),
        (bytearray(b"a"), lambda entry: entry.append(1)),
        (objects([1], {"a": [2]}), lambda entry: entry[1].pop("a").clear()),
        (torch.eye(3).to_sparse().coalesce(), lambda entry: entry.values().zero_()),
        (torch.eye(3).to_sparse_csr(), lambda entry: entry.values().zero_()),
        (torch.nested.nested_tensor([torch.ones(2)] * 16), lambda entry: entry.mul_(0)),
        (torch.zeros(1).expand(3), lambda entry: entry.add_(1)),
    ],
    ids=[
        "set", "deque", "UserList", "bytearray", "objects", "COO", "CSR", "nested",
        "expanded",
    ],
)  # fmt: skip
def test_anything_but_a_plain_tensor_is_restored(entry, change):
    def forward(model, batch):
        change(batch["entry"])
        return model(batch["x"])

    before = str(entry)
    batches = [{"x": x, "entry": entry} for x in zoo.batches_of(2)]
    result = compare(zoo.mlp(), zoo.mlp(), batches, forward=forward)
    assert str(entry) == before
    assert not result.matrix.isnan().any()


def test_hooks_of_the_user_may_change_the_inputs():
    model1, model2 = zoo.mlp(), zoo.mlp()
    model1.register_forward_pre_hook(lambda _, args: sub(args[0]))
    model1.register_forward_hook(lambda _, args, __: args[0].zero_())
    batches, before = zoo.batches_of(3), zoo.batches_of(3)
    result = compare(model1, model2, batches)
    assert str(batches) == str(before)
    assert_right(result, model1, model2, before, call=lambda m, x: m(x.clone()))


class Slots:
    __slots__ = ("x",)

    def __init__(self, x):
        self.x = x


def loop():
    value = {"x": torch.ones(3)}
    value["self"] = value
    return value


@pytest.mark.parametrize(
    ("value", "get"),
    [
        (Frozen(torch.ones(3), {}), lambda v: v.x),
        (Pair(torch.ones(3), 1), lambda v: v.x),
        (containers.DictLike(x=torch.ones(3)), lambda v: v["x"]),
        (OrderedDict(x=[torch.ones(3)]), lambda v: v["x"][0]),
        (Slots({"a": torch.ones(3)}), lambda v: v.x["a"]),
        (SimpleNamespace(a=SimpleNamespace(b=np.ones(3))), lambda v: v.a.b),
        (loop(), lambda v: v["self"]["self"]["x"]),
        (containers.DictLike(a=Slots(torch.ones(3))), lambda v: v["a"].x),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_private_copy_shares_no_memory(value, get):
    copied = private(value)
    assert type(copied) is type(value)
    get(copied)[:] = 7
    assert float(get(value).sum()) == 3


def test_what_occurs_twice_occurs_twice_in_the_copy():
    x = torch.ones(3)
    copied = private({"x": x, "again": [x]})
    assert copied["x"] is copied["again"][0]


def test_a_view_is_copied_without_its_base():
    view = torch.zeros(1000, 4)[:2]
    assert private(view).untyped_storage().nbytes() == 32


def test_strides_and_gradients_survive_the_copy():
    x = torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)
    assert private(x).is_contiguous(memory_format=torch.channels_last)
    assert private(torch.zeros(2, requires_grad=True)).requires_grad
    assert torch.equal(private(torch.zeros(2)), torch.zeros(2))


def test_what_holds_no_numbers_is_shared():
    model, words, opened = nn.Linear(2, 2), Slots("words"), SimpleNamespace(f=open)
    batch = [model, words, opened, len]
    assert all(a is b for a, b in zip(private(batch), batch, strict=True))


def test_an_object_that_cannot_be_copied_is_shared():
    class Alone:
        def __init__(self):
            self.x = torch.ones(2)

        def __copy__(self):
            raise TypeError

    alone = Alone()
    assert private([alone])[0] is alone
