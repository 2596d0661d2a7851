"""Models of text: masks, padding, tokenizers, labels, pools."""

import pytest
import torch
import transformers as hf
from support.configs import SMALL, gpt2_config, llama_config, t5_config
from support.reference import (
    FLOAT32,
    activations,
    compare,
    masked_means,
    minibatch_matrix,
)
from support.texts import LENGTHS, padded, words

TEXT_MODELS = {
    "BERT": lambda: hf.BertModel(hf.BertConfig(**SMALL)),
    "GPT-2": lambda: hf.GPT2Model(gpt2_config(3)),
    "Llama": lambda: hf.LlamaModel(llama_config()),
    "T5": lambda: hf.T5Model(t5_config()),
    "DistilBERT": lambda: hf.DistilBertModel(
        hf.DistilBertConfig(vocab_size=100, dim=16, n_layers=3, n_heads=2)
    ),
}


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_padding_of_any_content_and_length_changes_nothing(name):
    model1, model2 = TEXT_MODELS[name](), TEXT_MODELS[name]()
    texts = [words(seed=seed) for seed in range(3)]
    short = [padded(text, LENGTHS, 0, seed=1) for text in texts]
    long = [padded(text, LENGTHS, 4, seed=2) for text in texts]
    first = compare(model1, model2, short)
    second = compare(model1, model2, long)
    assert first.provenance["masked"] is True
    torch.testing.assert_close(first.matrix, second.matrix, rtol=0, atol=FLOAT32)


@pytest.mark.parametrize("name", ["BERT", "GPT-2", "Llama"])
def test_tokens_are_averaged_where_the_mask_says_and_the_mask_reaches_the_model(name):
    model1, model2 = TEXT_MODELS[name](), TEXT_MODELS[name]()
    batches = [padded(words(seed=seed), LENGTHS) for seed in range(3)]
    result = compare(model1, model2, batches)
    found = [masked_means(model, batches, result.layers1) for model in (model1, model2)]
    expected = minibatch_matrix(*found)
    torch.testing.assert_close(result.matrix, expected, rtol=0, atol=FLOAT32)


def test_labels_and_other_keys_do_not_reach_the_model_and_batch_encodings_do():
    model = hf.BertForSequenceClassification(hf.BertConfig(**SMALL))
    seen = []
    handle = model.register_forward_pre_hook(
        lambda _, __, given: seen.append(set(given)), with_kwargs=True
    )
    extra = {"labels": torch.zeros(8, dtype=torch.long), "idx": torch.arange(8)}
    encoded = [hf.BatchEncoding(words(seed=s) | extra) for s in range(2)]
    plain = [words(seed=s) for s in range(2)]
    result = compare(model, batches=encoded)
    handle.remove()
    assert {frozenset(given) for given in seen} == {
        frozenset({"input_ids", "attention_mask"})
    }
    assert torch.equal(result.matrix, compare(model, batches=plain).matrix)


def test_an_encoder_decoder_may_get_its_decoder_inputs_from_labels():
    model = hf.T5ForConditionalGeneration(t5_config())
    labels = torch.randint(5, 100, (8, 6))
    labels[:, 4:] = -100
    garbage = labels.clone()
    batches = [words() | {"labels": labels}]
    result = compare(model, batches=batches)
    assert "decoder.block.2" in result.layers1
    garbage[0, 4:] = -100
    assert torch.equal(
        compare(model, batches=[words() | {"labels": garbage}]).matrix, result.matrix
    )


def test_model_outputs_give_their_last_hidden_state():
    model = hf.BertModel(hf.BertConfig(**SMALL))
    layers = ["encoder", "encoder.layer.2", "encoder.layer.1"]
    result = compare(model, batches=[words(), words(seed=1)], model1_layers=layers)
    assert abs(result.matrix[0, 1] - 1) <= 1e-12
    assert result.matrix[0, 2] < 1 - 1e-6


@pytest.mark.parametrize(
    ("pool", "token"),
    [
        ("cls", lambda x: x[:, 0]),
        ("last", lambda x: x[:, -1]),
        ("flatten", lambda x: x),
    ],
)
def test_pool_takes_the_chosen_token(pool, token):
    model1, model2 = TEXT_MODELS["BERT"](), TEXT_MODELS["BERT"]()
    batches = [words(seed=seed) for seed in range(3)]
    names = ["encoder.layer.0", "encoder.layer.2"]
    layers = {"model1_layers": names, "model2_layers": names}
    result = compare(model1, model2, batches, pool=pool, **layers)
    found = [
        {
            name: [token(x) for x in rows]
            for name, rows in activations(
                model, batches, names, lambda model, batch: model(**batch)
            ).items()
        }
        for model in (model1, model2)
    ]
    expected = minibatch_matrix(*found)
    torch.testing.assert_close(result.matrix, expected, rtol=0, atol=FLOAT32)
    assert result.provenance["pool"] == {"*": pool}


def tokenizer(pad, shift):
    """A toy tokenizer: letters to numbers, padded with ``pad`` to the longest."""

    def encode(texts, extra=0):
        longest = max(map(len, texts)) + extra
        ids = [[(ord(c) + shift) % 90 + 5 for c in text] for text in texts]
        rows = [row + [pad] * (longest - len(row)) for row in ids]
        masks = [[1] * len(row) + [0] * (longest - len(row)) for row in ids]
        return {
            "input_ids": torch.tensor(rows),
            "attention_mask": torch.tensor(masks),
        }

    return encode


