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
