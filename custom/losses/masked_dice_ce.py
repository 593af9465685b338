"""Dice and cross-entropy of hard targets over some of the voxels: pseudo-labels that are sure, parts of a pasted image."""

from __future__ import annotations

from monai.networks import one_hot
from torch import Tensor, nn
from torch.nn import functional


class MaskedDiceCELoss(nn.Module):
    r""":math:`L = w_{Dice} M + w_{CE} C` of :math:`p = \mathrm{softmax}(z)` over the voxels with :math:`m_v = 1`.

    .. math::
        M = \frac{1}{K} \sum_k \left(1 - \frac{2 \sum_v m_v p_{vk} y_{vk} + s}
            {\sum_v m_v p_{vk}^2 + \sum_v m_v y_{vk}^2 + s}\right), \qquad
        C = \frac{-\sum_v m_v \ln p_{v y_v}}{\max(\sum_v m_v, 1)}

    with sums over the whole batch. Where no voxel counts both are 0. No gradient reaches targets or mask.

    Args:
        dice, ce: the weights; a part with weight 0 is not computed.
        smooth: s.

    Shape:
        - logits: ``(B, K, *spatial)``, K >= 2; computed in float32 or better.
        - target: ``(B, *spatial)`` class indices; mask: ``(B, *spatial)`` bool or 0 and 1.
        - returns: ``()``, dimensionless, >= 0.

    Raises:
        ValueError: shapes that do not belong together.

    References: Yang et al. 2023, arXiv:2208.09910 (M, as its medical program has it); Bai et al. 2023, arXiv:2305.00673.
    """

    def __init__(self, dice: float = 1.0, ce: float = 0.0, smooth: float = 1e-5) -> None:
        super().__init__()
        self.dice, self.ce, self.smooth = dice, ce, smooth

    def forward(self, logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        if not (logits.shape[:1] + logits.shape[2:] == target.shape == mask.shape):
            raise ValueError(
                f"logits {tuple(logits.shape)} want target and mask {tuple(logits[:, 0].shape)}, "
                f"got {tuple(target.shape)} and {tuple(mask.shape)}"
            )
        z = logits if logits.dtype.itemsize >= 4 else logits.float()
        m, loss = mask.to(z.dtype), z.sum() * 0
        if self.dice:
            loss = loss + self.dice * self._dice(z.softmax(dim=1), target, m[:, None])
        if self.ce:
            entropy = functional.cross_entropy(z, target, reduction="none")
            loss = loss + self.ce * (m * entropy).sum() / m.sum().clamp(min=1)
        return loss

    def _dice(self, p: Tensor, target: Tensor, m: Tensor) -> Tensor:
        y = m * one_hot(target[:, None], p.shape[1], dtype=p.dtype)
        axes = [0, *range(2, p.ndim)]
        both, size = (2 * p * y).sum(dim=axes), (m * p.square() + y).sum(dim=axes)
        return (1 - (both + self.smooth) / (size + self.smooth)).mean()
