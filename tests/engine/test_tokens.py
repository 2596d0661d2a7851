"""Padding and tokens that drown the others, in whole comparisons."""

import pytest
import torch
import transformers as hf
from support import zoo
from support.configs import t5_config
from support.reference import FLOAT32, activations, compare, minibatch_matrix
from support.texts import LENGTHS, padded, words
from torch import nn

from cka_notebook import CKA
from cka_notebook._messages import is_grave

LAYERS = ["embed_tokens", "layers.0", "layers.1", "layers.2", "layers.3", "norm"]
SHOWN_LAYERS = "'embed_tokens', 'layers.0', 'layers.1', ... (6 layers)"


def llama(seed, times=100.0):
    """A random Llama whose first token is many times as long as all others."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4}
    model = hf.LlamaModel(
        hf.LlamaConfig(vocab_size=1000, num_attention_heads=4, **sizes)
    )
    with torch.no_grad():
        model.embed_tokens.weight[1] *= times
    return model


def texts(batches=4, n=32, length=47, left=False):
    made = torch.Generator().manual_seed(0)
    for _ in range(batches):
        lengths = torch.randint(8, length + 1, (n, 1), generator=made)
        mask = (torch.arange(length) < lengths).long()
        ids = torch.randint(2, 1000, (n, length), generator=made)
        ids[:, 0] = 1
        if left:
            rows = zip(ids, lengths.flatten().tolist(), strict=True)
            ids = torch.stack([row.roll(length - size) for row, size in rows])
            mask = mask.flip(1)
        yield {"input_ids": ids * mask, "attention_mask": mask}


def with_keywords(model, batch):
    return model(**batch)


def noted(result, *parts):
    return [note for note in result.notes if all(part in note for part in parts)]


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_unrelated_models_with_a_long_first_token_are_not_alike(left):
    result = compare(llama(0), llama(1), list(texts(left=left)))
    assert list(result.layers1) == LAYERS
    assert result.matrix.max() < 0.25
    places = {layer: [0] for layer in LAYERS}
    assert result.provenance["tokens_left_out"] == {"model1": places, "model2": places}
    for name in ("A", "B"):
        (note,) = noted(result, f"LlamaModel {name}: the first token is up to")
        assert f"times as long as the others in {SHOWN_LAYERS}" in note
        assert not is_grave(note)
    assert not noted(result, "text length")


def test_the_mean_is_over_the_other_tokens():
    batches, models = list(texts(3)), (llama(0), llama(1))
    result = compare(*models, batches)
    features = [activations(model, batches, LAYERS, with_keywords) for model in models]
    for rows in features:
        for name in LAYERS:
            for i, batch in enumerate(batches):
                mask = batch["attention_mask"].clone()
                mask[:, 0] = 0
                x = rows[name][i].view(*mask.shape, -1)
                rows[name][i] = (x * mask[..., None]).sum(1) / mask.sum(1)[:, None]
    expected = minibatch_matrix(*features)
    torch.testing.assert_close(result.matrix, expected, rtol=0, atol=FLOAT32)


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_a_mean_of_all_tokens_is_said_to_be_text_length(left):
    result = compare(llama(0), llama(1), list(texts(left=left)), pool="mean")
    assert result.matrix[0, 0] > 0.99
    assert result.provenance["tokens_left_out"] == {"model1": {}, "model2": {}}
    assert len(noted(result, "the first token is up to", "outweighs")) == 2
    grave = noted(result, "'embed_tokens'", "mostly text length", "up to 1.00")
    assert len(grave) == 2
    assert all(map(is_grave, grave))


@pytest.mark.parametrize(
    ("pool", "is_told"),
    [("cls", True), ("flatten", True), (lambda x: x.amax(1), True), ("last", False)],
    ids=["cls", "flatten", "callable", "last"],
)
def test_other_pools_get_the_note_alone(pool, is_told):
    result = compare(llama(0), llama(1), list(texts(2)), pool=pool)
    assert bool(noted(result, "the first token", "outweighs")) == is_told
    assert result.provenance["tokens_left_out"] == {"model1": {}, "model2": {}}


def test_ordinary_models_keep_all_tokens_and_get_no_note():
    result = compare(llama(0, times=1.0), llama(1, times=1.0), list(texts(2)))
    assert result.provenance["tokens_left_out"] == {"model1": {}, "model2": {}}
    assert not noted(result, "token is")


def test_what_is_left_out_does_not_depend_on_the_layers_that_are_chosen():
    batches, models = list(texts(2)), (llama(0), llama(1))
    whole = compare(*models, batches)
    some = compare(*models, batches, model1_layers=["norm"], model2_layers=["norm"])
    assert float(some.matrix) == pytest.approx(float(whole.matrix[-1, -1]), abs=1e-6)


@pytest.mark.slow
def test_a_resumed_run_leaves_out_the_same_tokens(tmp_path):
    models, path = (llama(0), llama(1)), tmp_path / "run"
    options = {"progress": False}
    whole = compare(*models, list(texts()), pool="mean")
    CKA(*models, pool="mean").compare(
        list(texts()), max_batches=2, checkpoint=path, **options
    )
    resumed = CKA(*models, pool="mean").compare(
        list(texts()), checkpoint=path, **options
    )
    assert torch.equal(resumed.matrix, whole.matrix)
    assert resumed.notes == whole.notes
    auto = tmp_path / "auto"
    CKA(*models).compare(list(texts()), max_batches=2, checkpoint=auto, **options)
    resumed = CKA(*models).compare(list(texts()), checkpoint=auto, **options)
    assert torch.equal(resumed.matrix, compare(*models, list(texts())).matrix)


def test_a_decoder_s_long_tokens_are_left_out_of_the_decoder_alone():
    torch.manual_seed(0)
    model = hf.T5Model(t5_config())
    with torch.no_grad():
        model.shared.weight[0] *= 100
    batches = [padded(words(seed=seed), LENGTHS) for seed in range(2)]
    for seed, batch in enumerate(batches):
        decoder = padded(words(length=7, seed=seed + 9), LENGTHS - 2)
        decoder["input_ids"][:, 0] = 0
        batch |= {f"decoder_{key}": value for key, value in decoder.items()}
    left_out = compare(model, batches=batches).provenance["tokens_left_out"]["model1"]
    assert left_out
    assert all(name.startswith("decoder.") for name in left_out)
    assert left_out["decoder.block.0"] == [0]


class Encoder(nn.Module):
    """Takes its mask under a name of its choice, and passes it to torch's layers."""

    def __init__(self, layers=2, inverted=False):
        super().__init__()
        self.embedding = nn.Embedding(100, 16)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
            for _ in range(layers)
        )
        self.pairs = nn.AvgPool1d(2)
        self.inverted = inverted

    def forward(self, ids, **masks):
        (mask,) = masks.values()
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=~mask if self.inverted else mask)
        return self.pairs(x.mT).mT


