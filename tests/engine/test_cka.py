"""The engine as a user calls it: callbacks, names, choices, results, notes."""

import copy
import warnings
from itertools import islice

import pytest
import torch
from support import zoo
from support.reference import EXACT, FLOAT32, assert_right, compare
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cka_notebook import CKA

ALL = {"model1_layers": "all", "model2_layers": "all"}


DATA = torch.randn(64, 10, generator=torch.Generator().manual_seed(5))


def loader(size=16, data=DATA, **options):
    return DataLoader(TensorDataset(data), batch_size=size, **options)


def test_rows_are_model_one_and_columns_are_model_two():
    model1, model2 = zoo.mlp(), zoo.Reversed()
    result = compare(model1, model2, zoo.batches_of(), **ALL)
    assert result.layers1 == ("0", "1", "2", "3", "4")
    assert result.layers2 == ("a", "b")
    assert result.matrix.shape == (5, 2)
    assert_right(result, model1, model2, zoo.batches_of())


def test_one_batch_gives_the_full_batch_value():
    model1, model2 = zoo.mlp(), zoo.mlp()
    whole = [DATA]
    assert_right(compare(model1, model2, whole), model1, model2, whole)


def test_a_short_last_batch_weighs_little():
    model1, model2 = zoo.mlp(), zoo.mlp()
    batches = [*zoo.batches_of(3, 32), *zoo.batches_of(1, 5, seed=9)]
    result = compare(model1, model2, batches)
    assert result.examples == 101
    assert_right(result, model1, model2, batches)


def test_the_value_is_not_the_mean_over_batches():
    model1, model2 = zoo.mlp(), zoo.mlp()
    batches = zoo.batches_of(40, 5)
    single = [compare(model1, model2, [x]).matrix for x in batches]
    mean = torch.stack(single).mean(0)
    assert (compare(model1, model2, batches).matrix - mean).abs().max() > 0.01


def test_identical_copies_are_exactly_one():
    model = zoo.ResNet(width=4)
    result = compare(model, copy.deepcopy(model), zoo.images_of(), **ALL)
    assert (result.diagonal() - 1).abs().max() <= EXACT
    assert result.stderr.diagonal().max() < 1e-6


def test_a_self_comparison_runs_the_model_once_per_batch_and_is_symmetric():
    model, calls = zoo.mlp(), []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    result = compare(model, batches=zoo.batches_of(4), **ALL)
    # Twice with a few examples to learn the layers, then once a batch.
    assert len(calls) == 2 + 4
    torch.testing.assert_close(result.matrix, result.matrix.T, rtol=0, atol=EXACT)
    assert (result.diagonal() - 1).abs().max() <= EXACT


def test_a_model_given_twice_is_a_self_comparison():
    model = zoo.mlp()
    one = compare(model, batches=zoo.batches_of())
    two = compare(model, model, zoo.batches_of())
    assert torch.equal(one.matrix, two.matrix)
    assert one.name1 == two.name1 == two.name2 == "Sequential"


def test_permuted_layer_lists_permute_the_matrix():
    model = zoo.mlp()
    forth = compare(model, batches=zoo.batches_of(), model1_layers=["0", "2", "4"])
    back = compare(
        model,
        batches=zoo.batches_of(),
        model1_layers=["0", "2", "4"],
        model2_layers=["4", "0", "2"],
    )
    assert back.layers2 == ("4", "0", "2")
    assert torch.equal(back.matrix, forth.matrix[:, [2, 0, 1]])
    assert (back.matrix[0, 1] - 1).abs() <= EXACT


def test_a_self_comparison_of_different_layers_is_a_block_of_the_whole():
    model = zoo.mlp()
    whole = compare(model, batches=zoo.batches_of(), **ALL)
    part = compare(
        model, batches=zoo.batches_of(), model1_layers=["1"], model2_layers=["4", "3"]
    )
    torch.testing.assert_close(
        part.matrix, whole.matrix[1:2, [4, 3]], rtol=0, atol=FLOAT32
    )


def test_layers_given_once_are_those_of_a_self_comparison_only():
    model1, model2 = zoo.mlp(), zoo.Reversed()
    result = compare(model1, model2, zoo.batches_of(), model1_layers=["2"])
    assert result.layers1 == ("2",)
    assert result.layers2 == ("a", "b")


