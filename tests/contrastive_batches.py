"""Small batches of two modalities, and a method over them, for the tests of contrastive mutual learning."""

from __future__ import annotations

import tiny_contrastive_mutual
import torch

from custom.methods import ContrastiveMutual
from custom.methods.batch import Batch
from custom.methods.schedule import Progress, TermWeights

TERMS = ContrastiveMutual.terms
FLAIR, T1CE = 0, 1
STAGE_1 = ("supervised", "contrastive", "consistency")
STAGE_2 = ("relearn",)
END = ("relearn", "relearn_strong")


def make(**settings):
    return tiny_contrastive_mutual.method(**settings).train()


def progress(*wanted, step=0, steps=10):
    weights = TermWeights({name: float(name in (wanted or TERMS)) for name in TERMS}, TERMS)
    return Progress(step, steps, 1, 1, weights)


def staged(step, steps=100, begins=0.63):
    """Where a run stands whose stage 2 begins at that fraction of it."""
    return Progress(step, steps, 1, 1, TermWeights({**dict.fromkeys(TERMS, 1.0), "relearn": {"value": 1, "from": begins},
                                                    "relearn_strong": 0}, TERMS))  # fmt: skip


def batch(patches=3, classes=2, present=None, labelled=False, seed=0, dims=2):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(patches, 2, *[8] * dims, generator=generator)
    there = torch.ones(patches, 2, dtype=torch.bool) if present is None else torch.tensor(present, dtype=torch.bool)
    label = torch.randint(classes, (patches, 1, *[8] * dims), generator=generator) if labelled else None
    return Batch(image * there.reshape(patches, 2, *[1] * dims), label, present=there)


def pair(**settings):
    return batch(labelled=True, seed=1, **settings), batch(seed=2, **settings)


def maps(method, m, *batches):
    """Probabilities of each batch, from one forward over all of them."""
    logits = method.networks[m](torch.cat([b.image[:, m : m + 1] for b in batches]))[:, 1:]
    return logits.sigmoid().split([len(b) for b in batches])


def dice_loss(p, y, eps=1e-6):
    return 1 - (2 * (p * y).sum() + eps) / ((p * p).sum() + (y * y).sum() + eps)


def fit(p, y):
    cross_entropy = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
    return 10 * cross_entropy + 7 * dice_loss(p, y)


def gradients(method, m):
    return [p.grad for p in method.networks[m].parameters()]


def buffers(module):
    return {name: b.clone() for name, b in module.named_buffers()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)
