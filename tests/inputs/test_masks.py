"""Masks of all names and kinds, as 1 for a token."""

import pytest
import torch
import transformers as hf
from support.configs import SMALL
from torch import nn

from cka_notebook._inputs.masks import MaskReader

LENGTHS = torch.tensor([[6], [3], [5], [2]])
RIGHT = torch.arange(6) < LENGTHS
LEFT = RIGHT.flip(1)
IDS = torch.arange(100, 124).reshape(4, 6)
CAUSAL = torch.ones(6, 6, dtype=torch.bool).tril()


def texts(kept, padding=0):
    return torch.where(kept, IDS, padding)


def added(kept, value=-torch.inf):
    return torch.zeros(kept.shape).masked_fill(~kept, value)


def read(model=None, more=None, **arguments):
    reader = MaskReader(model or nn.Identity())
    return reader, reader.read(arguments, more)


def inputs_mask(name, mask, ids=None):
    _, masks = read(**({} if ids is None else {"ids": ids}), **{name: mask})
    return masks.inputs


def is_(mask, kept):
    return mask is not None and torch.equal(mask > 0, kept)


@pytest.mark.parametrize("kept", [RIGHT, LEFT], ids=["right", "left"])
@pytest.mark.parametrize(
    "name", ["src_key_padding_mask", "key_padding_mask", "encoder_padding_mask"]
)
def test_padding_masks_of_torch_mark_padding(name, kept):
    assert is_(inputs_mask(name, ~kept), kept)
    assert is_(inputs_mask(name, added(kept)), kept)
    assert is_(inputs_mask(name, ~kept, texts(kept)), kept)


@pytest.mark.parametrize("dtype", [torch.bool, torch.long, torch.float32])
def test_attention_masks_mark_tokens(dtype):
    assert is_(inputs_mask("attention_mask", RIGHT.to(dtype), texts(RIGHT)), RIGHT)
    assert is_(inputs_mask("attention_mask", RIGHT.to(dtype)), RIGHT)


