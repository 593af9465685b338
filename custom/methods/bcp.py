"""Bidirectional copy-paste: labelled and unlabelled images are pasted into each other by one box."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from scipy import ndimage
from torch import Generator, Tensor, nn

from ..losses.masked_dice_ce import MaskedDiceCELoss
from ..seeds import derive
from .batch import Batch
from .halves import check_pairs
from .schedule import Progress
from .taught import Taught


class BidirectionalCopyPaste(Taught):
    r"""Images pasted into each other by :math:`b`, 0 inside one box (the same for a step's whole batch), 1 outside:

    .. math:: x^{lab} = b\,x^l_i + (1 - b)\,x^l_j, \quad x^{in} = b\,x^u + (1 - b)\,x^l, \quad
              x^{out} = b\,x^l_j + (1 - b)\,x^u

    ``supervised`` is the loss of :math:`x^{lab}` by the labels pasted alike: the first stage. ``inward`` and ``outward`` are
    those of :math:`x^{in}, x^{out}`, by labels and by what the teacher says of the unlabelled weak view, of each class its
    largest connected component; each part over its own voxels, the unlabelled one times ``unlabelled_share``. The
    teacher, a moving average with statistics of its own, serves; the student is reported beside it. Patches whose cases
    have other modalities than their partner's are not pasted.

    Args:
        network: the student; returns logits ``(B, K, *spatial)``.
        loss: of logits, classes and mask.
        pasting: draws the box, ``(1, 1, *spatial)`` bool, True inside.
        ema_decay: upper bound of the teacher's decay.
        unlabelled_share: of the loss on unlabelled voxels.
        largest: False lets all components of the teacher's classes teach, not the largest of each class alone.
        seed: of the boxes, with the step.

    Raises:
        UnequalBatches: where ``inward`` or ``outward`` is wanted.

    References: Bai et al. 2023, arXiv:2305.00673.
    """

    terms: ClassVar[tuple[str, ...]] = ("supervised", "inward", "outward")
    unlabelled_terms: ClassVar[tuple[str, ...]] = ("inward", "outward")
    pairs: ClassVar[tuple[str, ...]] = ("inward", "outward")

    def __init__(
        self,
        network: nn.Module,
        loss: MaskedDiceCELoss,
        pasting: Callable[..., Tensor],
        ema_decay: float = 0.99,
        unlabelled_share: float = 0.5,
        largest: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(network, ema_decay, "own")
        self.loss, self.pasting = loss, pasting
        self.unlabelled_share, self.largest, self.seed = unlabelled_share, largest, seed

    def forward(self, labelled: Batch, unlabelled: Batch, progress: Progress) -> dict[str, Tensor]:
        assert labelled.label is not None
        image, label = labelled.image, labelled.label.squeeze(1)
        generator = Generator().manual_seed(derive(self.seed, progress.step, "pasting"))
        box = self.pasting(image.shape[2:], generator).to(image.device)
        wanted = [term for term in self.terms if progress.wants(term)]
        pasted: dict[str, tuple[Tensor, Callable[[Tensor], Tensor]]] = {}
        self._watched = {}
        if "supervised" in wanted:
            here = box & _alike(labelled, labelled, roll=1)
            mixed = torch.where(here[:, 0], label.roll(1, 0), label)
            everywhere = torch.ones_like(mixed, dtype=torch.bool)
            pasted["supervised"] = torch.where(here, image.roll(1, 0), image), lambda z: self.loss(z, mixed, everywhere)
        if paired := [term for term in self.pairs if term in wanted]:
            check_pairs(paired, len(labelled), len(unlabelled))
            pseudo = self._pseudo_labels(labelled, unlabelled)
            free, other, y = unlabelled.image, image.roll(1, 0), label.roll(1, 0)
            inward = box & _alike(unlabelled, labelled)
            outward = box & _alike(unlabelled, labelled, roll=1)
            if "inward" in wanted:
                known = inward[:, 0]
                pasted["inward"] = torch.where(inward, image, free), lambda z: self._parts(z, label, pseudo, known)
            if "outward" in wanted:
                rest = ~outward[:, 0]
                pasted["outward"] = torch.where(outward, free, other), lambda z: self._parts(z, y, pseudo, rest)
        # one forward over all: BatchNorm sees every kind of image together
        logits = self.student(torch.cat([x for x, _ in pasted.values()])).float().chunk(len(pasted))
        return {term: loss(z) for (term, (_, loss)), z in zip(pasted.items(), logits, strict=True)}

    def _parts(self, logits: Tensor, label: Tensor, pseudo: Tensor, labelled: Tensor) -> Tensor:
        """Each part over its own voxels; ``labelled`` is True where the label counts."""
        return self.loss(logits, label, labelled) + self.unlabelled_share * self.loss(logits, pseudo, ~labelled)

    def _pseudo_labels(self, labelled: Batch, unlabelled: Batch) -> Tensor:
        """``(Bu, *spatial)``: the teacher's classes of the weak views, of each class its largest component."""
        logits = self.teacher.teach(torch.cat([labelled.image, unlabelled.image]))[len(labelled) :].float()
        confidence, classes = logits.softmax(dim=1).max(dim=1)
        kept = largest_components(classes) if self.largest else classes
        self._watched = {
            "teacher_confidence": confidence.mean(),
            "teacher_foreground": (kept > 0).float().mean(),
            "islands_removed": (classes != kept).float().mean(),
        }
        return kept


def largest_components(classes: Tensor) -> Tensor:
    """The largest connected component of each foreground class in each image, faces touching; the rest is background.

    Shape:
        - classes: ``(B, *spatial)`` indices; the same comes back. Of components of one size the first is kept.
    """
    kept = []
    for image in classes.cpu().numpy():
        found = np.zeros_like(image)
        for k in np.unique(image[image > 0]):
            components, _ = ndimage.label(image == k)
            sizes = np.bincount(components.ravel())[1:]
            found[components == 1 + sizes.argmax()] = k
        kept.append(torch.from_numpy(found))
    return torch.stack(kept).to(classes.device)


def _alike(one: Batch, other: Batch, roll: int = 0) -> Tensor:
    """``(B, 1, ...)`` bool: whether the two cases of a pair have the same modalities, the other ones moved by ``roll``."""
    shape = (len(one), *[1] * (one.image.ndim - 1))
    if one.present is None or other.present is None:
        return torch.ones(shape, dtype=torch.bool, device=one.image.device)
    return (one.present == other.present.roll(roll, 0)).all(dim=1).reshape(shape)
