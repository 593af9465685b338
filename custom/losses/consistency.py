"""Agreement of a student with a teacher that is held constant."""

from __future__ import annotations

from torch import Tensor, nn


class ConsistencyLoss(nn.Module):
    r"""Mean squared distance between the class probabilities of student and teacher.

    .. math:: L = \frac{1}{|V| K} \sum_{v} \sum_k (p_{vk} - \operatorname{sg}(q_{vk}))^2,
              \quad p = \mathrm{softmax}(z^s),\; q = \mathrm{softmax}(z^t)

    over all voxels :math:`v` of all images of the batch. No gradient reaches the teacher. An empty batch costs 0.

    Shape:
        - student, teacher: logits ``(B, K, *spatial)``, K >= 2, any number of spatial axes; computed in float32 or
          better, whatever the precision of the logits.
        - returns: ``()``, dimensionless, in [0, 2 / K].

    Raises:
        ValueError: shapes that differ; fewer than two classes.

    References: Tarvainen and Valpola 2017, arXiv:1703.01780.
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        if student.shape != teacher.shape:
            raise ValueError(f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} differ in shape")
        if student.dim() < 2 or student.shape[1] < 2:
            raise ValueError(f"softmax needs K >= 2 on axis 1, got {tuple(student.shape)}")
        p, q = (_at_least_float32(z).softmax(dim=1) for z in (student, teacher.detach()))
        return (p - q).square().sum() / max(p.numel(), 1)


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits if logits.dtype.itemsize >= 4 else logits.float()
