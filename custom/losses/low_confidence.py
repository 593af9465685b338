"""Agreement of a student with a teacher where the networks are not sure."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .consistency import check_over_classes

KEEPS = ("low", "high", "all")
DIVISORS = ("kept", "low")
LEAST = 0.01  # of all pixels, that divide where fewer are of low confidence and others are kept
JUDGES = ("student", "teacher", "lesser")


def chosen_pixels(
    student: Tensor, teacher: Tensor | None, threshold: float = 0.95, keep: str = "low", confidence: str = "student"
) -> Tensor:
    r"""Which pixels take part: those below the threshold, those not below it, or all.

    .. math:: M_v = [\max_k p_{vk} < \tau]

    for ``keep="low"``, the complement for ``"high"``, 1 for ``"all"``. With ``confidence`` "teacher" :math:`q`, the
    teacher's probabilities, decide; with "lesser" :math:`\min(\max_k p_{vk}, \max_k q_{vk})` does.

    Shape:
        - student, teacher: logits ``(B, K, *spatial)``; the teacher may be None where the student alone decides.
        - returns: bool ``(B, *spatial)``, without gradient.
    """
    if keep == "all":
        return torch.ones_like(student[:, 0], dtype=torch.bool)
    judges = [z for name, z in (("student", student), ("teacher", teacher)) if confidence in (name, "lesser")]
    sureness = torch.stack([_probabilities(z.detach()).amax(dim=1) for z in judges if z is not None]).amin(dim=0)
    return sureness < threshold if keep == "low" else sureness >= threshold


class LowConfidenceConsistencyLoss(nn.Module):
    r"""Squared distance between student and teacher probabilities, over the pixels of low confidence alone.

    .. math:: L = \frac{1}{\max(\sum_v M_v, 1)} \sum_v M_v \frac{1}{K} \sum_k (p_{vk} - \operatorname{sg}(q_{vk}))^2,
              \quad M_v = [\max_k p_{vk} < \tau]

    with :math:`p` of the student and :math:`q` of the teacher, over all pixels :math:`v` of all images of the batch. It
    is the number of *kept* pixels that divides: where few pixels are hard, each of them counts for more. No gradient
    reaches the teacher or passes through :math:`M`. Where no pixel is kept, and for an empty batch, the loss is 0. With
    ``over_classes="sum"`` the factor :math:`1 / K` is left out.

    Args:
        threshold: :math:`\tau`, a probability in [0, 1]; a pixel at the threshold is of high confidence.
        keep: "low", "high" (those not below the threshold: the control) or "all" (plain consistency).
        confidence: whose largest probability decides: "student", "teacher" or the "lesser" of both.
        over_classes: "mean" or "sum", as of :class:`~.consistency.ConsistencyLoss`.
        divide: by the number of "kept" pixels, or by that of "low" confidence whatever is kept: a control in which a pixel
            counts for as much as with ``keep="low"``. A hundredth of all pixels divides at least where others are kept: a
            student that is sure everywhere would else be asked by the sum over all of them, tens of thousands.

    Shape:
        - student, teacher: logits ``(B, K, *spatial)``, K >= 2, any number of spatial axes; computed in float32 or
          better, whatever the precision of the logits.
        - returns: ``()``, dimensionless, in [0, 2 / K], or [0, 2] for the sum, where the kept pixels divide; up to 100 times
          that with ``divide="low"``.

    Raises:
        ValueError: an argument outside these; shapes that differ; fewer than two classes.

    References: Gao and Yu 2023, doi 10.1109/ISBP57705.2023.10061306 (low confidence only; threshold and distance are
    not in its abstract); Tarvainen and Valpola 2017, arXiv:1703.01780 (the distance).
    """

    def __init__(
        self,
        threshold: float = 0.95,
        keep: str = "low",
        confidence: str = "student",
        over_classes: str = "mean",
        divide: str = "kept",
    ) -> None:
        super().__init__()
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is a probability in [0, 1], got {threshold}")
        check_keep("keep", keep)
        if confidence not in JUDGES:
            raise ValueError(f"confidence is one of {list(JUDGES)}, got {confidence!r}")
        if divide not in DIVISORS:
            raise ValueError(f"divide is one of {list(DIVISORS)}, got {divide!r}")
        check_over_classes(over_classes)
        self.divide = divide
        self.threshold, self.keep, self.confidence, self.over_classes = threshold, keep, confidence, over_classes

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        if student.shape != teacher.shape:
            raise ValueError(f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} differ in shape")
        if student.dim() < 2 or student.shape[1] < 2:
            raise ValueError(f"softmax needs K >= 2 on axis 1, got {tuple(student.shape)}")
        kept = chosen_pixels(student, teacher, self.threshold, self.keep, self.confidence)  # (B, *spatial)
        distance = (_probabilities(student) - _probabilities(teacher.detach())).square()  # (B, K, *spatial)
        distance = distance.sum(dim=1) if self.over_classes == "sum" else distance.mean(dim=1)
        counted, least = kept, 1.0
        if self.divide == "low" and self.keep != "low":
            counted = chosen_pixels(student, teacher, self.threshold, "low", self.confidence)
            least = max(least, LEAST * counted.numel())
        return (distance * kept).sum() / counted.sum().clamp(min=least)


def check_keep(name: str, keep: str) -> None:
    """Raise ValueError where ``keep`` is not one of :data:`KEEPS`."""
    if keep not in KEEPS:
        raise ValueError(f"{name} is one of {list(KEEPS)}, got {keep!r}")


def _probabilities(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(dim=1)