ENCODED = ["embedding", "layers.0", "layers.1"]


def encoder_batches(name, inverted=False, garbage=False):
    for seed in range(3):
        batch = padded(words(seed=seed), LENGTHS)
        kept = batch["attention_mask"] > 0
        ids = batch["input_ids"] if garbage else batch["input_ids"] * kept
        yield {"ids": ids, name: kept if inverted else ~kept}


def padding_left_out(model, batches, names):
    """Means over real tokens in float64; True in the last item is padding."""
    found = activations(model, batches, names, with_keywords)
    for name in names:
        for i, batch in enumerate(batches):
            *_, mask = batch.values()
            kept = (mask if model.inverted else ~mask)[..., None]
            x = found[name][i].view(*kept.shape[:2], -1)
            found[name][i] = torch.where(kept, x, 0).sum(1) / kept.sum(1)
    return found


@pytest.mark.parametrize(
    ("name", "inverted", "garbage"),
    [
        ("src_key_padding_mask", False, True),
        ("key_padding_mask", False, True),
        ("pad_mask", False, False),
        ("pad_mask", True, False),
        ("attention_mask", False, False),
        ("attention_mask", True, True),
    ],
)
def test_padding_is_left_out_whatever_its_mask_is_called(name, inverted, garbage):
    models = Encoder(inverted=inverted), Encoder(inverted=inverted)
    batches = list(encoder_batches(name, inverted, garbage))
    result = compare(*models, batches, model1_layers=ENCODED, model2_layers=ENCODED)
    expected = minibatch_matrix(
        *(padding_left_out(model, batches, ENCODED) for model in models)
    )
    torch.testing.assert_close(result.matrix, expected, rtol=0, atol=FLOAT32)
    layers = {"model1": ENCODED, "model2": ENCODED}
    assert result.provenance["padding_left_out"] == layers


def test_layers_that_no_mask_fits_are_named():
    layers = ["layers.0", "pairs"]
    options = {"model1_layers": layers, "model2_layers": layers}
    batches = list(encoder_batches("src_key_padding_mask"))
    result = compare(Encoder(), Encoder(), batches, **options)
    assert result.provenance["padding_left_out"]["model1"] == ["layers.0"]
    (note,) = noted(result, "Encoder A: the mask of 9 tokens does not fit")
    assert "the output of 'pairs', so any padding in it is in the numbers" in note
    for batch in batches:
        batch["src_key_padding_mask"][:] = False
    assert not noted(compare(Encoder(), Encoder(), batches, **options), "does not fit")


