"""Random numbers beside a live run: none comes twice, and a seed holds."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cka_notebook import CKA

EXAMPLES = 48


class Transformed(TensorDataset):
    """Its examples are shifted by random numbers of every kind, as by transforms."""

    def __getitem__(self, index):
        return super().__getitem__(index)[0] + sum(draws())


class Noisy(nn.Sequential):
    """Draws random numbers in its forward pass."""

    def forward(self, x):
        return super().forward(x) + torch.rand(len(x), 1)


def model(kind=nn.Sequential):
    """The same weights each time, without any draw from the global streams."""
    made = kind(nn.Linear(6, 8, device="meta"), nn.ReLU())
    generator = torch.Generator().manual_seed(2)
    made.to_empty(device="cpu")
    with torch.no_grad():
        for weight in made.parameters():
            weight.normal_(generator=generator)
    return made


def data(kind=TensorDataset):
    generator = torch.Generator().manual_seed(1)
    return kind(torch.randn(EXAMPLES, 6, generator=generator))


def shuffled(kind=TensorDataset):
    return DataLoader(data(kind), 12, shuffle=True)


def compared(loader, kind=nn.Sequential, callback=None):
    cka = CKA(model(kind), model1_layers="all")
    return cka.compare(loader, progress=False, callback=callback)


def draws():
    """One number of each stream, of so many bits that none comes twice by chance."""
    one = torch.rand((), dtype=torch.float64).item()
    return one, np.random.rand(), random.random()  # noqa: NPY002 the global stream


def reset(seed):
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 as above
    random.seed(seed)


def expected(seed, count):
    """The first draws after this seed, of generators that nobody else has."""
    generator = torch.Generator().manual_seed(seed)
    own, python = np.random.RandomState(seed), random.Random(seed)
    return [
        (
            torch.rand((), dtype=torch.float64, generator=generator).item(),
            own.rand(),
            python.random(),
        )
        for _ in range(count)
    ]


def state():
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[2]  # noqa: NPY002


def repeated(found):
    """How many numbers came before."""
    return sum(len(each) - len(set(each)) for each in zip(*found, strict=True))


class Beside:
    """A run in a thread of its own, like an explorer's."""

    def __init__(self, *args, **options):
        self._pool = ThreadPoolExecutor(1)
        self._started = Event()
        options["callback"] = lambda *_: self._started.set()
        self._run = self._pool.submit(compared, *args, **options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._pool.shutdown()

    @property
    def is_live(self):
        return not self._run.done()

    def begun(self):
        self._started.wait(60)

    def matrix(self):
        return self._run.result(60).matrix


def user_draws_beside_a_run(seed):
    """Draw without a pause while a run draws from the same streams."""
    reset(seed)
    with Beside(shuffled(Transformed), Noisy) as run:
        found = [draws()]
        while run.is_live:
            found.append(draws())
    found += [draws() for _ in range(200)]
    return repeated(found) == 0


def user_seeds_beside_a_run(seed):
    """Set a seed at some moment of a run, which shuffles, and draw until it has ended.

    Nothing but the shuffle and the user draws, so the numbers are those of the seed.
    """
    with Beside(shuffled()) as run:
        time.sleep(random.Random(seed).uniform(0, 0.02))
        reset(seed)
        found = [draws()]
        while run.is_live:
            found.append(draws())
    found += [draws() for _ in range(20)]
    return found == expected(seed, len(found))


def two_runs_overlap(seed):
    """Each shuffles as it does alone, and the global streams stay where they are."""
    reset(seed)
    alone = compared(shuffled()).matrix
    before, loader = state(), shuffled()
    with Beside(loader) as one, Beside(loader) as other:
        results = one.matrix(), other.matrix()
    return state() == before and all(torch.equal(alone, x) for x in results)


def compare_beside_a_run(seed):
    """Compare in the main thread while a run is live, and draw before and after."""
    reset(seed)
    found = [draws()]
    with Beside(shuffled(Transformed), Noisy) as run:
        found.append(draws())
        compared(shuffled(), callback=lambda *_: found.append(draws()))
        while run.is_live:
            found.append(draws())
    found += [draws() for _ in range(200)]
    return repeated(found) == 0


def user_draws_in_a_thread_beside_a_compare(seed):
    """The compare is in the main thread; a thread of the user's draws and seeds."""
    reset(seed)
    ended, found, seeded = Event(), [], []

    def user():
        while len(found) < 50:
            found.append(draws())
        reset(seed + 1)
        while not ended.is_set():
            seeded.append(draws())

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(user)
        while not found:
            time.sleep(0)
        compared(shuffled())
        ended.set()
        done.result()
    # The shuffle may have taken a number of torch's: the run had no generator then.
    return repeated(found) == 0 and seeded == expected(seed + 1, len(seeded))


SCENARIOS = (
    user_draws_beside_a_run,
    user_seeds_beside_a_run,
    two_runs_overlap,
    compare_beside_a_run,
    user_draws_in_a_thread_beside_a_compare,
)


def main(count, seed):
    """Rounds of each scenario; figures, or AssertionError with what was wrong."""
    for number in range(seed * count, (seed + 1) * count):
        for scenario in SCENARIOS:
            assert scenario(number), f"{scenario.__name__}, seed {number}"
    return {"rounds": count, "scenarios": f"{len(SCENARIOS)} each"}
