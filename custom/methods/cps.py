"""Cross pseudo supervision: two networks of one shape, each of which is taught by the other's classes."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from .averaged import Averaged
from .batch import Batch
from .halves import batches, check_normalised
from .schedule import Progress

VIEWS = ("strong", "weak")


class CrossPseudoSupervision(Averaged):
    r"""Two networks, initialised apart, with hard pseudo-labels for each other.

    .. math:: L = w_{sup} \sum_i L_{sup}(z_i^l, y^l)
              + w(t)\,[\mathrm{CE}(z_1^u, \arg\max \mathrm{sg}(p_2^u)) + \mathrm{CE}(z_2^u, \arg\max \mathrm{sg}(p_1^u))]

    With ``view="strong"`` the pseudo-labels are of the weak view, in the networks' training mode as the paper has it, and both
    networks learn them on one strong view with boxes of other patches, the labels mixed alike. The moving average of
    the first network serves, which teaches neither; both networks are reported beside it.

    Args:
        first, second: two networks of one shape, with weights of their own; logits ``(B, K, *spatial)``.
        supervised: loss of logits and labels ``(B, 1, *spatial)``.
        view: "strong" or "weak".
        normalised: "together" or "apart": how each network is called with labelled and unlabelled patches, see
            :func:`~.halves.batches`.
        ema_decay, serve: of the first network's moving average, see :class:`~.averaged.Averaged`; "first" is the published
            form.

    Raises:
        ValueError: an unknown ``view``, ``normalised`` or ``serve``; networks that start from the same weights, which would
            never disagree.

    References: Chen et al. 2021, arXiv:2106.01226.
    """

    terms: ClassVar[tuple[str, ...]] = ("supervised", "cross")
    unlabelled_terms: ClassVar[tuple[str, ...]] = ("cross",)

    def __init__(
        self,
        first: nn.Module,
        second: nn.Module,
        supervised: nn.Module,
        view: str = "weak",
        normalised: str = "together",
        ema_decay: float = 0.99,
        serve: str = "average",
    ) -> None:
        super().__init__(first, ema_decay, serve, "first")
        if view not in VIEWS:
            raise ValueError(f"view is one of {list(VIEWS)}, got {view!r}")
        check_normalised(normalised)
        pairs = zip(first.parameters(), second.parameters(), strict=True)
        if all(torch.equal(a, b) for a, b in pairs):
            raise ValueError("first and second start from the same weights: they would agree for ever")
        self.strong_views = int(view == "strong")
        self.normalised = normalised
        self.second = second
        self.supervised = supervised

    @property
    def networks(self) -> tuple[nn.Module, nn.Module]:
        """The two that are trained."""
        return self.network, self.second

    def forward(self, labelled: Batch, unlabelled: Batch, progress: Progress) -> dict[str, Tensor]:
        cross = progress.wants("cross")
        targets = self._classes_of_the_weak_view(unlabelled.image) if cross and self.strong_views else None
        seen = unlabelled.strong_view().image if self.strong_views else unlabelled.image
        images = batches(labelled.image, seen, self.normalised)
        logits = [torch.cat([net(half) for half in images]).float() for net in self.networks]
        free = [z[len(labelled) :] for z in logits]
        terms, self._watched = {}, {}
        if progress.wants("supervised"):
            terms["supervised"] = sum(self.supervised(z[: len(labelled)], labelled.label) for z in logits)
        if cross:
            classes = [z.detach().argmax(dim=1) for z in free]
            taught = classes if targets is None else [unlabelled.strong_view().mixed(y) for y in targets]
            terms["cross"] = sum(functional.cross_entropy(z, y) for z, y in zip(free, reversed(taught), strict=True))
            self._watched = {
                "disagreement": (classes[0] != classes[1]).float().mean(),
                "pseudo_foreground": (torch.stack(taught) > 0).float().mean(),
            }
        return terms

    @torch.no_grad()
    def _classes_of_the_weak_view(self, image: Tensor) -> list[Tensor]:
        return [net(image).argmax(dim=1) for net in self.networks]

    def serving(self) -> dict[str, nn.Module]:
        return {**super().serving(), "second": self.second}