def test_a_mask_of_unknown_meaning_is_named():
    batches = list(encoder_batches("odd_mask"))
    for batch in batches:
        batch["odd_mask"][:, ::2] ^= True
    result = compare(Encoder(), Encoder(), batches)
    (note,) = noted(result, "Encoder B")
    assert "mask 'odd_mask' of shape (8, 9) is not used" in note
    assert is_grave(note)
    assert result.provenance["padding_left_out"] == {"model1": [], "model2": []}


def test_a_speech_model_s_mask_of_samples_is_one_of_frames():
    config = {
        "vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 32, "conv_dim": [8, 8],
        "conv_stride": [4, 4], "conv_kernel": [8, 8], "num_feat_extract_layers": 2,
        "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
        "feat_extract_norm": "layer",
    }  # fmt: skip
    kinds = (hf.Wav2Vec2Model, hf.Wav2Vec2Config), (hf.HubertModel, hf.HubertConfig)
    models = [kind(make(**config)).eval() for kind, make in kinds]
    layers = ["encoder.layers.0", "encoder.layers.1"]
    batches = []
    for seed in range(2):
        made = torch.Generator().manual_seed(seed)
        lengths = torch.randint(200, 801, (16, 1), generator=made)
        mask = (torch.arange(800) < lengths).long()
        values = torch.randn(16, 800, generator=made) * mask
        batches.append({"input_values": values, "attention_mask": mask})
    result = compare(*models, batches, model1_layers=layers, model2_layers=layers)
    features = [activations(model, batches, layers, with_keywords) for model in models]
    for rows in features:
        for name in layers:
            for i, batch in enumerate(batches):
                frames = batch["attention_mask"].sum(1)
                for _ in range(2):
                    frames = (frames - 8) // 4 + 1
                x = rows[name][i].view(16, -1, 16)
                kept = (torch.arange(x.shape[1]) < frames[:, None])[..., None]
                rows[name][i] = (x * kept).sum(1) / kept.sum(1)
    expected = minibatch_matrix(*features)
    torch.testing.assert_close(result.matrix, expected, rtol=0, atol=FLOAT32)
    assert result.provenance["padding_left_out"]["model2"] == layers


def test_a_decoder_takes_its_own_mask_and_not_the_memory_s():
    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            block = nn.TransformerDecoderLayer(16, 2, 32, batch_first=True)
            self.blocks = nn.TransformerDecoder(block, 2)

        def forward(self, tgt, memory, tgt_key_padding_mask, memory_key_padding_mask):
            masks = {"tgt_key_padding_mask": tgt_key_padding_mask}
            masks["memory_key_padding_mask"] = memory_key_padding_mask
            return self.blocks(tgt, memory, **masks)

    kept = torch.arange(9) < LENGTHS[:, None]
    batches = [
        {
            "tgt": torch.randn(8, 9, 16),
            "memory": torch.randn(8, 9, 16),
            "tgt_key_padding_mask": ~kept,
            "memory_key_padding_mask": ~kept.roll(1, 0),
        }
        for _ in range(2)
    ]
    models, layers = (Decoder().eval(), Decoder().eval()), ["blocks.layers.0"]
    result = compare(*models, batches, model1_layers=layers, model2_layers=layers)
    features = [activations(model, batches, layers, with_keywords) for model in models]
    for rows in features:
        rows[layers[0]] = [
            (x.view(8, 9, 16) * kept[..., None]).sum(1) / kept.sum(1)[:, None]
            for x in rows[layers[0]]
        ]
    expected = minibatch_matrix(*features)
    torch.testing.assert_close(result.matrix, expected, rtol=0, atol=FLOAT32)


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(100, 16, padding_idx=0)
        block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(block, 2)

    def forward(self, ids):
        return self.encoder(self.embedding(ids), src_key_padding_mask=ids == 0)


def test_blocks_of_an_encoder_are_rows_although_it_would_nest_their_tensors():
    batches = [b["input_ids"] * b["attention_mask"] for b in padded_words(3)]
    models, layers = (Nested().eval(), Nested().eval()), ["encoder.layers.*"]
    result = compare(*models, batches, model1_layers=layers, model2_layers=layers)
    assert {"encoder.layers.0", "encoder.layers.1"} <= set(result.layers1)
    assert not result.matrix.isnan().any()
    assert all(model.encoder.use_nested_tensor for model in models)


def padded_words(count):
    return [padded(words(seed=seed), LENGTHS) for seed in range(count)]


def test_images_have_neither_masks_nor_tokens():
    result = compare(zoo.mlp(), zoo.mlp(), zoo.batches_of(2))
    assert result.provenance["padding_left_out"] == {"model1": [], "model2": []}
    assert result.provenance["tokens_left_out"] == {"model1": {}, "model2": {}}
    assert result.notes == []
