"""Agreement of labelled and unlabelled images in what a feature map holds of each class."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TaskAffinityLoss(nn.Module):
    r"""Mean squared distance between the class-specific vectors of the labelled and the unlabelled half of a batch.

    .. math:: L = \frac{1}{B K C} \sum_{b, k} \lVert V^u_{bk} - V^l_{bk} \rVert^2, \quad
              V_{bk} = \frac{\sum_v M_{bkv} F_{b \cdot v}}{\sum_{b'} \sum_v M_{b'kv} + \varepsilon},
              \quad \varepsilon = 10^{-6}

    :math:`F` is one feature map, :math:`M` a mask of each class on its grid, hard or soft. The denominator is pooled
    over the half of the batch, so that :math:`\sum_b V_{bk}` is the masked mean over all of it; with
    ``pooling="image"`` each image has its own, and :math:`V_{bk}` is that image's masked mean. The image at place b of
    the one half is compared with that at place b of the other. Gradient flows through features and masks of both
    halves. A class of which there is nothing has :math:`V = 0`; two empty halves cost 0.

    Args:
        pooling: "batch" (as published) or "image".
        skip_absent: leave out a class of which the labelled half (with image pooling, the labelled image) has nothing:
            its :math:`V^l = 0` would draw :math:`V^u` to 0. False as published. Nothing left costs 0.

    Shape:
        - labelled_features, unlabelled_features: ``(B, C, *S)``, any number of spatial axes.
        - labelled_masks, unlabelled_masks: ``(B, K, *S)``, >= 0.
        - returns: ``()``, in squared units of the features; computed in float32 or better, autocast or not, with memory
          linear in the voxels.

    Raises:
        ValueError: another ``pooling``; halves of unequal number; maps or masks that do not fit one another.

    References: Chen et al. 2023, doi 10.1109/TMI.2022.3213372.
    """

    EPS = 1e-6

    def __init__(self, pooling: str = "batch", skip_absent: bool = False) -> None:
        super().__init__()
        if pooling not in ("batch", "image"):
            raise ValueError(f"pooling is 'batch' or 'image', got {pooling!r}")
        self.pooling, self.skip_absent = pooling, skip_absent

    def forward(
        self, labelled_features: Tensor, labelled_masks: Tensor, unlabelled_features: Tensor, unlabelled_masks: Tensor
    ) -> Tensor:
        _check(labelled_features, labelled_masks, unlabelled_features, unlabelled_masks)
        with torch.autocast(labelled_features.device.type, enabled=False):  # it would pool in half precision
            labelled, mass = self._vectors(labelled_features, labelled_masks)  # (B, K, C), (1 or B, K, 1)
            unlabelled, _ = self._vectors(unlabelled_features, unlabelled_masks)
            distance = (unlabelled - labelled).square()
            counted = (mass > 0) if self.skip_absent else torch.ones_like(mass, dtype=torch.bool)
            counted = counted.expand_as(distance)
            return (distance * counted).sum() / counted.sum().clamp(min=1)

    def _vectors(self, features: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """The vectors of each class in each image, and what the denominator holds of that class."""
        dtype = torch.promote_types(torch.promote_types(features.dtype, masks.dtype), torch.float32)
        features, masks = (t.to(dtype).flatten(2) for t in (features, masks))  # (B, C, V), (B, K, V)
        mass = masks.sum(dim=(0, 2) if self.pooling == "batch" else 2, keepdim=True)  # (1 or B, K, 1)
        return masks @ features.transpose(1, 2) / (mass + self.EPS), mass


def _check(*tensors: Tensor) -> None:
    lf, lm, uf, um = (tuple(t.shape) for t in tensors)
    if any(len(shape) < 3 for shape in (lf, lm, uf, um)):
        raise ValueError(f"features and masks need a spatial axis: (B, C, *S), got {lf}, {lm}, {uf}, {um}")
    if lf[0] != uf[0]:
        raise ValueError(
            f"{lf[0]} labelled and {uf[0]} unlabelled images: they are compared in pairs, give equal numbers"
        )
    for half, features, masks in (("labelled", lf, lm), ("unlabelled", uf, um)):
        if (features[0], *features[2:]) != (masks[0], *masks[2:]):
            raise ValueError(f"{half} features {features} and masks {masks} differ in images or grid")
    if lf[1] != uf[1] or lm[1] != um[1]:
        raise ValueError(f"labelled {lf}, {lm} and unlabelled {uf}, {um} differ in channels or classes")
