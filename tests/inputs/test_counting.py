"""How many examples a batch has, where its tensors differ in length."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support import containers, zoo
from support.callers import caller_of
from support.reference import FLOAT32, assert_right, compare, minibatch_cka
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from cka_notebook import CKA, CKAExplorer

ALL = {"model1_layers": "all", "model2_layers": "all"}


class Graphs(nn.Module):
    """One row a graph in the end, from rows of nodes."""

    def __init__(self, keep_nodes=False):
        super().__init__()
        self.nodes, self.hidden = nn.Linear(5, 16), nn.Linear(16, 8)
        self.head, self.keep_nodes = nn.Linear(8, 3), keep_nodes

    def forward(self, edges, x, graph):
        x = self.nodes(x).index_add(0, edges[1], self.nodes(x)[edges[0]])
        pooled = x.new_zeros(int(graph.max()) + 1, 16).index_add(0, graph, x)
        out = self.head(self.hidden(pooled))
        return (out, x) if self.keep_nodes else out


def graphs(count=12, seed=0):
    made = torch.Generator().manual_seed(seed)
    sizes = torch.randint(3, 7, (count,), generator=made)
    nodes = int(sizes.sum())
    return {
        "edges": torch.randint(0, nodes, (2, 3 * nodes), generator=made),
        "x": torch.randn(nodes, 5, generator=made),
        "graph": torch.arange(count).repeat_interleave(sizes),
    }


def by_name(model, batch):
    return model(**batch)


GRAPHS = [graphs(12, 0), graphs(12, 1), graphs(9, 2)]


@pytest.mark.parametrize("turn", [dict, lambda x: dict(reversed(x.items()))])
@pytest.mark.parametrize("forward", [None, by_name])
def test_graphs_are_counted_by_the_output_and_by_their_numbers(turn, forward):
    model1, model2 = Graphs(), Graphs()
    batches = [turn(batch) for batch in GRAPHS]
    result = compare(model1, model2, batches, forward=forward)
    assert result.examples == 33
    assert {"hidden", "head"} <= set(result.layers1)
    assert_right(result, model1, model2, batches, call=by_name)


def test_where_graphs_begin_counts_them_too():
    class Pointers(Graphs):
        def forward(self, edges, x, starts):
            graph = torch.arange(len(starts) - 1).repeat_interleave(starts.diff())
            return super().forward(edges, x, graph)

    batches = []
    for batch in GRAPHS:
        counts = batch.pop("graph").bincount()
        starts = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
        batches.append({**batch, "starts": starts})
        batch["graph"] = torch.arange(len(counts)).repeat_interleave(counts)
    assert compare(Graphs(), Pointers(), GRAPHS, loader2=batches).examples == 33


def test_an_attribute_of_the_batch_may_count_its_examples():
    class Batch(containers.DictLike):
        num_graphs = 12

    batch = Batch(**graphs(12))
    batch._items["graph"] = batch._items["graph"].float()  # tells nothing

    class Floats(Graphs):
        def forward(self, edges, x, graph):
            return super().forward(edges, x, graph.long())

    assert caller_of(Floats()).prepare(batch, 1).examples == 12


def test_two_readings_of_the_output_are_refused_with_both_and_the_option():
    with pytest.raises(ValueError, match="agree on the number of examples") as caught:
        compare(Graphs(keep_nodes=True), batches=GRAPHS)
    text = str(caught.value)
    assert "model1 (Graphs), got 12 (graph (its maximum + 1)) or" in text
    assert "examples=lambda batch:" in text


@pytest.mark.parametrize(
    "examples",
    [
        lambda batch: int(batch["graph"].max()) + 1,
        lambda batch: np.int64(batch["graph"].max() + 1),
        lambda batch: batch["graph"].max() + 1,
    ],
)
@pytest.mark.parametrize("as_pair", [True, False])
def test_examples_says_how_many_there_are(examples, as_pair):
    model1, model2 = Graphs(keep_nodes=True), Graphs()
    given = (examples, None) if as_pair else examples
    result = compare(model1, model2, GRAPHS, examples=given)
    assert result.examples == 33
    assert_right(result, model1, model2, GRAPHS, call=by_name)


def test_examples_must_be_a_function_that_returns_a_number():
    with pytest.raises(TypeError, match="`examples` to be a function of a batch or"):
        CKA(zoo.mlp(), examples=8)
    with pytest.raises(
        TypeError, match=r"`examples` to return the number .* a str for"
    ):
        compare(zoo.mlp(), batches=zoo.batches_of(1), examples=lambda _: "8")


def test_an_explorer_takes_examples():
    explorer = CKAExplorer(
        Graphs(True), Graphs(), GRAPHS, autostart=False,
        examples=lambda batch: int(batch["graph"].max()) + 1,
    )  # fmt: skip
    explorer.run(block=True)
    assert explorer.result.examples == 33
    explorer.close()


def test_offsets_of_an_embedding_bag_count_its_examples():
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.bag, self.head = nn.EmbeddingBag(30, 8), nn.Linear(8, 3)

        def forward(self, words, offsets):
            return self.head(self.bag(words, offsets))

    model1, model2 = Bag(), Bag()
    batches = [
        (torch.randint(0, 30, (n * 5,)), torch.arange(n) * 5) for n in (16, 16, 7)
    ]
    result = compare(model1, model2, batches)
    assert result.examples == 39
    assert_right(
        result, model1, model2, batches, call=lambda model, batch: model(*batch)
    )


@pytest.mark.parametrize("step", [torch.tensor([5]), torch.tensor(5)])
def test_a_time_step_for_all_examples_is_no_example(step):
    class Denoiser(nn.Module):
        def __init__(self):
            super().__init__()
            self.time, self.net = nn.Linear(1, 10), nn.Linear(10, 6)

        def forward(self, t, x):
            return self.net(x + self.time(t.reshape(1).float()))

    batches = [{"t": step, "x": x} for x in zoo.batches_of(3)]
    assert compare(Denoiser(), Denoiser(), batches).examples == 48
    listed = [(step, x) for x in zoo.batches_of(3)]
    assert compare(Denoiser(), Denoiser(), listed).examples == 48


class Patches(nn.Module):
    """Several rows an example in one part, one in the other."""

    def __init__(self, strict):
        super().__init__()
        self.vision, self.words = nn.Linear(6, 8), nn.Embedding(20, 8)
        self.head, self.strict = nn.Linear(8, 4), strict

    def forward(self, ids, patches):
        x = self.vision(patches)
        if self.strict:
            assert len(x) == 4 * len(ids)
        x = x.reshape(-1, 4, 8)[: len(ids)].tanh()
        return self.head(x.sum(1) + self.words(ids).mean(1))


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("first", ["ids", "patches"])
def test_patches_of_all_images_are_no_examples_whatever_comes_first(strict, first):
    model1, model2 = Patches(strict), Patches(strict)
    batches = []
    for _ in range(3):
        parts = {
            "ids": torch.randint(0, 20, (8, 3)),
            "patches": torch.randn(32, 6),
        }
        batches.append({first: parts[first], **parts})
    result = compare(model1, model2, batches)
    assert result.examples == 24
    assert set(result.layers1) == {"vision", "words", "head"}
    if not strict:  # where the model runs on whole batches only, so would the reference
        names = {"model1_layers": ["words", "head"], "model2_layers": ["words", "head"]}
        result = compare(model1, model2, batches, **names)
        assert_right(result, model1, model2, batches, call=by_name)


def test_patches_of_an_image_are_features_of_its_example():
    model = Patches(strict=True)
    batches = [
        {"ids": torch.randint(0, 20, (8, 3)), "patches": torch.randn(32, 6)}
        for _ in range(3)
    ]
    layers = {"model1_layers": ["vision"], "model2_layers": ["vision"]}
    result = compare(model, Patches(strict=True), batches, **layers)
    rows = [model.vision(x["patches"]).detach().reshape(8, -1) for x in batches]
    same = compare(nn.Sequential(nn.Identity()), batches=rows)
    assert result.examples == same.examples == 24


def test_labels_tell_what_a_single_input_does_not():
    class OfPatches(nn.Module):
        def __init__(self):
            super().__init__()
            self.vision, self.head = nn.Linear(6, 8), nn.Linear(32, 4)

        def forward(self, patches):
            return self.head(self.vision(patches).tanh().reshape(-1, 32))

    batches = [(torch.randn(32, 6), torch.arange(8)) for _ in range(3)]
    result = compare(OfPatches(), OfPatches(), batches)
    assert result.examples == 24
    assert result.layers1 == ("vision", "head")
    models = OfPatches(), OfPatches()
    result = compare(*models, batches)
    vision = [
        [model.vision(x).detach().reshape(8, -1) for x, _ in batches]
        for model in models
    ]
    same = minibatch_cka(*vision)
    torch.testing.assert_close(result.matrix[0, 0], same, rtol=0, atol=FLOAT32)


@pytest.mark.parametrize("width", [8, 5])
def test_features_of_as_many_as_there_are_examples_are_never_taken_for_them(width):
    class OfNodes(nn.Module):
        """Runs on whole batches alone."""

        def __init__(self):
            super().__init__()
            self.nodes, self.heads = nn.Linear(6, width), nn.Linear(6, 8 * 3)
            self.head = nn.Linear(width, 4)

        def forward(self, x, edges, batch):
            self.heads(x)
            sums = torch.zeros(8, width).index_add(0, batch, self.nodes(x)[edges[0]])
            return self.head(sums)

    batches = [
        (torch.randn(30, 6), torch.randint(30, (2, 30)), torch.arange(30) % 8)
        for _ in range(3)
    ]
    models = OfNodes(), OfNodes()
    result = compare(*models, batches, **ALL, examples=lambda _: 8)
    assert result.layers1 == ("head",)
    notes = " ".join(result.notes)
    assert "'nodes'" in notes
    assert "'heads'" in notes


def test_labels_of_another_length_do_not_matter_where_the_output_has_that_of_inputs():
    boxes = [(x, torch.zeros(31, 6)) for x in zoo.batches_of(3)]
    assert compare(zoo.mlp(), batches=boxes).examples == 48

    def loss(model, batch):
        return model(batch[0]).sum()

    assert compare(zoo.mlp(), batches=boxes, forward=loss).examples == 48


def test_a_plain_list_of_images_is_one_input():
    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(3, 4, 3)

        def forward(self, images, targets=None):  # noqa: ARG002
            return self.body(torch.stack([image[:, :8, :8] for image in images]))

    batches = [[torch.randn(3, 8 + i, 9) for i in range(8)] for _ in range(3)]
    result = compare(Detector(), Detector(), batches)
    assert result.examples == 24
    assert compare(Detector(), batches=[(b, {}) for b in batches]).examples == 24


def test_crops_of_many_sizes_are_counted_once():
    class Crops(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(3, 4, 3)

        def forward(self, crops):
            return torch.cat([self.body(x).mean((2, 3)) for x in crops], 1)

    sizes = (12, 12, 8, 8, 8)
    batches = [
        ([torch.randn(6, 3, size, size) for size in sizes], torch.arange(6))
        for _ in range(3)
    ]
    result = compare(Crops(), Crops(), batches)
    assert result.examples == 18


def test_sizes_that_agree_by_chance_at_first_are_settled_later():
    batches = [graphs(12, seed) for seed in range(3)]
    first = {
        "edges": torch.zeros(2, 12, dtype=torch.long),
        "x": torch.randn(12, 5),
        "graph": torch.arange(12),
    }
    result = compare(Graphs(), Graphs(), [first, *batches])
    assert result.examples == 48


def test_the_output_is_looked_at_in_the_first_batch_only():
    calls = []

    class Counted(Graphs):
        def forward(self, edges, x, graph):
            calls.append(len(x))
            return super().forward(edges, x, graph)

    model = Counted()
    compare(model, batches=GRAPHS)
    small, large = (len(calls), calls.count(len(GRAPHS[2]["x"])))
    assert large == 1
    assert small <= 4 + len(GRAPHS)


def test_an_object_without_keys_is_counted_by_its_attributes_or_length():
    batches = [SimpleNamespace(x=x) for x in zoo.batches_of(3)]
    result = compare(zoo.mlp(), batches=batches, forward=lambda m, b: m(b.x))
    assert result.examples == 48


def test_a_packed_sequence_is_one_input_of_as_many_examples_as_texts():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.GRU(6, 8, batch_first=True), nn.Linear(8, 3)

        def forward(self, packed):
            return self.head(self.rnn(packed)[1][0])

    lengths = torch.tensor([5, 5, 4, 4, 4, 3, 2, 1])
    batches = [
        pack_padded_sequence(torch.randn(8, 5, 6), lengths, batch_first=True)
        for _ in range(3)
    ]
    model1, model2 = Last(), Last()
    head = {"model1_layers": ["head"], "model2_layers": ["head"]}
    result = compare(model1, model2, batches, **head)
    assert result.examples == 24
    assert_right(result, model1, model2, batches)
    with_labels = [(batch, torch.arange(8)) for batch in batches]
    assert compare(model1, model2, with_labels, **head).examples == 24


@pytest.mark.parametrize("count", [0, -1, True])
def test_examples_must_return_a_number_of_examples(count):
    with pytest.raises(ValueError, match=rf"`examples` to return .*, got {count} for"):
        compare(zoo.mlp(), batches=zoo.batches_of(1), examples=lambda _: count)


def test_examples_may_take_the_batch_apart():
    batches = [{"input": x, "meta": ["a"]} for x in zoo.batches_of(2)]
    result = compare(
        zoo.mlp(), batches=batches, examples=lambda b: b["meta"].clear() or 16
    )
    assert result.examples == 32
    assert all(batch["meta"] == ["a"] for batch in batches)


class Pooled(nn.Module):
    """Sums up the nodes of each graph."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(5, 3)

    def forward(self, x, graph):
        count = int(graph.max()) + 1
        return self.head(x.new_zeros(count, 5).index_add(0, graph, x))


