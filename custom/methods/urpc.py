"""Uncertainty rectified pyramid consistency: the answers of one decoder at several scales must agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from monai.networks.blocks import Convolution
from torch import Tensor, nn
from torch.nn import functional

from ..losses.pyramid_consistency import PyramidConsistencyLoss
from ..networks import UNet
from .averaged import Averaged
from .batch import Batch
from .schedule import Progress


class PyramidConsistency(Averaged):
    r"""URPC: heads at S scales of one decoder; on labelled images each is supervised, on unlabelled ones they agree.

    .. math:: L = w_{sup} \frac{1}{S} \sum_s L_{sup}(z_s^l, y^l) + w(t)\, L_{pyramid}(z_1^u, \dots, z_S^u)

    :math:`z_s` is the answer of scale s, brought to full size by linear interpolation; :math:`z_1` is the network's own.
    The other heads, a convolution of size 1 each, are left behind: the network's moving average serves, the network is
    reported beside it.

    Args:
        network: ``features`` returns logits ``(B, K, *spatial)`` and the decoder's maps ``d1`` (full size), ``d2`` ...
        supervised: loss of logits and labels ``(B, 1, *spatial)``.
        consistency: of S logits on one grid.
        widths: channels of the network's levels, from the full grid down.
        classes: K.
        dimensions: spatial axes, 2 or 3.
        scales: S at most; a network of L levels has L, the coarsest of them its lowest map.
        ema_decay, serve: of the moving average, see :class:`~.averaged.Averaged`; "network" is the published form.

    Raises:
        ValueError: fewer than two scales; an unknown ``serve``.

    References: Luo et al. 2021, arXiv:2012.07042.
    """

    terms: ClassVar[tuple[str, ...]] = ("supervised", "pyramid")
    unlabelled_terms: ClassVar[tuple[str, ...]] = ("pyramid",)

    network: UNet

    def __init__(
        self,
        network: UNet,
        supervised: nn.Module,
        consistency: PyramidConsistencyLoss,
        widths: Sequence[int],
        classes: int,
        dimensions: int = 2,
        scales: int = 4,
        ema_decay: float = 0.99,
        serve: str = "average",
    ) -> None:
        super().__init__(network, ema_decay, serve)
        used = min(scales, len(widths))
        if used < 2:
            raise ValueError(
                f"scales {scales} of a network with {len(widths)}: at least two answers are compared; raise scales, "
                "or give widths of two levels or more"
            )
        self.supervised, self.consistency = supervised, consistency
        self.mode = {2: "bilinear", 3: "trilinear"}[dimensions]
        self.maps = [f"d{s}" if s < len(widths) else f"e{s}" for s in range(2, used + 1)]
        self.heads = nn.ModuleList(
            Convolution(dimensions, width, classes, kernel_size=1, conv_only=True) for width in widths[1:used]
        )

    def forward(self, labelled: Batch, unlabelled: Batch, progress: Progress) -> dict[str, Tensor]:
        # one forward over both halves: BatchNorm sees labelled and unlabelled images together
        image = torch.cat([labelled.image, unlabelled.image])
        answers = self._answers(image)
        terms, self._watched = {}, {}
        if progress.wants("supervised"):
            losses = [self.supervised(z[: len(labelled)], labelled.label) for z in answers]
            terms["supervised"] = torch.stack(losses).mean()
        if progress.wants("pyramid"):
            free = [z[len(labelled) :] for z in answers]
            terms["pyramid"] = self.consistency(free)
            classes = [z.detach().argmax(dim=1) for z in free]
            self._watched = {
                "unlabelled_foreground": (classes[0] > 0).float().mean(),
                **{f"disagreement/scale {s}": (y != classes[0]).float().mean() for s, y in enumerate(classes[1:], 2)},
            }
        return terms

    def _answers(self, image: Tensor) -> list[Tensor]:
        """S logits ``(B, K, *spatial)``, the finest first."""
        logits, maps = self.network.features(image)
        coarser = [
            functional.interpolate(head(maps[name]).float(), size=image.shape[2:], mode=self.mode)
            for name, head in zip(self.maps, self.heads, strict=True)
        ]
        return [logits.float(), *coarser]
