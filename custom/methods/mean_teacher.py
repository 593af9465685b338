"""Mean teacher: on unlabelled images the student follows its own moving average."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from .base import Method
from .batch import Batch
from .moving_average import MovingAverage
from .schedule import Progress


class MeanTeacher(Method):
    r""":math:`L = w_{sup} L_{sup}(f(x^l), y^l) + w(t)\, L_{con}(f(x^u), f'(x^u + \epsilon))`.

    :math:`f'` is the moving average of the student :math:`f`, in evaluation mode, without gradient;
    :math:`\epsilon = \mathrm{clip}(\sigma N(0, 1), -2\sigma, 2\sigma)`. The teacher serves; the student is reported
    beside it.

    Args:
        network: the student; returns logits ``(B, K, *spatial)``.
        supervised: loss of logits and labels ``(B, 1, *spatial)``.
        consistency: loss of the student's and the teacher's logits.
        ema_decay: upper bound of the teacher's decay.
        noise: :math:`\sigma`, in units of the normalised intensity.

    References: Tarvainen and Valpola 2017, arXiv:1703.01780. The noise and the bound on the decay are those that the
    field's comparisons use (Yu et al. 2019, arXiv:1907.07034).
    """

    terms: ClassVar[tuple[str, ...]] = ("supervised", "consistency")
    unlabelled_terms: ClassVar[tuple[str, ...]] = ("consistency",)

    def __init__(
        self,
        network: nn.Module,
        supervised: nn.Module,
        consistency: nn.Module,
        ema_decay: float = 0.99,
        noise: float = 0.1,
    ) -> None:
        super().__init__()
        self.student = network
        self.supervised = supervised
        self.consistency = consistency
        self.teacher = MovingAverage(network, ema_decay)
        self.noise = noise
        self._watched: dict[str, Tensor] = {}

    def forward(self, labelled: Batch, unlabelled: Batch, progress: Progress) -> dict[str, Tensor]:
        # one forward over both halves: BatchNorm sees labelled and unlabelled images together
        logits = self.student(torch.cat([labelled.image, unlabelled.image])).float()  # (Bl + Bu, K, *spatial)
        student_l, student_u = logits.split([len(labelled), len(unlabelled)])
        terms, self._watched = {}, {}
        if progress.wants("supervised"):
            terms["supervised"] = self.supervised(student_l, labelled.label)
        if progress.wants("consistency"):
            teacher_u = self.teacher(self._perturb(unlabelled.image)).float()
            terms["consistency"] = self.consistency(student_u, teacher_u)
            self._watched = self._agreement(student_u.detach(), teacher_u)
        return terms

    def _perturb(self, image: Tensor) -> Tensor:
        return image + (self.noise * torch.randn_like(image)).clamp(-2 * self.noise, 2 * self.noise)

    @staticmethod
    def _agreement(student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        probabilities = teacher.softmax(dim=1)
        confidence, chosen = probabilities.max(dim=1)
        return {
            "teacher_confidence": confidence.mean(),
            "disagreement": (student.argmax(dim=1) != chosen).float().mean(),
            "teacher_foreground": (chosen > 0).float().mean(),
        }

    def begin(self) -> None:
        self.teacher.copy(self.student)

    def after_step(self, progress: Progress) -> None:
        self.teacher.follow(self.student)

    def serving(self) -> dict[str, nn.Module]:
        return {"teacher": self.teacher.network, "student": self.student}

    def watch(self) -> dict[str, Tensor]:
        return self._watched
