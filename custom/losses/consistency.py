"""Agreement of a student with a teacher that is held constant."""

from __future__ import annotations

from torch import Tensor, nn


class ConsistencyLoss(nn.Module):
    r"""Squared distance between the class probabilities of student and teacher, the mean over voxels.

    .. math:: L = \frac{1}{|V| K} \sum_{v} \sum_k (p_{vk} - \operatorname{sg}(q_{vk}))^2,
              \quad p = \mathrm{softmax}(z^s),\; q = \mathrm{softmax}(z^t)

    over all voxels :math:`v` of all images of the batch. With ``over_classes="sum"`` the factor :math:`1 / K` is left
    out, so that a weight means the same whatever the number of classes. No gradient reaches the teacher. An empty batch
    costs 0.

    Args:
        over_classes: "mean" (the field's comparisons) or "sum" (CutMix mean teacher).
        sigmoid: True takes :math:`\mathrm{sigmoid}` of each channel, for networks that are trained so.

    Shape:
        - student, teacher: logits ``(B, K, *spatial)``, K >= 2, any number of spatial axes; computed in float32 or
          better, whatever the precision of the logits.
        - returns: ``()``, dimensionless, in [0, 2 / K], or [0, 2] for the sum; of sigmoids in [0, 1], or [0, K].

    Raises:
        ValueError: an unknown ``over_classes``; shapes that differ; fewer than two classes.

    References: Tarvainen and Valpola 2017, arXiv:1703.01780; French et al. 2020, arXiv:1906.01916 (the sum).
    """

    def __init__(self, over_classes: str = "mean", sigmoid: bool = False) -> None:
        super().__init__()
        check_over_classes(over_classes)
        self.over_classes, self.sigmoid = over_classes, sigmoid

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        if student.shape != teacher.shape:
            raise ValueError(f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} differ in shape")
        if student.dim() < 2 or student.shape[1] < 2:
            raise ValueError(f"softmax needs K >= 2 on axis 1, got {tuple(student.shape)}")
        p, q = (self._probabilities(_at_least_float32(z)) for z in (student, teacher.detach()))
        loss = (p - q).square().sum() / max(p.numel(), 1)
        return loss * p.shape[1] if self.over_classes == "sum" else loss

    def _probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.sigmoid else logits.softmax(dim=1)


def check_over_classes(name: str) -> None:
    """Raise ValueError where it is neither "mean" nor "sum"."""
    if name not in ("mean", "sum"):
        raise ValueError(f"over_classes is 'mean' or 'sum', got {name!r}")


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits if logits.dtype.itemsize >= 4 else logits.float()
