"""Random layers that move, drop, repeat, mix and pack examples.

Each tensor of a reference pass has an `owner`: the example to which each of its numbers
belongs, or `MIXED`. Layers that move numbers move the owners with them, so the right
rows of a layer are known whatever the order its rows are in.
"""

import dataclasses
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

MIXED = -1
TOKENS, WIDTH, MAX_NUMBERS = 3, 4, 5000


def tagged(made, owner):
    if owner is not None:
        made.owner = owner.expand(made.shape).clone()
    return made


def owner_of(x):
    return getattr(x, "owner", None)


def reduced(owner, axis):
    """The owner of what depends on all numbers of an axis, which stays with size 1."""
    if owner is None:
        return None
    if not owner.shape[axis]:
        return owner.new_full((*owner.shape[:axis], 1, *owner.shape[axis:][1:]), MIXED)
    first = owner.narrow(axis, 0, 1)
    return torch.where((owner == first).all(axis, keepdim=True), first, MIXED)


def part(x, index):
    owner = owner_of(x)
    return tagged(x[index], None if owner is None else owner[index])


def stacked(tensors, axis):
    made = torch.stack(tensors, axis)
    owners = [owner_of(x) for x in tensors]
    return tagged(made, None if owners[0] is None else torch.stack(owners, axis))


class Moving(nn.Module):
    """Moves, drops or repeats numbers; the same happens to their owners."""

    def forward(self, x):
        owner = owner_of(x)
        moved = None if owner is None else self.move(x, owner)
        return tagged(self.move(x, x), moved)


def moving(move):
    return lambda _: type(move.__name__, (Moving,), {"move": staticmethod(move)})()


def flip(_, y):
    return y.flip(0)


def roll(_, y):
    return y.roll(1, 0)


def swap_first(_, y):
    return torch.cat([y[1:2], y[:1], y[2:]])


def swap_last(_, y):
    return torch.cat([y[:-2], y[-1:], y[-2:-1]])


def sort(x, y):
    return y[x.flatten(1)[:, 0].argsort(dim=0, stable=True)]


def sort_features(x, y):
    return y.gather(-1, x.argsort(dim=-1, stable=True))


def transpose(_, y):
    return y.transpose(0, 1)


def transpose_copy(_, y):
    return y.transpose(0, 1).contiguous()


def flatten_tokens(_, y):
    return y.flatten(0, 1) if y.ndim > 2 else y


def flatten_features(_, y):
    return y.flatten(1)


def unflatten(_, y):
    return y.unflatten(0, (-1, TOKENS))


def repeat_each(_, y):
    return y.repeat_interleave(2, 0)


def repeat_all(_, y):
    return torch.cat([y, y])


def drop_first(_, y):
    return y[1:]


def drop_last(_, y):
    return y[:-1]


def drop_and_repeat(_, y):
    return torch.cat([y[1:], y[-1:]])


def repeat_first(_, y):
    return y[:1].expand_as(y).clone()


def every_other_twice(_, y):
    return y[::2].repeat_interleave(2, 0)[: len(y)]


