"""Tensors of an output that are chosen by name: "layer:entry"."""

from collections import namedtuple

import pytest
import torch
import transformers as hf
from support.reference import compare, minibatch_matrix
from support.texts import LENGTHS, padded, words
from support.trees import probed
from torch import nn

from cka_notebook import CKAExplorer, CKAResult
from cka_notebook._models.choice import choose
from cka_notebook._models.layer_tree import LayerTree
from cka_notebook._widget.saved_tree import columns_of, rows_of

Pair = namedtuple("Pair", "first second")


class Sentences(nn.Module):
    """Returns tokens, a vector of the sentence, and what cannot be compared."""

    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(6, 8)
        self.rnn = nn.LSTM(8, 5, batch_first=True)

    def forward(self, x):
        tokens = self.lift(x)
        rows, (hidden, _) = self.rnn(tokens)
        return {
            "tokens": tokens,
            "sentence_embedding": torch.cat([rows.mean(1), hidden[0]], 1),
            "places": torch.arange(len(x)),
            "pair": Pair(rows, tokens.tanh()),
        }


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Sentences()
        self.head = nn.Linear(10, 2)

    def forward(self, x):
        return self.head(self.encoder(x)["sentence_embedding"])


LAYERS = [
    "encoder:sentence_embedding",
    "encoder",
    "encoder:tokens",
    "encoder:pair.second",
    "encoder.rnn:1.0",
    "encoder.rnn",
    "head",
]


def sentences(count=3):
    return [torch.randn(12, 5, 6) for _ in range(count)]


def references(model, batches):
    """What each of `LAYERS` returns, by batch."""
    found = {name: [] for name in LAYERS}
    with torch.no_grad():
        for x in batches:
            out = model.encoder(x)
            rows, (hidden, _) = model.encoder.rnn(out["tokens"])
            values = [out["sentence_embedding"], out["tokens"], out["tokens"]]
            values += [out["pair"].second, hidden[0], rows, model(x)]
            for name, value in zip(LAYERS, values, strict=True):
                found[name].append(value)
    return found


def tree():
    return probed(Model(), sentences()[0])


def test_several_entries_of_one_layer_are_right_beside_the_whole_layer():
    one, other, batches = Model(), Model(), sentences()
    result = compare(
        one, other, batches, model1_layers=LAYERS, model2_layers=LAYERS[::-1]
    )
    assert list(result.layers1) == LAYERS
    expected = minibatch_matrix(references(one, batches), references(other, batches))
    torch.testing.assert_close(result.matrix, expected.flip(1), rtol=0, atol=1e-6)


def test_an_entry_survives_a_file_and_a_checkpoint(tmp_path):
    model, batches = Model(), sentences()
    options = {"model1_layers": LAYERS, "checkpoint": tmp_path / "sums"}
    first = compare(model, batches=batches, max_batches=2, **options)
    whole = compare(model, batches=batches, **options)
    assert first.batches < whole.batches == 3
    whole.save(tmp_path / "result")
    loaded = CKAResult.load(tmp_path / "result")
    assert list(loaded.layers1) == LAYERS
    assert torch.equal(loaded.matrix, whole.matrix)
    expected = minibatch_matrix(*[references(model, batches)] * 2)
    torch.testing.assert_close(whole.matrix, expected, rtol=0, atol=1e-6)


def test_the_page_lists_chosen_entries_below_their_layers():
    explorer = CKAExplorer(
        Model(), None, sentences(), model1_layers=LAYERS, autostart=False
    )
    explorer.run(block=True)
    assert explorer.layers1 == LAYERS
    columns = explorer._trees["model1"]
    assert columns["name"] == [
        "Model",
        "encoder",
        "encoder:sentence_embedding",
        "encoder:tokens",
        "encoder:pair.second",
        "encoder.lift",
        "encoder.rnn",
        "encoder.rnn:1.0",
        "head",
    ]
    assert columns["depth"] == [0, 1, 2, 2, 2, 2, 2, 3, 1]
    assert columns["type"][2] == "entry"
    assert columns["shape"][2] == [None, 10]
    assert columns["reason"][2] is None
    explorer.focus = ("encoder:tokens", "head")
    assert '"encoder.rnn:1.0"' in explorer.code
    explorer.close()


def test_entries_are_added_after_a_run():
    model, batches = Model(), sentences()
    explorer = CKAExplorer(
        model, None, batches, model1_layers=["head"], autostart=False
    )
    explorer.run(block=True)
    assert "encoder:tokens" not in explorer._trees["model1"]["name"]
    explorer.layers1 = ["head", "encoder:tokens"]
    explorer.run(block=True)
    assert "encoder:tokens" in explorer._trees["model1"]["name"]
    acts = references(model, batches)
    expected = minibatch_matrix(
        {name: acts[name] for name in ("head", "encoder:tokens")},
        {"head": acts["head"]},
    )
    matrix = explorer.result.matrix
    torch.testing.assert_close(matrix, expected, rtol=0, atol=1e-6)
    explorer.close()


