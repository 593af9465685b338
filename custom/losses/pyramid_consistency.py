"""Agreement of the answers at several scales with their mean."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PyramidConsistencyLoss(nn.Module):
    r"""Each scale follows the mean of all, less where it differs from it, and differences cost something themselves.

    .. math:: L = \frac{1}{S} \sum_s \left[\frac{\sum_v w_s(v) \frac{1}{K} \sum_k (p_{svk} - p_{vk})^2}
              {\sum_v w_s(v)} + \frac{1}{|V|} \sum_v D_s(v)\right], \quad p = \frac{1}{S} \sum_s p_s, \quad
              D_s(v) = \sum_k p_{svk} \ln \frac{p_{svk}}{p_{vk}}, \quad w_s = e^{-D_s}

    over all voxels of the batch; every part has its gradient. An empty batch costs 0.

    Args:
        rectified: False takes :math:`w_s = 1` and leaves out :math:`D_s`: the control, plain consistency of the scales.

    Shape:
        - logits: S tensors ``(B, K, *spatial)``, all on one grid; computed in float32 or better.
        - returns: ``()``, dimensionless, >= 0.

    Raises:
        ValueError: shapes that differ; no scale.

    References: Luo et al. 2021, arXiv:2012.07042.
    """

    def __init__(self, rectified: bool = True) -> None:
        super().__init__()
        self.rectified = rectified

    def forward(self, logits: Sequence[Tensor]) -> Tensor:
        if len({tuple(z.shape) for z in logits}) != 1:
            raise ValueError(f"one shape at every scale is needed, got {[tuple(z.shape) for z in logits]}")
        z = torch.stack([z.to(torch.promote_types(z.dtype, torch.float32)) for z in logits])  # (S, B, K, *spatial)
        if z.numel() == 0:
            return z.sum()
        logs = z.log_softmax(dim=2)
        p = logs.exp()
        mean = p.mean(dim=0, keepdim=True)
        if not self.rectified:
            return (p - mean).square().mean()
        # the logarithm of the mean would be -inf where p is 0 at all scales
        log_mean = logs.logsumexp(dim=0, keepdim=True) - math.log(len(z))
        divergence = (p * (logs - log_mean)).sum(dim=2)  # (S, B, *spatial)
        weight = (-divergence).exp()
        voxels = list(range(1, weight.ndim))
        distance = (weight * (p - mean).square().mean(dim=2)).sum(dim=voxels) / weight.sum(dim=voxels)
        return (distance + divergence.mean(dim=voxels)).mean()
