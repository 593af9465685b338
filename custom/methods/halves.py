"""How a network that trains is called with labelled and unlabelled patches: as one batch, or as two."""

from __future__ import annotations

import torch
from torch import Tensor

NORMALISED = ("together", "apart")


def check_normalised(normalised: str) -> None:
    """Raise a ``ValueError`` where ``normalised`` is no way to do it."""
    if normalised not in NORMALISED:
        raise ValueError(f"normalised is one of {list(NORMALISED)}, got {normalised!r}")


def batches(labelled: Tensor, unlabelled: Tensor, normalised: str) -> list[Tensor]:
    """The images of a step as a network is called with them, a call an entry: BatchNorm divides by the statistics of each.

    Strong, mixed views have other statistics than clean images. In one batch with them the labelled patches are divided by
    those of the mixture, which no image has that the network will serve: on polyps that cost more than the unlabelled ones
    gave.

    Args:
        labelled: ``(Bl, C, *spatial)``.
        unlabelled: ``(Bu, C, *spatial)``; none of them is no call.
        normalised: "together" in one call, or "apart" in one each. Without BatchNorm both give the same.

    References: apart as in the program of French et al. 2020, arXiv:1906.01916.
    """
    return [labelled, unlabelled] if normalised == "apart" and len(unlabelled) else [torch.cat([labelled, unlabelled])]
