"""A run that saw fewer batches than there are says so; one without any is an error."""

import gc
import warnings

import pytest
import torch
from support import zoo
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cka_notebook import CKA
from cka_notebook._inputs import usage


class Promising(list):
    """A loader that has a length, and yields less."""

    def __len__(self):
        return 200


def result_of(loader, loader2=None, **options):
    torch.manual_seed(0)  # The same weights each time.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CKA(zoo.mlp()).compare(loader, loader2, progress=False, **options)


def graves(result):
    return [note for note in result.notes if note.grave]


def test_a_loader_that_ends_early_gives_a_grave_note():
    (note,) = graves(result_of(Promising(zoo.batches_of(3))))
    assert "has a length of 200 batches, but ended after 3" in note


def test_skipped_batches_count_as_seen():
    batches = [*zoo.batches_of(3), torch.randn(2, 10)]
    assert graves(result_of(batches)) == []


@pytest.mark.parametrize(
    "options", [{"max_batches": 2}, {"max_batches": 3}, {"stop_when_stable": 1e9}]
)
def test_a_run_that_ends_as_it_should_has_no_such_note(options):
    assert graves(result_of(Promising(zoo.batches_of(10)), **options)) == []


def test_a_loader_shorter_than_max_batches_and_its_length_is_noted():
    result = result_of(Promising(zoo.batches_of(3)), max_batches=100)
    assert "but ended after 3" in graves(result)[0]


def test_a_second_loader_counts_too():
    batches = zoo.batches_of(3)
    (note,) = graves(result_of(Promising(batches), Promising(batches)))
    assert "length of 200 batches" in note


def test_a_run_that_resumes_counts_what_was_done_before(tmp_path):
    batches = Promising(zoo.batches_of(4))
    result_of(batches, checkpoint=tmp_path / "run", max_batches=2)
    result = result_of(batches, checkpoint=tmp_path / "run")
    assert "ended after 4" in graves(result)[0]


def side_by_side(loader):
    """Two runs that take their batches in turn."""
    runs = [CKA(zoo.mlp())._steps(loader) for _ in range(2)]
    states = [None, None]
    going = [0, 1]
    while going:
        for i in list(going):
            try:
                states[i] = next(runs[i])
            except StopIteration:
                going.remove(i)
    return states


def test_two_runs_over_one_generator_both_say_so():
    states = side_by_side(x for x in zoo.batches_of(8))
    assert sum(state.batches for state in states) == 8
    for state in states:
        (note,) = [note for note in state.notes if note.grave]
        assert f"compares {state.batches} batches, not all" in note
        assert "Another run took batches from the same iterator" in note


@pytest.mark.slow
def test_two_runs_over_one_loader_with_persistent_workers_both_say_so():
    data = TensorDataset(torch.randn(8 * 12, 10))
    loader = DataLoader(data, 8, num_workers=1, persistent_workers=True)
    states = side_by_side(loader)
    assert any(state.batches < 12 for state in states)
    for state in states:
        assert any("Another run took batches" in x for x in state.notes if x.grave)


def test_two_runs_over_one_list_do_not_disturb_each_other():
    for state in side_by_side(zoo.batches_of(5)):
        assert state.batches == 5
        assert not [note for note in state.notes if note.grave]


def test_a_generator_that_an_earlier_run_began_gives_a_grave_note():
    generator = (x for x in zoo.batches_of(8))
    assert graves(result_of(generator, max_batches=3)) == []
    (note,) = graves(result_of(generator))
    assert "Earlier runs took 3 batches from this iterator" in note
    assert "only the 5 after these" in note
    with pytest.raises(ValueError, match="an earlier run took 8 batches from this"):
        result_of(generator)


def test_the_same_loader_may_be_used_again_and_again():
    loader = DataLoader(TensorDataset(torch.randn(40, 10)), 8)
    for _ in range(2):
        assert graves(result_of(loader)) == []


