"""Padding, in whole comparisons."""

import pytest
import torch
import transformers as hf
from support import zoo
from support.reference import FLOAT32, activations, compare, minibatch_matrix
from support.texts import (
    LENGTHS,
    noted,
    padded,
    padded_words,
    with_keywords,
    words,
)
from torch import nn

from cka_notebook import CKA
from cka_notebook._messages import is_grave


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


def test_a_mask_that_a_model_makes_itself_is_named():
    batches = [b["input_ids"] * b["attention_mask"] for b in padded_words(2)]
    layers = ["encoder.layers.0", "encoder.layers.1"]
    options = {"model1_layers": layers, "model2_layers": layers}
    result = compare(Nested(), Nested(), batches, **options)
    (note,) = noted(result, "Nested A makes a mask of padding itself", "layers.0'")
    assert is_grave(note)
    full = [b["input_ids"] for b in padded_words(2)]
    assert not noted(compare(Nested(), Nested(), full, **options), "mask")
    whole = [{"ids": i, **b} for i, b in zip(batches, padded_words(2), strict=True)]
    result = compare(Nested(), Nested(), whole, **options)
    assert result.provenance["padding_left_out"]["model1"] == layers
    assert not noted(result, "mask")


def test_a_mask_of_text_does_not_concern_images():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.vision_model = nn.Sequential(nn.Linear(6, 16), nn.Tanh())
            self.text, self.joint = nn.Embedding(100, 16), nn.Linear(16, 16)

        def forward(self, input_ids, patches, attention_mask):  # noqa: ARG002
            parts = [self.vision_model(patches), self.text(input_ids)]
            return self.joint(torch.cat(parts, 1))

    batches = [{**b, "patches": torch.randn(8, 4, 6)} for b in padded_words(2)]
    layers = ["vision_model.0", "text"]
    options = {"model1_layers": layers, "model2_layers": layers}
    assert not noted(compare(Both(), Both(), batches, **options), "does not fit")
    result = compare(Both(), Both(), batches, model1_layers=["joint"])
    assert noted(result, "does not fit the output of 'joint'")


def test_a_resumed_run_remembers_the_padding_of_earlier_batches(tmp_path):
    options = {"model1_layers": ["pairs"], "model2_layers": ["pairs"]}
    batches, models = list(encoder_batches("key_padding_mask")), (Encoder(), Encoder())
    for batch in batches[1:]:
        batch["key_padding_mask"][:] = False
    run = {"checkpoint": tmp_path / "run", "progress": False}
    CKA(*models, **options).compare(batches, max_batches=1, **run)
    resumed = CKA(*models, **options).compare(batches, **run)
    assert len(noted(resumed, "does not fit the output of 'pairs'")) == 2


def test_images_have_neither_masks_nor_tokens():
    result = compare(zoo.mlp(), zoo.mlp(), zoo.batches_of(2))
    assert result.provenance["padding_left_out"] == {"model1": [], "model2": []}
    assert result.provenance["tokens_left_out"] == {"model1": {}, "model2": {}}
    assert result.notes == []
