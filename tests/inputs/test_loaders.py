"""Loaders of all kinds give batches once, and pairs that are pairs."""

import numpy as np
import pytest
import torch
from support import zoo
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from cka_notebook import CKA, CKAResult
from cka_notebook._inputs.loaders import (
    batches,
    check_loaders,
    drawing_from,
    length,
    loader_facts,
    shuffles,
)

DATA = TensorDataset(torch.arange(20.0).unsqueeze(1))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.arange(20.0).unsqueeze(1))


def loader(**options):
    return DataLoader(DATA, batch_size=5, **options)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (loader(), 4),
        ([1, 2, 3], 3),
        (DataLoader(Stream(), batch_size=5), None),
        ((x for x in [1, 2]), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_length_is_known_or_none(given, expected):
    assert length(given) == expected


@pytest.mark.parametrize(
    "given",
    [loader(), [1, 2, 3, 4], DataLoader(Stream(), batch_size=5), iter(range(4))],
    ids=lambda value: type(value).__name__,
)
def test_any_iterable_is_iterated_once(given):
    check_loaders(given, None, True, None)
    taken = list(batches(given, None, True))
    assert len(taken) == 4
    assert all(first is second for first, second in taken)


def test_the_loader_s_iterator_is_made_at_once_and_batches_only_when_asked():
    made, taken = [], []

    class Loader:
        def __iter__(self):
            made.append(1)
            return (taken.append(i) or i for i in range(3))

    pairs = batches(Loader(), None, True)
    assert made == [1]
    assert not taken
    assert next(pairs) == (0, 0)
    assert taken == [0]


@pytest.mark.parametrize("wrong", [torch.randn(8, 10), {"x": 1}, "words", 7, None])
def test_what_is_no_loader_is_refused(wrong):
    with pytest.raises(TypeError, match="`loader` to yield batches, got a"):
        check_loaders(wrong, None, True, None)
    if wrong is not None:
        with pytest.raises(TypeError, match="`loader2` to yield batches, got a"):
            check_loaders([1], wrong, True, None)


@pytest.mark.parametrize("count", [0, -1])
def test_max_batches_below_one_is_refused(count):
    with pytest.raises(ValueError, match="`max_batches` to be at least 1, got"):
        check_loaders([1], None, True, count)


def test_paired_loaders_of_different_length_are_refused_before_any_batch():
    with pytest.raises(ValueError, match="equal length, got 4 and 3 batches"):
        check_loaders(loader(), [1, 2, 3], True, None)
    check_loaders(loader(), [1, 2, 3], False, None)


@pytest.mark.parametrize(
    "options",
    [
        {"shuffle": True},
        {"sampler": RandomSampler(DATA)},
        {"sampler": SubsetRandomSampler(range(20))},
        {"sampler": WeightedRandomSampler([1.0] * 20, 20)},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_shuffling_loader_of_a_pair_is_refused_and_named(options):
    with pytest.raises(ValueError, match="same order, but `loader` shuffles"):
        check_loaders(loader(**options), loader(), True, None)
    with pytest.raises(
        ValueError, match=r"but `loader2` shuffles\. Pass shuffle=False"
    ):
        check_loaders(loader(), loader(**options), True, None)
    check_loaders(loader(**options), loader(), False, None)
    check_loaders(loader(**options), None, True, None)


def test_shuffling_by_a_batch_sampler_is_seen():
    sampler = BatchSampler(RandomSampler(DATA), 5, False)
    assert shuffles(DataLoader(DATA, batch_sampler=sampler))
    assert not shuffles(loader())
    assert not shuffles([1, 2])


def test_a_distributed_sampler_says_itself_whether_it_shuffles():
    class Sampler:
        shuffle = True

    class Loader(list):
        sampler = Sampler()

    assert shuffles(Loader())
    Loader.sampler.shuffle = False
    assert not shuffles(Loader())


@pytest.mark.parametrize(("short", "number"), [("loader", 2), ("loader2", 3)])
def test_a_pair_of_which_one_ends_early_is_an_error_that_names_it(short, number):
    first, second = (2, 5) if short == "loader" else (5, 3)
    pairs = batches(iter(range(first)), iter(range(second)), True)
    with pytest.raises(ValueError, match=f"`{short}` ended after {number} batches"):
        list(pairs)


def test_unpaired_loaders_end_with_the_shorter_one():
    assert list(batches([1, 2, 3], [4, 5], False)) == [(1, 4), (2, 5)]


def test_facts_of_a_loader_are_for_the_record():
    facts = loader_facts(loader(shuffle=True))
    assert facts == {
        "class": "DataLoader",
        "dataset": "TensorDataset",
        "batches": 4,
        "batch_size": 5,
        "shuffled": True,
    }
    assert loader_facts(iter([]))["batches"] is None


@pytest.mark.parametrize("size", [np.int64(16), torch.tensor(16), 16])
def test_a_batch_size_of_any_integer_type_is_kept_as_a_plain_one(size, tmp_path):
    class Loader(list):
        batch_size = size

    loader = Loader(zoo.batches_of(3))
    cka = CKA(zoo.mlp())
    result = cka.compare(loader, progress=False, checkpoint=tmp_path / "run")
    result.save(tmp_path / "result")
    loaded = CKAResult.load(tmp_path / "result")
    assert loaded.provenance["loader1"]["batch_size"] == 16
    assert type(result.provenance["loader1"]["batch_size"]) is int


@pytest.mark.parametrize("size", [None, "auto", 2.5, [16]])
def test_a_batch_size_that_is_no_integer_is_left_out(size):
    class Loader(list):
        batch_size = size

    assert loader_facts(Loader())["batch_size"] is None


@pytest.mark.parametrize("most", [np.int64(2), 2])
def test_max_batches_may_be_any_integer(most, tmp_path):
    cka = CKA(zoo.mlp())
    path = tmp_path / "run"
    batches = zoo.batches_of(3)
    assert cka.compare(batches, max_batches=most, progress=False, checkpoint=path)
    cka.result.save(tmp_path / "result")


class Examples(Dataset):
    """Ten examples, made by a function of their number."""

    def __init__(self, make):
        self.make = make

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return self.make(index)


def broken(index):
    if index == 7:
        raise OSError("truncated image")
    return torch.randn(3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda i: torch.zeros(3, 4 + i), "Resize or pad them, or pass it a collate"),
        (lambda i: [0] * (i + 1), "Resize or pad them, or pass it a collate_fn"),
        (lambda _: None, "leave out those that are None"),
        (lambda _: object(), "for instance images with a transform"),
        (broken, "`loader2` raised this in batch 2."),
    ],
)
def test_errors_of_a_loader_name_it_and_the_remedy(make, words):
    good = DataLoader(Examples(lambda _: torch.randn(3)), batch_size=4)
    bad = DataLoader(Examples(make), batch_size=4)
    with pytest.raises(Exception, match=r".") as caught:
        list(batches(good, bad, paired=True))
    assert "`loader2` raised this in batch" in caught.value.__notes__[0]
    assert words in " ".join(caught.value.__notes__)


def test_a_data_set_is_not_a_loader():
    with pytest.raises(TypeError, match=r"Examples. Pass DataLoader\(dataset, batch"):
        check_loaders(Examples(broken), None, paired=True, max_batches=None)


SHUFFLED = {
    "shuffle": {"shuffle": True},
    "subset": {"sampler": SubsetRandomSampler(range(15))},
    "weighted": {"sampler": WeightedRandomSampler(torch.ones(20), 12)},
    "replacement": {"sampler": RandomSampler(DATA, replacement=True, num_samples=33)},
    "batch sampler": {"batch_sampler": BatchSampler(RandomSampler(DATA), 3, False)},
    "unbatched": {"shuffle": True, "batch_size": None},
    "workers": {"shuffle": True, "num_workers": 2, "persistent_workers": True},
}


def taken(loader):
    return [batch[0].flatten().tolist() for batch in loader]


@pytest.mark.parametrize("kind", SHUFFLED)
def test_a_loader_with_a_generator_yields_the_same_batches(kind):
    loader = DataLoader(DATA, **SHUFFLED[kind])
    before, start = dict(vars(loader)), torch.get_rng_state()
    generator = torch.Generator()
    generator.set_state(start)
    found = taken(drawing_from(loader, generator))
    assert torch.equal(torch.get_rng_state(), start)
    assert not torch.equal(generator.get_state(), start)
    assert vars(loader) == before
    assert found == taken(loader) != sorted(found)


def test_a_generator_of_the_users_and_other_loaders_stay_in_use():
    own, other = (torch.Generator().manual_seed(number) for number in range(2))
    loader = DataLoader(DATA, 4, shuffle=True, generator=own)
    assert taken(drawing_from(loader, other)) != taken(loader)
    assert other.get_state().equal(torch.Generator().manual_seed(1).get_state())
    given = [1, 2]
    assert drawing_from(given, other) is given


class Counted(DataLoader):
    """A loader with an ``__init__`` of its own, and a sampler of unknown kind."""

    def __init__(self):
        super().__init__(DATA, 4, sampler=range(19, -1, -1))
        self.asked = []

    def __iter__(self):
        self.asked.append(1)
        return super().__iter__()


def test_a_loader_of_the_users_own_class_is_iterated_by_its_own_code():
    loader = Counted()
    found = taken(drawing_from(loader, torch.Generator()))
    assert loader.asked == [1]
    assert found == taken(loader)
    assert len(found) == 5
