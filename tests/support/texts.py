"""Batches of text: token ids with an attention mask."""

import torch

LENGTHS = torch.tensor([9, 3, 5, 9, 4, 6, 7, 8])
"""How many tokens of each of eight texts count."""


def words(n=8, length=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 100, (n, length), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def padded(batch, lengths, extra=0, seed=1):
    """The same words, each text followed by garbage that its mask hides."""
    generator = torch.Generator().manual_seed(seed)
    ids = batch["input_ids"]
    n, length = len(ids), ids.shape[1] + extra
    garbage = torch.randint(5, 100, (n, length), generator=generator)
    garbage[:, : ids.shape[1]] = ids
    mask = (torch.arange(length) < lengths[:, None]).long()
    noise = torch.randint(5, 100, (n, length), generator=generator)
    return {
        "input_ids": torch.where(mask > 0, garbage, noise),
        "attention_mask": mask,
    }


def padded_words(count):
    """Batches of eight padded texts."""
    return [padded(words(seed=seed), LENGTHS) for seed in range(count)]


def with_keywords(model, batch):
    """Calls a model with the entries of a batch."""
    return model(**batch)


def noted(result, *parts):
    """The notes in which all these words occur."""
    return [note for note in result.notes if all(part in note for part in parts)]
