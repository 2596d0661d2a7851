"""A matrix with the names of its axes, its uncertainty and its provenance."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from support import zoo
from support.reference import FLOAT32, compare

from cka_notebook import CKAResult
from cka_notebook._messages import Note, Reason, code_of, is_grave
from cka_notebook._results import files
from cka_notebook._results.result import FORMAT

ALL = {"model1_layers": "all", "model2_layers": "all"}


def result_of(count=4, seed=0, model=None):
    torch.manual_seed(1)
    model1, model2 = model or zoo.mlp(), zoo.Reversed()
    return compare(
        model1, model2, zoo.batches_of(count, seed=seed), model1_name="left", **ALL
    )


def small():
    matrix = torch.tensor(
        [[0.5, 0.9, torch.nan], [torch.nan] * 3, [0.2, 0.1, -0.1]], dtype=torch.float64
    )
    return CKAResult(
        matrix, torch.zeros(3, 3).double(), ("a", "b", "c"), ("x", "y", "z")
    )


def other():
    """A result with some of the same layers, in another order."""
    matrix = torch.tensor([[0.25, 0.125], [0.5, torch.nan]], dtype=torch.float64)
    stderr = torch.full((2, 2), 0.25).double()
    return CKAResult(matrix, stderr, ("c", "a"), ("w", "x"), name2="tuned")


def test_a_difference_has_the_layers_of_both():
    change = small() - other()
    assert (change.layers1, change.layers2) == (("a", "c"), ("x",))
    assert change.matrix.isnan().tolist() == [[True], [False]]
    assert change.matrix[1, 0].item() == pytest.approx(0.2 - 0.125)
    assert change.stderr.tolist() == [[0.25], [0.25]]
    assert (change.name1, change.name2) == ("model1", "model2 \u2212 tuned")
    assert change.is_difference
    assert not small().is_difference
    [note] = change.notes
    assert (
        note == "Left out, because only one of the results has them: 'b', 'w', 'y', ..."
    )
    assert (small() - small()).notes == []


def test_independent_errors_of_a_difference_add_in_squares():
    result = result_of()
    change = result_of(seed=1) - result
    expected = (result.stderr.square() + result_of(seed=1).stderr.square()).sqrt()
    torch.testing.assert_close(change.stderr, expected)
    assert (result - result).matrix.nan_to_num().abs().max() == 0


def test_a_difference_can_be_saved_but_not_merged(tmp_path):
    change = small() - other()
    change.save(tmp_path / "change.safetensors")
    loaded = CKAResult.load(tmp_path / "change.safetensors")
    assert loaded.is_difference
    torch.testing.assert_close(
        loaded.matrix, change.matrix, rtol=0, atol=0, equal_nan=True
    )
    with pytest.raises(ValueError, match="merge a result without running sums"):
        loaded.merge(change)


def test_what_cannot_be_subtracted_is_an_error():
    with pytest.raises(ValueError, match=r"without common rows: 'a', 'b', 'c' and"):
        small() - result_of()
    with pytest.raises(
        ValueError,
        match=r"results of 'cka' and 'cka difference'\. Use two results of the same",
    ):
        small() - (small() - other())
    with pytest.raises(TypeError):
        small() - 1


def test_rows_and_columns_by_name_and_by_number():
    result = small()
    assert torch.equal(result.row("c"), result.matrix[2])
    assert torch.equal(result.row(-1), result.matrix[2])
    assert result.column("y")[::2].tolist() == [0.9, 0.1]
    assert result.column(2)[2] == -0.1


def test_an_unknown_layer_is_named_with_its_model_and_the_known_layers():
    with pytest.raises(
        ValueError, match=r"layer of model1 in this result, got 'x'.*'a'"
    ):
        small().row("x")
    with pytest.raises(
        ValueError, match=r"layer of model2 in this result, got 'a'.*'x'"
    ):
        small().column("a")


def test_the_diagonal_is_layer_by_layer():
    assert torch.equal(result_of().matrix[:2].diagonal(), result_of().matrix[:2].diag())
    assert small().diagonal()[2] == pytest.approx(-0.1)


def test_models_of_different_depth_have_no_diagonal():
    with pytest.raises(
        ValueError, match=r"layers in left and Reversed, got 5 and 2\. Use"
    ):
        result_of().diagonal()


def test_best_matches_skip_undefined_values():
    assert small().best_matches() == {"a": "y", "b": None, "c": "x"}


def test_a_dataframe_has_the_layers_as_rows_and_columns():
    frame = result_of().to_dataframe()
    assert list(frame.index) == ["0", "1", "2", "3", "4"]
    assert list(frame.columns) == ["a", "b"]
    assert (frame.index.name, frame.columns.name) == ("left", "Reversed")
    assert frame.loc["2", "b"] == result_of().matrix[2, 1].item()


def test_export_has_the_keys_of_both_peers():
    exported = result_of().export()
    assert exported["CKA"] is exported["cka_matrix"]
    assert exported["model1_name"] == "left"
    assert exported["model1_layers"] == ["0", "1", "2", "3", "4"]
    assert exported["model2_layers"] == ["a", "b"]
    assert {"dataset1_name", "dataset2_name", "stderr"} <= set(exported)


def test_matrices_are_float64_on_the_cpu_without_a_graph():
    result = result_of()
    for values in (result.matrix, result.stderr):
        assert values.dtype == torch.float64
        assert values.device.type == "cpu"
        assert not values.requires_grad


def test_the_provenance_says_what_was_computed_and_how():
    facts = result_of().provenance
    assert facts["torch"] == torch.__version__
    assert facts["pool"] == {"*": "auto"}
    assert facts["model1"]["class"].endswith("Sequential")
    assert facts["model1"]["parameters"] == 16 * 10 + 16 + 12 * 16 + 12 + 5 * 12 + 5
    assert facts["model1"]["dtypes"] == ["float32"]
    assert facts["loader1"]["batches"] == 4
    json.dumps(facts)


def test_the_repr_is_one_line_without_values():
    text = repr(result_of())
    assert text == (
        "CKAResult(left x Reversed, 5 x 2 layers, cka, 64 examples in 4 batches)"
    )


def test_save_and_load_restore_a_result_bit_by_bit(tmp_path):
    result = result_of()
    result.matrix[1, 1] = torch.nan
    result.notes.append("Grüße, '\"\\ {}")
    result.save(tmp_path / "one.cka")
    loaded = CKAResult.load(tmp_path / "one.cka")
    for name in ("matrix", "stderr"):
        mine, theirs = getattr(result, name), getattr(loaded, name)
        assert torch.equal(mine.view(torch.int64), theirs.view(torch.int64))
    for name, value in result.sums.tensors().items():
        assert torch.equal(loaded.sums.tensors()[name], value)
    assert loaded.sums.batches == result.sums.batches
    plain = (
        "layers1 layers2 name1 name2 metric examples batches skipped notes undefined1 "
        "undefined2 provenance"
    )
    for name in plain.split():
        assert getattr(loaded, name) == getattr(result, name)


def header(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def test_severity_and_kinds_are_kept_where_older_readers_do_not_look(tmp_path):
    result, path = small(), tmp_path / "one.cka"
    result.notes = ["plain", Note("not random", grave=True), Note("fine")]
    result.undefined1 = {"a": Reason("dead", "no_variance"), "b": "of unknown kind"}
    result.save(path)
    loaded = CKAResult.load(path)
    assert [is_grave(note) for note in loaded.notes] == [False, True, False]
    assert loaded.notes == result.notes
    assert loaded.undefined1 == result.undefined1
    codes = [code_of(reason) for reason in loaded.undefined1.values()]
    assert codes == ["no_variance", None]
    fields = (
        "layers1 layers2 name1 name2 metric examples batches skipped notes undefined1 "
        "undefined2 provenance"
    )
    facts = json.loads(header(path)["json"])
    assert set(facts) == set(fields.split())
    assert facts["notes"] == ["plain", "not random", "fine"]


@pytest.mark.parametrize("is_difference", [False, True])
def test_a_file_of_before_has_plain_notes_and_tells_a_difference_by_its_measure(
    tmp_path, is_difference
):
    result = small() - other() if is_difference else small()
    result.notes = ["The batches are not random."]
    tensors = {"matrix": result.matrix, "stderr": result.stderr}
    files.write(tmp_path / "old.cka", FORMAT, tensors, result._facts())
    loaded = CKAResult.load(tmp_path / "old.cka")
    assert loaded.notes == result.notes
    assert not any(map(is_grave, loaded.notes))
    assert loaded.is_difference == is_difference


def test_a_measure_of_that_name_is_not_a_difference():
    result = replace(small(), metric="some difference")
    assert not result.is_difference
    assert (result - result).is_difference


def test_a_result_without_sums_can_be_saved(tmp_path):
    small().save(tmp_path / "one.cka")
    assert CKAResult.load(tmp_path / "one.cka").sums is None


def test_merged_results_are_the_result_of_all_batches():
    torch.manual_seed(1)
    model1, model2 = zoo.mlp(), zoo.Reversed()
    batches = zoo.batches_of(5)
    parts = [
        compare(model1, model2, part, **ALL) for part in (batches[:2], batches[2:])
    ]
    whole = compare(model1, model2, batches, **ALL)
    merged = parts[0].merge(parts[1])
    # In float32 the engine may treat the first batch differently from later ones.
    torch.testing.assert_close(merged.matrix, whole.matrix, rtol=0, atol=FLOAT32)
    torch.testing.assert_close(merged.stderr, whole.stderr, rtol=1e-3, atol=FLOAT32)
    assert (merged.batches, merged.examples) == (5, 80)


def test_results_merge_after_a_round_trip(tmp_path):
    first, second = result_of(2), result_of(3, seed=1)
    expected = first.merge(second)
    first.save(tmp_path / "one.cka")
    second.save(tmp_path / "two.cka")
    merged = CKAResult.load(tmp_path / "one.cka").merge(
        CKAResult.load(tmp_path / "two.cka")
    )
    assert torch.equal(merged.matrix, expected.matrix)


def test_a_layer_without_variance_in_one_part_only_is_defined_after_a_merge():
    model = torch.nn.Sequential(torch.nn.Linear(10, 6), torch.nn.ReLU())
    dead = compare(model, batches=[torch.ones(8, 10)] * 2, **ALL)
    alive = compare(model, batches=zoo.batches_of(), **ALL)
    assert set(dead.undefined1) == {"0", "1"}
    merged = dead.merge(alive)
    assert merged.undefined1 == {}
    torch.testing.assert_close(merged.matrix, alive.matrix, rtol=0, atol=FLOAT32)


def test_a_layer_that_did_not_run_in_one_part_stays_undefined_after_a_merge():
    class Sometimes(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.always, self.sometimes = torch.nn.Linear(10, 8), torch.nn.Linear(8, 8)

        def forward(self, x):
            y = self.always(x)
            return self.sometimes(y) if x[0, 0] < 1e3 else y

    model, batches = Sometimes(), zoo.batches_of()
    batches[3][0, 0] = 1e4
    parts = [compare(model, batches=part, **ALL) for part in (batches[:2], batches[2:])]
    for merged in (parts[0].merge(parts[1]), parts[1].merge(parts[0])):
        assert merged.undefined1 == {"sometimes": "not called in batch 2"}
        assert merged.matrix.isnan().tolist() == [[False, True], [True, True]]


def test_results_of_different_layers_do_not_merge():
    other = compare(zoo.mlp(), zoo.Reversed(), zoo.batches_of(), model1_name="left")
    with pytest.raises(
        ValueError, match="results of different comparisons: `layers1` is"
    ):
        result_of().merge(other)
    with pytest.raises(ValueError, match="without running sums"):
        small().merge(small())
