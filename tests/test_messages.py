"""Notes and reasons: texts with their severity or kind."""

import copy
import json
import pickle

import pytest

from cka_notebook._messages import Note, Reason, code_of, is_grave

COPIES = [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]


@pytest.mark.parametrize("copied", COPIES)
def test_copies_keep_severity_and_kind(copied):
    note = copied(Note("Not random.", grave=True))
    assert (note, type(note), note.grave) == ("Not random.", Note, True)
    reason = copied(Reason("not called", "not_called"))
    assert (reason, type(reason), reason.code) == ("not called", Reason, "not_called")


def test_they_are_their_text_wherever_text_is_expected():
    note, reason = Note("a", grave=True), Reason("b", "alias")
    assert json.dumps([note, reason]) == '["a", "b"]'
    assert {note: 1}["a"] == 1
    assert list(dict.fromkeys([note, "a"])) == ["a"]


def test_a_plain_string_is_not_grave_and_of_no_kind():
    assert not is_grave("a")
    assert not is_grave(Note("a"))
    assert code_of("a") is None
    assert code_of(None) is None
