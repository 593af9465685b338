"""UniMatch: one network's sure answers on the weak view teach two strong views and its own perturbed features."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ..losses.masked_dice_ce import MaskedDiceCELoss
from ..networks import UNet
from .averaged import Averaged
from .batch import Batch
from .halves import batches, check_normalised
from .schedule import Progress


class UniMatch(Averaged):
    r"""Hard pseudo-labels :math:`y = \arg\max p^w` where :math:`c = \max p^w \ge \tau`, learnt three times.

    .. math:: L = w_{sup} L_{sup}(z^l, y^l) + w_{str} \tfrac12 [M(z^{s_1}, y, c) + M(z^{s_2}, y, c)]
              + w_{feat} M(z^{fp}, y, c)

    M is the Dice loss over the sure voxels. :math:`s_1, s_2` are two strong views, each with its own intensities and its
    own boxes of other patches, by which y and c are mixed too. :math:`z^{fp}` is the weak view decoded from encoder maps
    that lost each channel with probability ``channel_dropout``. No teacher: the network teaches itself. Its moving average
    serves, the network is reported beside it.

    Args:
        network: ``encode`` and ``decode`` as :class:`~..networks.UNet` has them.
        supervised: loss of logits and labels ``(B, 1, *spatial)``.
        pseudo: M, of logits, classes and mask.
        threshold: :math:`\tau`, a probability in [0, 1].
        channel_dropout: rate of the lost channels, in [0, 1).
        normalised: "together" or "apart": how the decoder is called with the maps as they are, of labelled patches and weak
            views, and with those that lost channels, see :func:`~.halves.batches`; "together" is the published form. The
            strong views are always called by themselves.
        ema_decay, serve: of the moving average, see :class:`~.averaged.Averaged`; "network" is the published form.

    Raises:
        ValueError: an argument outside these.

    References: Yang et al. 2023, arXiv:2208.09910.
    """

    terms: ClassVar[tuple[str, ...]] = ("supervised", "strong", "feature")
    unlabelled_terms: ClassVar[tuple[str, ...]] = ("strong", "feature")
    strong_views = 2
    strong_terms: ClassVar[tuple[str, ...]] = ("strong",)

    network: UNet

    def __init__(
        self,
        network: UNet,
        supervised: nn.Module,
        pseudo: MaskedDiceCELoss,
        threshold: float = 0.95,
        channel_dropout: float = 0.5,
        normalised: str = "together",
        ema_decay: float = 0.99,
        serve: str = "average",
    ) -> None:
        super().__init__(network, ema_decay, serve)
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is a probability in [0, 1], got {threshold}")
        if not 0 <= channel_dropout < 1:
            raise ValueError(f"channel_dropout is a rate in [0, 1), got {channel_dropout}")
        check_normalised(normalised)
        self.supervised, self.pseudo = supervised, pseudo
        self.threshold, self.channel_dropout, self.normalised = threshold, channel_dropout, normalised

    def forward(self, labelled: Batch, unlabelled: Batch, progress: Progress) -> dict[str, Tensor]:
        count = len(labelled)
        feature, strong = progress.wants("feature"), progress.wants("strong")
        maps = self.network.encode(torch.cat([labelled.image, unlabelled.image]))
        lost = [self._lose_channels(m[count:]) if feature else m[:0] for m in maps]
        levels = [batches(*both, self.normalised) for both in zip(maps, lost, strict=True)]
        logits = torch.cat([self.network.decode(list(call)) for call in zip(*levels, strict=True)]).float()
        z_l, z_w, z_fp = logits.split([count, len(unlabelled), len(lost[0])])
        confidence, classes = z_w.detach().softmax(dim=1).max(dim=1)  # (Bu, *spatial)
        sure = confidence >= self.threshold
        terms, self._watched = {}, {}
        if progress.wants("supervised"):
            terms["supervised"] = self.supervised(z_l, labelled.label)
        if strong:
            terms["strong"] = self._strong(unlabelled, classes, sure)
        if feature:
            terms["feature"] = self.pseudo(z_fp, classes, sure)
        if strong or feature:
            self._watched = {
                "sure": sure.float().mean(),
                "pseudo_foreground": (classes > 0).float().mean(),
                "sure_foreground": (sure & (classes > 0)).sum() / (classes > 0).sum().clamp(min=1),
            }
        return terms

    def _lose_channels(self, maps: Tensor) -> Tensor:
        """Each channel of each patch is 0 at that rate, the others make up for it."""
        return torch.feature_dropout(maps, self.channel_dropout, True)

    def _strong(self, unlabelled: Batch, classes: Tensor, sure: Tensor) -> Tensor:
        views = [unlabelled.strong_view(number) for number in range(self.strong_views)]
        answers = self.network(torch.cat([view.image for view in views])).float().chunk(len(views))
        losses = [self.pseudo(z, view.mixed(classes), view.mixed(sure)) for z, view in zip(answers, views, strict=True)]
        return torch.stack(losses).mean()
