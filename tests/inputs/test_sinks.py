"""Tokens that are many times as long as all others."""

import pytest
import torch

from cka_notebook._inputs.sinks import Sinks, find_sinks, joined, without

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(3, 9, 16, generator=GENERATOR)
MASK = (torch.arange(9) < torch.tensor([[9], [6], [3]])).long()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_first_token_is_found_wherever_the_padding_is(dtype):
    x = X.clone()
    x[:, 0] *= 40
    padded = torch.where(MASK[..., None] > 0, x, torch.nan).to(dtype)
    lengths = MASK.sum(1).tolist()
    texts = zip(padded, lengths, strict=True)
    padded_left = torch.stack([text.roll(9 - length, 0) for text, length in texts])
    for found in (
        find_sinks(padded, MASK),
        find_sinks(padded_left, MASK.flip(1)),
    ):
        assert found.places == (0,)
        assert 30 < found.ratio < 50


def test_other_places_are_found_but_not_those_of_few_texts():
    x = X.clone()
    x[:, [1, 2]] *= 20
    x[:, 7] *= 100  # in one of three texts
    assert find_sinks(x, MASK).places == (1, 2)


def test_ordinary_tokens_are_none():
    assert find_sinks(X, MASK) == Sinks()
    assert find_sinks(torch.zeros(3, 9, 4), MASK) == Sinks()
    assert find_sinks(torch.full((3, 9, 4), torch.nan), MASK) == Sinks()
    assert find_sinks(X, torch.zeros(3, 9)) == Sinks()
    one = X.clone()
    one[0, 0] *= 100  # one text is no place
    assert find_sinks(one, MASK) == Sinks()


def test_layers_are_joined():
    assert joined([Sinks((0,), 7.0), Sinks(), Sinks((0, 2), 6.0)]) == Sinks((0, 2), 7.0)
    assert joined([]) == Sinks()


def test_left_out_tokens_are_counted_from_the_first_one_of_each_text():
    left = MASK.flip(1)
    assert without(MASK, (0,)).sum(1).tolist() == [8, 5, 2]
    assert without(left, (0,)).tolist()[2] == [False] * 7 + [True] * 2
    assert without(MASK, (0, 2)).tolist()[2] == [False, True] + [False] * 7
    assert without(MASK[2:, :1], (0,)).sum() == 0
