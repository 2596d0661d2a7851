"""Parameters in a layer tree, checked against torchinfo."""

import pytest
import torch
import torchinfo
import transformers as hf
from support import zoo
from support.configs import SMALL, gpt2_config
from torch import nn

from cka_notebook._capture.probe import probe
from cka_notebook._models.layer_tree import LayerTree
from cka_notebook._models.nodes import nodes_of
from cka_notebook._models.parameters import parameters_of

EXAMPLES = 4


class SharedWeights(nn.Module):
    """Two layers of one weight, a frozen part, and a parameter next to its children."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))
        self.there = nn.Linear(8, 8, bias=False)
        self.back = nn.Linear(8, 8)
        self.back.weight = self.there.weight
        self.frozen = nn.Sequential(nn.Linear(8, 6), nn.LayerNorm(6))
        self.frozen[0].requires_grad_(requires_grad=False)

    def forward(self, x):
        return self.frozen(self.back(self.there(x).relu()) * self.scale)


def resnet():
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 2]}
    model = hf.ResNetModel(hf.ResNetConfig(**sizes, layer_type="basic"))
    return model, {"pixel_values": torch.randn(EXAMPLES, 3, 32, 32)}


def vit():
    sizes = {k: v for k, v in SMALL.items() if k != "vocab_size"}
    model = hf.ViTModel(hf.ViTConfig(**sizes, image_size=32, patch_size=8))
    return model, {"pixel_values": torch.randn(EXAMPLES, 3, 32, 32)}


def tokens():
    return {"input_ids": torch.randint(0, 100, (EXAMPLES, 7))}


def bert():
    return hf.BertForMaskedLM(hf.BertConfig(**SMALL)), tokens()


def gpt2():
    config = gpt2_config(layers=3)
    config.use_cache = False  # torchinfo cannot measure a cache.
    return hf.GPT2LMHeadModel(config), tokens()


def shared():
    return SharedWeights(), {"x": torch.randn(EXAMPLES, 8)}


def probed(model, batch):
    tree = LayerTree(model)

    def run(rows):
        rows = range(EXAMPLES) if rows is None else rows
        with torch.no_grad():
            model.eval()(**{key: value[list(rows)] for key, value in batch.items()})
        return len(rows)

    probe(tree, run, EXAMPLES)
    return tree


def rows_of(tree):
    columns = tree.columns()
    facts = columns["facts"]
    return {
        name: {
            "params": columns["params"][row],
            "shape": columns["shape"][row],
            **{key: facts[key][at] for key in facts if key != "of_row"},
        }
        for row, (name, at) in enumerate(
            zip(columns["name"], facts["of_row"], strict=True)
        )
    }


@pytest.fixture(params=[resnet, vit, bert, gpt2, shared], ids=lambda net: net.__name__)
def seen(request):
    """Each node of a net with its row, and the entry of torchinfo for its module."""
    model, batch = request.param()
    tree = probed(model, batch)
    rows = rows_of(tree)
    summary = torchinfo.summary(model, input_data=batch, depth=99, verbose=0)
    infos = {id(info.module): info for info in summary.summary_list}
    # Modules that are never called may have no row there.
    assert all(id(n.module) in infos for n in tree.nodes if n.outputs)
    return [(n, rows[n.title], infos.get(id(n.module))) for n in tree.nodes]


def test_total_and_trainable_parameters_match_torchinfo(seen):
    for node, row, info in seen:
        if info is not None:
            counted = info.num_params, info.trainable_params
            assert (row["params"], row["trainable"]) == counted, node.name


def test_own_parameters_are_torchinfos_total_without_the_children(seen):
    model = seen[0][0].module
    each = list(model.named_parameters(remove_duplicate=False))
    # torchinfo takes off the total of each child, a shared weight as often as it is
    # held, and so gets below 0: -1600 for this BERT. There the definition is compared.
    is_shared = len(each) > len(list(model.parameters()))
    for node, row, info in seen:
        own = sum(p.numel() for p in node.module.parameters(recurse=False))
        assert row["own"] == own, node.name
        if info is not None and not is_shared:
            assert own == info.leftover_params(), node.name


def test_output_shapes_are_torchinfos(seen):
    compared = 0
    # The root may return a dict: torchinfo takes its last value, often pooled, we the
    # one that the next layer would see.
    for node, row, info in seen[1:]:
        if row["shape"]:
            shape = [EXAMPLES if size is None else size for size in row["shape"]]
            assert shape == info.output_size, node.name
            compared += 1
    assert compared >= len(seen) / 2


def test_bytes_per_example_match_torchinfos_bytes_per_batch(seen):
    for node, row, info in seen[1:]:
        if row["nbytes"]:
            assert row["nbytes"] * EXAMPLES == info.output_bytes, node.name
            assert row["output"] == "float32 on cpu"


def test_the_sum_of_torchinfo_counts_shared_weights_twice_and_ours_does_not():
    model, batch = bert()
    summary = torchinfo.summary(model, input_data=batch, depth=99, verbose=0)
    tied = model.get_input_embeddings().weight.numel()
    total = rows_of(probed(model, batch))[type(model).__name__]["params"]
    assert total == sum(p.numel() for p in model.parameters())
    assert summary.total_params == total + tied


def totals(model):
    return [weights.total for weights in parameters_of(nodes_of(model))]


def kinds(model):
    return [weights.kinds for weights in parameters_of(nodes_of(model))]


def test_parameters_are_counted_below_and_once():
    model = zoo.Tied()
    total = sum(p.numel() for p in model.parameters())
    assert totals(model) == [total, 72, 72, total - 72]


def test_a_parameter_shared_by_two_modules_counts_once_above_them():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    assert totals(model) == [16, 16, 16]


def test_another_name_of_a_module_counts_its_children_too():
    block = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).half())
    weights = parameters_of(nodes_of(nn.ModuleDict({"one": block, "two": block})))
    assert weights[1] == weights[-1] == weights[0]
    assert weights[-1].own == 0


def test_types_and_devices_of_all_children_are_listed_once_each():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, device="meta").half())
    assert kinds(model) == [
        "float16 on meta, float32 on cpu",
        "float32 on cpu",
        "float16 on meta",
    ]


class Params4bit(nn.Parameter):
    """Like bitsandbytes: two values per byte once it is quantised."""

    bnb_quantized = True


def test_a_packed_parameter_counts_the_values_it_represents():
    # torchinfo counts the bytes, which are half as many.
    layer = nn.Linear(8, 6, bias=False)
    packed = torch.zeros(24, 1, dtype=torch.uint8)
    layer.weight = Params4bit(packed, requires_grad=False)
    (weights,) = parameters_of(nodes_of(layer))
    assert weights == (48, 48, 0, "4-bit on cpu")
    layer.weight.bnb_quantized = False
    assert totals(layer) == [24]


def test_int8_is_flagged_whether_it_is_a_parameter_or_packed_by_torch():
    layer = nn.Linear(4, 4, bias=False)
    numbers = torch.zeros(4, 4, dtype=torch.int8)
    layer.weight = nn.Parameter(numbers, requires_grad=False)
    assert kinds(layer) == ["int8 on cpu"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_t")
def test_what_torch_has_packed_is_flagged_up_to_the_root():
    packed = zoo.quantised(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)))
    assert kinds(packed)[:2] == ["float32 on cpu, int8 on cpu", "int8 on cpu"]


def test_lazy_parameters_count_nothing():
    assert totals(nn.Sequential(nn.LazyLinear(3))) == [0, 0]


def test_before_the_probe_a_tree_knows_weights_and_no_calls():
    row = rows_of(LayerTree(SharedWeights()))["back"]
    assert (row["own"], row["weights"]) == (72, "float32 on cpu")
    assert (row["calls"], row["output"], row["nbytes"]) == (None, "", 0)


def test_calls_are_counted():
    model = zoo.SharedActivation()
    tree = LayerTree(model)

    examples = torch.randn(9, 10)

    def run(rows):
        model.eval()(examples if rows is None else examples[rows])
        return 9 if rows is None else len(rows)

    probe(tree, run, 9)
    rows = rows_of(tree)
    assert [rows[name]["calls"] for name in ("first", "act", "act#1")] == [1, 3, 1]
    assert rows["act#1"]["nbytes"] == 4 * 8


def test_bytes_of_an_example_in_windows_are_those_of_all_its_windows():
    rows = rows_of(probed(zoo.Windows(), {"x": torch.randn(EXAMPLES, 20)}))
    assert rows["local"]["nbytes"] == 4 * 7 * 4


def test_facts_of_repeated_blocks_are_sent_once():
    blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4)) for _ in range(300))
    facts = LayerTree(blocks).columns()["facts"]
    assert len(facts["of_row"]) == 601
    assert len(facts["own"]) == 3
