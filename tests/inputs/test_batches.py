"""Loaders and batches of all kinds, alone and in pairs, through the engine."""

import copy

import pytest
import torch
from support import zoo
from support.reference import EXACT, FLOAT32, assert_right, compare, hooks_on
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from cka_notebook import CKA

ALL = {"model1_layers": "all", "model2_layers": "all"}


DATA = torch.randn(64, 10, generator=torch.Generator().manual_seed(5))


def loader(size=16, data=DATA, **options):
    return DataLoader(TensorDataset(data), batch_size=size, **options)


@pytest.mark.parametrize("last", [0, 1, 2, 3])
def test_a_last_batch_too_small_is_skipped_counted_and_noted(last):
    model1, model2 = zoo.mlp(), zoo.mlp()
    batches = [*zoo.batches_of(3), DATA[:last]] if last else zoo.batches_of(3)
    if last:
        with pytest.warns(
            UserWarning, match="Skipped 1 batch with fewer than 4 examples"
        ):
            result = compare(model1, model2, batches)
        assert "Skipped 1 batch with fewer than 4 examples" in result.notes[0]
    else:
        result = compare(model1, model2, batches)
        assert result.notes == []
    assert (result.batches, result.skipped) == (3, int(last > 0))
    assert result.examples == 48
    assert_right(result, model1, model2, batches[:3])


def test_a_small_batch_first_is_skipped_too():
    model = zoo.mlp()
    with pytest.warns(UserWarning, match="Skipped 1 batch with fewer than 4 examples"):
        result = compare(model, batches=[DATA[:2], DATA])
    assert (result.batches, result.skipped) == (1, 1)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_only_batches_too_small_is_an_error_with_the_remedy(size):
    with pytest.raises(
        ValueError, match=r"at least 4 examples, but all 3 were smaller.*increase"
    ):
        compare(zoo.mlp(), batches=list(DATA[: 3 * size].split(size)))


def test_four_examples_are_enough():
    model = zoo.mlp()
    result = compare(model, batches=[DATA[:4]])
    assert_right(result, model, model, [DATA[:4]], atol=1e-4)


def test_a_shuffled_loader_gives_a_unit_diagonal():
    model = zoo.mlp()
    copied = copy.deepcopy(model)
    result = compare(model, copied, loader(shuffle=True))
    assert (result.diagonal() - 1).abs().max() <= EXACT
    assert result.matrix[0, 2] < 0.99


def test_shuffled_or_not_the_value_is_the_same_within_its_error():
    model1, model2 = zoo.mlp(), zoo.mlp()
    plain = compare(model1, model2, loader(8))
    shuffled = compare(model1, model2, loader(8, shuffle=True))
    gap = (plain.matrix - shuffled.matrix).abs()
    assert (gap < 5 * (plain.stderr + shuffled.stderr)).all()
    assert gap.max() > 0


def test_two_runs_of_a_shuffled_loader_from_one_seed_are_the_same():
    model1, model2 = zoo.mlp(), zoo.mlp()
    first = compare(model1, model2, loader(shuffle=True))
    # The global random state was left alone, so the next run shuffles alike.
    second = compare(model1, model2, loader(shuffle=True))
    assert torch.equal(first.matrix, second.matrix)


def test_one_model_over_two_loaders_is_not_the_identity():
    model = zoo.mlp()
    first, second = zoo.batches_of(), zoo.batches_of(seed=1)
    result = compare(model, batches=first, loader2=second, **ALL)
    assert result.diagonal().abs().max() < 0.5
    twins = compare(model, batches=first, loader2=[x.clone() for x in first], **ALL)
    assert (twins.diagonal() - 1).abs().max() <= EXACT


def test_two_loaders_of_the_same_examples_give_the_value_of_both_views():
    model = zoo.mlp()
    clean = zoo.batches_of()
    noisy = [x + 0.5 * torch.randn_like(x) for x in clean]
    result = compare(model, batches=clean, loader2=noisy)

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x)

    first = compare(model, Pair(), clean)
    assert (result.matrix - first.matrix).abs().max() > 0.01
    assert result.provenance["loader2"] is not None


def test_the_same_loader_twice_is_one_loader_iterated_once():
    model1, model2 = zoo.mlp(), zoo.mlp()
    shuffled = loader(shuffle=True)
    one = compare(model1, model2, shuffled)
    two = compare(model1, model2, shuffled, loader2=shuffled)
    assert torch.equal(one.matrix, two.matrix)
    used_once = iter(zoo.batches_of())
    result = compare(model1, model2, used_once, loader2=used_once)
    assert result.batches == 4


def test_two_different_data_sets_are_compared_with_a_warning_and_a_note():
    first, second = zoo.batches_of(4), zoo.batches_of(3, size=20, seed=1)
    with pytest.warns(UserWarning, match="unrelated rows"):
        result = compare(zoo.mlp(), batches=first, loader2=second, paired=False)
    note = next(text for text in result.notes if "different examples" in text)
    assert "paired=False" in note
    assert "To compare data sets" in note
    assert result.batches == 3
    assert result.examples == 48
    assert result.provenance["paired"] is False


