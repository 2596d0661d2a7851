"""Of several tensors in an output, the one that the module made is compared."""

from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from support import zoo
from support.reference import assert_right, compare
from support.trees import probed
from torch import nn

ALL = {"model1_layers": "all", "model2_layers": "all"}

Pair = namedtuple("Pair", ["seen", "hidden"])


@dataclass
class Out:
    steps: int
    hidden: torch.Tensor


class Wrapping(nn.Module):
    """A layer whose output a function makes of its input and its features."""

    def __init__(self, wrap):
        super().__init__()
        self.linear, self.wrap = nn.Linear(6, 8), wrap

    def forward(self, x):
        return self.wrap(x, torch.tanh(self.linear(x)))


class Model(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        torch.manual_seed(0)
        self.part, self.head = Wrapping(wrap), nn.Linear(6, 3)

    def forward(self, x):
        self.part(x)
        return self.head(x)


def seeded():
    return torch.Generator().manual_seed(0)


def weights(x):
    return torch.softmax(torch.randn(len(x), 2, 4, 4, generator=seeded()), -1)


WRAPS = {
    (): lambda _, out: out,
    (1,): lambda x, out: (x, out),
    (0,): lambda x, out: (out, x),
    ("out",): lambda x, out: {"x": x, "out": out},
    ("hidden",): Pair,
    ("state", "hidden"): lambda x, out: {"x": x, "state": Out(1, out)},
    ("hidden", "last"): lambda x, out: SimpleNamespace(
        x=x, hidden=SimpleNamespace(last=out)
    ),
    ("logits",): lambda x, out: {
        "loss": out.square().mean().reshape(1),
        "logits": out,
        "flags": (x[:, :1] > 0).float(),
    },
    (2,): lambda x, out: ((x > 0).float(), out[:, 0], out),
    (3,): lambda x, out: (x[:, :2], out.mean(0), torch.ones(len(x), 2), out),
    ("routed",): lambda x, out: {"gate": x.softmax(-1), "routed": out},
    ("values",): lambda x, out: {"weights": weights(x), "values": out},
    ("view",): lambda x, out: {"x": x.reshape(-1, 2, 3), "view": out},
}


@pytest.mark.parametrize("path", WRAPS)
def test_what_the_module_made_is_compared(path):
    batch = torch.randn(16, 6, generator=seeded())
    tree = probed(Model(WRAPS[path]), batch)
    (output,) = next(x for x in tree.nodes if x.name == "part").outputs
    assert output.path == path
    entry = f", entry {'.'.join(map(str, path))!r} of its output" if path else ""
    assert output.kind == f"float32 on cpu{entry}"


@pytest.mark.parametrize("path", WRAPS)
def test_numbers_are_those_of_what_the_module_made(path):
    plain, wrapped = Model(WRAPS[()]), Model(WRAPS[path])
    wrapped.load_state_dict(plain.state_dict())
    batches = zoo.batches_of(features=6)
    names = {"model1_layers": ["part", "head"], "model2_layers": ["part", "head"]}
    result = compare(wrapped, batches=batches, **names)
    assert_right(result, plain, plain, batches)


def like(x, spread):
    """Four rows of 8 positive numbers for each example, with sums about 1."""
    return (1 + spread * torch.tanh(x.repeat(1, 8)[:, :32])).reshape(-1, 4, 8) / 8


def nearly(x):
    return like(x, 1e-2)


def shares_of_the_batch(x):
    out = like(x, 1e-2)
    return out / out.sum(0) * len(x) / 8


def gates(x):
    out = like(x, 0.2)
    return out / (out.sum(-1, keepdim=True) + 3e-3)


@pytest.mark.parametrize("made", [nearly, shares_of_the_batch, gates])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_of_about_1_make_no_weights(made, dtype):
    def returned(x):
        return weights(x).to(dtype), made(x)

    model = nn.Sequential(nn.Identity(), zoo.Returning(returned))
    batch = torch.randn(16, 6, generator=seeded()).to(dtype)
    node = next(x for x in probed(model, batch).nodes if x.name == "1")
    assert node.outputs[0].path == (1,)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16]
)
def test_weights_are_recognised_in_all_precisions(dtype):
    def returned(x):
        scores = torch.randn(len(x), 2, 4, 400, generator=seeded())
        return scores.softmax(-1).to(dtype), x.tanh()

    model = nn.Sequential(nn.Identity(), zoo.Returning(returned))
    node = next(x for x in probed(model, torch.randn(16, 6)).nodes if x.name == "1")
    assert node.outputs[0].path == (1,)


