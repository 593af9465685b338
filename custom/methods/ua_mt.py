"""Uncertainty-aware mean teacher: the student follows its moving average where several passes of that agree."""

from __future__ import annotations

import contextlib
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..losses.uncertainty import UncertaintyConsistencyLoss
from .batch import Batch
from .halves import batches
from .mean_teacher import MeanTeacher
from .schedule import Progress, ramp_up

TEACHER_NORM = ("batch", "copied")


class UncertaintyAwareMeanTeacher(MeanTeacher):
    r"""A mean teacher whose consistency counts where the teacher is sure.

    .. math:: q = \frac{1}{T} \sum_{i=1}^{T} \mathrm{softmax}(f'(x^u + \epsilon_i)), \quad
              \epsilon_i = \mathrm{clip}(\sigma N(0, 1), -2\sigma, 2\sigma)

    with the teacher's dropout on; :class:`~..losses.UncertaintyConsistencyLoss` takes the voxels whose entropy lies below
    the share :math:`h = .75 + .25\,\mathrm{ramp}(t)` of the largest, with the sigmoid ramp-up over the whole run.

    With ``view="noise"``, the published form, the student sees the weak view that the teacher sees noisy. With
    ``view="strong"`` it sees the strong view with boxes of other patches, and q, of the weak view, is mixed alike: what the
    student sees is then harder than what the teacher saw.

    Args:
        network: the student; returns logits ``(B, K, *spatial)``.
        supervised: loss of logits and labels ``(B, 1, *spatial)``.
        consistency: of the student's logits, the teacher's mean probabilities and the share.
        ema_decay: upper bound of the teacher's decay.
        noise: :math:`\sigma`, in units of the normalised intensity.
        passes: T.
        view: "strong" or "noise".
        normalised: "together" or "apart": how the student is called with labelled and unlabelled patches, see
            :func:`~.halves.batches`.
        teacher_norm: how BatchNorm is computed in these passes: "batch", by the statistics of the unlabelled patches at hand,
            which leave no trace; "copied", by the student's running statistics, which an average of weights never saw. All
            passes are noisy, so that none moves the teacher's own; what it validates and serves with is re-estimated.

    Raises:
        ValueError: no pass; an unknown ``teacher_norm``, ``view`` or ``normalised``.

    References: Yu et al. 2019, arXiv:1907.07034.
    """

    terms: ClassVar[tuple[str, ...]] = ("supervised", "consistency")
    unlabelled_terms: ClassVar[tuple[str, ...]] = ("consistency",)

    consistency: UncertaintyConsistencyLoss

    def __init__(
        self,
        network: nn.Module,
        supervised: nn.Module,
        consistency: UncertaintyConsistencyLoss,
        ema_decay: float = 0.99,
        noise: float = 0.1,
        passes: int = 8,
        teacher_norm: str = "copied",
        view: str = "noise",
        normalised: str = "together",
    ) -> None:
        super().__init__(network, supervised, consistency, ema_decay, noise, view, normalised)
        if passes < 1:
            raise ValueError(f"passes is a number >= 1, got {passes}")
        if teacher_norm not in TEACHER_NORM:
            raise ValueError(f"teacher_norm is one of {list(TEACHER_NORM)}, got {teacher_norm!r}")
        self.passes, self.teacher_norm = passes, teacher_norm

    def forward(self, labelled: Batch, unlabelled: Batch, progress: Progress) -> dict[str, Tensor]:
        images = batches(labelled.image, self._seen(unlabelled), self.normalised)
        logits = torch.cat([self.student(half) for half in images]).float()  # (Bl + Bu, K, *spatial)
        student_l, student_u = logits.split([len(labelled), len(unlabelled)])
        terms, self._watched = {}, {}
        if progress.wants("supervised"):
            terms["supervised"] = self.supervised(student_l, labelled.label)
        if progress.wants("consistency"):
            q = self._mean_answer(unlabelled.image)
            q = unlabelled.strong_view().mixed(q) if self.strong_views else q
            terms["consistency"], sure = self.consistency(student_u, q, 0.75 + 0.25 * ramp_up(progress.fraction))
            self._watched = {"sure": sure.float().mean(), **self._agreement(student_u.detach(), q.log())}
        return terms

    def _mean_answer(self, image: Tensor) -> Tensor:
        """q, ``(B, K, *spatial)``. Pass by pass: all at once would need T times the memory."""
        normalising = self.teacher.by_batch() if self.teacher_norm == "batch" else contextlib.nullcontext()
        with self.teacher.dropping(), normalising:
            answers = [self._teach_noisy(image).softmax(dim=1) for _ in range(self.passes)]
        return torch.stack(answers).mean(dim=0)