def test_shuffling_loaders_may_be_compared_unpaired():
    with pytest.warns(UserWarning, match="unrelated rows"):
        compare(
            zoo.mlp(),
            batches=loader(shuffle=True),
            loader2=loader(shuffle=True),
            paired=False,
        )


def test_a_shuffling_loader_of_two_is_an_error_before_any_batch():
    with pytest.raises(ValueError, match="but `loader2` shuffles"):
        compare(zoo.mlp(), batches=loader(), loader2=loader(shuffle=True))


def test_loaders_of_different_length_are_an_error_before_any_batch():
    with pytest.raises(ValueError, match="equal length, got 4 and 3 batches"):
        compare(zoo.mlp(), batches=zoo.batches_of(4), loader2=zoo.batches_of(3))


def test_paired_generators_of_different_length_are_an_error_at_the_end():
    with pytest.raises(ValueError, match="`loader2` ended after 3 batches"):
        compare(
            zoo.mlp(), batches=iter(zoo.batches_of(4)), loader2=iter(zoo.batches_of(3))
        )


def test_batches_of_different_size_are_an_error_that_names_both_models():
    with pytest.raises(
        ValueError, match=r"got 16 for model1 .* and 20 for model2 .* in b"
    ):
        compare(zoo.mlp(), batches=zoo.batches_of(), loader2=zoo.batches_of(size=20))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(DATA)


@pytest.mark.parametrize(
    ("given", "total"),
    [
        (loader, 4),
        (lambda: list(DATA.split(16)), 4),
        (lambda: tuple((x, None) for x in DATA.split(16)), 4),
        (lambda: (x for x in DATA.split(16)), None),
        (lambda: DataLoader(Stream(), batch_size=16), None),
        (lambda: map(list, zip(DATA.split(16), strict=True)), None),
        (lambda: loader(num_workers=1), 4),
    ],
    ids=[
        "DataLoader",
        "list",
        "tuple",
        "generator",
        "IterableDataset",
        "map",
        "worker",
    ],
)
def test_any_iterable_of_batches_is_a_loader(given, total):
    model, totals = zoo.mlp(), []
    result = compare(
        model, batches=given(), callback=lambda _, total, __: totals.append(total)
    )
    assert totals == [total] * 4
    assert result.examples == 64
    assert_right(result, model, model, DATA.split(16))


def test_a_loader_of_wrong_length_is_iterated_to_its_end():
    class Wrong(list):
        def __len__(self):
            return 2

    assert compare(zoo.mlp(), batches=Wrong(zoo.batches_of(4))).batches == 4


def test_max_batches_takes_no_more_than_that_from_the_loader():
    stream = iter(zoo.batches_of(6))
    result = compare(zoo.mlp(), batches=stream, max_batches=2)
    assert result.batches == 2
    assert len(list(stream)) == 4


def test_max_batches_may_be_more_than_there_are():
    assert compare(zoo.mlp(), batches=zoo.batches_of(3), max_batches=9).batches == 3
    assert (
        compare(zoo.mlp(), batches=iter(zoo.batches_of(3)), max_batches=9).batches == 3
    )


def test_an_empty_loader_is_an_error():
    with pytest.raises(
        ValueError, match=r"at least one batch of examples, got none. It is empty"
    ):
        compare(zoo.mlp(), batches=[])


@pytest.mark.parametrize("empty", [1, 3])
def test_batches_without_examples_before_the_first_one_are_skipped(empty):
    model, given = zoo.mlp(), zoo.batches_of(3)
    nothing = [given[0][:0] for _ in range(empty)]
    result = compare(model, batches=[*nothing, *given])
    assert (result.batches, result.skipped) == (3, empty)
    expected = compare(model, batches=given)
    assert result.layers1 == expected.layers1
    assert torch.equal(result.matrix, expected.matrix)
    assert torch.equal(result.stderr, expected.stderr)


def test_a_loader_of_batches_without_examples_is_an_error():
    nothing = [zoo.batches_of(1)[0][:0]] * 3
    with pytest.raises(ValueError, match="batch of examples, got 3 batches without"):
        compare(zoo.mlp(), batches=nothing)


def test_a_used_up_generator_is_an_error_with_the_remedy():
    stream, cka = iter(zoo.batches_of()), CKA(zoo.mlp())
    cka.compare(stream, progress=False)
    with pytest.raises(
        ValueError, match=r"exhausted generator\. Pass a DataLoader or a list"
    ):
        cka.compare(stream, progress=False)


def test_an_empty_second_loader_is_an_error():
    with pytest.raises(ValueError, match="`loader2`"):
        compare(zoo.mlp(), batches=zoo.batches_of(), loader2=iter([]))


def test_a_batch_without_a_tensor_names_the_batch_and_keeps_what_was_done():
    cka = CKA(zoo.mlp())
    with pytest.raises(
        TypeError, match=r"for model1 \(Sequential\), got .* in batch 3"
    ):
        cka.compare([*zoo.batches_of(2), ["words"]], progress=False)
    assert cka.result.batches == 2
    assert hooks_on(cka.model1) == 0