def test_callback_gets_the_batch_from_one_the_total_and_the_matrix_so_far():
    seen = []
    model1, model2 = zoo.mlp(), zoo.mlp()
    result = compare(
        model1, model2, zoo.batches_of(), callback=lambda *given: seen.append(given)
    )
    assert [batch for batch, _, _ in seen] == [1, 2, 3, 4]
    assert {total for _, total, _ in seen} == {4}
    for count, _, matrix in seen:
        part = compare(model1, model2, zoo.batches_of()[:count])
        torch.testing.assert_close(matrix, part.matrix, rtol=0, atol=EXACT)
    assert torch.equal(seen[-1][2], result.matrix)


def test_a_callback_that_changes_the_matrix_changes_nothing():
    model = zoo.mlp()
    result = compare(
        model, batches=zoo.batches_of(), callback=lambda _, __, matrix: matrix.zero_()
    )
    assert_right(result, model, model, zoo.batches_of())


def test_stop_iteration_from_the_callback_ends_the_run_and_keeps_the_result():
    def stop(batch, *_):
        if batch == 2:
            raise StopIteration

    model = zoo.mlp()
    stream = iter(zoo.batches_of(5))
    result = compare(model, batches=stream, callback=stop)
    assert result.batches == 2
    assert len(list(stream)) == 3
    assert_right(result, model, model, zoo.batches_of(5)[:2])


def test_small_batches_are_noted_when_the_callback_ends_the_run():
    def stop(batch, *_):
        if batch == 2:
            raise StopIteration

    with pytest.warns(UserWarning, match="Skipped 1 batch with fewer than 4 examples"):
        result = compare(
            zoo.mlp(), batches=[DATA[:2], *zoo.batches_of()], callback=stop
        )
    assert (result.batches, result.skipped) == (1, 1)


def test_a_callback_that_cannot_be_called_is_refused_before_any_work():
    stream = iter(zoo.batches_of(5))
    with pytest.raises(TypeError, match=r"function of \(batch, total, matrix\)"):
        compare(zoo.mlp(), batches=stream, callback="print")
    assert len(list(stream)) == 5


def test_a_run_that_was_ended_before_any_batch_counted_is_an_error():
    def stop(*_):
        raise StopIteration

    with pytest.raises(ValueError, match="at least 4 examples"):
        compare(zoo.mlp(), batches=[DATA[:2], DATA], callback=stop)


def test_an_exception_from_the_callback_keeps_the_result_so_far():
    def fail(batch, *_):
        if batch == 3:
            raise ZeroDivisionError

    cka = CKA(zoo.mlp())
    with pytest.raises(ZeroDivisionError):
        cka.compare(zoo.batches_of(5), progress=False, callback=fail)
    assert cka.result.batches == 3


def test_the_last_result_is_kept_and_exported():
    cka = CKA(zoo.mlp(), zoo.mlp(), "left", "right")
    with pytest.raises(RuntimeError, match="Call compare\\(\\) first"):
        cka.export()
    result = cka(zoo.batches_of(), progress=False)
    assert cka.result is result
    exported = cka.export()
    assert (exported["model1_name"], exported["model2_name"]) == ("left", "right")
    assert torch.equal(exported["CKA"], result.matrix)


def test_with_is_allowed_and_not_needed():
    with CKA(zoo.mlp()) as cka:
        assert cka.compare(zoo.batches_of(), progress=False).batches == 4


def test_a_model_may_be_compared_again_with_other_layers_and_data():
    cka = CKA(zoo.mlp())
    first = cka.compare(zoo.batches_of(), progress=False)
    second = cka.compare(zoo.batches_of(size=9), progress=False)
    assert (first.examples, second.examples) == (64, 36)


def test_names_default_to_the_classes_and_tell_models_apart():
    pairs = [
        ((zoo.mlp(), zoo.Reversed()), ("Sequential", "Reversed")),
        ((zoo.mlp(), zoo.mlp()), ("Sequential A", "Sequential B")),
        ((zoo.mlp(), zoo.mlp(), "before"), ("before", "Sequential")),
    ]
    for models, names in pairs:
        cka = CKA(*models)
        assert (cka.name1, cka.name2) == names


