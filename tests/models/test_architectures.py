"""Whole architectures, with no further argument: which layers, which inputs, right."""

import functools

import pytest
import torch
import transformers as hf
from support import zoo
from support.configs import SMALL, gpt2_config, llama_config, t5_config
from support.reference import FLOAT32, assert_right, compare
from support.texts import words
from torch import nn

TEXT = SMALL | {"num_hidden_layers": 12}

IMAGE = SMALL | {"image_size": 16, "patch_size": 4}

SPEECH = SMALL | {
    "conv_dim": [8, 8],
    "conv_stride": [4, 4],
    "conv_kernel": [8, 8],
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "num_feat_extract_layers": 2,
}


def resnet_config():
    return hf.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 24, 32],
        depths=[2, 2, 2, 2],
        layer_type="basic",
    )


def clip_config():
    text = hf.CLIPTextConfig(**SMALL, bos_token_id=1, eos_token_id=2)
    return hf.CLIPConfig(
        text_config=text.to_dict(),
        vision_config=hf.CLIPVisionConfig(**IMAGE).to_dict(),
        projection_dim=8,
    )


def pictures(n=8, side=16):
    return {"pixel_values": torch.randn(n, 3, side, side)}


def numbered(name, count):
    return [f"{name}.{i}" for i in range(count)]


def stages(prefix, inner=""):
    return [f"{prefix}{s}{inner}.{i}" for s in range(4) for i in range(2)]


RESNET18 = [
    "maxpool",
    *[f"layer{stage}.{i}" for stage in (1, 2, 3, 4) for i in (0, 1)],
    "avgpool",
    "fc",
]


GOLDEN = {
    "ResNet-18": (zoo.ResNet, lambda: torch.randn(8, 3, 32, 32), RESNET18),
    "U-Net": (
        zoo.UNet,
        lambda: torch.randn(8, 3, 16, 16),
        ["down1", "down2", "bottom", "up2", "dec2", "up1", "dec1", "head"],
    ),
    "MLP": (zoo.mlp, lambda: torch.randn(8, 10), ["0", "2", "4"]),
    "list of containers": (
        lambda: zoo.Deep(5),
        lambda: torch.randn(8, 4),
        numbered("blocks", 5),
    ),
    "nn.TransformerEncoder": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 4
        ),
        lambda: torch.randn(8, 5, 8),
        numbered("layers", 4),
    ),
    "nn.Transformer": (
        lambda: nn.Transformer(8, 2, 3, 3, 16, batch_first=True),
        lambda: (torch.randn(8, 5, 8), torch.randn(8, 4, 8)),
        [
            *numbered("encoder.layers", 3),
            "encoder.norm",
            *numbered("decoder.layers", 3),
            "decoder.norm",
        ],
    ),
    "BERT": (
        lambda: hf.BertModel(hf.BertConfig(**TEXT)),
        words,
        ["embeddings", *numbered("encoder.layer", 12), "pooler"],
    ),
    "BERT classifier": (
        lambda: hf.BertForSequenceClassification(hf.BertConfig(**SMALL)),
        words,
        [
            "bert.embeddings",
            *numbered("bert.encoder.layer", 3),
            "bert.pooler",
            "classifier",
        ],
    ),
    "GPT-2": (
        lambda: hf.GPT2Model(gpt2_config()),
        words,
        ["wte", *numbered("h", 12), "ln_f"],
    ),
    "GPT-2 with head": (
        lambda: hf.GPT2LMHeadModel(gpt2_config(3)),
        words,
        [
            "transformer.wte",
            *numbered("transformer.h", 3),
            "transformer.ln_f",
            "lm_head",
        ],
    ),
    "ViT": (
        lambda: hf.ViTForImageClassification(hf.ViTConfig(**IMAGE)),
        pictures,
        ["vit.embeddings", *numbered("vit.layers", 3), "vit.layernorm", "classifier"],
    ),
    "ResNet": (
        lambda: hf.ResNetForImageClassification(resnet_config()),
        functools.partial(pictures, side=32),
        [
            "resnet.embedder",
            *stages("resnet.encoder.stages.", ".layers"),
            "resnet.pooler",
            "classifier",
        ],
    ),
    "Llama": (
        lambda: hf.LlamaModel(llama_config()),
        words,
        ["embed_tokens", *numbered("layers", 3), "norm"],
    ),
    "T5": (
        lambda: hf.T5Model(t5_config()),
        words,
        [
            "encoder.embed_tokens",
            *numbered("encoder.block", 3),
            "encoder.final_layer_norm",
            "decoder.embed_tokens",
            *numbered("decoder.block", 3),
            "decoder.final_layer_norm",
        ],
    ),
    "ALBERT, one block four times": (
        lambda: hf.AlbertModel(
            hf.AlbertConfig(**SMALL | {"num_hidden_layers": 4}, embedding_size=8)
        ),
        words,
        [
            "encoder.embedding_hidden_mapping_in",
            *[f"encoder.albert_layer_groups.0.albert_layers.0#{i}" for i in range(4)],
            "pooler",
        ],
    ),
    "CLIP": (
        lambda: hf.CLIPModel(clip_config()),
        lambda: words() | pictures(),
        None,
    ),
    "Wav2Vec2": (
        lambda: hf.Wav2Vec2Model(hf.Wav2Vec2Config(**SPEECH)),
        lambda: {"input_values": torch.randn(8, 800)},
        None,
    ),
    "DistilBERT": (
        lambda: hf.DistilBertModel(
            hf.DistilBertConfig(vocab_size=100, dim=16, n_layers=3, n_heads=2)
        ),
        words,
        ["embeddings", *numbered("transformer.layer", 3)],
    ),
    "ConvNeXt": (
        lambda: hf.ConvNextModel(
            hf.ConvNextConfig(hidden_sizes=[4, 8, 12, 16], depths=[2, 2, 2, 2])
        ),
        functools.partial(pictures, side=64),
        None,
    ),
    "Swin": (
        lambda: hf.SwinModel(
            hf.SwinConfig(
                embed_dim=8,
                depths=[2, 2],
                num_heads=[2, 2],
                image_size=16,
                patch_size=2,
                window_size=2,
            )
        ),
        pictures,
        None,
    ),
}