def test_a_saved_result_keeps_its_entries_below_their_layers():
    columns = columns_of("Net", ["a.rnn:1.0", "head", "a.rnn:0", "a.rnn"])
    assert columns["name"] == ["", "a", "a.rnn", "a.rnn:1.0", "a.rnn:0", "head"]
    assert columns["depth"] == [0, 1, 2, 3, 3, 1]
    rows = rows_of("Net", LAYERS, "layers1")
    assert choose(rows, ["encoder:tokens", "encoder"]) == ["encoder:tokens", "encoder"]
    with pytest.raises(ValueError, match="contains 'encoder:pooled'"):
        choose(rows, "encoder:pooled")


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("encoder:tokens", ["encoder:tokens"]),
        ("module.encoder:tokens", ["encoder:tokens"]),
        ("enc*:[st]*", ["encoder:tokens", "encoder:sentence_embedding"]),
        ("encoder.rnn:1.?", ["encoder.rnn:1.0", "encoder.rnn:1.1"]),
        (["head", "encoder.rnn:1.1"], ["head", "encoder.rnn:1.1"]),
    ],
)
def test_entries_are_chosen_by_name_and_glob(choice, names):
    found = tree()
    assert found.choose(choice) == names
    assert choose(found.rows().without_modules(), choice) == names
    assert [layer.name for layer in found.find(names)] == names


def test_all_other_choices_find_only_layers():
    found = tree()
    layers = ["encoder.lift", "encoder.rnn", "encoder", "head"]
    assert found.choose("all") == found.choose("*") == layers
    assert found.choose("enc*") == layers[:3]
    assert found.choose(nn.LSTM) == ["encoder.rnn"]


@pytest.mark.parametrize("use", [LayerTree.choose, LayerTree.check])
def test_an_unknown_entry_is_an_error_that_lists_the_known_ones(use):
    with pytest.raises(ValueError, match="no such layers") as caught:
        use(tree(), ["encoder:pooled", "head:0", "encodr:tokens"])
    text = str(caught.value)
    assert (
        "The output of 'encoder' has the entries 'tokens', 'sentence_embedding', "
        "'places', 'pair.first', 'pair.second'." in text
    )
    assert "The output of 'head' is one tensor." in text


def test_an_entry_that_cannot_be_compared_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"'encoder:places', .* integer output"):
        tree().choose("encoder:places")
    with pytest.raises(ValueError, match=r"'encoder:places', .* integer output"):
        compare(Model(), batches=sentences(), model1_layers=["encoder:places"])


def test_before_a_probe_an_entry_may_be_any_of_a_module():
    found = LayerTree(Model())
    assert found.choose("encoder:what") == ["encoder:what"]
    with pytest.raises(ValueError, match="'encodr:what'"):
        found.check("encodr:what")


class Colons(nn.Module):
    """A module with a colon in its name, and an entry that reads like it."""

    def __init__(self):
        super().__init__()
        self.a = nn.LSTM(6, 4, batch_first=True)
        self.add_module("a:0", nn.LSTM(4, 3, batch_first=True))

    def forward(self, x):
        return self._modules["a:0"](self.a(x)[0])[0]


def test_a_colon_in_the_name_of_a_module_means_the_module():
    found = probed(Colons(), torch.randn(12, 5, 6))
    assert found.choose(["a:0", "a:0:0", "a:1.0"]) == ["a:0", "a:0:0", "a:1.0"]
    assert [x.module for x in found.find(["a:0", "a:0:0", "a:1.0"])] == [
        found.model._modules["a:0"],
        found.model._modules["a:0"],
        found.model.a,
    ]
    assert LayerTree(Colons()).choose("a:0") == ["a:0"]


def test_an_entry_of_a_module_called_several_times_is_one_per_call():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(6, 6, batch_first=True)

        def forward(self, x):
            return self.rnn(self.rnn(x)[0])[0]

    found = probed(Twice(), torch.randn(12, 5, 6))
    assert found.choose("rnn:1") == ["rnn#0:1", "rnn#1:1"]
    assert found.choose("rnn#1:1") == ["rnn#1:1"]
    assert [x.call for x in found.find(["rnn#1:1"])] == [1]


def test_the_output_of_the_whole_model_has_entries():
    result = compare(
        Sentences(), batches=sentences(), model1_layers=[":sentence_embedding"]
    )
    assert result.layers1 == ("Sentences:sentence_embedding",)


class Sometimes(nn.Module):
    """Returns one entry more for most sizes of a batch."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(10, 4)

    def forward(self, x):
        out = {"first": self.linear(x)}
        return out if len(x) == 10 else out | {"second": x.tanh()}


def test_an_entry_that_is_missing_later_is_undefined_and_not_replaced():
    batches = [torch.randn(n, 10) for n in (12, 12, 10)]
    result = compare(
        nn.Sequential(Sometimes()), batches=batches, model1_layers=["0:second", "0"]
    )
    reason = "no entry 'second' in the output in batch 3"
    assert result.undefined1 == {"0:second": reason}
    assert result.matrix[0].isnan().all()
    assert result.matrix[1, 1] == 1


def test_padding_and_long_tokens_are_left_out_of_entries_too():
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3}
    model = hf.LlamaModel(
        hf.LlamaConfig(vocab_size=100, num_attention_heads=2, **sizes)
    )
    with torch.no_grad():
        model.embed_tokens.weight[1] *= 100
    batches = [padded(words(seed=seed), LENGTHS) for seed in range(2)]
    for batch in batches:
        batch["input_ids"][:, 0] = 1
    layers = ["layers.1", "LlamaModel:hidden_states.2"]
    result = compare(
        model,
        batches=batches,
        model1_layers=layers,
        forward=lambda model, batch: model(**batch, output_hidden_states=True),
    )
    facts = result.provenance
    assert facts["tokens_left_out"]["model1"] == {x: [0] for x in layers}
    assert facts["padding_left_out"]["model1"] == layers
    assert (result.matrix - 1).abs().max() < 1e-6
