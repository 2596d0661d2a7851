"""Estimated memory and time of a run, compared with what it needs."""

import contextlib
import time

import pytest
import torch
from support import zoo
from torch import nn
from torch.utils.data import DataLoader

from cka_notebook import CKA
from cka_notebook._engine import estimate, run, side
from cka_notebook._engine.estimate import Estimate, Timing, about, free_bytes, size
from cka_notebook._page.frames import gpu_memory


@contextlib.contextmanager
def probed(loader, *models, **options):
    """The state before the first batch, the run, and what comes after."""
    runs, made = [], run.Run.__init__

    def noting(self, *args, **kwargs):
        runs.append(self)
        made(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.Run, "__init__", noting)
        steps = CKA(*models, **options)._steps(loader)
        with contextlib.closing(steps):
            yield next(steps), runs[0], steps


@pytest.mark.parametrize("examples", [7, 64, 600])
@pytest.mark.parametrize("itself", [False, True])
def test_memory_is_what_the_engine_has_allocated_after_a_batch(examples, itself):
    models = [zoo.mlp()] if itself else [zoo.mlp(), zoo.Reversed()]
    batches = zoo.batches_of(2, size=examples)
    with probed(batches, *models, model1_layers="all") as (state, run, steps):
        estimate = state.estimate
        after = next(steps)
        parts = run.buffer._parts.values()
        packed = sum(part._z.nbytes for part in parts)
        sums = sum(tensor.nbytes for tensor in after.sums.tensors().values())
    assert estimate.examples == examples
    assert estimate.nbytes == packed + sums


def test_memory_of_a_hundred_layers_and_large_batches_is_mostly_packed_matrices():
    estimate = Estimate.of_memory(100, (50, 50), 1024, torch.device("cpu"))
    assert estimate.nbytes == pytest.approx(100 * 1024**2 / 2 * 4, rel=0.05)


def test_a_pass_that_is_mostly_overhead_predicts_no_time():
    assert Timing(2, calls=100, seconds=0.01).of_batch(64) is None
    assert Timing(2, calls=100, seconds=0.1).of_batch(64) == pytest.approx(3.2)
    assert Timing(64, calls=100, seconds=0.01).of_batch(64) == 0.01


def test_time_counts_loading_and_all_passes_over_all_batches():
    estimate = Estimate(2, 8, 100)
    passes = [Timing(2, 1, 0.5), Timing(2, 1, 0.25)]
    assert estimate.with_time(10, 0.5, passes).seconds == pytest.approx(35)
    assert estimate.with_time(None, 0.5, passes).seconds is None
    unknown = [*passes, Timing(2, 1000, 0.1)]
    assert estimate.with_time(10, 0.5, unknown).seconds is None
    assert estimate.with_time(10, 0.5, []).seconds is None


class Slow(nn.Module):
    """Takes a millisecond an example, by a clock of its own."""

    def __init__(self, clock):
        super().__init__()
        self.layer, self.clock = nn.Linear(6, 4), clock

    def forward(self, x):
        self.clock.now += 1e-3 * len(x)
        return self.layer(x)


class Clock:
    now = 0.0

    def perf_counter(self):
        return self.now

    strftime = staticmethod(time.strftime)


def test_the_time_of_a_run_follows_from_its_probe(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(run, "time", clock)
    monkeypatch.setattr(side, "time", clock)

    def loader():
        while True:
            clock.now += 0.5
            yield torch.randn(20, 6)

    class Ten:
        def __iter__(self):
            return loader()

        def __len__(self):
            return 10

    with probed(Ten(), Slow(clock), Slow(clock)) as (state, *_):
        # Ten batches: half a second to load, 20 examples through two models.
        assert state.estimate.seconds == pytest.approx(10 * (0.5 + 2 * 0.02))
    with probed(loader(), Slow(clock)) as (state, *_):
        assert state.estimate.seconds is None, "without a length"


def test_loading_in_other_processes_does_not_count(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(run, "time", clock)
    monkeypatch.setattr(side, "time", clock)
    loader = DataLoader(torch.randn(40, 6), 20)
    loader.__dict__["num_workers"] = 1

    class Late:
        num_workers = 1

        def __iter__(self):
            clock.now += 100
            return iter(loader.dataset.split(20))

        def __len__(self):
            return 2

    with probed(Late(), Slow(clock)) as (state, *_):
        assert state.estimate.seconds == pytest.approx(2 * 0.02)


def test_the_driver_reports_the_memory_of_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (77 << 30, 80 << 30))
    assert gpu_memory(torch.device("cuda", 1)) == [3 << 30, 80 << 30]
    assert gpu_memory(torch.device("cpu")) is None


def test_numbers_in_words_have_two_digits_at_most():
    assert [about(s) for s in (0.01, 89.4, 95, 5400)] == [
        "about 1 s",
        "about 89 s",
        "about 2 min",
        "about 1.5 h",
    ]
    assert [size(n) for n in (1, 9.96e6, 999.4e6, 999.6e6, 1.1e10)] == [
        "0.1 MB",
        "10 MB",
        "999 MB",
        "1.0 GB",
        "11 GB",
    ]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 8 MB free, whose control groups are folders to be written."""
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    (tmp_path / "own").write_text("0::/user/job\n")
    monkeypatch.setattr(estimate, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(estimate, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(estimate, "GROUPS", tmp_path / "cgroup")
    return tmp_path


def group(folder, **files):
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def test_without_groups_the_machine_s_memory_is_free(machine):
    assert free_bytes(None) == 8000 * 1024
    (machine / "meminfo").unlink()
    assert free_bytes(None) is None


@pytest.mark.parametrize("where", ["", "user", "user/job"])
def test_the_limit_of_a_container_is_less_than_the_machine(machine, where):
    group(
        machine / "cgroup" / where,
        memory__max=5_000_000,
        memory__current=3_000_000,
        memory__stat="anon 2500000\ninactive_file 500000",
    )
    assert free_bytes(None) == 2_500_000


def test_a_group_without_a_limit_changes_nothing(machine):
    group(machine / "cgroup", memory__max="max", memory__current=3_000_000)
    assert free_bytes(None) == 8000 * 1024


def test_groups_of_version_1_count_too(machine):
    (machine / "own").write_text("4:cpu,cpuacct:/x\n3:memory:/docker/a\n")
    group(
        machine / "cgroup" / "memory" / "docker" / "a",
        memory__limit_in_bytes=4_000_000,
        memory__usage_in_bytes=4_500_000,
    )
    assert free_bytes(None) == 0