def test_a_wrapped_model_is_compared_by_its_own_names():
    model = zoo.mlp()
    plain = compare(model, batches=zoo.batches_of(), **ALL)
    for wrapped in (torch.compile(model, backend="eager"), nn.DataParallel(model)):
        result = compare(wrapped, batches=zoo.batches_of(), **ALL)
        assert result.layers1 == plain.layers1
        assert torch.equal(result.matrix, plain.matrix)


def test_a_model_that_was_compiled_and_run_before_is_compared_correctly():
    model = zoo.mlp()
    compiled = torch.compile(model, backend="eager")
    compiled(DATA)
    part = zoo.mlp()
    part[2] = torch.compile(part[2], backend="eager")
    part(DATA)
    in_place = zoo.mlp()
    in_place.compile(backend="eager")
    in_place(DATA)
    for given, bare in ((compiled, model), (part, part), (in_place, in_place)):
        result = compare(given, batches=zoo.batches_of())
        assert_right(result, bare, bare, zoo.batches_of())


def test_a_wrapped_and_a_bare_model_are_the_same_model():
    model = zoo.mlp()
    result = compare(nn.DataParallel(model), model, zoo.batches_of())
    assert result.name1 == result.name2 == "Sequential"
    assert (result.diagonal() - 1).abs().max() <= EXACT


def test_a_graph_module_and_a_parametrized_one_are_compared():
    for model in (
        torch.fx.symbolic_trace(zoo.mlp()),
        nn.utils.parametrizations.weight_norm(zoo.mlp()[0]),
    ):
        result = compare(model, batches=zoo.batches_of())
        assert_right(result, model, model, zoo.batches_of())


