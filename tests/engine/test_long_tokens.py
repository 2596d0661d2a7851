"""Tokens that drown the others, and text length, in whole comparisons."""

import pytest
import torch
import transformers as hf
from support.configs import t5_config
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


def sunk(batches, *places):
    """The same texts with token 1 at other places than the first."""
    for number, batch in enumerate(batches):
        made = torch.Generator().manual_seed(number)
        ids, mask = batch["input_ids"].clone(), batch["attention_mask"]
        ids[ids == 1] = 2
        lengths = mask.sum(1)
        for place in places:
            at = lengths + place if place != "any" and place < 0 else place
            if place == "any":
                at = (torch.rand(len(ids), generator=made) * lengths).long()
            ids[torch.arange(len(ids)), at] = 1
        yield {"input_ids": ids, "attention_mask": mask}


SIZES = {"vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 4}
OTHERS = {
    "mamba": lambda: hf.MambaModel(hf.MambaConfig(**SIZES, state_size=8)),
    "t5": lambda: hf.T5EncoderModel(
        hf.T5Config(vocab_size=1000, d_model=64, d_kv=16, d_ff=128, num_layers=4)
    ),
    "neox": lambda: hf.GPTNeoXModel(
        hf.GPTNeoXConfig(**SIZES, num_attention_heads=4, intermediate_size=128)
    ),
}


def other(kind, seed):
    torch.manual_seed(seed)
    model = OTHERS[kind]().eval()
    with torch.no_grad():
        model.get_input_embeddings().weight[1] *= 100
    return model


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_unrelated_models_with_a_long_first_token_are_dissimilar(left):
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


@pytest.mark.parametrize("kind", list(OTHERS))
def test_other_architectures_are_dissimilar_too(kind):
    result = compare(other(kind, 0), other(kind, 1), list(texts(2)))
    assert result.matrix.max() < 0.25
    assert len(noted(result, "the first token is up to")) == 2


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ((-1,), "the last token is"),
        ((0, -1), "tokens 1, 1 from the end are"),
        ((0, 1, 3), "tokens 1, 2, 4 are"),
        ((-2,), "token 2 from the end is"),
    ],
)
def test_tokens_at_both_ends_may_drown_the_others(places, words):
    batches = list(sunk(texts(2), *places))
    result = compare(llama(0), llama(1), batches)
    assert result.matrix[0].max() < 0.25  # attention tells later layers the length
    left_out = result.provenance["tokens_left_out"]["model2"]
    assert left_out == {layer: list(places) for layer in LAYERS}
    assert len(noted(result, words)) == 2
    told = compare(llama(0), batches=batches, pool="last", model1_layers=LAYERS[:1])
    assert bool(noted(told, "outweigh")) == (-1 in places)


def test_tokens_at_any_place_that_drown_the_others_are_named():
    result = compare(llama(0), llama(1), list(sunk(texts(2), "any")))
    notes = noted(result, "single tokens, at other places in each text", "'layers.0'")
    assert len(notes) == 2
    assert all(map(is_grave, notes))


def test_a_layer_s_own_tensor_tells_which_tokens_are_long():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(16, 16)

        def forward(self, x):
            return x, x + self.linear(x) * (1 + 99 * (torch.arange(9) == 0)[:, None])

    class Blocks(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(100, 16)
            self.blocks = nn.ModuleList(Block() for _ in range(2))

        def forward(self, input_ids, attention_mask):  # noqa: ARG002
            x = self.embedding(input_ids)
            for block in self.blocks:
                x = block(x)[1]
            return x

    result = compare(Blocks(), Blocks(), padded_words(2), model1_layers=["blocks.*"])
    assert result.provenance["tokens_left_out"]["model1"]["blocks.0"] == [0]


def test_random_positions_make_a_mean_mostly_text_length():
    def bert(seed):
        torch.manual_seed(seed)
        return hf.BertModel(
            hf.BertConfig(**SIZES, num_attention_heads=4, intermediate_size=128)
        ).eval()

    layers = ["embeddings", "encoder.layer.0"]
    options = {"model1_layers": layers, "model2_layers": layers}
    result = compare(bert(0), bert(1), list(texts(2)), **options)
    assert result.matrix.min() > 0.4  # of two unrelated models
    assert len(noted(result, "mostly text length")) == 2
    made = torch.Generator().manual_seed(0)
    whole = [torch.randint(2, 1000, (32, 47), generator=made) for _ in range(2)]
    batches = [{"input_ids": x, "attention_mask": torch.ones_like(x)} for x in whole]
    result = compare(bert(0), bert(1), batches, **options)
    assert result.matrix.max() < 0.25
    assert result.notes == []


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
def test_a_mean_of_all_tokens_is_noted_as_text_length(left):
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
