"""Temporary changes are undone, whatever interrupts that."""

import pytest
import torch
from torch import nn

from cka_notebook._undo import Undo, undoing, unhook


def test_steps_are_taken_once_and_the_last_one_first():
    undo, taken = Undo(), []
    with undo, undo:
        undo.add(taken.append, 1)
        undo.add(taken.append, 2)
        assert taken == []
    assert taken == [2, 1]


def test_an_interrupted_step_is_tried_again_and_the_interrupt_raised():
    undo, taken = Undo(), []

    def step():
        taken.append(1)
        if len(taken) == 1:
            raise KeyboardInterrupt

    undo.add(taken.append, 3)
    undo.add(step)
    with pytest.raises(KeyboardInterrupt), undo, undo:
        pass
    assert taken == [1, 1, 3]


def test_a_step_that_always_fails_does_not_stop_the_others():
    undo, taken = Undo(), []

    def step():
        raise OSError("full")

    undo.add(taken.append, 1)
    undo.add(step)
    undo.add(taken.append, 2)
    with pytest.raises(OSError, match="full"), undo, undo:
        pass
    assert taken == [2, 1]


def test_the_outer_exit_does_what_the_inner_one_could_not():
    taken = []

    class Struck(Undo):
        exits = 0

        def __exit__(self, *given):
            self.exits += 1
            if self.exits == 1:
                raise KeyboardInterrupt
            super().__exit__(*given)

    undo = Struck()
    with pytest.raises(KeyboardInterrupt), undo, undo:
        undo.add(taken.append, 1)
    assert taken == [1]


def test_a_change_that_fails_halfway_is_undone():
    values = {}

    @undoing
    def put(undo, *keys):
        for key in keys:
            undo.add(values.pop, key, None)
            values[key] = 1
        if len(keys) > 1:
            raise ValueError(keys)

    with put("a"):
        assert values == {"a": 1}
    with pytest.raises(ValueError, match="b"), put("a", "b"):
        pass
    assert values == {}


@pytest.mark.parametrize("with_kwargs", [True, False])
def test_only_the_hook_itself_is_removed(with_kwargs):
    module, seen = nn.Linear(2, 2), []

    def ours(*_):
        seen.append("ours")

    def theirs(*_):
        seen.append("theirs")

    unhook(module, ours)
    for hook in (theirs, ours):
        module.register_forward_hook(hook, with_kwargs=with_kwargs)
        module.register_forward_pre_hook(hook, with_kwargs=with_kwargs)
    unhook(module, ours)
    unhook(module, ours)
    module(torch.zeros(1, 2))
    assert seen == ["theirs", "theirs"]
    assert len(module._forward_hooks_with_kwargs) == with_kwargs
    assert len(module._forward_pre_hooks_with_kwargs) == with_kwargs
