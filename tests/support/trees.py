"""Layer trees of models that were probed."""

import torch

from cka_notebook._capture.probe import probe
from cka_notebook._models.layer_tree import LayerTree


def probed(model, batch, argument="model1_layers"):
    """The tree of a model after a probe with this batch, a tensor."""
    tree = LayerTree(model, argument)

    def run(rows):
        inputs = batch if rows is None else batch[rows]
        with torch.no_grad():
            tree.model.eval()(inputs)
        return len(inputs)

    probe(tree, run, len(batch))
    return tree
