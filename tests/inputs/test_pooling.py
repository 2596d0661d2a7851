"""From activations to features: tokens, positions, masks, per layer."""

from functools import partial

import pytest
import torch
from support import zoo
from support.reference import compare

from cka_notebook import CKA
from cka_notebook._inputs.pooling import Pooling

TOKENS = torch.randn(6, 5, 4)
IMAGE = torch.randn(6, 3, 4, 4)
MASK = torch.tensor([[1, 1, 1, 0, 0]] * 5 + [[0, 0, 1, 1, 1]])


def features(pool, x, mask=None, layer="layer", decoder_mask=None):
    pooling = Pooling(pool)
    pooling.begin(mask, decoder_mask)
    return pooling.features(layer)(x)


@pytest.mark.parametrize("x", [TOKENS, IMAGE, torch.randn(6, 7)])
def test_auto_without_a_mask_leaves_all_features(x):
    assert features("auto", x) is x


def test_auto_with_a_mask_averages_the_tokens_it_keeps():
    pooled = features("auto", TOKENS, MASK)
    torch.testing.assert_close(pooled[:5], TOKENS[:5, :3].mean(1))
    torch.testing.assert_close(pooled[5], TOKENS[5, 2:].mean(0))


@pytest.mark.parametrize("garbage", [1e30, torch.nan, torch.inf])
@pytest.mark.parametrize("pool", ["auto", "mean", "last"])
def test_padding_may_hold_anything(pool, garbage):
    padded = torch.where(MASK.unsqueeze(-1) > 0, TOKENS, garbage)
    assert torch.equal(features(pool, padded, MASK), features(pool, TOKENS, MASK))


def test_a_mask_of_zeros_gives_zeros_not_nan():
    assert features("mean", TOKENS, torch.zeros(6, 5)).abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.bool, torch.long, torch.float32])
def test_masks_of_any_dtype_are_the_same(dtype):
    assert torch.equal(
        features("auto", TOKENS, MASK.to(dtype)), features("auto", TOKENS, MASK)
    )


@pytest.mark.parametrize("x", [IMAGE, torch.randn(6, 7), torch.randn(6, 9, 4)])
def test_a_mask_does_not_touch_what_is_no_sequence_of_its_length(x):
    assert features("auto", x, MASK) is x


def test_mean_is_over_tokens_or_positions():
    torch.testing.assert_close(features("mean", TOKENS), TOKENS.mean(1))
    torch.testing.assert_close(features("mean", IMAGE), IMAGE.mean((2, 3)))


def test_flatten_keeps_padding_in():
    assert features("flatten", TOKENS, MASK) is TOKENS


def test_cls_and_last_take_one_token():
    assert torch.equal(features("cls", TOKENS), TOKENS[:, 0])
    assert torch.equal(features("last", TOKENS), TOKENS[:, -1])


def test_last_with_a_mask_is_the_last_token_kept_on_either_side():
    pooled = features("last", TOKENS, MASK)
    assert torch.equal(pooled[0], TOKENS[0, 2])
    assert torch.equal(pooled[5], TOKENS[5, 4])


