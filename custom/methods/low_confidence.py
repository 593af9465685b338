"""Low-confidence consistency and class separation: where the student is unsure, a teacher and prototypes guide it."""

from __future__ import annotations

from typing import ClassVar

import torch
from monai.networks.blocks import Convolution
from torch import Generator, Tensor, nn
from torch.nn import functional

from ..losses.class_separation import ClassSeparationLoss
from ..losses.low_confidence import LowConfidenceConsistencyLoss, check_keep, chosen_pixels
from ..networks import UNet
from ..seeds import derive
from .batch import Batch
from .halves import batches
from .mean_teacher import MeanTeacher
from .schedule import Progress

DIMENSIONS = 32  # of a representation
SERVES = ("teacher", "student")


class Prototypes(nn.Module):
    r"""One running direction a foreground class: :math:`P_c \leftarrow \mu P_c + (1 - \mu)\, m_c`, first :math:`m_c`.

    Both are buffers that may be averaged over ranks. ``seen`` is the share of ranks that have met the class; a rank
    that has not holds zeros, so after averaging ``values / seen`` is the mean over those that have.

    Args:
        classes: K, with the background, whose row stays 0.
        decay: :math:`\mu`, in [0, 1).

    Raises:
        ValueError: ``decay`` outside [0, 1).
    """

    values: Tensor
    seen: Tensor

    def __init__(self, classes: int, decay: float = 0.99) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"prototype_decay is in [0, 1), got {decay}")
        self.decay = decay
        self.register_buffer("values", torch.zeros(classes, DIMENSIONS))
        self.register_buffer("seen", torch.zeros(classes))

    @torch.no_grad()
    def update(self, features: Tensor, label: Tensor, predicted: Tensor) -> None:
        """Towards the mean of the pixels that are predicted as they are labelled: ``(B, D, *spatial)`` and twice
        ``(B, *spatial)``. A class without such a pixel keeps what it has."""
        right = functional.one_hot(label.where(label == predicted, 0).flatten(), len(self.seen)).float()  # (V, K)
        right[:, 0] = 0
        pixels = right.sum(dim=0)[:, None]  # (K, 1)
        with torch.autocast(features.device.type, enabled=False):
            sums = right.T @ features.movedim(1, -1).flatten(0, -2).float()  # (K, D)
        mean, seen = sums / pixels.clamp(min=1), self.seen[:, None] > 0
        before = torch.where(seen, self.values / self.seen[:, None], mean)  # so that the first mean starts it
        self.values.copy_(torch.where(pixels > 0, before.lerp(mean, 1 - self.decay), before))
        self.seen.copy_((seen | (pixels > 0)).squeeze(1))

    def distance(self, features: Tensor, classes: Tensor) -> Tensor:
        """Mean of 1 - cos between pixels and the prototypes of their classes, where there is one; 0 where none is."""
        own = functional.normalize(self.values, dim=1)[classes].movedim(-1, 1)  # (B, D, *spatial)
        cosine = (functional.normalize(features, dim=1) * own).sum(dim=1)
        known = self.seen[classes] > 0
        return ((1 - cosine) * known).sum() / known.sum().clamp(min=1)

    def spread(self) -> Tensor:
        """Mean of 1 - cos over the pairs of prototypes that there are; 0 for fewer than two."""
        with torch.autocast(self.values.device.type, enabled=False):
            directions = functional.normalize(self.values, dim=1)
            distance = 1 - directions @ directions.T
        there = self.seen > 0
        pairs = (there[:, None] & there).float().fill_diagonal_(0)
        return (distance * pairs).sum() / pairs.sum().clamp(min=1)