def test_two_tokenizers_make_their_own_inputs_and_padding_is_left_out():
    texts = [
        "a cat",
        "the dog barks",
        "no",
        "it rains again",
        "so it goes",
        "ab",
        "xyz",
    ]
    model1, model2 = TEXT_MODELS["BERT"](), TEXT_MODELS["GPT-2"]()
    first, second = tokenizer(0, 0), tokenizer(3, 7)

    def run(extra):
        def forward1(model, batch):
            return model(**first(batch, extra))

        def forward2(model, batch):
            given = second(batch, 2 * extra)
            return model(given["input_ids"], attention_mask=given["attention_mask"])

        return compare(
            model1, model2, [texts, texts[::-1]], forward=(forward1, forward2)
        )

    plain, longer = run(0), run(5)
    assert plain.examples == 14
    assert plain.provenance["masked"] is True
    torch.testing.assert_close(plain.matrix, longer.matrix, rtol=0, atol=FLOAT32)
    paired = compare(model1, model2, [first(texts)], loader2=[second(texts)])
    single = compare(
        model1,
        model2,
        [texts],
        forward=(lambda m, b: m(**first(b)), lambda m, b: m(**second(b))),
    )
    torch.testing.assert_close(single.matrix, paired.matrix, rtol=0, atol=FLOAT32)


def test_bert_and_gpt2_on_the_same_words_need_no_argument():
    result = compare(TEXT_MODELS["BERT"](), TEXT_MODELS["GPT-2"](), [words()])
    assert result.matrix.shape == (5, 5)
    assert result.matrix.isfinite().all()


def test_half_precision_transformers_are_finite():
    model = hf.BertModel(hf.BertConfig(**SMALL)).to(torch.bfloat16)
    result = compare(model, batches=[words(), words(seed=1)])
    assert result.matrix.isfinite().all()
    assert result.provenance["model1"]["dtypes"] == ["bfloat16"]


def bart_config():
    sizes = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2}
    sizes |= {f"{x}_attention_heads": 2 for x in ("encoder", "decoder")}
    sizes |= {f"{x}_ffn_dim": 32 for x in ("encoder", "decoder")}
    return hf.BartConfig(vocab_size=100, max_position_embeddings=32, **sizes)


ENCODER_DECODERS = {
    "BART": lambda: hf.BartForConditionalGeneration(bart_config()),
    "T5": lambda: hf.T5ForConditionalGeneration(t5_config()),
}


def translation(seed, *given):
    """A text and its translation of as many tokens, with other padding."""
    torch.manual_seed(seed)
    place = torch.arange(10)
    of_text, of_labels = (
        (place < torch.tensor(lengths)[:, None]).long()
        for lengths in ([10, 9, 8, 7, 6, 10, 9, 8], [10, 7, 4, 8, 5, 9, 6, 3])
    )
    batch = {
        "input_ids": torch.randint(5, 90, (8, 10)),
        "attention_mask": of_text,
        "labels": torch.randint(5, 90, (8, 10)).masked_fill(of_labels == 0, -100),
        "decoder_input_ids": torch.randint(5, 90, (8, 10)),
        "decoder_attention_mask": of_labels,
    }
    return {key: batch[key] for key in ("input_ids", *given)}, of_text, of_labels


@pytest.mark.parametrize("name", ENCODER_DECODERS)
@pytest.mark.parametrize(
    "given",
    [
        ["attention_mask", "labels"],
        ["labels"],
        ["attention_mask", "decoder_input_ids"],
        ["attention_mask", "decoder_input_ids", "decoder_attention_mask"],
    ],
    ids="-".join,
)
def test_no_mask_of_one_text_is_used_for_another_of_the_same_length(name, given):
    torch.manual_seed(0)
    models = ENCODER_DECODERS[name](), ENCODER_DECODERS[name]()
    made = [translation(seed, *given) for seed in range(2)]
    batches = [batch for batch, _, _ in made]
    result = compare(*models, batches)
    has_labels = {"labels", "decoder_attention_mask"} & set(given)

    def features(model):
        found = activations(
            model, batches, result.layers1, lambda model, x: model(**x, use_cache=False)
        )
        for layer, rows in found.items():
            for i, (_, of_text, of_labels) in enumerate(made):
                of_decoder = of_labels if has_labels else torch.ones(8, 10)
                is_of_text = ".encoder." in f".{layer}"
                weights = of_text if is_of_text else of_decoder
                if "attention_mask" in given or not is_of_text:
                    sums = (rows[i].double() * weights[..., None]).sum(1)
                    rows[i] = sums / weights.sum(1, keepdim=True)
        return found

    expected = minibatch_matrix(*map(features, models))
    torch.testing.assert_close(result.matrix, expected, rtol=0, atol=FLOAT32)
    assert not [note for note in result.notes if "mask" in note]


def test_what_a_decoder_computes_of_the_encoder_s_tokens_has_their_mask():
    model = ENCODER_DECODERS["BART"]().eval()
    batch, of_text, _ = translation(0, "attention_mask", "labels")
    key = "model.decoder.layers.0.encoder_attn.k_proj"
    result = compare(model, batches=[batch], model1_layers=[key])
    twice = {**batch, "input_ids": batch["input_ids"] + (of_text == 0)}
    other = compare(model, batches=[twice], model1_layers=[key])
    torch.testing.assert_close(result.sums.xx, other.sums.xx, rtol=1e-4, atol=0)


@pytest.mark.parametrize("empty", [1, 2])
def test_texts_without_any_token_that_counts_are_named(empty):
    model = hf.BertModel(hf.BertConfig(**SMALL))
    batch = padded(words(), LENGTHS, 0, seed=1)
    assert not compare(model, batches=[batch]).notes
    batch["attention_mask"][:empty] = 0
    notes = compare(model, batches=[batch]).notes
    (note,) = (x for x in notes if "zeros" in x)
    assert f"{empty} text" in note
    assert "rows of zeros" in note or "a row of zeros" in note