class Pipeline(nn.Module):
    """Each module puts what it makes into the dict that it was given."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.tokens = Putting("tokens", "x", nn.Linear(6, 8))
        self.mean = Putting("sentence", "tokens", nn.Tanh())
        self.dense = Putting("sentence", "sentence", nn.Linear(8, 4))

    def forward(self, x):
        return self.dense(self.mean(self.tokens({"x": x})))["sentence"]


class Putting(nn.Module):
    def __init__(self, key, of, layer):
        super().__init__()
        self.key, self.of, self.layer = key, of, layer

    def forward(self, given):
        given[self.key] = self.layer(given[self.of])
        return given


def test_an_entry_put_into_a_given_dict_is_the_output():
    model1, model2 = Pipeline(), Pipeline()
    batches = zoo.batches_of(features=6)
    names = ["tokens", "mean", "dense"]
    result = compare(model1, model2, batches, model1_layers=names, model2_layers=names)
    parts = [f"{name}.layer" for name in names]
    expected = compare(
        model1, model2, batches, model1_layers=parts, model2_layers=parts
    )
    assert torch.equal(result.matrix, expected.matrix)


def test_a_module_that_hands_everything_on_is_what_it_was_given():
    model = nn.Sequential(nn.Linear(6, 8), zoo.Returning(lambda x: (x, x[:, :2])))
    batches = zoo.batches_of(features=6)
    result = compare(model, batches=batches, **ALL)
    assert (result.matrix - 1).abs().max() < 1e-6


def test_a_change_in_place_is_the_module_s_own():
    def add(x):
        first = x.clone()
        x.mul_(torch.arange(8.0))
        return x, first[:, :3]

    model = nn.Sequential(nn.Linear(6, 8), zoo.Returning(add))
    batch = torch.randn(16, 6)
    node = next(x for x in probed(model, batch).nodes if x.name == "1")
    assert node.outputs[0].path == (0,)


def test_rows_of_what_was_made_are_not_replaced_by_what_was_given():
    def made(x):
        return x, x[x[:, 0].argsort()] * 2

    model = nn.Sequential(nn.Linear(6, 8), zoo.Returning(made))
    batch = torch.randn(16, 6)
    node = next(x for x in probed(model, batch).nodes if x.name == "1")
    assert node.outputs[0].reason.startswith("rows are not the examples")


def test_the_choice_of_the_probe_holds_where_the_order_of_entries_changes():
    class Turning(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.calls = nn.Linear(6, 8), 0

        def forward(self, x):
            self.calls += 1
            out = {"other": x * x, "hidden": self.linear(x)}
            return dict(reversed(out.items())) if self.calls > 2 else out

    model = nn.Sequential(Turning(), zoo.Returning(lambda out: out["hidden"]))
    batches = zoo.batches_of(features=6)
    result = compare(model, batches=batches, model1_layers=["0"])
    plain = compare(
        model, nn.Linear(6, 8), batches, model1_layers=["0"], model2_layers="all"
    )
    assert result.undefined1 == plain.undefined1 == {}


ODD = {
    "vmap": (
        torch.vmap,
        "output inside a transform of torch.func, such as vmap or grad",
    ),
    "jvp": (
        lambda layer: lambda x: torch.func.jvp(layer, (x,), (torch.ones_like(x),))[0],
        "output inside a transform of torch.func, such as vmap or grad",
    ),
    "no features": (
        lambda layer: lambda x: layer(x)[:, :0],
        "output without features",
    ),
    "nested": (
        lambda layer: lambda x: torch.nested.nested_tensor(list(layer(x))),
        "sparse or nested output",
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_one_odd_part_does_not_stop_the_others(kind):
    make, reason = ODD[kind]

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.inner, self.head = nn.Linear(6, 8), nn.Linear(6, 3)
            self.odd = zoo.Returning(lambda x: x)
            self.odd.function = make(self.inner)

        def forward(self, x):
            self.odd(x)
            return self.head(x)

    model, batches = Odd(), zoo.batches_of(features=6)
    found = {n.name: n.outputs for n in probed(model, batches[0]).nodes}
    assert reason in [x.reason for each in found.values() for x in each or ()]
    result = compare(model, batches=batches, **ALL)
    assert "head" in result.layers1
    assert result.undefined1 == {}


@pytest.mark.parametrize("compiled", ["script", "trace"])
def test_a_compiled_part_is_a_row_or_named(compiled):
    part = nn.Sequential(nn.Linear(6, 8), nn.Tanh()).eval()
    part = (
        torch.jit.script(part)
        if compiled == "script"
        else torch.jit.trace(part, torch.randn(4, 6))
    )
    model, batches = nn.Sequential(part, nn.Linear(8, 3)), zoo.batches_of(features=6)
    for layers in ("all", None):
        result = compare(model, batches=batches, model1_layers=layers)
        assert "1" in result.layers1
        named = any("compiled by TorchScript" in x and "'0'" in x for x in result.notes)
        assert ("0" in result.layers1) is (compiled == "trace")
        assert named is (compiled == "script")


def test_a_quantised_layer_is_compared_as_its_numbers():
    class Quantised(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.linear = nn.Linear(6, 8)
            self.quantise = zoo.Returning(
                lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)
            )

        def forward(self, x):
            return self.quantise(self.linear(x)).dequantize()

    class Rounded(Quantised):
        def __init__(self):
            super().__init__()
            function = self.quantise.function
            self.quantise = zoo.Returning(lambda x: function(x).dequantize())

        def forward(self, x):
            return self.quantise(self.linear(x))

    batches = zoo.batches_of(features=6)
    result = compare(Quantised(), batches=batches, **ALL)
    assert result.layers1 == ("linear", "quantise")
    assert_right(result, Rounded(), Rounded(), batches)


def test_an_output_that_cannot_be_read_is_left_out_with_the_reason():
    class Refusing(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            if function is not torch.Tensor.shape.__get__:
                raise NotImplementedError("not mine")
            return super().__torch_function__(function, types, args, kwargs or {})

    model = Model(lambda _, out: out.as_subclass(Refusing))
    found = probed(model, torch.randn(16, 6))
    (output,) = next(x for x in found.nodes if x.name == "part").outputs
    assert output.reason.startswith("output that cannot be read (")
    assert "head" in found.names