@pytest.mark.parametrize("kind", [tuple, list, dict])
def test_graphs_are_counted_where_all_inputs_have_a_row_for_each_node(kind):
    batches = []
    for _ in range(3):
        graph = torch.arange(12).repeat_interleave(torch.randint(1, 5, (12,)))
        pair = [torch.randn(len(graph), 5), graph]
        batches.append(dict(zip(("x", "graph"), pair, strict=True)))
    if kind is not dict:
        batches = [kind(batch.values()) for batch in batches]
    result = compare(Pooled(), batches=batches)
    assert result.layers1 == ("head",)
    assert result.examples == 36


def test_sorted_labels_are_not_a_number_of_groups():
    labels = torch.arange(16) // 4
    batches = [(torch.randn(16, 10), labels) for _ in range(2)]
    assert compare(zoo.mlp(), batches=batches).examples == 32


@pytest.mark.parametrize("is_padded", [False, True])
def test_inputs_that_cannot_be_cut_are_named_where_layers_are_refused(is_padded):
    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.text, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, text, counts, patches):
            if is_padded:
                return self.head(self.text(text) + patches.sum(1))
            place = torch.repeat_interleave(torch.arange(len(counts)), counts)
            sums = torch.zeros(len(counts), 8).index_add(0, place, patches)
            return self.head(self.text(text) + sums)

    counts = torch.tensor([1, 2, 3, 4, 2, 3, 4, 1, 5, 6])
    shape = (10, 6, 8) if is_padded else (31, 8)
    batches = [(torch.randn(10, 6), counts, torch.randn(*shape)) for _ in range(3)]
    result = compare(Sums(), batches=batches, **ALL)
    named = [x for x in result.notes if "shape (31, 8) has no row for each" in x]
    assert len(named) == (not is_padded)
    assert ("head" in result.layers1) is is_padded