@pytest.mark.parametrize("value", [-torch.inf, -1e4, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("name", ["attention_mask", "pad_mask", "mask"])
def test_masks_that_are_added_to_scores_are_translated(name, value):
    assert is_(inputs_mask(name, added(RIGHT, value)), RIGHT)


@pytest.mark.parametrize(
    "mask",
    [
        RIGHT[:, None, None],
        RIGHT[:, None],
        RIGHT[:, None, None].long(),
        added(RIGHT)[:, None, None],
        RIGHT[:, None, None] & CAUSAL,
        added(RIGHT[:, None, None] & CAUSAL),
        (RIGHT[:, None] & CAUSAL).expand(4, 6, 6),
        (RIGHT[:, None, None] & CAUSAL).expand(4, 2, 6, 6),
    ],
    ids=lambda mask: f"{tuple(mask.shape)} {mask.dtype}",
)
def test_extended_masks_say_which_tokens_are_attended_to(mask):
    assert is_(inputs_mask("attention_mask", mask), RIGHT)


@pytest.mark.parametrize("kept", [RIGHT, LEFT], ids=["right", "left"])
@pytest.mark.parametrize("name", ["pad_mask", "padding_mask", "x_mask", "mask"])
def test_the_meaning_of_other_names_is_seen_in_the_texts(name, kept):
    assert is_(inputs_mask(name, kept, texts(kept)), kept)
    assert is_(inputs_mask(name, ~kept, texts(kept)), kept)
    assert is_(inputs_mask(name, (~kept).long(), texts(kept)), kept)


def test_without_texts_one_without_padding_tells():
    assert is_(inputs_mask("pad_mask", RIGHT), RIGHT)
    assert is_(inputs_mask("pad_mask", ~RIGHT), RIGHT)
    none = torch.ones_like(RIGHT)
    assert is_(inputs_mask("pad_mask", none), none)
    assert is_(inputs_mask("pad_mask", ~none), none)


def test_signals_are_texts_too():
    channels = torch.where(RIGHT[:, None], torch.randn(4, 3, 6), 0)
    _, masks = read(x=channels, frames_mask=~RIGHT)
    assert is_(masks.inputs, RIGHT)


def test_an_inverted_attention_mask_is_turned_where_the_texts_show_it():
    assert is_(inputs_mask("attention_mask", ~RIGHT, texts(RIGHT)), RIGHT)
    assert is_(inputs_mask("key_padding_mask", RIGHT, texts(RIGHT)), RIGHT)


def test_an_empty_text_turns_no_mask():
    kept = torch.arange(6) < torch.tensor([[0], [3], [5], [2]])
    for mask in (kept, kept.long()):
        assert is_(inputs_mask("attention_mask", mask, texts(kept)), kept)
    assert is_(inputs_mask("src_key_padding_mask", ~kept, texts(kept)), kept)
    reader, masks = read(attention_mask=kept)
    assert masks.inputs is None
    assert reader.unused == {"attention_mask": (4, 6)}


@pytest.mark.parametrize("dtype", [torch.long, torch.float32, torch.uint8])
def test_inverted_masks_of_numbers_are_inverted_or_named(dtype):
    mask = (~RIGHT).to(dtype)
    assert is_(inputs_mask("attention_mask", mask, texts(RIGHT)), RIGHT)
    reader, masks = read(ids=IDS, attention_mask=mask)
    assert masks.inputs is None
    assert reader.unused == {"attention_mask": (4, 6)}


@pytest.mark.parametrize("dtype", [torch.bool, torch.long, torch.float32])
def test_a_mask_is_recognized_in_texts_of_any_length(dtype):
    mask, ids = torch.ones(4, 6, dtype=dtype), torch.full((4, 6), 7)
    assert is_(inputs_mask("attention_mask", mask, ids), mask > 0)


def test_a_mask_may_have_an_axis_of_one_feature():
    assert is_(inputs_mask("mask", RIGHT[..., None].float(), texts(RIGHT)), RIGHT)
    assert is_(inputs_mask("attention_mask", RIGHT[..., None]), RIGHT)


@pytest.mark.parametrize("name", ["padding", "is_pad", "valid", "m"])
@pytest.mark.parametrize("kept", [RIGHT, LEFT], ids=["right", "left"])
def test_flags_that_mark_padding_are_masks_whatever_their_name(name, kept):
    assert is_(inputs_mask(name, kept, texts(kept)), kept)
    assert is_(inputs_mask(name, ~kept, texts(kept)), kept)


def test_flags_that_mark_no_padding_are_not_masks():
    for flags in (IDS % 5 > 2, torch.ones_like(RIGHT), RIGHT[:, :4], RIGHT[:, 0]):
        reader, masks = read(ids=IDS, flags=flags)
        assert masks == (None, None)
        assert not reader.unused


SQUARE = torch.arange(100, 136).reshape(6, 6)


@pytest.mark.parametrize("name", ["attention_mask", "mask", "attn_mask", "causal"])
@pytest.mark.parametrize(
    "mask", [CAUSAL, ~CAUSAL, CAUSAL.float(), added(CAUSAL), CAUSAL[None, None]]
)
def test_causal_masks_are_not_padding_even_with_as_many_texts_as_tokens(name, mask):
    reader, masks = read(ids=SQUARE, **{name: mask})
    assert masks == (None, None)
    assert not reader.unused


def test_square_masks_of_padding_are_not_mistaken_for_causal_ones():
    kept = torch.arange(6) < torch.tensor([[6], [2], [5], [1], [3], [6]])
    ids = torch.where(kept, SQUARE, 0)
    for name in ("mask", "attention_mask", "attn_mask"):
        assert is_(inputs_mask(name, kept, ids), kept)


def test_masks_of_pairs_that_block_padding_are_used_or_named():
    pairs = (RIGHT[:, None] & CAUSAL).expand(4, 6, 6)
    reader, masks = read(ids=IDS, attn_mask=~pairs)
    assert masks.inputs is None
    assert reader.unused == {"attn_mask": (4, 6, 6)}
    assert is_(inputs_mask("attn_mask", added(pairs), IDS), RIGHT)


def test_models_of_transformers_take_true_as_a_token_whatever_the_texts_are():
    model = hf.BertModel(hf.BertConfig(**SMALL))
    _, masks = read(model, input_ids=texts(~RIGHT), attention_mask=RIGHT)
    assert is_(masks.inputs, RIGHT)


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("span_mask", IDS % 5 > 2),
        ("pad_mask", torch.arange(6) < torch.tensor([[4], [3], [5], [2]])),
        ("attention_mask", torch.linspace(-3, 0, 24).reshape(4, 6)),
        ("key_padding_mask", RIGHT.float()),
        ("pixel_mask", torch.arange(300).reshape(4, 3, 5, 5) % 7 > 3),
    ],
)
def test_a_mask_of_unknown_meaning_is_not_used_and_named(name, mask):
    reader, masks = read(**{name: mask})
    assert masks == (None, None)
    assert reader.unused == {name: tuple(mask.shape)}


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("src_mask", CAUSAL),
        ("mask", CAUSAL[:4, :4]),
        ("attn_mask", CAUSAL.expand(8, 6, 6)),
        ("head_mask", torch.ones(3, 2)),
        ("bool_masked_pos", RIGHT),
        ("attention_mask", None),
        ("attention_mask", [1, 0]),
        ("lengths_mask", torch.ones(4)),
    ],
)
def test_what_marks_no_padding_is_passed_over(name, mask):
    reader, masks = read(**{name: mask})
    assert masks == (None, None)
    assert not reader.unused