def test_a_missing_argument_of_a_batch_is_named():
    with pytest.raises(ValueError, match=r"with 'right' for model1 \(TwoInputs\)"):
        compare(zoo.TwoInputs(), batches=[{"left": torch.randn(8, 6)}])


def test_two_tokenizers_may_make_their_own_inputs_of_the_same_words():
    words = ["a bb ccc", "bb", "ccc a a", "dd e", "f", "gg hh", "i j k", "l"]

    def letters(text):
        codes = [ord(letter) - 90.0 for letter in text]
        return torch.tensor([*codes, *[0.0] * 10])[:10]

    def lengths(text):
        sizes = [float(len(word)) for word in text.split()]
        return torch.tensor([*sizes, *[0.0] * 10])[:10]

    model1, model2 = zoo.mlp(), zoo.mlp()
    cka = CKA(
        model1,
        model2,
        forward=(
            lambda model, batch: model(torch.stack([letters(x) for x in batch])),
            lambda model, batch: model(torch.stack([lengths(x) for x in batch])),
        ),
    )
    result = cka.compare([words, words[::-1]], progress=False)
    assert result.examples == 16
    inputs = [torch.stack([f(x) for x in words]) for f in (letters, lengths)]
    both = compare(
        model1, model2, [inputs[0], inputs[0].flip(0)],
        loader2=[inputs[1], inputs[1].flip(0)],
    )  # fmt: skip
    torch.testing.assert_close(result.matrix, both.matrix, rtol=0, atol=FLOAT32)


def test_one_model_of_two_may_have_its_own_forward():
    images = zoo.batches_of(features=20)
    model1, model2 = zoo.mlp(inputs=20), zoo.mlp(inputs=10)
    result = compare(
        model1, model2, images, forward=(None, lambda model, x: model(x[:, ::2]))
    )
    assert result.examples == 64


def test_a_batch_of_a_custom_class_needs_only_a_length():
    class Opaque:
        def __init__(self, x):
            self.hidden = x

        def __len__(self):
            return len(self.hidden)

    model = zoo.mlp()
    result = compare(
        model,
        batches=[Opaque(x) for x in zoo.batches_of()],
        forward=lambda model, batch: model(batch.hidden),
    )
    assert_right(result, model, model, zoo.batches_of())


def test_data_with_tokens_first_are_suspected_in_a_note_and_transposed_by_forward():
    class TokensFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(6, 8)
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.rnn(x)[0])

    model = TokensFirst()
    turned = [torch.randn(16, 7, 6) for _ in range(3)]
    straight = [x.transpose(0, 1) for x in turned]
    with pytest.warns(UserWarning, match=r"'rnn' \(GRU\) has batch_first=False, but"):
        compare(model, batches=straight)
    result = compare(
        model, batches=turned, forward=lambda m, batch: m(batch.transpose(0, 1))
    )
    assert result.notes == []
    assert result.examples == 48
    assert_right(result, model, model, straight, axis=1)


def test_a_detector_s_list_of_images_is_a_batch():
    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(3, 4, 3)
            self.head = nn.Linear(4, 2)

        def forward(self, images):
            cropped = torch.stack([image[:, :8, :8] for image in images])
            return self.head(self.body(cropped).mean((2, 3)))

    model = Detector()
    batches = [
        (
            [torch.randn(3, 8 + i, 9) for i in range(8)],
            [{"boxes": torch.zeros(1, 4)}] * 8,
        )
        for _ in range(3)
    ]
    result = compare(model, batches=batches)
    assert result.examples == 24
    assert result.layers1 == ("body", "head")
    assert_right(
        result, model, model, batches, call=lambda model, batch: model(batch[0])
    )


def test_one_model_with_two_forwards_runs_twice():
    model = zoo.mlp()
    result = compare(
        model,
        batches=zoo.batches_of(),
        forward=(None, lambda model, x: model(x.roll(1, 1))),
        **ALL,
    )
    assert result.diagonal().max() < 1 - EXACT


def test_single_images_of_many_sizes_need_more_than_a_larger_batch():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1))
    batches = [torch.randn(1, 3, 8 + i, 9) for i in range(5)]
    with pytest.raises(ValueError, match=r"all 5 were smaller.* in a collate_fn, or"):
        compare(model, batches=batches)
    with pytest.raises(ValueError, match=r"increase batch_size\.$"):
        compare(model, batches=[torch.randn(1, 3, 8, 9)] * 5)


def test_a_loader_that_cannot_stack_its_images_has_a_remedy():
    images = [torch.randn(3, 8 + i, 9) for i in range(8)]
    with pytest.raises(RuntimeError, match="equal size") as caught:
        compare(nn.Conv2d(3, 4, 3), batches=DataLoader(images, batch_size=4))
    assert "pass it a collate_fn" in caught.value.__notes__[-1]
