"""Coarse-refined consistency with ranked losses (CRII-Net), reconstructed from the paper's abstract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from ..errors import UserError
from ..losses import RankedListLoss
from ..losses.patches import Gallery, InterPatch, IntraPatch
from ..networks import Cascade
from ..seeds import derive
from .averaged import Averaged
from .batch import Batch
from .halves import batches, check_normalised
from .schedule import Progress


class PixelHead(nn.Sequential):
    """Embeds voxels: convolution 1, BatchNorm, ReLU, convolution 1. Lengths are not normalised yet.

    A convolution of size 1 is one linear map of every voxel, so the head takes the voxels that are compared, not the
    whole map, and BatchNorm's statistics are theirs.

    Args:
        in_channels: of the refined network's last decoder map.
        channels: D, of the embedding.

    Shape:
        - input ``(P, in_channels)``, P of at least 2 while training; returns ``(P, channels)``.
    """

    def __init__(self, in_channels: int, channels: int = 64) -> None:
        super().__init__(
            nn.Linear(in_channels, channels),
            nn.BatchNorm1d(channels),
            nn.ReLU(inplace=True),
            nn.Linear(channels, channels),
        )


class CoarseRefined(Averaged):
    r"""Two networks in a cascade must agree on unlabelled images; ranked losses order the voxels of labelled ones.

    .. math::
        L = L_{sup} + w(t)\, L_{cr} + w_{intra} L_{intra} + w_{inter} L_{inter}, \qquad
        L_{sup} = \sum_{q \in \{C, R\}} \tfrac{1}{2} [CE(z^q, y) + Dice(p^q, y)], \qquad
        L_{cr} = \frac{1}{|v| K} \sum_{v,c} (p^C - p^R)^2

    With ``view="strong"`` both networks see the strong view, with boxes of other patches, and follow the refined answer of
    their moving average, without dropout, to the weak view, mixed alike:

    .. math:: L_{cr} = \frac{1}{2 |v|} \sum_{q \in \{C, R\}} \sum_{v,c} (p^q - p'^R_{weak})^2

    With :math:`e(v)` the embedding of a voxel, of length 1, and R the ranked list loss: :math:`L_{intra}` is the mean
    of R over the patches that hold more than one class, each a gallery of sampled voxels; :math:`L_{inter}` is R over
    one gallery of whole patches of the labelled batch, each embedded by the normalised mean of its voxels. What is
    sampled follows from labels, ``seed`` and step. The refined answer of the moving average serves, both answers of the networks
    are reported beside it; the head is left behind.

    Args:
        network: the cascade of coarse and refined network.
        supervised: loss of logits and labels ``(B, 1, *spatial)``; both networks have it.
        ranked: loss of embeddings and labels.
        head: embeds the refined network's last decoder map, in training alone.
        intra, inter: which voxels, and which patches, are compared.
        networks: "both", or "coarse" for the coarse network alone, supervised: the first step of the ablation.
        target: of the consistency with ``view="weak"``; "none" moves both networks, "refined" holds the refined
            probabilities constant.
        view: "strong" or "weak" (the published form): what the networks see of the unlabelled scans.
        normalised: "together" or "apart": how both networks are called with labelled and unlabelled patches, see
            :func:`~.halves.batches`.
        seed: of what is sampled.
        ema_decay, serve: of the moving average of both networks, see :class:`~.averaged.Averaged`; "refined" is the form of
            the abstract.

    Raises:
        ValueError: ``networks``, ``target``, ``view``, ``normalised`` or ``serve`` is not one of these.
        UserError: a term that needs the refined network has a weight where the coarse one trains alone.

    References: Du et al. 2023, doi 10.1109/JBHI.2023.3278741. Its abstract names the parts; the form given here is ours.
    """

    terms: ClassVar[tuple[str, ...]] = ("supervised", "consistency", "intra", "inter")
    unlabelled_terms: ClassVar[tuple[str, ...]] = ("consistency",)

    network: Cascade

    def __init__(
        self,
        network: Cascade,
        supervised: nn.Module,
        ranked: RankedListLoss,
        head: nn.Module,
        intra: IntraPatch,
        inter: InterPatch,
        networks: str = "both",
        target: str = "none",
        view: str = "weak",
        normalised: str = "together",
        seed: int = 0,
        ema_decay: float = 0.99,
        serve: str = "average",
    ) -> None:
        super().__init__(network, ema_decay, serve, "refined", statistics="own")
        if networks not in ("both", "coarse"):
            raise ValueError(f"networks is 'both' or 'coarse', got {networks!r}")
        if target not in ("none", "refined"):
            raise ValueError(f"target is 'none' or 'refined', got {target!r}")
        if view not in ("strong", "weak"):
            raise ValueError(f"view is 'strong' or 'weak', got {view!r}")
        check_normalised(normalised)
        self.strong_views = int(view == "strong")
        self.normalised = normalised
        self.supervised = supervised
        self.ranked = ranked
        self.head = head
        self.intra, self.inter = intra, inter
        self.networks, self.target, self.seed = networks, target, seed

    def forward(self, labelled: Batch, unlabelled: Batch, progress: Progress) -> dict[str, Tensor]:
        if labelled.label is None:
            raise ValueError("the labelled batch has no labels")
        if self.networks == "coarse":
            return self._coarse_alone(labelled, progress)
        weak = self._weak_answer(labelled, unlabelled) if self.strong_views and progress.wants("consistency") else None
        seen = unlabelled.strong_view().image if self.strong_views else unlabelled.image
        halves = [self.network.features(half) for half in batches(labelled.image, seen, self.normalised)]
        coarse, refined, features = (torch.cat(both) for both in zip(*halves, strict=True))
        coarse, refined = coarse.float(), refined.float()  # (Bl + Bu, K, *spatial)
        n = len(labelled)
        terms, self._watched = {}, _answers(coarse.detach(), refined.detach())
        if progress.wants("supervised"):
            terms["supervised"] = sum(self.supervised(z[:n], labelled.label) for z in (coarse, refined))
        if progress.wants("consistency"):
            terms["consistency"] = self._consistency(coarse[n:], refined[n:], weak)
        ranked = [term for term in ("intra", "inter") if progress.wants(term)]
        return terms | self._ranked(ranked, features[:n], labelled.label, progress.step) if ranked else terms

    def _coarse_alone(self, labelled: Batch, progress: Progress) -> dict[str, Tensor]:
        weights = progress.weights.weights if progress.weights is not None else {}
        surplus = [name for name, weight in weights.items() if name != "supervised" and weight.value > 0]
        if surplus:
            raise UserError(
                f"networks is 'coarse', but {surplus} need the refined network: set "
                + ", ".join(f"weights::{name}" for name in surplus)
                + " to 0, or networks to 'both'"
            )
        progress.wants("supervised")
        logits = self.network.coarse(labelled.image).float()
        self._watched = {"foreground/coarse": _foreground(logits.detach())}
        return {"supervised": self.supervised(logits, labelled.label)}

    def _weak_answer(self, labelled: Batch, unlabelled: Batch) -> Tensor:
        """The average's refined probabilities of the weak views ``(Bu, K, *spatial)``, as they belong to the strong view."""
        logits = self.average.teach(torch.cat([labelled.image, unlabelled.image]))[len(labelled) :]
        return unlabelled.strong_view().mixed(logits.float().softmax(dim=1))

    def _consistency(self, coarse: Tensor, refined: Tensor, weak: Tensor | None) -> Tensor:
        p_coarse, p_refined = coarse.softmax(dim=1), refined.softmax(dim=1)
        if weak is not None:
            both = torch.stack([functional.mse_loss(p, weak) for p in (p_coarse, p_refined)])
            return both.mean() * weak.shape[1]
        return functional.mse_loss(p_coarse, p_refined.detach() if self.target == "refined" else p_refined)

    def _ranked(self, wanted: Sequence[str], features: Tensor, label: Tensor, step: int) -> dict[str, Tensor]:
        """The wanted ranked terms over one forward of the head: BatchNorm sees the voxels of both."""
        sampling: dict[str, IntraPatch | InterPatch] = {"intra": self.intra, "inter": self.inter}
        galleries = [sampling[term](label, self._generator(term, step)) for term in wanted]
        voxels = features.movedim(1, -1).flatten(0, -2)  # (B * V, C)
        positions = torch.cat([gallery.positions for gallery in galleries]).to(voxels.device)
        rows = self._embed(voxels.index_select(0, positions)).split([len(g.positions) for g in galleries])
        return {
            term: self._rank(term, gallery, mine) for term, gallery, mine in zip(wanted, galleries, rows, strict=True)
        }

    def _generator(self, term: str, step: int) -> Generator:
        return Generator().manual_seed(derive(self.seed, step, term))

    def _embed(self, voxels: Tensor) -> Tensor:
        """``(P, D)`` of length 1, from the decoder map's ``(P, C)``."""
        if len(voxels) < 2:  # BatchNorm has no variance, and one voxel no partner: zeros, so that DDP sees every weight
            nothing = torch.stack([p.sum() for p in self.head.parameters()]).sum() * 0
            return voxels.float().sum(dim=1, keepdim=True) * 0 + nothing
        return functional.normalize(self.head(voxels).float(), dim=1)

    def _rank(self, term: str, gallery: Gallery, rows: Tensor) -> Tensor:
        embeddings, labels = gallery.arrange(rows), gallery.labels.to(rows.device)  # (R, N, D)
        if term == "inter":
            embeddings = functional.normalize(embeddings.sum(dim=1), dim=1)  # (R, D): the mean's direction
        self._watch_pairs(term, embeddings.detach(), labels)
        return self.ranked(embeddings, labels)

    def _watch_pairs(self, term: str, embeddings: Tensor, labels: Tensor) -> None:
        positive, negative = self.ranked.active(embeddings, labels)
        name, number = ("boundary", labels.shape[0]) if term == "intra" else ("foreground", (labels > 0).sum())
        self._watched[f"patches/{name}"] = torch.as_tensor(number, dtype=torch.float32, device=labels.device)
        self._watched[f"active_pairs/{term} positive"] = positive
        self._watched[f"active_pairs/{term} negative"] = negative

    def begin(self) -> None:
        self.network.answers_coarse.fill_(False)  # weights to start from may be those of a coarse answer
        super().begin()

    def serving(self) -> dict[str, nn.Module]:
        average = self.average.network
        assert isinstance(average, Cascade)
        coarse = self.network.coarse_view()
        if self.networks == "coarse":
            served: dict[str, nn.Module] = {"average": average.coarse_view(), "coarse": coarse}
            return served if self.serve == "average" else dict(reversed(served.items()))
        return {**super().serving(), "coarse": coarse}


def _answers(coarse: Tensor, refined: Tensor) -> dict[str, Tensor]:
    chosen = coarse.argmax(dim=1), refined.argmax(dim=1)
    return {
        "disagreement": (chosen[0] != chosen[1]).float().mean(),
        "foreground/coarse": (chosen[0] > 0).float().mean(),
        "foreground/refined": (chosen[1] > 0).float().mean(),
    }


def _foreground(logits: Tensor) -> Tensor:
    return (logits.argmax(dim=1) > 0).float().mean()
