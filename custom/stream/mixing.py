"""Mixing within a batch: a box of each patch comes from its neighbour, and whatever belongs to the patch is mixed alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from .augment import check_probability


@dataclass(frozen=True)
class Mix:
    r"""Where a batch of views shows its neighbour: :math:`\tilde x_i = m_i\, x_{i - 1} + (1 - m_i)\, x_i`.

    Args:
        mask: ``(B, 1, *spatial)`` bool, True where the neighbour is shown. The neighbour of a patch is the one before it
            in the batch (``roll(1)``).
    """

    mask: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Mix images, targets, confidences or masks.

        Shape:
            - x: ``(B, C, *spatial)`` or ``(B, *spatial)``; the same comes back.
        """
        mask = self.mask.to(x.device)
        return torch.where(mask if x.ndim == mask.ndim else mask[:, 0], x.roll(1, dims=0), x)


class Paste:
    """One box of the same size and place in every patch of a batch: what is pasted into what is the method's.

    Args:
        side: of the box, as a share of the patch's, in [0, 1); 0 pastes nothing.

    Raises:
        ValueError: ``side`` outside this.

    References: Bai et al. 2023, arXiv:2305.00673.
    """

    def __init__(self, side: float = 2 / 3) -> None:
        if not 0 <= side < 1:
            raise ValueError(f"side is a share of the patch's in [0, 1), got {side}")
        self.side = side

    def __call__(self, patch: Sequence[int], generator: Generator) -> Tensor:
        """``(1, 1, *patch)`` bool, True inside of a box that lies anywhere within the patch."""
        mask = torch.zeros(1, 1, *patch, dtype=torch.bool)
        places = torch.rand(len(patch), generator=generator, dtype=torch.float64).tolist()
        box = [_span(side, side * self.side, place) for side, place in zip(patch, places, strict=True)]
        mask[(slice(None), slice(None), *box)] = self.side > 0  # a span has one voxel at least
        return mask


class CutMix:
    r"""Gives a patch, with probability ``prob``, a box of its neighbour in the batch.

    The box's share of the patch's volume is uniform in ``[low, high]``. Its sides are those of the patch times the D-th root
    of the share, stretched against each other by at most ``aspect`` and cut off at the patch's own. All channels share the
    box: modalities of a case stay registered. A patch whose neighbour has other modalities keeps itself.

    Args:
        prob: how often, in [0, 1].
        low, high: share of the patch, ``0 < low <= high <= 1``.
        aspect: largest ratio between two sides relative to the patch's, >= 1.

    Raises:
        ValueError: an argument outside these.

    References: Yun et al. 2019, arXiv:1905.04899; French et al. 2020, arXiv:1906.01916.
    """

    def __init__(self, prob: float = 0.5, low: float = 0.02, high: float = 0.4, aspect: float = 10 / 3) -> None:
        if not 0 < low <= high <= 1:
            raise ValueError(f"low and high are shares of a patch, 0 < low <= high <= 1, got {low} and {high}")
        if aspect < 1:
            raise ValueError(f"aspect is a ratio of sides >= 1, got {aspect}")
        self.prob, self.low, self.high, self.aspect = check_probability(prob), low, high, aspect

    def draw(self, present: Tensor, patch: Sequence[int], generator: Generator) -> Mix:
        """Boxes for one batch; as many numbers are drawn whether a box is used or not.

        Shape:
            - present: ``(B, C)`` bool, which channels each patch has.
        """
        batch, dims = len(present), len(patch)
        chance = torch.rand(batch, 2 + 2 * dims, generator=generator, dtype=torch.float64)
        alike = (present == present.roll(1, dims=0)).all(dim=1).cpu()
        mask = torch.zeros(batch, 1, *patch, dtype=torch.bool)
        for i in (((chance[:, 0] < self.prob) & alike).nonzero().flatten()).tolist():
            share = self.low + (self.high - self.low) * float(chance[i, 1])
            stretch = (2 * chance[i, 2 : 2 + dims] - 1) * math.log(self.aspect) / 2
            factors = (stretch - stretch.mean()).exp() * share ** (1 / dims)
            box = [slice(None)] * dims
            for axis, (side, factor, place) in enumerate(
                zip(patch, factors.tolist(), chance[i, 2 + dims :].tolist(), strict=True)
            ):
                box[axis] = _span(side, side * factor, place)
            mask[(i, 0, *box)] = True
        return Mix(mask)


def _span(side: int, length: float, place: float) -> slice:
    """So many voxels of an axis, at least one, at most all; ``place`` in [0, 1) says where."""
    voxels = min(side, max(1, round(length)))
    start = int(place * (side - voxels + 1))
    return slice(start, start + voxels)
