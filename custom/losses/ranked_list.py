"""Ranked list loss: positives within a ball, negatives outside a larger one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_CLOSEST = 1e-12  # of squared distances: the root has no gradient at 0


class RankedListLoss(nn.Module):
    r"""Pulls embeddings of one label together up to a distance, pushes those of other labels beyond another one.

    .. math::
        P_i &= \{ j \ne i : l_j = l_i,\; d_{ij} > \alpha - m \}, \qquad
        N_i = \{ j : l_j \ne l_i,\; d_{ij} < \alpha \}, \qquad d_{ij} = |e_i - e_j| \\
        L_P(i) &= \frac{1}{|P_i|} \sum_{P_i} (d_{ij} - (\alpha - m)), \qquad
        L_N(i) = \frac{\sum_{N_i} w_{ij} (\alpha - d_{ij})}{\sum_{N_i} w_{ij}}, \quad
        w_{ij} = \operatorname{sg}\, e^{T (\alpha - d_{ij})} \\
        R &= \frac{1}{n} \sum_i \big[ (1 - \lambda) L_P(i) + \lambda L_N(i) \big]

    An empty set contributes 0: positives within :math:`\alpha - m` keep their spread, a gallery of one row, of no row,
    or one that satisfies both bounds costs 0. No gradient reaches the weights :math:`w`; they are a softmax, so that no
    temperature overflows. Squared distances are at least 1e-12. Rows are compared as they are given: normalise them.

    Args:
        margin: :math:`m`, in units of the distance.
        boundary: :math:`\alpha`, in units of the distance (at most 2 between rows of length 1).
        balance: :math:`\lambda`, the share of the negatives, in [0, 1].
        temperature: :math:`T`; the larger, the more the closest negatives count; 0 weighs all alike.

    Shape:
        - embeddings: ``(*, N, D)``; each leading place is a gallery of its own, compared with no other. Computed in
          float32 or better, whatever the precision of the rows, within autocast too.
        - labels: ``(*, N)`` integer; a negative label marks an empty row, which counts for nothing.
        - returns: ``()``, the mean over the galleries that have a row, dimensionless. Memory is ``(*, N, N)``.

    Raises:
        ValueError: ``margin`` outside [0, boundary]; ``boundary`` not above 0; ``balance`` outside [0, 1];
            ``temperature`` below 0; embeddings and labels whose shapes do not fit.

    References: Wang et al. 2019, arXiv:1903.03238 (the kernel); Du et al. 2023, doi 10.1109/JBHI.2023.3278741.
    """

    def __init__(
        self, margin: float = 0.4, boundary: float = 1.2, balance: float = 0.5, temperature: float = 10.0
    ) -> None:
        super().__init__()
        if not boundary > 0:
            raise ValueError(f"boundary is a distance above 0, got {boundary}")
        if not 0 <= margin <= boundary:
            raise ValueError(f"margin is in [0, boundary], got {margin} with the boundary {boundary}")
        if not 0 <= balance <= 1:
            raise ValueError(f"balance is in [0, 1], got {balance}")
        if not temperature >= 0:
            raise ValueError(f"temperature is at least 0, got {temperature}")
        self.margin, self.boundary, self.balance, self.temperature = margin, boundary, balance, temperature

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        distance, alike, unlike = _pairs(embeddings, labels)
        radius = self.boundary - self.margin
        positive, negative = alike & (distance > radius), unlike & (distance < self.boundary)
        pull = ((distance - radius) * positive).sum(dim=-1) / positive.sum(dim=-1).clamp(min=1)  # (*, N)
        closeness = self.boundary - distance
        push = (self._weights(closeness.detach(), negative) * closeness).sum(dim=-1)  # (*, N)
        rows = (labels >= 0).sum(dim=-1)  # (*)
        cost = ((1 - self.balance) * pull + self.balance * push).sum(dim=-1) / rows.clamp(min=1)  # empty rows have 0
        return cost.sum() / (rows > 0).sum().clamp(min=1)

    def _weights(self, closeness: Tensor, negative: Tensor) -> Tensor:
        """``(*, N, N)``: sums to 1 over each row's negatives, 0 elsewhere and where there are none."""
        least = torch.finfo(closeness.dtype).min
        return (self.temperature * closeness).masked_fill(~negative, least).softmax(dim=-1) * negative

    @torch.no_grad()
    def active(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The shares of the pairs of one label, and of the pairs of different labels, that cost something."""
        distance, alike, unlike = _pairs(embeddings, labels)
        positive, negative = alike & (distance > self.boundary - self.margin), unlike & (distance < self.boundary)
        return positive.sum() / alike.sum().clamp(min=1), negative.sum() / unlike.sum().clamp(min=1)


def _pairs(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distances, pairs of one label, pairs of different labels: ``(*, N, N)`` each. No row is its own partner."""
    if embeddings.dim() < 2 or embeddings.shape[:-1] != labels.shape:
        raise ValueError(
            f"embeddings {tuple(embeddings.shape)} and labels {tuple(labels.shape)} do not fit: expected (*, N, D) "
            "and (*, N)"
        )
    there = labels >= 0
    both = there.unsqueeze(-1) & there.unsqueeze(-2)
    same = labels.unsqueeze(-1) == labels.unsqueeze(-2)
    itself = torch.eye(labels.shape[-1], dtype=torch.bool, device=labels.device)
    return _distances(embeddings), both & same & ~itself, both & ~same


def _distances(rows: Tensor) -> Tensor:
    rows = rows if rows.dtype.itemsize >= 4 else rows.float()
    with torch.autocast(rows.device.type, enabled=False):  # which would multiply in half precision
        length = rows.square().sum(dim=-1)  # (*, N)
        squared = length.unsqueeze(-1) + length.unsqueeze(-2) - 2 * rows @ rows.transpose(-1, -2)
    return squared.clamp(min=_CLOSEST).sqrt()