@pytest.fixture(scope="module")
def auto():
    """One run of each architecture, with no further argument."""

    @functools.cache
    def run(name):
        torch.manual_seed(0)
        make, batch, _ = GOLDEN[name]
        model = make()
        return compare(model, batches=[batch() for _ in range(2)])

    return run


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("name", [n for n, case in GOLDEN.items() if case[2]])
def test_auto_chooses_stem_blocks_and_head(name, auto):
    assert list(auto(name).layers1) == GOLDEN[name][2]


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("name", GOLDEN)
def test_every_architecture_runs_without_any_argument(name, auto):
    result = auto(name)
    assert 3 <= len(result.layers1) <= 64
    assert result.undefined1 == {}
    assert result.notes == []
    assert (result.diagonal() - 1).abs().max() <= 1e-12
    off = result.matrix - torch.diag(result.matrix.diagonal())
    assert off.abs().max() <= 1 + FLOAT32
    assert off.min() < 0.99


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("CLIP", ["text_model.encoder.layers.", "vision_model.encoder.layers."]),
        ("Wav2Vec2", ["encoder.layers."]),
        ("ConvNeXt", ["encoder.stages.0.layers.", "encoder.stages.3.layers."]),
        ("Swin", ["encoder.layers.0.blocks.", "encoder.layers.1.blocks."]),
    ],
)
def test_the_blocks_of_other_families_are_among_the_chosen(name, blocks, auto):
    layers = auto(name).layers1
    for block in blocks:
        assert sum(layer.startswith(block) for layer in layers) >= 2


def test_images_in_dicts_are_right():
    make, batch, _ = GOLDEN["ViT"]
    model1, model2 = make(), make()
    batches = [batch() for _ in range(2)]
    result = compare(model1, model2, batches)
    assert_right(
        result, model1, model2, batches, call=lambda model, batch: model(**batch)
    )
