"""Task-affinity consistency: what the network's maps hold of a class is alike in labelled and unlabelled images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from monai.networks import one_hot
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..losses.consistency import ConsistencyLoss
from .averaged import Averaged
from .batch import Batch
from .halves import check_pairs
from .schedule import Progress


class TaskAffinity(Averaged):
    r""":math:`L = w_{sup} L_{sup} + w_{str} \sum_{j=1}^{L-1} l(s_j) + w_{con} \sum_{j=1}^{L} l(x_j) + w_{pse} P(z^s, z'^u)`.

    :math:`x_j` are the maps of the encoder's L levels, :math:`s_j` the gated skips, :math:`l` the distance between the
    class-specific vectors of the labelled and the unlabelled half, :class:`~..losses.TaskAffinityLoss`. A map is
    masked by :math:`\mathrm{nearest}(\mathrm{onehot}(y))` where there is a label, else softly by
    :math:`\mathrm{nearest}(\sigma(z))`, both on the map's own grid; gradient flows through that mask too.

    ``pseudo``, which the paper does not have: on the strong view with boxes of other patches the network follows what its
    moving average, without dropout, says of the weak view, mixed alike, :math:`P` of the logits of both. The targets are soft: a
    sigmoid that Dice alone has trained is not a calibrated probability, and where labels are few that of a class may
    stay below any threshold for a whole run. The average serves, the network is reported beside it.

    Args:
        network: ``features(image)`` returns logits ``(B, K, *spatial)`` and maps by name, see
            :class:`~..networks.GatedVNet`: ``x*`` of the encoder, ``s*`` gated skips, ``g*`` gates.
        supervised: loss of logits and labels ``(B, 1, *spatial)``; each channel is a sigmoid.
        affinity: loss of labelled features and masks, and unlabelled features and masks.
        detach_masks: hold the unlabelled masks constant: then the term moves features alone.
        pseudo: P, of the network's and of the average's logits; its default is the squared distance of sigmoids, summed over
            classes.
        ema_decay, serve: of the moving average, see :class:`~.averaged.Averaged`; "network" is the published form.

    Raises:
        ValueError: an unknown ``serve``.
        UnequalBatches: where ``structure`` or ``context`` is wanted.

    References: Chen et al. 2023, doi 10.1109/TMI.2022.3213372.
    """

    terms: ClassVar[tuple[str, ...]] = ("supervised", "structure", "context", "pseudo")
    unlabelled_terms: ClassVar[tuple[str, ...]] = ("structure", "context", "pseudo")
    pairs: ClassVar[tuple[str, ...]] = ("structure", "context")
    strong_views = 1
    strong_terms: ClassVar[tuple[str, ...]] = ("pseudo",)

    def __init__(
        self,
        network: nn.Module,
        supervised: nn.Module,
        affinity: nn.Module,
        detach_masks: bool = False,
        pseudo: nn.Module | None = None,
        ema_decay: float = 0.99,
        serve: str = "average",
    ) -> None:
        super().__init__(network, ema_decay, serve, statistics="own")
        self.pseudo = ConsistencyLoss("sum", sigmoid=True) if pseudo is None else pseudo
        self.supervised = supervised
        self.affinity = affinity
        self.detach_masks = detach_masks

    def forward(self, labelled: Batch, unlabelled: Batch, progress: Progress) -> dict[str, Tensor]:
        check_pairs([term for term in self.pairs if progress.wants(term)], len(labelled), len(unlabelled))
        # one forward over both halves: BatchNorm sees labelled and unlabelled images together
        logits, maps = self.network.features(torch.cat([labelled.image, unlabelled.image]))  # type: ignore[operator]
        logits_l, logits_u = logits.float().split([len(labelled), len(unlabelled)])
        label = labelled.label
        assert label is not None  # the labelled stream's
        guides = _Guides(label, logits_u.detach() if self.detach_masks else logits_u)
        terms, self._watched = {}, _watch(label, logits_u, maps)
        if progress.wants("supervised"):
            terms["supervised"] = self.supervised(logits_l, label)
        for term, kind in (("structure", "s"), ("context", "x")):
            if progress.wants(term):
                distances = {name: self._distance(m, guides) for name, m in maps.items() if name[0] == kind}
                terms[term] = torch.stack(list(distances.values())).sum()
                self._watched |= {f"{term}/{name}": value.detach() for name, value in distances.items()}
        if progress.wants("pseudo"):
            terms["pseudo"] = self._learn_pseudo_labels(labelled, unlabelled)
        return terms

    def _learn_pseudo_labels(self, labelled: Batch, unlabelled: Batch) -> Tensor:
        view = unlabelled.strong_view()
        taught = self.average.teach(torch.cat([labelled.image, unlabelled.image]))[len(labelled) :].float()
        self._watched["pseudo_foreground"] = (taught.argmax(dim=1) > 0).float().mean()
        return self.pseudo(self.network(view.image).float(), view.mixed(taught))

    def _distance(self, features: Tensor, guides: _Guides) -> Tensor:
        """Affinity distance of one map ``(2 B, C, *grid)``, the labelled half first."""
        masks_l, masks_u = guides.on(features.shape[2:])
        features_l, features_u = features.chunk(2)
        return self.affinity(features_l, masks_l, features_u, masks_u)


class _Guides:
    """The masks of the classes on any grid, each grid's made once: several maps share it."""

    def __init__(self, label: Tensor, logits: Tensor) -> None:
        self._label, self._logits = label, logits
        self._made: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    def on(self, grid: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Labelled, and unlabelled, ``(B, K, *grid)``. Nearest picks voxels: it may come before the costly part."""
        size = tuple(grid)
        if size not in self._made:
            label = interpolate(self._label.float(), size=size, mode="nearest")
            soft = interpolate(self._logits, size=size, mode="nearest").sigmoid()
            self._made[size] = (one_hot(label, soft.shape[1]), soft)
        return self._made[size]


@torch.no_grad()
def _watch(label: Tensor, logits_u: Tensor, maps: dict[str, Tensor]) -> dict[str, Tensor]:
    foreground = label.flatten(1).amax(dim=1) > 0
    watched = {f"gate/scale {name[1:]}": psi.float().mean() for name, psi in maps.items() if name[0] == "g"}
    watched["labelled_without_foreground"] = 1 - foreground.float().mean()
    if len(logits_u):
        watched["unlabelled_foreground"] = (logits_u.argmax(dim=1) > 0).float().mean()
    return watched
