"""Contrast between two sets of maps by the area that they share: the same image in the other modality against the rest."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIMILARITIES = ("area", "cosine")


class AreaSimilarityContrastiveLoss(nn.Module):
    r"""Each image's map must be more like its own counterpart than like any other map of either set.

    .. math:: L = \frac{1}{2B} \sum_{i=1}^{2B} -\log
              \frac{e^{s(i, i^+)}}{e^{s(i, i^+)} + \sum_{k \ne i, i^+} e^{s(i, k)}}, \quad
              s(i, j) = \frac{2 \sum z_i z_j + \epsilon}{\sum z_i^2 + \sum z_j^2 + \epsilon}

    :math:`z` are the :math:`2B` maps of both sets, :math:`i^+` is the same image in the other set; sums run over
    channels and space. There is no temperature; the gradient reaches both sets.

    ====================================== ================================= ============= ==============
    maps                                   value                             B = 4         B = 26
    ====================================== ================================= ============= ==============
    alike within a pair, disjoint between  :math:`\log(1 + (2B - 2) / e)`    1.165         2.965
    all alike: the plateau                 :math:`\log(2B - 1)`              1.946         3.932
    ====================================== ================================= ============= ==============

    The plateau is where networks stay that draw the same map whatever they see, and where empty maps are.

    Args:
        eps: :math:`\epsilon`; two empty maps have the similarity 1.
        similarity: "area" as above, or "cosine": :math:`(\sum z_i z_j + \epsilon) / \sqrt{(\sum z_i^2 + \epsilon)
            (\sum z_j^2 + \epsilon)}`, which does not see how large a map is.

    Shape:
        - first, second: probabilities ``(B, C, *spatial)``, B >= 2, any number of spatial axes; computed in float32 or
          better, whatever their precision and under autocast too. Beside the maps it takes memory for ``(2B, 2B)``.
        - returns: ``()``, dimensionless, >= 0; between :math:`\log(1 + (2B - 2) / e)` and :math:`\log(1 + (2B - 2) e)`.

    Raises:
        ValueError: shapes that differ; fewer than two images (one image has no negatives: the loss would be 0 whatever
            it shows); an unknown ``similarity``; ``eps`` not above 0.

    References: Zhang et al. 2023, Medical Image Analysis 83:102656.
    """

    def __init__(self, eps: float = 1e-6, similarity: str = "area") -> None:
        super().__init__()
        if not eps > 0:
            raise ValueError(f"eps must be above 0, got {eps}")
        if similarity not in SIMILARITIES:
            raise ValueError(f"similarity is one of {list(SIMILARITIES)}, got {similarity!r}")
        self.eps, self.similarity = eps, similarity

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.contrast(self.similarities(first, second))

    def similarities(self, first: Tensor, second: Tensor) -> Tensor:
        """``(2B, 2B)``: how like each other any two maps are, the ``B`` of ``first`` before those of ``second``."""
        if first.shape != second.shape:
            raise ValueError(f"first {tuple(first.shape)} and second {tuple(second.shape)} differ in shape")
        if first.dim() < 2 or len(first) < 2:
            raise ValueError(
                f"expected (B, C, *spatial) with B >= 2, got {tuple(first.shape)}: one image has no negatives, raise "
                "unlabelled_batch"
            )
        maps = torch.cat([first, second]).flatten(1)  # (2B, C * voxels)
        maps = maps if maps.dtype.itemsize >= 4 else maps.float()
        with torch.autocast(maps.device.type, enabled=False):  # which would take the product in half precision
            shared = maps @ maps.T
        area = maps.square().sum(dim=1)
        if self.similarity == "cosine":
            return (shared + self.eps) / ((area[:, None] + self.eps) * (area[None] + self.eps)).sqrt()
        return (2 * shared + self.eps) / (area[:, None] + area[None] + self.eps)

    @staticmethod
    def contrast(similarities: Tensor) -> Tensor:
        """The loss of a ``(2B, 2B)`` matrix of :meth:`similarities`."""
        maps = len(similarities)
        itself = torch.eye(maps, dtype=torch.bool, device=similarities.device)
        counterpart = torch.arange(maps, device=similarities.device).roll(maps // 2)
        return F.cross_entropy(similarities.masked_fill(itself, -torch.inf), counterpart)
