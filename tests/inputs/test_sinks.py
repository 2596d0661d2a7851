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


@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e25])
def test_places_at_the_end_are_counted_backwards(scale):
    x = X.clone()
    for row, length in enumerate((9, 6, 3)):
        x[row, [0, length - 1]] *= 40
        x[row, length:] = torch.nan
    assert find_sinks(x * scale, MASK).places == (0, -1)
    assert without(MASK, (0, -1)).sum(1).tolist() == [7, 4, 1]
    assert without(MASK.flip(1), (-1,)).tolist()[1] == [False] * 3 + [True] * 5 + [
        False
    ]


def test_in_texts_of_one_length_each_place_is_found_once():
    x = X.clone()
    x[:, [0, 8]] *= 40
    assert find_sinks(x, torch.ones(3, 9)).places == (0, 8)


def test_long_tokens_at_other_places_in_each_text_are_seen():
    x = X.clone()
    for row, place in enumerate((4, 2, 1)):
        x[row, place] *= 40
    found = find_sinks(x, MASK)
    assert found.places == ()
    assert 30 < found.elsewhere < 60
    x[:, 0] *= 40
    found = find_sinks(x, MASK)
    assert found.places == (0,)
    assert found.elsewhere > 30


def test_long_tokens_of_few_texts_are_outliers():
    x = torch.randn(9, 9, 16, generator=GENERATOR)
    x[:3, 2] *= 100
    assert find_sinks(x, torch.ones(9, 9)) == Sinks()
    x[3, 2] *= 100
    assert find_sinks(x, torch.ones(9, 9)).elsewhere > 50


def test_places_are_joined_from_both_ends():
    found = joined([Sinks((-1, 1), 9.0), Sinks((0, -2), 6.0, 8.0)])
    assert found == Sinks((0, 1, -1, -2), 9.0, 8.0)
