"""Every row of the table "What the others get wrong" says right for ours."""

import json
import math
import warnings

import pytest
import torch
from peers import sites, table
from peers.case import listened
from peers.cases import CASES
from peers.contenders import Answer
from peers.exact import Exact
from peers.verdicts import RIGHT, judge, told
from peers.worker import verdict

COMMITTED = json.loads(table.FILE.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("key", CASES)
def test_ours_is_right(key):
    assert verdict("ours", key) == RIGHT


@pytest.fixture
def exact():
    """Two layers, `a` called twice, on three batches."""
    features = torch.randn(5, 3, 16, 8, dtype=torch.float64)
    grams = [[x @ x.T for x in batches] for batches in features]
    return Exact(
        {"a#0": grams[0], "a#1": grams[1], "b": grams[2]},
        {"c": grams[3], "d": grams[4]},
    )


def matrix_of(exact, rows, columns):
    return torch.tensor([[exact.unbiased(i, j) for j in columns] for i in rows])


def test_the_truth_itself_is_right(exact):
    rows, columns = ["a#0", "a#1", "b"], ["c", "d"]
    answer = Answer(rows, columns, matrix_of(exact, rows, columns))
    assert judge(answer, exact, "unbiased", rows) == RIGHT


def test_names_that_are_not_those_of_the_rows_are_wrong(exact):
    answer = Answer(["b", "a#1"], ["c"], matrix_of(exact, ["a#1", "b"], ["c"]))
    assert judge(answer, exact, "unbiased", ()).kind == "wrong"


def test_one_row_for_a_module_called_twice_misses_a_call(exact):
    answer = Answer(["a", "b"], ["c"], matrix_of(exact, ["a#1", "b"], ["c"]))
    assert judge(answer, exact, "unbiased", ()) == RIGHT
    assert judge(answer, exact, "unbiased", ["a#0"]).detail == "no row for a#0"


def test_a_number_for_a_layer_that_never_ran_is_wrong(exact):
    answer = Answer(["ghost"], ["c"], torch.zeros(1, 1))
    assert judge(answer, exact, "unbiased", ()).detail == (
        "0.00 for a layer that never ran"
    )


def test_a_number_for_a_constant_layer_is_wrong_and_nan_is_right(exact):
    exact.grams1["b"] = [torch.zeros(16, 16, dtype=torch.float64)] * 3
    assert (
        judge(Answer(["b"], ["c"], torch.zeros(1, 1)), exact, "unbiased", ()).detail
        == "0.00 for 0 / 0"
    )
    nan = torch.full((1, 1), torch.nan)
    assert judge(Answer(["b"], ["c"], nan), exact, "unbiased", ()) == RIGHT


def test_a_layer_without_rows_of_examples_has_no_value_or_a_note(exact):
    del exact.grams1["b"]

    def verdict(rows, value=math.nan, notes=()):
        matrix = torch.tensor([[exact.unbiased("a#1", "c")], [value]])[: len(rows)]
        answer = Answer(rows, ["c"], matrix, list(notes))
        return judge(answer, exact, "unbiased", (), ("b",))

    assert verdict(["a#1", "b"]) == RIGHT
    assert verdict(["a#1", "b"], 0.5).detail == "0.50 for rows that are no examples"
    assert verdict(["a#1"]).detail == "no word on b"
    assert verdict(["a#1"], notes=["Left out: 'b'."]) == RIGHT


def test_a_layer_in_another_order_is_right_as_nan_or_in_order(exact):
    def verdict(value):
        rows = ["a#1", "b"]
        matrix = torch.tensor([[exact.unbiased("a#1", "c")], [value]])
        return judge(Answer(rows, ["c"], matrix), exact, "unbiased", (), ("b",))

    assert verdict(exact.unbiased("b", "c")) == verdict(math.nan) == RIGHT
    assert verdict(0.9).kind == "wrong"


def test_a_layer_that_is_wanted_may_be_missing_if_a_warning_names_it(exact):
    matrix = matrix_of(exact, ["a#1"], ["c"])
    silent = Answer(["a#1"], ["c"], matrix)
    assert judge(silent, exact, "unbiased", ["x"]).detail == "no row for x"
    told = Answer(["a#1"], ["c"], matrix, ["Not compared: 'x'."])
    assert judge(told, exact, "unbiased", ["x"]) == RIGHT


def test_a_contender_is_listened_to():
    def warning(_):
        warnings.warn("Not compared: 'x'.", stacklevel=1)
        return Answer([], [], torch.zeros(0, 0))

    answer = listened(warning, CASES["list"].ask())
    assert told(answer, "x")
    assert not told(answer, "y")


def test_nan_where_there_is_a_number_is_wrong(exact):
    nan = torch.full((1, 1), torch.nan)
    assert judge(Answer(["b"], ["c"], nan), exact, "unbiased", ()).detail == "NaN"


def test_the_committed_table_has_every_case_and_ours_is_right_in_all():
    assert list(COMMITTED["cases"]) == list(CASES)
    for case in COMMITTED["cases"].values():
        assert case["ours"] == {"kind": "right", "detail": ""}


def test_the_committed_table_holds_all_three_peers():
    assert set(COMMITTED["contenders"]) == {"ours", *sites.PEERS}


def test_the_pages_show_the_committed_table():
    mark = "<!-- peers -->"
    for page, shown in (
        (table.PAGE, table.markdown(COMMITTED)),
        (table.README, table.short(COMMITTED)),
    ):
        text = page.read_text(encoding="utf-8")
        assert text.split(mark)[1:-1] == [f"\n{shown}\n"]


def rows_of(table):
    """Title and verdicts of each row."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    return {title: verdicts for title, *verdicts in rows}


def test_the_short_table_holds_verdicts_of_the_long_one_and_their_count():
    long, short = (rows_of(f(COMMITTED)) for f in (table.markdown, table.short))
    title, counts = short.popitem()
    assert title == f"Right, of all {len(CASES)} cases"
    columns = zip(*long.values(), strict=True)
    assert [int(x) for x in counts] == [column.count("right") for column in columns]
    assert list(short) == [CASES[key].title for key in table.SHORT]
    for title, verdicts in short.items():
        full = long[title]
        assert verdicts == ["crash" if x.startswith("crash") else x for x in full]


@pytest.mark.parametrize("peer", sites.PEERS)
def test_a_peer_still_gets_in_place_layers_wrong(peer):
    if not sites.installed(peer):
        pytest.skip(f"{peer} is not installed: run `{table.COMMAND}`")
    found = table.verdicts(peer, "inplace")["inplace"]
    assert found["kind"] == COMMITTED["cases"]["inplace"][peer]["kind"] == "wrong"