def top_rows(x, y):
    """The half of the rows with the largest norms, each twice, as an expert's."""
    norms = x.flatten(1).norm(dim=1).tolist()
    places = {norm: place for place, norm in enumerate(norms)}
    top = [places[norm] for norm in sorted(places)[-((len(x) + 1) // 2) :]]
    return y[(top * len(x))[: len(x)]]


def first_token(_, y):
    return y[:, 0] if y.ndim > 2 else y


def sort_tokens(x, y):
    """Each example's own tokens, by their first number."""
    places = x.flatten(2)[:, :, 0].argsort(dim=1, stable=True)
    return torch.stack([y[i, p] for i, p in enumerate(places)])


def roll_token(_, y):
    """One token of each example from the one before."""
    return torch.cat([y[:, :1].roll(1, 0), y[:, 1:]], 1) if y.ndim > 2 else y


def shift_channel(_, y):
    return torch.cat([y[..., :1].roll(1, 0), y[..., 1:]], -1)


def above_mean(x):
    """Which rows are kept, and which of two experts gets them."""
    first = x.flatten(1)[:, 0]
    return first >= first.mean()


def keep_and_pad(x, y):
    """The rows with a large first number, then padding, which belongs to its place."""
    kept = y[above_mean(x)]
    rest = y[len(kept) :]
    return torch.cat([kept, rest if y.dtype == torch.long else torch.zeros_like(rest)])


def expert_of_fixed_capacity(x, y):
    """The first rows with a large first number, half as many as there are."""
    return keep_and_pad(x, y)[: (len(y) + 1) // 2]


class Elementwise(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return tagged(self.function(x), owner_of(x))


class Constant(nn.Module):
    def __init__(self, x):
        super().__init__()
        self.value = nn.Parameter(torch.randn(x.shape[1:]).to(x))

    def forward(self, x):
        owner = owner_of(x)
        mixed = None if owner is None else torch.full_like(owner, MIXED)
        return tagged(self.value.expand_as(x).clone(), mixed)


class Mean(nn.Module):
    def __init__(self, axis):
        super().__init__()
        self.axis = axis

    def forward(self, x):
        owner = reduced(owner_of(x), self.axis)
        owner = None if owner is None else owner.squeeze(self.axis)
        return tagged(x.mean(self.axis), owner)


class KeptMean(nn.Module):
    """The mean over the batch, once for each example."""

    def forward(self, x):
        owner = reduced(owner_of(x), 0)
        return tagged(x.mean(0, keepdim=True).expand_as(x).clone(), owner)


class Similarities(nn.Module):
    """Between all examples; later layers do not get them, as both axes are right."""

    def __init__(self):
        super().__init__()
        self.similarity = Similarity()

    def forward(self, x):
        self.similarity(x)
        return x


class Similarity(nn.Module):
    def forward(self, x):
        rows, owner = x.flatten(1), owner_of(x)
        owner = None if owner is None else reduced(owner.flatten(1), 1)
        return tagged(rows @ rows.T, owner)


class MixedBatch(nn.Module):
    """Attention over the examples, which stay in their rows."""

    def forward(self, x):
        rows, owner = x.flatten(1), owner_of(x)
        if owner is not None:
            owner, columns = (reduced(owner.flatten(1), axis) for axis in (1, 0))
            owner = torch.where(owner < 0, columns, owner)
        return tagged((rows @ rows.T).softmax(1) @ rows + rows, owner)


class FlippedInPlace(nn.Module):
    def forward(self, x):
        owner = owner_of(x)
        x.copy_(x.flip(0))
        return x if owner is None else tagged(x, owner.flip(0))


class HiddenInPlace(nn.Module):
    """Changes its input without raising the version of the tensor."""

    def forward(self, x):
        x.data.copy_(x.abs())
        return x


class Capped(nn.Module):
    """Changes the rows that come first in the batch."""

    def forward(self, x):
        first = torch.arange(len(x)) < 0.8 * len(x)
        first = first.reshape(-1, *[1] * (x.ndim - 1))
        return tagged(torch.where(first, x + x.tanh(), x), owner_of(x))


class Noisy(nn.Module):
    """No number of it is known."""

    def forward(self, x):
        owner = owner_of(x)
        unknown = None if owner is None else torch.full_like(owner, MIXED)
        return tagged(x + 0.1 * torch.randn_like(x), unknown)


class Remembering(nn.Module):
    """Keeps its last output, as a cache does, and makes no use of it."""

    def __init__(self):
        super().__init__()
        self.cache = []

    def forward(self, x):
        self.cache = [*self.cache, x][-2:]
        return x


def chosen(made, given):
    """The owners of what an expert makes: what is the same in all its rows tells which
    examples have chosen it.
    """
    owner, rows = owner_of(made), owner_of(given)
    if owner is None or len(made) != len(given):
        return owner
    rows = reduced(rows.flatten(1), 1).reshape(-1, *[1] * (made.ndim - 1))
    return torch.where((owner == MIXED) & (made == made[:1]).all(0), rows, owner)


class OverParts(nn.Module):
    """Calls a layer on parts of the batch, and puts their rows back in order."""

    def __init__(self, layer, kind):
        super().__init__()
        self.layer, self.kind = layer, kind

    def forward(self, x):
        every, size = torch.arange(len(x)), len(x)
        if self.kind == "routed":
            large = above_mean(x)
            parts = [every[large], every[~large]]
        elif self.kind == "chunks":
            parts = every.split(3)
        elif self.kind == "interleaved":
            parts = [every[::2], every[1::2]]
        else:
            parts = every.split((size + 1) // 2)
        made = [self.layer(part(x, i)) for i in parts if len(i)]
        back = torch.cat(list(parts)).argsort()
        whole = torch.cat(made)
        owners = [owner_of(x) for x in made]
        if self.kind == "routed":
            given = [part(x, i) for i in parts if len(i)]
            owners = [chosen(*pair) for pair in zip(made, given, strict=True)]
        owner = None if owners[0] is None else torch.cat(owners)
        if len(whole) != size:
            return tagged(whole, owner)
        return tagged(whole[back], None if owner is None else owner[back])


class Twice(nn.Module):
    """Calls a layer on the batch and on its reverse, as a teacher sees another view."""

    def __init__(self, layer, *, reverse_first):
        super().__init__()
        self.layer, self.reverse_first = layer, reverse_first

    def forward(self, x):
        views = [part(x, slice(None)), part(x, torch.arange(len(x)).flip(0))]
        views = views[::-1] if self.reverse_first else views
        first, second = [self.layer(view) for view in views]
        return second if self.reverse_first else first


class Checkpointed(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return checkpoint(self.layer, x, use_reentrant=False)


class OverExamples(nn.Module):
    """Calls a layer for each example."""

    def __init__(self, layer, *, with_batch):
        super().__init__()
        self.layer, self.with_batch = layer, with_batch

    def forward(self, x):
        each = [slice(i, i + 1) if self.with_batch else i for i in range(len(x))]
        return stacked([self.layer(part(x, i)) for i in each], 0)


class OverTokens(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        steps = range(x.shape[1])
        return stacked([self.layer(part(x, (slice(None), t))) for t in steps], 1)


class Shared(nn.Module):
    def __init__(self, layer, times):
        super().__init__()
        self.layer, self.again, self.times = layer, layer, times

    def forward(self, x):
        for _ in range(self.times):
            x = self.layer(x)
        return x


class Sum(nn.Module):
    """The sum of two branches, or the first where their shapes differ."""

    def __init__(self, first, second, x):
        super().__init__()
        self.first, self.second = first, second
        with torch.no_grad():
            shapes = [branch(x.clone()).shape for branch in (first, second)]
        self.has_sum = shapes[0] == shapes[1]

    def forward(self, x):
        a = self.first(x)
        b = self.second(x)
        if not self.has_sum:
            return a
        owner, other = owner_of(a), owner_of(b)
        if owner is not None:
            are_same = (owner == other) | (other < 0)
            owner = torch.where(owner < 0, other, torch.where(are_same, owner, MIXED))
        return tagged(a + b, owner)


@dataclasses.dataclass
class Opened:
    aux: object
    out: torch.Tensor


class Named(NamedTuple):
    out: torch.Tensor
    given: torch.Tensor


def weights(x):
    """Such as attention makes: none is negative, and the sum is 1."""
    rows, owner = x.flatten(1)[:, :TOKENS, None], owner_of(x)
    rows = nn.functional.normalize(rows, dim=1)  # no weight is all but 0 or 1
    owner = None if owner is None else reduced(owner.flatten(1), 1)[:, :, None]
    return tagged((rows * rows.mT).softmax(-1), owner)


CONTAINERS = {
    "dict": lambda x, y: {"x": x, "out": y},
    "dict_out_first": lambda x, y: {"out": y, "x": x},
    "handed_on": lambda x, y: (x, y),
    "mask_first": lambda x, y: (torch.ones(x.shape[:2], dtype=torch.bool), y),
    "float_mask_first": lambda x, y: (torch.ones(x.shape[:2]).to(x), y),
    "loss_first": lambda _, y: (y.mean(), y),
    "loss_of_shape_1_first": lambda _, y: (y.mean().reshape(1), y),
    "weights_first": lambda x, y: (weights(x), y),
    "dataclass": Opened,
    "dataclass_loss": lambda _, y: Opened(y.mean(), y),
    "named_tuple": lambda x, y: Named(y, x),
    "list_in_dict": lambda x, y: {"x": [x], "out": y},
}


def main_of(value):
    """The tensor that the layer itself has made."""
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, dict):
        return value["out"]
    return value.out if hasattr(value, "out") else value[-1]


class Contained(nn.Module):
    """Returns what its layer makes in a container, with other things."""

    def __init__(self, layer, kind):
        super().__init__()
        self.layer, self.kind = layer, kind

    def forward(self, x):
        # Of a tensor that it changes and one that it makes, both would be right.
        made = self.layer(tagged(x.clone(), owner_of(x)))
        made = tagged(made.clone(), owner_of(made))
        return CONTAINERS[self.kind](x, made)


class Opening(nn.Module):
    def __init__(self, layer, kind):
        super().__init__()
        self.contained = Contained(layer, kind)

    def forward(self, x):
        return main_of(self.contained(x))


class Root(nn.Module):
    """Takes a batch: a tensor, keywords or a dict, from which it pops.

    Batches of fewer examples than `least` are refused.
    """

    def __init__(self, body, least=0):
        super().__init__()
        self.body, self.least = body, least

    def forward(self, x, extra=None):
        if isinstance(x, dict):
            extra, x = x.pop("extra"), x.pop("x")
        if len(x) < self.least:
            msg = "small batch"
            raise RuntimeError(msg)
        if extra is not None and extra.ndim == x.ndim:
            owner = owner_of(x)
            x = tagged(x + extra, owner)
        return self.body(x)


def linear(x):
    return nn.Linear(x.shape[-1], WIDTH).to(x)


LEAVES = {
    "linear": linear,
    "relu": lambda _: nn.ReLU(),
    "relu_in_place": lambda _: nn.ReLU(inplace=True),
    "tanh": lambda _: nn.Tanh(),
    "identity": lambda _: nn.Identity(),
    "norm": lambda x: nn.LayerNorm(x.shape[-1]).to(x),
    "dropout": lambda _: nn.Dropout(),
    "add_in_place": lambda _: Elementwise(lambda x: x.add_(1)),
    "scale_in_place": lambda _: Elementwise(lambda x: x.mul_(-0.5)),
    "hidden_in_place": lambda _: HiddenInPlace(),
    "zero": lambda _: Elementwise(lambda x: x * 0),
    "sparse": lambda _: Elementwise(lambda x: (x - 1.2).relu()),
    "offset": lambda _: Elementwise(lambda x: x + 1000),
    "capped": lambda _: Capped(),
    "noisy": lambda _: Noisy(),
    "remembering": lambda _: Remembering(),
    # Of a batch that others have shifted these leave no trace, unless only in part.
    "center": lambda _: Elementwise(lambda x: x - x.mean(0) / 2),
    "share_of_batch": lambda _: Elementwise(lambda x: x.sigmoid() / x.sigmoid().sum(0)),
    "sum_so_far": lambda _: Elementwise(lambda x: x.cumsum(0)),
    "flip_in_place": lambda _: FlippedInPlace(),
    "constant": Constant,
    "mean_over_1": lambda _: Mean(1),
    "mean_over_0": lambda _: Mean(0),
    "kept_mean": lambda _: KeptMean(),
    "similarity": lambda _: Similarities(),
    "mixed_batch": lambda _: MixedBatch(),
    **{
        move.__name__: moving(move)
        for move in (
            *(flip, roll, swap_first, swap_last, sort, sort_features, transpose),
            *(transpose_copy, flatten_tokens, flatten_features, unflatten),
            *(repeat_each, repeat_all, drop_first, drop_last, drop_and_repeat),
            *(repeat_first, every_other_twice, top_rows, first_token, sort_tokens),
            *(roll_token, shift_channel, keep_and_pad, expert_of_fixed_capacity),
        )
    },
}

PARTS = "routed", "chunks", "interleaved", "halves"

WRAPPED = {
    "sequential": lambda body: body,
    "shared_2": lambda body: Shared(body, 2),
    "shared_3": lambda body: Shared(body, 3),
    "examples": lambda body: OverExamples(body, with_batch=False),
    "examples_with_batch": lambda body: OverExamples(body, with_batch=True),
    "tokens": OverTokens,
    "checkpointed": Checkpointed,
    "twice": lambda body: Twice(body, reverse_first=False),
    "reverse_first": lambda body: Twice(body, reverse_first=True),
    **{kind: lambda body, kind=kind: OverParts(body, kind) for kind in PARTS},
}

CUT = {
    "examples": lambda x: x[0],
    "examples_with_batch": lambda x: x[:1],
    "tokens": lambda x: x[:, 0],
}
"""What a wrapped layer is given, of the batch."""

WRAPPERS = (*WRAPPED, "sum", *CONTAINERS)


def build(spec, samples):
    """A layer for batches like these samples; None if it cannot run on them."""
    try:
        torch.manual_seed(len(samples[0]))
        layer = _made(spec, samples)
        with torch.no_grad():
            outputs = [layer(x.clone()) for x in samples]
    except (IndexError, RuntimeError, TypeError, ValueError):
        return None, samples
    if not all(x.ndim and 0 < x.numel() < MAX_NUMBERS for x in outputs):
        return None, samples
    return layer, outputs


def _made(spec, samples):
    if isinstance(spec, str):
        return LEAVES[spec](samples[0])
    wrapper, inner = spec
    if wrapper == "sum":
        first, second = chain(inner[:1], samples), chain(inner[1:], samples)
        return Sum(first, second, samples[0])
    cut = CUT.get(wrapper, lambda x: x)
    body = chain(inner, [cut(x) for x in samples])
    return WRAPPED[wrapper](body) if wrapper in WRAPPED else Opening(body, wrapper)


def chain(inner, samples):
    layers = []
    inner = inner if samples[0].ndim else []
    for spec in inner:
        layer, samples = build(spec, samples)
        if layer is not None:
            layers.append(layer)
    return nn.Sequential(*layers or [nn.Identity()])


def owners(shape, n):
    """The owners of rows in the order of n examples."""
    every = (
        torch.arange(n)
        .repeat_interleave(shape[0] // n)
        .reshape(-1, *[1] * (len(shape) - 1))
    )
    return every.expand(shape).clone()
