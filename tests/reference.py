"""What the engine's numbers are measured against: float64, copied, from the textbook.

Nothing here comes from the package: the hook copies, HSIC_1 is equation 5 of Song et
al. 2012, and nothing is centered before.
"""

import torch
from torch import nn


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
    rows = [[minibatch_cka(xs, ys) for ys in acts2.values()] for xs in acts1.values()]
    return torch.tensor(rows, dtype=torch.float64)


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


def _one_batch(model, batch, names, call):
    calls = {}
    modules = dict(model.named_modules(remove_duplicate=False))

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


def same_state(before, after):
    return before.keys() == after.keys() and all(
        torch.equal(before[key], after[key]) for key in before
    )


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