def test_iterators_are_not_kept():
    result_of(zoo.batches_of(3))
    result_of(x for x in zoo.batches_of(3))
    with pytest.raises(ValueError, match="none"):
        result_of(iter([]))
    gc.collect()
    assert not usage._users
    assert not usage._taken


# Batches without an example


def inputs(batch):
    return {"input": batch}


def labelled(batch):
    return batch, torch.zeros(len(batch))


@pytest.mark.parametrize("kind", [lambda x: x, labelled, inputs])
@pytest.mark.parametrize("count", [1, 2])
def test_empty_batches_at_the_start_are_skipped(kind, count):
    batches = zoo.batches_of(4)
    result = result_of([*map(kind, [torch.zeros(0, 10)] * count + batches)])
    expected = result_of([*map(kind, batches)])
    assert torch.equal(result.matrix, expected.matrix)
    assert (result.batches, result.skipped) == (4, count)
    assert graves(result) == []


def test_an_empty_batch_later_is_skipped():
    batches = zoo.batches_of(4)
    given = [*batches[:2], torch.zeros(0, 10), *batches[2:]]
    assert result_of(given).skipped == 1


def test_an_empty_list_is_an_empty_batch():
    def forward(model, batch):
        return model(torch.stack(batch["x"]))

    lists = [{"x": []}, *({"x": list(x)} for x in zoo.batches_of(4)), {"x": []}]
    result = CKA(
        zoo.mlp(), forward=forward, examples=lambda batch: len(batch["x"])
    ).compare(lists, progress=False)
    assert (result.batches, result.skipped) == (4, 2)


def test_a_small_batch_at_the_start_is_not_the_one_that_is_probed():
    batches = zoo.batches_of(4)
    result = result_of([torch.randn(1, 10), *batches])
    assert torch.equal(result.matrix, result_of(batches).matrix)
    assert len(result.notes) == 1, "the skipped batch"


@pytest.mark.parametrize("count", [1, 3, 40])
def test_only_empty_batches_are_an_error(count):
    with pytest.raises(ValueError, match=r"got \d+ batch(es)? without any"):
        result_of([torch.zeros(0, 10)] * count)


def test_only_small_batches_are_an_error_that_says_so():
    with pytest.raises(ValueError, match="at least 4 examples, but all 3 were smaller"):
        result_of([torch.randn(2, 10)] * 3)


# Outputs without features


class Cut(nn.Module):
    """Returns no features, always or for one kind of batch."""

    def __init__(self, always=True):
        super().__init__()
        self.always = always

    def forward(self, x):
        return x[:, :0] if self.always or bool((x == 0).all()) else x


def test_a_layer_without_features_is_listed_with_the_reason():
    model = zoo.mlp()
    model.extra = Cut()

    def call(module, args, _):
        module.extra(*args)

    model.register_forward_hook(call)
    cka = CKA(model, model1_layers="all")
    result = cka.compare(zoo.batches_of(3), progress=False)
    assert result.matrix.isfinite().all()
    assert "extra" not in result.layers1


def test_only_layers_without_features_are_an_error():
    with pytest.raises(ValueError, match="output without features"):
        CKA(nn.Sequential(Cut())).compare(zoo.batches_of(3), progress=False)


def test_a_layer_that_loses_its_features_in_a_later_batch_is_undefined():
    batches = [*zoo.batches_of(3), torch.zeros(8, 10)]
    result = CKA(nn.Sequential(Cut(False))).compare(batches, progress=False)
    assert "without features in batch 4" in result.notes[0]
    assert result.matrix.isnan().all()


def test_a_pool_that_leaves_no_features_is_an_error():
    with pytest.raises(
        ValueError, match=r"a tensor with features, got shape \(16, 0\)"
    ):
        CKA(zoo.mlp(), pool=lambda x: x[:, :0]).compare(
            zoo.batches_of(2), progress=False
        )
