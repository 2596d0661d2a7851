"""What the engine's numbers are measured against: float64, copied, from the textbook.

None of the numbers comes from the package: the hook copies, and HSIC_1 is equation 5 of
Song et al. 2012.
"""

import torch
from torch import nn

from cka_notebook import CKA

FLOAT32 = 1e-5
"""Float32 Gram matrices of float32 activations against float64 ones of the same; the
bar of the design is 3e-6 where activations vary as much as they are large."""

EXACT = 1e-12
"""What identical layers may differ from 1."""


def hsic1(K, L):
    n, one = len(K), torch.ones(len(K), dtype=torch.float64)
    K, L = K - K.diagonal().diag(), L - L.diagonal().diag()
    means = (one @ K @ one) * (one @ L @ one) / ((n - 1) * (n - 2))
    cross = 2 / (n - 2) * (one @ K @ L @ one)
    return ((K * L).sum() + means - cross) / (n * (n - 3))


def gram64(x):
    rows = x.double().flatten(1) if x.ndim > 1 else x.double().unsqueeze(1)
    # A shift changes no HSIC; without it float64 itself would cancel at offsets of 1e6.
    rows = rows - rows.mean(0)
    return rows @ rows.T


def terms(x, y):
    """What one batch adds: n (n - 3) HSIC_1 of the pair and of each with itself."""
    K, L, weight = gram64(x), gram64(y), len(x) * (len(x) - 3)
    return torch.stack([weight * hsic1(a, b) for a, b in ((K, L), (K, K), (L, L))])


def minibatch_cka(xs, ys):
    """CKA of one layer pair from lists of batches of activations."""
    xy, xx, yy = sum(terms(x, y) for x, y in zip(xs, ys, strict=True))
    return xy / (xx * yy).sqrt()


def minibatch_matrix(acts1, acts2):
    """CKA of all pairs of two dicts from layer name to batches of activations."""
    count = len(next(iter(acts1.values())))
    xy = xx = yy = 0
    for b in range(count):
        K = torch.stack([gram64(xs[b]) for xs in acts1.values()])
        L = torch.stack([gram64(ys[b]) for ys in acts2.values()])
        weight = K.shape[1] * (K.shape[1] - 3)
        xy = xy + weight * hsic1_pairs(K, L)
        xx = xx + weight * hsic1_pairs(K, K).diagonal()
        yy = yy + weight * hsic1_pairs(L, L).diagonal()
    return xy / (xx[:, None] * yy).sqrt()


def hsic1_pairs(K, L):
    """`hsic1` of all pairs of two stacks of Gram matrices."""
    n = K.shape[1]
    K, L = (M - torch.diag_embed(M.diagonal(dim1=1, dim2=2)) for M in (K, L))
    traces = K.flatten(1) @ L.flatten(1).T
    r, s = K.sum(1), L.sum(1)
    means = r.sum(1)[:, None] * s.sum(1) / ((n - 1) * (n - 2))
    return (traces + means - 2 / (n - 2) * r @ s.T) / (n * (n - 3))


def activations(model, batches, names, call=None, axis=0):
    """Copies of what each layer returned, as {name: one (n, ...) tensor a batch}.

    ``act#1`` is the second call of ``act``. ``axis`` is the batch axis, or a dict of it
    by layer.
    """
    found = {name: [] for name in names}
    call = call or (lambda model, batch: model(batch))
    axes = axis if isinstance(axis, dict) else dict.fromkeys(names, axis)
    training = [module.training for module in model.modules()]
    model.eval()
    for batch in batches:
        for name, rows in _one_batch(model, batch, names, call).items():
            found[name].append(rows.movedim(axes.get(name, 0), 0))
    for module, flag in zip(model.modules(), training, strict=True):
        module.training = flag
    return found


def masked_means(model, batches, names):
    """`activations` of a model of text, averaged over the tokens of each mask.

    Tokens that the model itself puts in front of those of the batch count.
    """
    inputs = ("input_ids", "attention_mask", "decoder_input_ids")
    found = activations(
        model,
        batches,
        names,
        lambda model, batch: model(**{k: batch[k] for k in inputs if k in batch}),
    )
    masks = [batch["attention_mask"].double() for batch in batches]
    for rows in found.values():
        rows[:] = [_masked_mean(x, m) for x, m in zip(rows, masks, strict=True)]
    return found


def _masked_mean(x, mask):
    if x.ndim != 3:
        return x
    front = mask.new_ones(len(mask), x.shape[1] - mask.shape[1])
    weights = torch.cat([front, mask], 1).unsqueeze(-1)
    return (x.double() * weights).sum(1) / weights.sum(1)


def _one_batch(model, batch, names, call):
    calls = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    modules.setdefault(type(model).__name__, model)

    def copying(bare):
        def hook(_module, _args, output):
            copied = first_tensor(output)
            calls.setdefault(bare, []).append(
                None if copied is None else copied.detach().clone()
            )

        return hook

    bares = {name.partition("#")[0] for name in names}
    handles = [modules[b].register_forward_hook(copying(b)) for b in bares]
    try:
        with torch.no_grad():
            call(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: _call_of(calls, name) for name in names}


def _call_of(calls, name):
    bare, _, number = name.partition("#")
    return calls[bare][int(number or 0)]


def first_tensor(output):
    if isinstance(output, torch.Tensor):
        return output
    items = output.values() if hasattr(output, "values") else output
    return next((item for item in items if isinstance(item, torch.Tensor)), None)


def hooks_on(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def snapshot(model: nn.Module):
    """All that a comparison must give back: flags, hooks, tensors, devices, random."""
    return {
        "training": [module.training for module in model.modules()],
        "hooks": [
            [len(module._forward_hooks), len(module._forward_pre_hooks)]
            for module in model.modules()
        ],
        "state": {
            key: (value.device, value.dtype, value.clone())
            for key, value in model.state_dict().items()
        },
        "pointers": [p.data_ptr() for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad": [p.grad is None for p in model.parameters()],
        "random": torch.get_rng_state(),
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "grad_enabled": torch.is_grad_enabled(),
    }


def differences(before, after):
    """Names of what differs between two snapshots."""
    plain = [
        key
        for key in before
        if key not in ("state", "random") and before[key] != after[key]
    ]
    if not torch.equal(before["random"], after["random"]):
        plain.append("random")
    for key, (device, dtype, value) in before["state"].items():
        other = after["state"][key]
        if (device, dtype) != other[:2] or not torch.equal(value, other[2]):
            plain.append(key)
    return plain


def compare(model1, model2=None, batches=(), loader2=None, **options):
    """`CKA.compare` without a progress bar; options of both."""
    later = ("callback", "checkpoint", "max_batches", "paired")
    run = {key: options.pop(key) for key in later if key in options}
    cka = CKA(model1, model2, **options)
    return cka.compare(batches, loader2, progress=False, **run)


def expected_matrix(result, model1, model2, batches, **options):
    """The reference for the layers that a result names."""
    first = activations(model1, batches, result.layers1, **options)
    second = activations(model2, batches, result.layers2, **options)
    return minibatch_matrix(first, second)


def assert_right(result, model1, model2, batches, atol=FLOAT32, **options):
    """Every cell of a result is that of the float64 reference."""
    expected = expected_matrix(result, model1, model2, batches, **options)
    assert result.matrix.shape == expected.shape
    torch.testing.assert_close(result.matrix, expected, rtol=0, atol=atol)