def test_the_decoder_s_masks_are_apart_and_memory_counts_last():
    short = ~RIGHT[:, :4]
    _, masks = read(tgt_key_padding_mask=short, memory_key_padding_mask=~RIGHT)
    assert is_(masks.decoder, ~short)
    assert is_(masks.inputs, ~short)
    _, masks = read(tgt_key_padding_mask=short, src_key_padding_mask=~RIGHT)
    assert is_(masks.decoder, ~short)
    assert is_(masks.inputs, RIGHT)
    _, masks = read(memory_key_padding_mask=~RIGHT)
    assert is_(masks.inputs, RIGHT)
    _, masks = read(memory_key_padding_mask=RIGHT, src_key_padding_mask=~RIGHT)
    assert is_(masks.inputs, RIGHT)
    _, masks = read(attention_mask=RIGHT, decoder_attention_mask=~short)
    assert masks.inputs is RIGHT
    assert masks.decoder is not None


def test_a_meaning_holds_for_the_run():
    reader = MaskReader(nn.Identity())
    reader.read({"ids": texts(RIGHT), "pad_mask": ~RIGHT})
    later = torch.arange(6) >= torch.tensor([[4], [3], [5], [2]])
    assert is_(reader.read({"pad_mask": later}).inputs, ~later)


def test_a_mask_that_the_model_does_not_take_counts_too():
    batch = {"ids": texts(RIGHT), "attention_mask": RIGHT, "span_mask": LEFT}
    for more in (batch, (batch, torch.zeros(4)), hf.BatchEncoding(batch)):
        reader, masks = read(more=more, ids=batch["ids"])
        assert is_(masks.inputs, RIGHT)
        assert not reader.unused


class Strided(nn.Module):
    def _get_feat_extract_output_lengths(self, lengths):
        return (lengths - 4) // 2 + 1


def test_a_mask_of_samples_becomes_one_of_frames_as_the_model_counts_them():
    kept = torch.arange(20) < torch.tensor([[20], [11], [4]])
    reader = MaskReader(nn.Sequential(Strided()))
    frames = reader.resampled(kept, 9)
    assert is_(frames, torch.arange(9) < torch.tensor([[9], [4], [1]]))
    assert reader.resampled(kept, 8) is None
    assert MaskReader(nn.Identity()).resampled(kept, 9) is None
