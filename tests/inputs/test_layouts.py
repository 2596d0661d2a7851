"""Batches whose examples are not the first axis of a tensor."""

import pytest
import torch
from support.reference import assert_right, compare
from torch import nn


class TokensFirst(nn.Module):
    """Takes (tokens, examples, ...), and gives one row for each example."""

    def __init__(self, kind):
        super().__init__()
        make = {
            "rnn": lambda: nn.GRU(8, 8),
            "encoder": lambda: nn.TransformerEncoderLayer(8, 2, 16),
        }
        self.embedding, self.block = nn.Linear(6, 8), make[kind]()
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        out = self.block(self.embedding(x))
        return self.head((out[0] if isinstance(out, tuple) else out)[-1])


@pytest.mark.parametrize("tokens", [7, 3, 32])
@pytest.mark.parametrize("kind", ["rnn", "encoder"])
@pytest.mark.parametrize("labels", [True, False])
def test_the_output_tells_that_tokens_come_first(kind, tokens, labels):
    models = TokensFirst(kind).eval(), TokensFirst(kind).eval()
    batches = [torch.randn(tokens, n, 6) for n in (16, 16, 9)]
    given = [(x, torch.zeros(x.shape[1])) for x in batches] if labels else batches
    layers = ["embedding", "block", "head"]
    result = compare(*models, given, model1_layers=layers, model2_layers=layers)
    assert (result.examples, result.notes) == (41, [])
    axes = {"embedding": 1, "block": 1}
    assert_right(result, *models, batches, axis=axes)


def test_lengths_are_cut_with_sequences_that_have_tokens_first():
    class Last(TokensFirst):
        def forward(self, x, lengths):
            h = self.block(self.embedding(x))[0]
            return self.head(h[lengths - 1, torch.arange(x.shape[1])])

    models = Last("rnn"), Last("rnn")
    batches = [(torch.randn(7, 16, 6), torch.randint(1, 8, (16,))) for _ in range(2)]
    result = compare(*models, batches)
    assert (result.examples, result.notes) == (32, [])
    options = {"axis": {"embedding": 1, "block": 1}}
    assert_right(result, *models, batches, call=lambda m, b: m(*b), **options)


def test_inputs_that_agree_on_the_second_axis_alone_have_their_examples_there():
    class Translation(nn.Module):
        def __init__(self):
            super().__init__()
            self.source, self.target = nn.Embedding(30, 8), nn.Embedding(30, 8)
            self.block = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0)

        def forward(self, source, target):
            return self.block(self.target(target), self.source(source))

    models = Translation().eval(), Translation().eval()
    batches = [tuple(torch.randint(0, 30, (k, 16)) for k in (7, 5)) for _ in range(2)]
    layers = ["source", "target", "block"]
    result = compare(*models, batches, model1_layers=layers, model2_layers=layers)
    assert (result.examples, result.notes) == (32, [])
    assert_right(
        result, *models, batches, call=lambda m, b: m(*b), axis=dict.fromkeys(layers, 1)
    )


class Bags(nn.Module):
    def __init__(self):
        super().__init__()
        self.instance, self.head = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, bags):
        return self.head(torch.stack([self.instance(bag).mean(0) for bag in bags]))


def bags(sizes):
    return [torch.randn(size, 5) for size in sizes]


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        (list, range(2, 11)),
        (lambda x: (x, [0] * 9), range(2, 11)),
        (lambda x: (x, [0] * 9), [4] * 9),
        (lambda x: {"bags": x}, [4] * 9),
    ],
)
def test_bags_in_a_list_are_examples(kind, sizes):
    batches = [kind(bags(sizes)) for _ in range(3)]
    result = compare(Bags(), Bags(), batches)
    assert (result.examples, result.layers1) == (27, ("head",))


def test_bags_of_as_many_rows_as_there_are_bags_are_not_cut():
    result = compare(Bags(), Bags(), [{"bags": bags([9] * 9)} for _ in range(3)])
    assert result.examples == 27
    assert any("could not be tried on a part" in note for note in result.notes)


def test_signals_of_many_lengths_are_examples():
    class Signals(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, signals):
            signals = torch.stack([x.mean((1, 2)) for x in signals])
            return self.head(self.body(signals))

    models = Signals(), Signals()
    batches = [[torch.randn(4, 8, 5 + i) for i in range(9)] for _ in range(3)]
    result = compare(*models, batches)
    assert (result.examples, result.notes) == (27, [])
    assert_right(result, *models, batches)


def test_a_list_of_dicts_of_single_images_is_counted_by_its_items():
    model, other = nn.Sequential(nn.Flatten(), nn.Linear(27, 4)), None

    def forward(model, batch):
        return model(torch.stack([item["image"] for item in batch]))

    batches = [
        [{"image": torch.randn(3, 3, 3), "height": i} for i in range(9)]
        for _ in range(3)
    ]
    result = compare(model, other, batches, forward=forward)
    assert result.examples == 27
    assert_right(result, model, model, batches, call=forward)


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_texts_in_a_nested_tensor_are_examples(layout):
    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, texts):
            return self.head(torch.stack([text.mean(0) for text in texts.unbind()]))

    models = Nested(), Nested()
    texts = [[torch.randn(2 + i, 4) for i in range(10)] for _ in range(2)]
    batches = [torch.nested.nested_tensor(x, layout=layout) for x in texts]
    result = compare(*models, batches)
    assert (result.examples, result.notes) == (20, [])
    assert_right(result, *models, batches)
