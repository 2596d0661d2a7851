"""Outputs that are taken without inspection are those that need none."""

import pytest
import torch
from support import zoo
from support.reference import compare
from torch import nn

from cka_notebook._grams import buffer, products

ALL = {"model1_layers": "all", "model2_layers": "all"}


class Turning(nn.Module):
    """Many plain layers, and one whose output becomes another in the third batch."""

    def __init__(self, turn):
        super().__init__()
        self.first = nn.Sequential(*[nn.Linear(10, 10) for _ in range(4)])
        self.turning = zoo.Returning(self.turned)
        self.last = nn.Sequential(*[nn.Linear(10, 10) for _ in range(4)])
        self.turn, self.batch = turn, 0

    def turned(self, x):
        self.batch += len(x) > 15  # not those of the probe
        y = 2 * x
        return self.turn(y) if self.batch > 2 else y

    def forward(self, x):
        y = self.first(x)
        with torch.enable_grad():
            self.turning(y)
        return self.last(y)


def turning(turn, batches=None):
    torch.manual_seed(0)
    result = compare(Turning(turn), zoo.mlp(), batches or zoo.batches_of(6), **ALL)
    return result, result.row("turning")


@pytest.mark.parametrize(
    "turn",
    [
        lambda x: (x, None),
        lambda x: x.double(),
        lambda x: x.T.contiguous().T,
        lambda x: x.reshape(16, 5, 2),
        lambda x: x * torch.ones(10, requires_grad=True),
    ],
)
def test_a_layer_may_give_its_features_in_another_way_in_a_later_batch(turn):
    _, expected = turning(lambda x: x)
    result, row = turning(turn)
    assert result.undefined1 == {}
    torch.testing.assert_close(row, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        (lambda x: x.round().int(), "integer output in batch 3"),
        (lambda x: x.to_sparse(), "sparse or nested output in batch 3"),
        (lambda _: None, "no output in batch 3"),
    ],
)
def test_a_layer_may_give_nothing_comparable_in_a_later_batch(turn, reason):
    result, row = turning(turn)
    assert result.undefined1 == {"turning": reason}
    assert row.isnan().all()


def test_a_layer_that_keeps_its_rows_as_the_batch_grows_is_undefined():
    batches = [*zoo.batches_of(3), torch.randn(20, 10)]
    result, _ = turning(lambda x: x[:16], batches)
    reason = "output of shape (16, 10) for 20 examples in batch 4"
    assert result.undefined1 == {"turning": reason}


@pytest.mark.parametrize(("size", "width"), [(32, 64), (64, 32), (64, 80)])
def test_autocast_that_begins_in_a_later_batch_rounds_no_gram(monkeypatch, size, width):
    monkeypatch.setattr(buffer, "GROUP_BYTES", 1)  # so that each is U-centered at once

    def forward(model, batch):
        nonlocal batches
        batches += len(batch) == size
        layers = list(model)
        hidden = layers[0](batch)
        with torch.autocast("cpu", torch.bfloat16, enabled=batches > 5):
            for layer in layers[1:]:
                hidden = layer(hidden)

    def run():
        torch.manual_seed(0)
        # Their outputs are float32 in autocast, too.
        layers = [nn.Linear(10, width), *[nn.Hardtanh() for _ in range(9)]]
        model = nn.Sequential(*layers)
        return compare(
            model, batches=zoo.batches_of(6, size), forward=forward, **ALL
        ).matrix

    batches = -1000
    expected, batches = run(), 0
    torch.testing.assert_close(run(), expected, rtol=0, atol=1e-6)


def test_a_pool_of_the_user_is_asked_about_each_batch():
    seen = []

    def pool(x):
        seen.append(len(x))
        return x

    compare(zoo.mlp(), batches=zoo.batches_of(6), pool=pool, **ALL)
    assert seen.count(16) == 6 * 5


def test_identical_outputs_share_one_gram_in_every_batch(monkeypatch):
    made = []
    lower = buffer.lower_product

    def counted(part, blocks, *, first):
        made.append(len(part))
        lower(part, blocks, first=first)

    monkeypatch.setattr(buffer, "lower_product", counted)
    monkeypatch.setattr(products, "lower_product", counted)
    layers = [nn.Linear(10, 10), nn.Dropout(), nn.Tanh(), nn.Identity()] * 3
    counts = []
    compare(
        nn.Sequential(*layers),
        batches=zoo.batches_of(5),
        callback=lambda *_: counts.append(len(made)),
        **ALL,
    )
    assert counts == [6, 12, 18, 24, 30]
