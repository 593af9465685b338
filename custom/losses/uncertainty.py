"""Agreement of a student with a teacher where the teacher is sure."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .consistency import check_over_classes


class UncertaintyConsistencyLoss(nn.Module):
    r"""Squared distance of probabilities over the voxels at which the teacher's entropy is low.

    .. math:: L = \frac{\sum_v m_v \frac{1}{K} \sum_k (p_{vk} - q_{vk})^2}{\max(\sum_v m_v, 1)}, \quad
              m_v = [u_v < h \ln K], \quad u_v = -\sum_k q_{vk} \ln q_{vk}

    with :math:`p = \mathrm{softmax}(z)` of the student. The bound is a share :math:`h` of :math:`\ln K`, the largest
    entropy that K classes can have; programs that write :math:`\ln 2` for more classes than two leave out nearly all. With
    ``over_classes="sum"`` the factor :math:`1 / K` is left out, so that a weight means the same whatever the number of classes.

    Args:
        masked: False takes :math:`m_v = 1` everywhere: the control, plain consistency.
        over_classes: "mean", as published, or "sum".

    Shape:
        - student: logits ``(B, K, *spatial)``, K >= 2; teacher: probabilities of that shape, without gradient.
        - share: :math:`h`, in [0, 1].
        - returns: the loss ``()``, dimensionless, in [0, 2 / K], or [0, 2] for the sum, and :math:`m` ``(B, *spatial)`` bool.

    Raises:
        ValueError: an unknown ``over_classes``; shapes that differ; fewer than two classes.

    References: Yu et al. 2019, arXiv:1907.07034.
    """

    def __init__(self, masked: bool = True, over_classes: str = "mean") -> None:
        super().__init__()
        check_over_classes(over_classes)
        self.masked, self.over_classes = masked, over_classes

    def forward(self, student: Tensor, teacher: Tensor, share: float) -> tuple[Tensor, Tensor]:
        if student.shape != teacher.shape:
            raise ValueError(f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} differ in shape")
        if student.dim() < 2 or student.shape[1] < 2:
            raise ValueError(f"softmax needs K >= 2 on axis 1, got {tuple(student.shape)}")
        p = student.to(torch.promote_types(student.dtype, torch.float32)).softmax(dim=1)
        q = teacher.detach().to(p.dtype)
        sure = -torch.xlogy(q, q).sum(dim=1) < (share * math.log(q.shape[1]) if self.masked else math.inf)
        squares = (p - q).square()
        distance = squares.sum(dim=1) if self.over_classes == "sum" else squares.mean(dim=1)
        return (distance * sure).sum() / sure.sum().clamp(min=1), sure
