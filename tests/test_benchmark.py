"""The benchmark runs, and what it says about errors holds; times are not tested."""

import json
import math

import pytest
import torch
from benchmark import chance, cli, compare, coverage, growth, live, tables, worker
from benchmark.cases import CASES, QUICK, fan
from benchmark.clocks import ClockedLoader, Peak
from peers import reference, sites

JOB = {"device": "cpu", "dtype": "float32", "tf32": True, "threads": 1}
SETTINGS = JOB | {
    "cases": ["quick-mlp"],
    "contenders": ["ours"],
    "rounds": 1,
    "solo": True,
    "limit": 60,
    "command": "test",
}


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    """Jobs run in this process."""
    monkeypatch.setattr(worker, "ROUND_SECONDS", 0.0)
    monkeypatch.setattr(
        "benchmark.jobs.run", lambda job, *_: worker.JOBS[job["kind"]](job)
    )


@pytest.mark.parametrize("name", QUICK)
def test_the_error_is_below_the_bar_in_every_kind_of_case(name):
    report = compare.measure(SETTINGS | {"cases": [name]}, lambda _: None)
    assert report["cases"][name]["contenders"]["ours"]["error"] < 1e-5


def test_a_report_becomes_a_row_with_all_its_numbers():
    ours = {"ratio": 1.364, "memory": 12.3, "error": 4e-7}
    peers = {"ours": ours, "pytorch-cka": {"failed": "> 60 s"}, "simtorch": {}}
    case = {"layers": [8, 8], "forward": {"seconds": 0.0123}, "contenders": peers}
    settings = SETTINGS | {"contenders": ["ours", "pytorch-cka", "simtorch"]}
    table = tables.markdown({"settings": settings, "cases": {"quick-mlp": case}})
    assert table.splitlines()[2] == (
        "| small MLP | 16 | 8x8 | 12.3 ms | 1.36, +12 MiB, 4e-7 | > 60 s |  |"
    )


def test_a_table_takes_its_place_in_a_page_and_only_that(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("# Title\n\n<!-- a -->\nold\n<!-- a -->\n\nEnd.\n")
    tables.place("new", "a", page)
    filled = "# Title\n\n<!-- a -->\nnew\n<!-- a -->\n\nEnd.\n"
    assert page.read_text() == filled
    with pytest.raises(ValueError, match=r"two lines <!-- b --> in README\.md"):
        tables.place("more", "b", page)
    assert page.read_text() == filled


def test_the_pages_show_the_committed_results():
    file = cli.RESULTS / "cpu-float32.json"
    report = json.loads(file.read_text(encoding="utf-8"))
    mark = "<!-- benchmark -->"
    for page, shown in (
        (tables.PAGE, f"{tables.markdown(report)}\n\n{tables.legend(report)}"),
        (tables.README, tables.headline(report)),
    ):
        text = page.read_text(encoding="utf-8")
        assert text.split(mark)[1:-1] == [f"\n{shown}\n"]
    headline = tables.headline(report).splitlines()
    assert len(headline) == 2 + len(tables.HEADLINE)
    assert set(headline) <= set(tables.markdown(report).splitlines())


def test_time_is_counted_from_the_second_batch_on():
    loader = ClockedLoader([torch.zeros(1)] * 4)
    assert sum(1 for _ in loader) == 4
    assert len(loader.seconds()) == len(loader.wall()) == 3
    assert all(x >= 0 for x in loader.seconds())


def test_a_contender_that_asks_for_no_more_than_it_needs_is_timed_to_its_end():
    loader = ClockedLoader([torch.zeros(1)] * 2)
    batches = iter(loader)
    next(batches)
    next(batches)
    del batches
    assert len(loader.seconds()) == 1


def test_the_peak_sees_memory_that_was_freed_again():
    with Peak() as peak:
        torch.ones(64, 2**20).sum()
    assert 200 < peak.above < 400


def test_growth_measures_every_point_of_every_axis():
    found = growth.measure(growth.QUICK_AXES, SETTINGS, lambda _: None)
    assert [x["point"]["layers"] for x in found["layers"]] == [2, 4]
    assert len(growth.markdown(found).splitlines()) == 4


def test_the_layers_of_a_fan_are_distinct():
    case = fan(layers=3, examples=8, features=16)
    model, _ = case.models()
    grams = reference.grams_of(
        model, case.layers(model), case.batches(1), lambda m, x: m(x)
    )
    values = reference.cka(grams, grams)
    assert values.shape == (3, 3)
    assert values.fill_diagonal_(0).max() < 0.99


def test_error_bars_hold_the_truth_about_as_often_as_they_say(monkeypatch):
    monkeypatch.setattr(coverage, "BATCHES", (5,))
    [found] = coverage.measure(runs=8, epochs=10)
    assert 0.6 < found["student"] <= 1
    assert found["normal"] <= found["student"]
    assert found["bias"] < 0.1


def test_false_alarms_are_counted_and_are_as_rare_as_they_should_be():
    found = chance.measure(2, {"few": (chance.independent, 16)}, (8,), (2, 3))
    assert [x["batches"] for x in found] == [2, 3]
    assert all(0.02 < x["0.05"] < 0.1 and x["0.01"] < 0.03 for x in found)
    assert len(chance.markdown(found).splitlines()) == 4


def test_examples_that_are_not_independent_are_false_alarms():
    cases = {"correlated": (chance.correlated, 64)}
    [found] = chance.measure(1, cases, (64,), (2,))
    assert found["0.05"] > 0.2


def test_an_explorer_that_is_watched_sends_frames():
    found = live.measure(rounds=1, batches=20)
    assert found["frames"] >= 1
    assert math.isfinite(found["watched"]["processor"])
    assert "20 batches" in live.markdown(found)


def test_the_command_line_writes_numbers_and_a_plot(tmp_path, capsys):
    quick = ["--quick", "--cases", "quick-mlp", "--rounds", "1"]
    cli.main([*quick, "--contenders", "ours", "--results", str(tmp_path)])
    assert "small MLP" in capsys.readouterr().out
    assert (tmp_path / "quick.json").exists()
    assert (tmp_path / "quick.svg").stat().st_size < 200_000


def test_the_command_line_lists_the_cases_of_a_device(capsys, tmp_path):
    cli.main(["--list", "--device", "cuda", "--results", str(tmp_path)])
    listed = capsys.readouterr().out.split()
    assert listed == [name for name, case in CASES.items() if case.device == "cuda"]


def test_a_peer_that_is_installed_is_measured_beside_ours():
    if not sites.installed("pytorch-cka"):
        pytest.skip("pytorch-cka is not installed: run `python -m tests.peers`")
    settings = SETTINGS | {"contenders": ["ours", "pytorch-cka"]}
    report = compare.measure(settings, lambda _: None)
    assert set(report["cases"]["quick-mlp"]["contenders"]) == {"ours", "pytorch-cka"}
