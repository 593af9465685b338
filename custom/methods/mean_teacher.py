"""Mean teacher: on unlabelled images the student follows its own moving average."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from .batch import Batch
from .halves import batches, check_normalised
from .schedule import Progress
from .taught import Taught

VIEWS = ("strong", "noise")


class MeanTeacher(Taught):
    r""":math:`L = w_{sup} L_{sup}(f(x^l), y^l) + w(t)\, L_{con}(f(x^u), f'(x^u + \epsilon))`.

    :math:`f'` is the moving average of the student :math:`f`, without gradient. With ``view="strong"`` (CutMix mean
    teacher) the teacher sees the weak view, the student the strong view with a box of another patch, and the targets are
    mixed by the same box. With ``view="noise"``, the published form, the student sees the weak view and the teacher
    this plus :math:`\epsilon = \mathrm{clip}(\sigma N(0, 1), -2\sigma, 2\sigma)`, normalised by running statistics copied from
    the student. The teacher serves; the student is reported beside it.

    Args:
        network: the student; returns logits ``(B, K, *spatial)``.
        supervised: loss of logits and labels ``(B, 1, *spatial)``.
        consistency: loss of the student's and the teacher's logits.
        ema_decay: upper bound of the teacher's decay.
        noise: :math:`\sigma`, in units of the normalised intensity, of ``view="noise"``.
        view: "strong" or "noise".
        normalised: "together" or "apart": how the student is called with labelled and unlabelled patches, see
            :func:`~.halves.batches`.

    Raises:
        ValueError: an unknown ``view`` or ``normalised``.

    References: Tarvainen and Valpola 2017, arXiv:1703.01780; French et al. 2020, arXiv:1906.01916 (CutMix). The noise and
    the bound on the decay are those that the field's comparisons use (Yu et al. 2019, arXiv:1907.07034).
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
        view: str = "noise",
        normalised: str = "together",
    ) -> None:
        if view not in VIEWS:
            raise ValueError(f"view is one of {list(VIEWS)}, got {view!r}")
        check_normalised(normalised)
        super().__init__(network, ema_decay, "own" if view == "strong" else "copied")
        self.strong_views = int(view == "strong")
        self.supervised = supervised
        self.consistency = consistency
        self.noise = noise
        self.normalised = normalised

    def forward(self, labelled: Batch, unlabelled: Batch, progress: Progress) -> dict[str, Tensor]:
        images = batches(labelled.image, self._seen(unlabelled), self.normalised)
        logits = torch.cat([self.student(half) for half in images]).float()  # (Bl + Bu, K, *spatial)
        student_l, student_u = logits.split([len(labelled), len(unlabelled)])
        terms, self._watched = {}, {}
        if progress.wants("supervised"):
            terms["supervised"] = self.supervised(student_l, labelled.label)
        if progress.wants("consistency"):
            _, teacher_u = self._teach(labelled, unlabelled)
            terms["consistency"] = self.consistency(student_u, teacher_u)
            self._watched = self._agreement(student_u.detach(), teacher_u)
        return terms

    def _seen(self, unlabelled: Batch) -> Tensor:
        """What the student sees of the unlabelled patches."""
        return unlabelled.strong_view().image if self.strong_views else unlabelled.image

    def _teach(self, labelled: Batch, unlabelled: Batch) -> tuple[Tensor | None, Tensor]:
        """The teacher's logits: of the labelled patches where they are at hand, of the unlabelled ones as the student sees
        them."""
        if not self.strong_views:
            return None, self._teach_noisy(unlabelled.image)
        logits = self.teacher.teach(torch.cat([labelled.image, unlabelled.image])).float()
        logits_l, logits_u = logits.split([len(labelled), len(unlabelled)])
        return logits_l, unlabelled.strong_view().mixed(logits_u)

    def _teach_noisy(self, image: Tensor) -> Tensor:
        return self.teacher(self._perturb(image)).float()

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
