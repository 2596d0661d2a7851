"""The Python call that repeats a comparison."""

import torch
from support.doubles import batches, net

from cka_notebook import CKA, CKAExplorer
from cka_notebook._widget.source import with_layers


def test_the_code_repeats_exactly_this_comparison():
    model1, model2, loader = net(), net(), batches()
    explorer = CKAExplorer(model1, model2, loader, model1_name="left", max_batches=4)
    explorer.layers1 = ["0", "3"]
    result = explorer.wait(60)
    scope = {"CKA": CKA, "model1": model1, "model2": model2, "loader": loader}
    again = eval(explorer.code, scope)
    assert again.layers1 == result.layers1 == ("0", "3")
    assert torch.equal(again.matrix, result.matrix)


def test_the_code_has_every_option_that_is_not_the_default():
    model, loader = net(), batches()
    explorer = CKAExplorer(
        model, None, loader, pool="mean", stop_when_stable=0.5, max_batches=4,
        model1_layers=["0"], paired=True,
    )  # fmt: skip
    code = explorer.code
    assert code == with_layers(explorer._code, ["0"], ["0"])
    assert code.endswith(
        ").compare(loader, max_batches=4, paired=True, stop_when_stable=0.5)"
    )
    assert code.startswith("CKA(\n    model1,\n    model1_name='model',\n")
    assert "    pool='mean',\n" in code
    assert "metric" not in code
    explorer.stop_when_stable = None
    assert ").compare(loader, max_batches=4, paired=True)" in explorer.code