def test_cls_with_a_mask_is_the_first_token_kept_on_either_side():
    pooled = features("cls", TOKENS, MASK)
    assert torch.equal(pooled[0], TOKENS[0, 0])
    assert torch.equal(pooled[5], TOKENS[5, 2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mask", [MASK, None], ids=["mask", "plain"])
@pytest.mark.parametrize("x", [TOKENS, IMAGE], ids=["tokens", "image"])
def test_half_precision_is_averaged_in_float32(dtype, mask, x):
    pooled = features("mean", x.to(dtype), mask)
    assert pooled.dtype == torch.float32
    exact = features("mean", x.to(dtype).double(), mask)
    torch.testing.assert_close(pooled.double(), exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mask", [MASK, None], ids=["mask", "plain"])
def test_float64_stays_float64(mask):
    shifted = TOKENS.double() + 1e6
    pooled = features("mean", shifted, mask)
    assert pooled.dtype == torch.float64
    plain = features("mean", TOKENS.double(), mask)
    torch.testing.assert_close(pooled - 1e6, plain, rtol=0, atol=1e-9)


def test_tokens_that_are_too_long_are_left_out_of_auto_alone():
    for pool, expected in (("auto", TOKENS[0, 1:3]), ("mean", TOKENS[0, :3])):
        pooling = Pooling(pool)
        pooling.left_out = {"layer": (0,)}
        pooling.begin(MASK, None)
        pooled = pooling.features("layer")(TOKENS)
        torch.testing.assert_close(pooled[0], expected.mean(0))
    pooling = Pooling()
    pooling.left_out = {"layer": (0,)}
    pooling.begin(MASK, None)
    torch.testing.assert_close(
        pooling.features("layer")(TOKENS)[5], TOKENS[5, 3:].mean(0)
    )
    torch.testing.assert_close(pooling.features("x")(TOKENS)[5], TOKENS[5, 2:].mean(0))


def test_a_mask_of_samples_is_resampled_once_per_batch():
    calls = []

    def resampled(mask, frames):
        calls.append(frames)
        return mask[:, ::2] if frames == 5 else None

    pooling = Pooling("auto", resampled)
    samples = MASK.repeat_interleave(2, 1)
    pooling.begin(samples, None)
    first = pooling.features("a")(TOKENS)
    torch.testing.assert_close(first, features("auto", TOKENS, MASK))
    assert torch.equal(pooling.features("b")(TOKENS), first)
    wide = torch.randn(6, 4, 3)
    assert pooling.features("a")(wide) is wide
    assert calls == [5, 4]


def test_a_callable_makes_features_of_activations():
    assert torch.equal(features(lambda x: x.amax(1), TOKENS), TOKENS.amax(1))
    assert features(lambda x: x.sum((1, 2)), TOKENS).shape == (6, 1)


@pytest.mark.parametrize(
    ("pool", "got"),
    [
        (lambda x: x.mean(), "shape \\(\\)"),
        (lambda x: x[:2], "shape \\(2, 5, 4\\)"),
        (lambda _: None, "NoneType"),
    ],
    ids=["scalar", "rows", "none"],
)
def test_a_callable_that_loses_examples_is_refused(pool, got):
    with pytest.raises(ValueError, match=f"of 6 rows for .*, got {got}"):
        features(pool, TOKENS)


def test_each_layer_may_have_its_own_pool_and_the_first_match_counts():
    pool = {"head": "last", "h.*": "cls", "*": "mean"}
    assert torch.equal(features(pool, TOKENS, layer="head"), TOKENS[:, -1])
    assert torch.equal(features(pool, TOKENS, layer="h.3"), TOKENS[:, 0])
    assert torch.equal(features(pool, TOKENS, layer="x"), TOKENS.mean(1))
    assert features({"h.*": "cls"}, TOKENS, layer="x") is TOKENS


def test_decoder_layers_take_the_decoder_s_mask():
    ones = torch.ones(6, 5)
    plain = features("auto", TOKENS, MASK, "decoder.block.0", ones)
    torch.testing.assert_close(plain, TOKENS.mean(1))
    other = features("auto", TOKENS, MASK, "model.decoder.block.0", ones)
    torch.testing.assert_close(other, TOKENS.mean(1))
    encoder = features("auto", TOKENS, MASK, "encoder.block.0", ones)
    torch.testing.assert_close(encoder[0], TOKENS[0, :3].mean(0))


def test_a_decoder_layer_over_encoder_tokens_takes_the_mask_that_fits():
    short = torch.ones(6, 3)
    pooled = features("auto", TOKENS, MASK, "decoder.block.0.cross.k", short)
    torch.testing.assert_close(pooled[0], TOKENS[0, :3].mean(0))


def test_masks_learned_during_a_batch_come_first_and_are_dropped_after_it():
    pooling, longer = Pooling(), torch.ones(6, 7)
    pooling.begin(MASK, None)
    pooling.learn(longer, None)
    pooling.learn(None, torch.ones(6, 5))
    make, deep = pooling.features("h.0"), pooling.features("decoder.block.0")
    wide = torch.randn(6, 7, 4)
    torch.testing.assert_close(make(wide), wide.mean(1))
    torch.testing.assert_close(deep(TOKENS), TOKENS.mean(1))
    pooling.begin(MASK, None)
    assert make(wide) is wide
    torch.testing.assert_close(deep(TOKENS)[0], TOKENS[0, :3].mean(0))


def test_equal_treatment_is_one_function_so_equal_tensors_share_a_gram():
    pooling = Pooling({"a": "mean", "b": "mean", "c": "cls"})
    assert pooling.features("a") is pooling.features("b")
    assert pooling.features("a") is not pooling.features("c")


@pytest.mark.parametrize("wrong", ["max", "", 3, None, {"a": "max"}], ids=str)
def test_an_unknown_pool_is_named_with_the_known_ones(wrong):
    with pytest.raises(ValueError, match="'auto', 'flatten', 'mean', 'cls', 'last' or"):
        Pooling(wrong)


def test_a_pool_for_a_layer_that_is_not_there_is_an_error():
    pooling = Pooling({"block.1": "mean", "head": "cls", "block.*": "last"})
    pooling.check(["block.1", "block.2", "head"])
    with pytest.raises(
        ValueError, match="`pool` key 'head' matches none of the chosen"
    ):
        pooling.check(["block.1", "block.2"])


def test_choices_are_described_for_the_record():
    def middle(x):
        return x[:, 2]

    assert Pooling({"a": middle, "b": "cls"}).describe() == {"a": "middle", "b": "cls"}
    assert Pooling("mean").describe() == {"*": "mean"}
    assert Pooling(partial(middle)).describe() == {"*": "middle"}
    assert Pooling(torch.nn.Flatten()).describe() == {"*": "Flatten"}


def test_whether_padding_was_left_out_is_known():
    pooling = Pooling()
    pooling.features("a")(TOKENS)
    assert not pooling.masked
    pooling.begin(MASK, None)
    pooling.features("a")(TOKENS)
    assert pooling.masked


@pytest.mark.parametrize(
    "pool", [lambda x: x.mean(5), lambda x: x.other, lambda x, n: (x, n)]
)
def test_errors_of_a_pool_function_do_not_blame_the_model(pool):
    with pytest.raises(Exception, match=r".") as caught:
        compare(zoo.mlp(), batches=zoo.batches_of(), pool=pool)
    assert caught.value.__notes__ == [
        "`pool` raised this for activations of shape (16, 16).",
        "Inputs of model1 (Sequential): a tensor of shape (16, 10).",
    ]


def test_integer_features_are_refused():
    with pytest.raises(TypeError, match=r"floating-point features, got torch.int64"):
        compare(zoo.mlp(), batches=zoo.batches_of(), pool=lambda x: x.long())


def test_keys_that_are_not_names_are_refused():
    with pytest.raises(TypeError, match="names or globs as keys, got 0"):
        CKA(zoo.mlp(), pool={0: "mean"})
