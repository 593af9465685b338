"""The labelled and the unlabelled half of a step: called as one batch or as two, and of one size where terms pair them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import UserError

NORMALISED = ("together", "apart")


class UnequalBatches(UserError, ValueError):
    """Terms take labelled and unlabelled patches in pairs, and their numbers differ."""


def check_pairs(terms: Sequence[str], labelled: int, unlabelled: int) -> None:
    """Raise :class:`UnequalBatches` where the numbers of patches differ, on account of these terms."""
    if terms and labelled != unlabelled:
        raise UnequalBatches(
            f"{labelled} labelled and {unlabelled} unlabelled patches in a step: {' and '.join(terms)} take them in pairs. "
            "Set labelled_batch and unlabelled_batch to the same number, or the weights of these terms to 0"
        )


def check_normalised(normalised: str) -> None:
    """Raise a ``ValueError`` where ``normalised`` is not a way to do it."""
    if normalised not in NORMALISED:
        raise ValueError(f"normalised is one of {list(NORMALISED)}, got {normalised!r}")


def batches(labelled: Tensor, unlabelled: Tensor, normalised: str) -> list[Tensor]:
    """The images of a step as a network is called with them, a call an entry: BatchNorm divides by the statistics of each.

    Strong, mixed views have other statistics than weak ones, and so have feature maps that lost channels. In one batch with
    them the labelled patches are divided by those of the mixture, which no image has that the network will serve: on polyps
    that cost more than the unlabelled ones gave.

    Args:
        labelled: ``(Bl, C, *spatial)``, images or a feature map.
        unlabelled: ``(Bu, C, *spatial)``, what is perturbed; without any there is no call for them.
        normalised: "together" in one call, or "apart" in one each. Without BatchNorm both give the same.

    References: apart as in the program of French et al. 2020, arXiv:1906.01916.
    """
    return [labelled, unlabelled] if normalised == "apart" and len(unlabelled) else [torch.cat([labelled, unlabelled])]