class Restless(nn.Module):
    """Trains its normalization whatever mode it is in."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(10)
        self.head = nn.Linear(10, 3)

    def forward(self, x):
        self.norm.training = True
        return self.head(self.norm(x))


def test_a_model_that_its_forward_pass_changes_is_noted():
    with pytest.warns(UserWarning, match=r"Restless changes 'norm\..* copy\.deepcopy"):
        compare(Restless(), zoo.mlp(), zoo.batches_of())
    # In training mode, but not in a run: nothing changes, and there is no note.
    assert compare(zoo.ResNet(width=2).train(), batches=zoo.images_of(1)).notes == []


def test_autocast_runs_the_model_in_half_precision_and_the_rest_in_float32():
    model1, model2 = zoo.mlp(), zoo.mlp()
    seen = []
    handle = model1[0].register_forward_hook(lambda *a: seen.append(a[2].dtype))
    half = compare(model1, model2, zoo.batches_of(), autocast=torch.bfloat16)
    handle.remove()
    full = compare(model1, model2, zoo.batches_of())
    assert set(seen) == {torch.bfloat16}
    # bfloat16 keeps eight bits: features are wrong by up to 0.4 %, CKA by less.
    torch.testing.assert_close(half.matrix, full.matrix, rtol=0, atol=0.01)
    assert not torch.equal(half.matrix, full.matrix)


def test_the_user_s_own_autocast_does_not_reach_the_gram_matrices():
    model = zoo.mlp().bfloat16()
    batches = [x.bfloat16() for x in zoo.batches_of()]
    quiet = compare(model, batches=batches)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = compare(model, batches=batches)
    torch.testing.assert_close(inside.matrix, quiet.matrix, rtol=0, atol=FLOAT32)


@pytest.mark.parametrize("examples", [16, 64])
def test_the_user_s_reduced_float32_does_not_reach_the_gram_matrices(examples):
    # No product of its own, so that only ours could lose digits.
    model = nn.Sequential(nn.Tanh(), nn.ReLU(), nn.Softplus())
    batches = [torch.randn(examples, 300) for _ in range(3)]
    full = compare(model, batches=batches, **ALL)
    torch.set_float32_matmul_precision("medium")
    try:
        inside = compare(model, batches=batches, **ALL)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(inside.matrix, full.matrix)


def test_grad_mode_does_not_change():
    with torch.enable_grad():
        compare(zoo.mlp(), batches=zoo.batches_of())
        assert torch.is_grad_enabled()
    with torch.inference_mode():
        result = compare(zoo.mlp(), batches=zoo.batches_of())
    assert result.batches == 4


@pytest.mark.parametrize("n", [16, 64])
@pytest.mark.parametrize("kind", ["mlp", "images"])
def test_a_forward_pass_under_inference_mode_gives_the_same_numbers(n, kind):
    make, batches = zoo.mlp, zoo.batches_of(4, size=n)
    if kind == "images":
        make, batches = zoo.ResNet, [torch.randn(n, 3, 16, 16) for _ in range(3)]
    model1, model2 = make(), make()
    plain = compare(model1, model2, batches=batches, **ALL)
    model2.forward = torch.inference_mode()(model2.forward)
    assert torch.equal(
        compare(model1, model2, batches=batches, **ALL).matrix, plain.matrix
    )


def test_pool_may_differ_by_layer_and_is_recorded():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3))
    batches = zoo.images_of(3)
    plain = compare(model, batches=batches, **ALL)
    pooled = compare(model, batches=batches, pool={"0": "mean"}, **ALL)
    assert pooled.provenance["pool"] == {"0": "mean"}
    assert abs(pooled.matrix[0, 1] - plain.matrix[0, 1]) > 1e-3
    assert pooled.matrix[1, 2] == pytest.approx(plain.matrix[1, 2].item(), abs=FLOAT32)

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = zoo.Returning(lambda x: model[0](x).mean((2, 3)))
            self.rest = zoo.Returning(lambda x: torch.relu(model[0](x)))

        def forward(self, x):
            self.inner(x)
            return self.rest(x)

    names = ["inner", "rest"]
    reference = compare(Pooled(), batches=batches, model1_layers=names)
    torch.testing.assert_close(
        pooled.matrix[:2, :2], reference.matrix, rtol=0, atol=FLOAT32
    )


def test_a_pool_for_a_layer_that_was_not_chosen_is_an_error():
    with pytest.raises(ValueError, match="`pool` key 'fc' matches none of the chosen"):
        compare(zoo.mlp(), batches=zoo.batches_of(), pool={"fc": "mean"})


def test_a_pool_may_be_a_function_of_the_activations():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
    batches = zoo.images_of(3)
    result = compare(model, batches=batches, pool=lambda x: x.amax((2, 3)), **ALL)
    assert result.matrix.isfinite().all()
    flat = compare(model, batches=batches, **ALL)
    assert (result.matrix - flat.matrix).abs().max() > 1e-3


def test_thinning_is_a_note_and_a_warning():
    model = zoo.DeepLeaves(70)
    with pytest.warns(UserWarning, match="`auto` chose 36 of 70 layers: every 2nd"):
        result = compare(model, batches=zoo.batches_of(features=4))
    assert result.notes[0].startswith("DeepLeaves: `auto` chose 36 of 70")
    assert len(result.layers1) == 36


def test_nothing_warns_on_an_ordinary_run():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = compare(zoo.mlp(), zoo.mlp(), loader(shuffle=True))
    assert result.notes == []


def test_progress_is_a_bar_over_batches(capsys):
    CKA(zoo.mlp()).compare(zoo.batches_of())
    assert "4/4" in capsys.readouterr().err
    CKA(zoo.mlp()).compare(zoo.batches_of(), progress=False)
    assert capsys.readouterr().err == ""


def test_negative_values_are_kept():
    generator = torch.Generator().manual_seed(2)
    noise = [
        [torch.randn(16, 10, generator=generator) for _ in range(2)] for _ in range(2)
    ]
    lowest = min(
        compare(
            zoo.mlp(), batches=noise[0], loader2=noise[1], model1_layers="all"
        ).matrix.min()
        for _ in range(3)
    )
    assert -0.3 < lowest < 0


def test_steps_are_a_generator_that_knows_its_layers_before_the_first_batch():
    steps = CKA(zoo.mlp())._steps(zoo.batches_of(), layers1=["2", "0"], layers2=["4"])
    running = next(steps)
    assert (running.batches, running.total) == (0, 4)
    assert running.layers1 == ("2", "0")
    assert running.layers2 == ("4",)
    assert [running.batches for running in islice(steps, 2)] == [1, 2]
    steps.close()
    assert running.result().matrix.shape == (2, 1)
