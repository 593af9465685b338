"""Cross-entropy and Dice of independent maps, one a foreground class, against hard or soft targets."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BCEDiceLoss(nn.Module):
    r""":math:`L = w_{BCE}\, \mathrm{BCE}(p, y) + w_{Dice}\, \mathrm{DL}(p, y)` of :math:`p = \mathrm{sigmoid}(z)`.

    .. math:: \mathrm{DL}(p, y) = 1 - \frac{2 \sum p y + \epsilon}{\sum p^2 + \sum y^2 + \epsilon}

    with sums over the whole batch, all channels and space, so that a class that the batch lacks costs nothing of its
    own; BCE is the mean over the same. Where both :math:`p` and :math:`y` are empty DL is 0. MONAI's DiceCELoss takes a
    softmax over several channels, and the mean of a Dice for each.

    Args:
        bce, dice: the weights.
        eps: :math:`\epsilon`.

    Shape:
        - logits, target: ``(B, C, *spatial)``, target in [0, 1]; computed in float32 or better.
        - returns: ``()``, dimensionless, >= 0; the target gets no gradient.

    Raises:
        ValueError: shapes that differ; no image.

    References: Zhang et al. 2023, Medical Image Analysis 83:102656.
    """

    def __init__(self, bce: float = 10.0, dice: float = 7.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.bce, self.dice, self.eps = bce, dice, eps

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        if logits.shape != target.shape:
            raise ValueError(f"logits {tuple(logits.shape)} and target {tuple(target.shape)} differ in shape")
        if logits.numel() == 0:
            raise ValueError(f"there is nothing to compare in {tuple(logits.shape)}")
        z = logits if logits.dtype.itemsize >= 4 else logits.float()
        y = target.detach().to(z.dtype)
        p = z.sigmoid()
        size = p.square().sum() + y.square().sum()
        dice = 1 - (2 * (p * y).sum() + self.eps) / (size + self.eps)
        return self.bce * F.binary_cross_entropy_with_logits(z, y) + self.dice * dice


def class_maps(label: Tensor, classes: int) -> Tensor:
    """``(B, 1, *spatial)`` class indices as ``(B, classes - 1, *spatial)`` maps of 0 and 1, background left out."""
    numbers = torch.arange(1, classes, device=label.device).reshape(1, -1, *[1] * (label.dim() - 2))
    return (label == numbers).float()