class LowConfidence(MeanTeacher):
    r""":math:`L = w_{sup} L_{sup}(f(x^l), y^l) + w_{con}(t)\, L_{lcc}(f(x^u), f'(x^u + \epsilon)) + w_{sep}(t)\, L_{lcs}`.

    A mean teacher whose consistency :math:`L_{lcc}` looks at the pixels of low confidence alone. With
    :math:`f = \mathrm{head} \circ g`, :math:`L_{lcs}` brings the representations :math:`h = \mathrm{projection}(g(x))`
    of such pixels, labelled and unlabelled together, near the prototype of their class: the label's where there is one,
    else the student's prediction. The prototypes are moved, before that, towards the labelled pixels that the student
    predicts right. Training alone needs projection and prototypes.

    Args:
        network: the student; ``features`` returns logits ``(B, K, *spatial)`` and the map ``d1`` that they come from.
        supervised: loss of logits and labels ``(B, 1, *spatial)``.
        consistency: loss of the student's and the teacher's logits; its threshold and its judge of confidence choose
            the pixels of the separation too.
        separation: loss of representations, classes, mask and prototypes.
        classes: K.
        channels: of the map ``d1``.
        dimensions: spatial axes, 2 or 3.
        separation_keep: "low", "high" or "all": the pixels that the separation looks at.
        prototype_decay: of the prototypes, in [0, 1).
        ema_decay: upper bound of the teacher's decay.
        noise: :math:`\sigma` of the teacher's input, in units of the normalised intensity, of ``view="noise"``.
        view, normalised: as of :class:`~.mean_teacher.MeanTeacher`; the projection is called as the student is.
        serve: "teacher" or "student" (the published form): which of them serves; the other is reported beside it.
        seed: of the drawing of pixels, with the step.

    Raises:
        ValueError: an argument outside these.

    References: Gao and Yu 2023, doi 10.1109/ISBP57705.2023.10061306.
    """

    terms: ClassVar[tuple[str, ...]] = ("supervised", "consistency", "separation")
    unlabelled_terms: ClassVar[tuple[str, ...]] = ("consistency", "separation")

    student: UNet
    consistency: LowConfidenceConsistencyLoss

    def __init__(
        self,
        network: UNet,
        supervised: nn.Module,
        consistency: LowConfidenceConsistencyLoss,
        separation: ClassSeparationLoss,
        classes: int,
        channels: int,
        dimensions: int = 2,
        separation_keep: str = "low",
        prototype_decay: float = 0.99,
        ema_decay: float = 0.99,
        noise: float = 0.1,
        view: str = "noise",
        normalised: str = "together",
        serve: str = "teacher",
        seed: int = 0,
    ) -> None:
        super().__init__(network, supervised, consistency, ema_decay, noise, view, normalised)
        check_keep("separation_keep", separation_keep)
        if serve not in SERVES:
            raise ValueError(f"serve is one of {list(SERVES)}, got {serve!r}")
        self.serve = serve
        self.separation = separation
        self.separation_keep = separation_keep
        self.projection = nn.Sequential(
            Convolution(dimensions, channels, DIMENSIONS, kernel_size=1, adn_ordering="NA", norm="BATCH", act="RELU"),
            Convolution(dimensions, DIMENSIONS, DIMENSIONS, kernel_size=1, conv_only=True),
        )
        self.prototypes = Prototypes(classes, prototype_decay)
        self.seed = seed

    def forward(self, labelled: Batch, unlabelled: Batch, progress: Progress) -> dict[str, Tensor]:
        images = batches(labelled.image, self._seen(unlabelled), self.normalised)
        answers = [self.student.features(half) for half in images]
        logits = torch.cat([found for found, _ in answers]).float()  # (Bl + Bu, K, *spatial)
        student_l, student_u = logits.split([len(labelled), len(unlabelled)])
        terms: dict[str, Tensor] = {}
        taught = None
        self._watched = {}
        if progress.wants("supervised"):
            terms["supervised"] = self.supervised(student_l, labelled.label)
        if progress.wants("consistency"):
            taught = self._teach(labelled, unlabelled)
            teacher_u = taught[1]
            terms["consistency"] = self.consistency(student_u, teacher_u)
            self._watched |= self._agreement(student_u.detach(), teacher_u) if len(unlabelled) else {}
        if progress.wants("separation"):
            teacher = None
            if self.consistency.confidence != "student":  # a teacher that judges sees both halves
                teacher_l, teacher_u = self._teach(labelled, unlabelled) if taught is None else taught
                teacher = torch.cat([self._teach_noisy(labelled.image) if teacher_l is None else teacher_l, teacher_u])
            # a call a half, as the student has them: the projection has a BatchNorm too
            features = torch.cat([self.projection(maps["d1"]) for _, maps in answers]).float()  # (Bl + Bu, D, *spatial)
            terms["separation"] = self._separate(logits.detach(), teacher, features, labelled, progress.step)
        self._watched |= self._unsure(student_u.detach()) if len(unlabelled) else {}
        return terms

    def serving(self) -> dict[str, nn.Module]:
        networks = {"teacher": self.teacher.network, "student": self.student}
        return {self.serve: networks[self.serve], **networks}

    def _separate(self, logits: Tensor, teacher: Tensor | None, features: Tensor, labelled: Batch, step: int) -> Tensor:
        assert labelled.label is not None
        judge, label = self.consistency, labelled.label.squeeze(1)  # (Bl, *spatial)
        mask = chosen_pixels(logits, teacher, judge.threshold, self.separation_keep, judge.confidence)
        predicted = logits.argmax(dim=1)  # (Bl + Bu, *spatial)
        self.prototypes.update(features[: len(label)], label, predicted[: len(label)])
        classes = torch.cat([label, predicted[len(label) :]])
        generator = Generator().manual_seed(derive(self.seed, step, "separation"))
        self._watched |= self._distances(features[: len(label)].detach(), label)
        return self.separation(features, classes, mask, self.prototypes.values, generator)

    def _unsure(self, student: Tensor) -> dict[str, Tensor]:
        """Shares of the unlabelled pixels, and of those that the student calls foreground, that are below the
        threshold in the student."""
        low = chosen_pixels(student, None, self.consistency.threshold)
        foreground = student.argmax(dim=1) > 0
        return {
            "low confidence/all pixels": low.float().mean(),
            "low confidence/foreground": (low & foreground).sum() / foreground.sum().clamp(min=1),
        }

    def _distances(self, features: Tensor, label: Tensor) -> dict[str, Tensor]:
        return {
            "distance/labelled pixels to prototype": self.prototypes.distance(features, label),
            "distance/between prototypes": self.prototypes.spread(),
            "prototypes_seen": (self.prototypes.seen > 0).float().sum(),
        }
