"""PEFT's adapters: the wrapped model is compared like the one in it."""

import copy

import peft
import pytest
import torch
import transformers as hf
from support import zoo
from support.configs import SMALL, gpt2_config, t5_config
from support.reference import (
    FLOAT32,
    compare,
    differences,
    hooks_on,
    masked_means,
    minibatch_matrix,
    snapshot,
)
from support.texts import LENGTHS, padded, words
from torch import nn

from cka_notebook._models.layer_tree import LayerTree

PREFIX = "base_model.model."
"""What PEFT puts in front of the names of the model that it adapts by LoRA."""

BASES = {
    "SEQ_CLS": lambda: hf.BertForSequenceClassification(hf.BertConfig(**SMALL)),
    "CAUSAL_LM": lambda: hf.GPT2LMHeadModel(gpt2_config(3)),
    None: lambda: hf.BertModel(hf.BertConfig(**SMALL)),
}
"""By PEFT task; with None, PEFT uses the wrapper that accepts any arguments."""

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning", "ignore:fan_in_fan_out"
)


def adapted(base, task=None, config=peft.LoraConfig, **options):
    """A wrapped copy, whose adapters are random, as if they had been trained."""
    wrapped = peft.get_peft_model(
        copy.deepcopy(base), config(task_type=task, **options)
    )
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, 0, 0.3)
    return wrapped


def batches(extra=0):
    """Padded texts, with columns that are no input."""
    columns = {"labels": torch.zeros(8, dtype=torch.long), "idx": torch.arange(8)}
    texts = [words(seed=seed) for seed in range(3)]
    return [padded(text, LENGTHS, extra, seed=extra) | columns for text in texts]


def assert_right(result, model1, model2):
    found = [
        masked_means(model, batches(), layers)
        for model, layers in ((model1, result.layers1), (model2, result.layers2))
    ]
    expected = minibatch_matrix(*found)
    torch.testing.assert_close(result.matrix, expected, rtol=0, atol=FLOAT32)


@pytest.mark.parametrize("task", BASES)
def test_a_model_and_its_lora_are_compared_layer_by_layer_without_any_argument(task):
    base = BASES[task]()
    wrapped = adapted(base, task)
    before = snapshot(wrapped)
    result = compare(base, wrapped, batches())
    assert result.layers2 == tuple(PREFIX + name for name in result.layers1)
    assert result.provenance["masked"] is True
    assert_right(result, base, wrapped)
    assert result.diagonal()[0] == pytest.approx(1, abs=FLOAT32)
    assert result.diagonal()[3] < 1 - 10 * FLOAT32
    assert hooks_on(wrapped) == 0
    assert differences(before, snapshot(wrapped)) == []


def test_the_layers_of_the_base_keep_their_names_after_the_prefix_of_peft():
    base = BASES["SEQ_CLS"]()
    wrapped = adapted(base, "SEQ_CLS")
    plain = compare(base, batches=batches(), model1_layers="blocks")
    blocks = compare(wrapped, batches=batches(), model1_layers="blocks")
    assert blocks.layers1 == tuple(PREFIX + name for name in plain.layers1)
    tree, inner = LayerTree(wrapped), LayerTree(base)
    assert {PREFIX + name for name in inner.names} < set(tree.names)
    assert f"{PREFIX}bert.encoder.layer.0.attention.self.query.lora_A.default" in (
        tree.names
    )


def test_an_adapter_that_is_merged_gives_the_same_and_one_that_is_off_the_base():
    base = BASES[None]()
    wrapped = adapted(base)
    apart = compare(base, wrapped, batches()).matrix
    wrapped.merge_adapter()
    merged = compare(base, wrapped, batches()).matrix
    wrapped.unmerge_adapter()
    torch.testing.assert_close(merged, apart, rtol=0, atol=FLOAT32)
    with wrapped.disable_adapter():
        off = compare(base, wrapped, batches())
    assert (off.diagonal() - 1).abs().max() <= FLOAT32
    unloaded = compare(base, copy.deepcopy(wrapped).merge_and_unload(), batches())
    assert unloaded.layers2 == unloaded.layers1
    torch.testing.assert_close(unloaded.matrix, apart, rtol=0, atol=FLOAT32)


@pytest.mark.parametrize("config", [peft.PromptTuningConfig, peft.PrefixTuningConfig])
def test_virtual_tokens_count_and_padding_does_not(config):
    base = BASES["SEQ_CLS"]()
    wrapped = adapted(base, "SEQ_CLS", config, num_virtual_tokens=4)
    names = ["base_model.bert.embeddings", "base_model.bert.encoder.layer.2"]
    chosen = {"model2_layers": names}
    short = compare(base, wrapped, batches(), **chosen)
    long = compare(base, wrapped, batches(4), **chosen)
    assert_right(short, base, wrapped)
    torch.testing.assert_close(short.matrix, long.matrix, rtol=0, atol=FLOAT32)
    own = compare(
        base,
        wrapped,
        batches(4),
        **chosen,
        forward=lambda model, batch: model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ),
    )
    torch.testing.assert_close(own.matrix, long.matrix, rtol=0, atol=FLOAT32)
    assert not any(module._forward_pre_hooks for module in wrapped.modules())


def test_an_adapted_encoder_decoder_gets_its_decoder_inputs_like_its_base():
    base = hf.T5ForConditionalGeneration(t5_config())
    wrapped = adapted(base, target_modules=["q", "v"])
    labelled = [words() | {"labels": torch.randint(5, 100, (8, 6))}]
    result = compare(base, wrapped, labelled)
    assert f"{PREFIX}decoder.block.2" in result.layers2
    assert result.diagonal()[0] == pytest.approx(1, abs=FLOAT32)


FEW_BLOCKS = {
    "MLP": (zoo.mlp, ["0", "2"], zoo.batches_of),
    "BERT": (
        lambda: hf.BertModel(hf.BertConfig(**SMALL | {"num_hidden_layers": 1})),
        ["query", "value"],
        batches,
    ),
}


@pytest.mark.parametrize("name", FEW_BLOCKS)
@pytest.mark.filterwarnings("ignore:Peft:UserWarning", "ignore:Bert:UserWarning")
def test_where_no_block_repeats_auto_takes_adapted_layers_and_not_their_parts(name):
    make, targets, data = FEW_BLOCKS[name]
    base = make()
    wrapped = adapted(base, target_modules=targets)
    result = compare(base, wrapped, data())
    assert result.layers2 == tuple(PREFIX + name for name in result.layers1)
    assert any(layer.endswith(targets[0]) for layer in result.layers2)
