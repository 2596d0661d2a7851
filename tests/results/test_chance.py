"""What a result knows of chance, and what it says where it does not."""

import pytest
import torch
from benchmark import chance as simulation
from scipy import stats
from support import zoo
from support.reference import compare

from cka_notebook import CKAResult
from cka_notebook._results import files
from cka_notebook._results.result import FORMAT

NAN = float("nan")
ALL = {"model1_layers": "all", "model2_layers": "all"}


def small(batches=5, sd=0.125, **options):
    values = [[0.5, 0.25, -0.125], [0.375, NAN, 0.0]]
    matrix = torch.tensor(values, dtype=torch.float64)
    null_sd = torch.full_like(matrix, sd).where(~matrix.isnan(), NAN)
    names = ("a", "b"), ("x", "y", "z")
    return CKAResult(
        matrix, matrix.abs(), *names, batches=batches, null_sd=null_sd, **options
    )


def computed(sizes=(16, 16, 9, 16)):
    torch.manual_seed(1)
    batches = [torch.randn(n, 10) for n in sizes]
    return compare(zoo.mlp(), zoo.Reversed(), batches, **ALL)


def same(mine, theirs):
    torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("batches", "times"), [(1, 4), (4, 4), (5, 3), (100, 3)])
def test_the_floor_is_three_deviations_or_four_over_few_batches(batches, times):
    result = small(batches)
    same(result.floor, times * result.null_sd)
    assert result.floor.dtype == torch.float64


def test_p_values_are_one_sided_by_a_normal_distribution():
    p = small().p_values()
    expected = stats.norm.sf(small().matrix / 0.125)
    torch.testing.assert_close(p, torch.from_numpy(expected), equal_nan=True)
    assert p[1, 2] == 0.5
    assert p[0, 2] > 0.5


def test_p_values_of_the_highest_value_are_those_of_all_defined_cells():
    p, corrected = small().p_values(), small().p_values("max")
    torch.testing.assert_close(corrected, 1 - (1 - p) ** 5, equal_nan=True)
    tiny = small(sd=0.02).p_values(), small(sd=0.02).p_values("max")
    # 1 - (1 - p) ** 5 would be 0.
    assert 0 < tiny[0][0, 0] < 1e-100
    assert tiny[1][0, 0] == pytest.approx(5 * tiny[0][0, 0].item())


def test_an_unknown_correction_is_refused():
    with pytest.raises(ValueError, match="`correction` to be None or 'max', got 'fdr'"):
        small().p_values("fdr")


def test_a_run_knows_its_level_of_chance():
    result = computed()
    same(result.null_sd, result.sums.null_sd())
    assert result.null_sd.isfinite().all()
    one = computed((16,))
    assert one.null_sd.min().item() == pytest.approx((2 / (16 * 13)) ** 0.5)
    assert one.null_sd.max().item() == pytest.approx((2 / (16 * 13)) ** 0.5)


def test_merged_results_know_the_level_of_chance_of_all_batches():
    torch.manual_seed(1)
    models = zoo.mlp(), zoo.Reversed()
    batches = [torch.randn(n, 10) for n in (16, 8, 12, 16, 5)]
    parts = [compare(*models, part, **ALL) for part in (batches[:2], batches[2:])]
    whole = compare(*models, batches, **ALL)
    torch.testing.assert_close(parts[0].merge(parts[1]).null_sd, whole.null_sd)
    assert (whole.null_sd < parts[1].null_sd).all()


def test_a_difference_has_no_level_of_chance_and_says_so(tmp_path):
    change = computed() - computed((16, 16))
    assert change.null_sd.isnan().all()
    assert change.null_sd.shape == change.floor.shape == change.matrix.shape
    with pytest.raises(ValueError, match="difference has no level of chance"):
        change.p_values()
    with pytest.raises(ValueError, match="difference has no level of chance"):
        change.best_matches(above_chance=True)
    change.save(tmp_path / "change")
    loaded = CKAResult.load(tmp_path / "change")
    assert loaded.null_sd.isnan().all()
    with pytest.raises(ValueError, match="difference has no level of chance"):
        loaded.p_values()


def test_best_matches_leave_out_what_is_no_better_than_chance():
    assert small().best_matches() == {"a": "x", "b": "x"}
    assert small().best_matches(above_chance=True) == {"a": "x", "b": None}
    assert small(4).best_matches(above_chance=True) == {"a": None, "b": None}


def test_a_saved_result_keeps_its_level_of_chance_bit_by_bit(tmp_path):
    result = computed()
    result.save(tmp_path / "one")
    loaded = CKAResult.load(tmp_path / "one")
    same(loaded.null_sd, result.null_sd)
    same(loaded.sums.null, result.sums.null)
    same(loaded.merge(result).null_sd, result.merge(result).null_sd)
    small().save(tmp_path / "two")
    same(CKAResult.load(tmp_path / "two").null_sd, small().null_sd)


@pytest.mark.parametrize("has_sums", [True, False])
def test_a_file_of_before_loads_without_a_level_of_chance(tmp_path, has_sums):
    result = computed()
    if not has_sums:
        result.sums = None
    tensors = {"matrix": result.matrix, "stderr": result.stderr}
    if has_sums:
        sums = result.sums.tensors().items()
        tensors |= {f"sums.{name}": x for name, x in sums if name != "null"}
    facts = result._facts()
    files.write(tmp_path / "old", FORMAT, tensors, facts, result._later_facts())
    old = CKAResult.load(tmp_path / "old")
    same(old.matrix, result.matrix)
    assert old.null_sd.isnan().all()
    assert old.null_sd.shape == old.floor.shape == old.matrix.shape
    with pytest.raises(ValueError, match="not known, because it was saved"):
        old.p_values()
    if has_sums:
        merged = old.merge(computed())
        same(merged.matrix, computed().merge(computed()).matrix)
        assert merged.null_sd.isnan().all()
    old.save(tmp_path / "again")
    assert CKAResult.load(tmp_path / "again").null_sd.isnan().all()


def test_files_with_impossible_levels_of_chance_are_refused(tmp_path):
    for change, words in (
        (lambda x: x.null_sd.neg_(), "'null_sd' has negative"),
        (lambda x: x.sums.null.neg_(), "'sums.null' has negative"),
        (lambda x: setattr(x, "null_sd", x.null_sd[1:]), "'null_sd' to be of shape"),
        (lambda x: setattr(x.sums, "null", x.sums.null[0]), "null' to be of shape"),
    ):
        result = computed()
        change(result)
        with pytest.raises(ValueError, match=words):
            result.save(tmp_path / "bad")


@pytest.mark.slow
@pytest.mark.parametrize("n", [16, 64, 256])
def test_independent_features_look_related_as_often_as_p_values_say(n):
    cases = {"independent": (simulation.independent, 64)}
    for found in simulation.measure(50, cases, (n,), (1, 4, 16)):
        # 20 000 cells: what is found varies by 0.15 and 0.07 points.
        assert found["0.05"] == pytest.approx(0.05, abs=0.007), found
        assert found["0.01"] == pytest.approx(0.01, abs=0.007), found
        assert found["floor"] < 0.004, found
