"""Does a network know when it is wrong? Confidence against accuracy, over the voxels that matter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from ..networks.probabilities import Probabilities, softmax

BINS = 15
FOREGROUND = 0.05  # of probability that is not background's, above which a voxel counts


class Calibration:
    r"""Expected calibration error and reliability curve, accumulated case by case as counts alone.

    .. math:: \mathrm{ECE} = \sum_{b=1}^{15} \frac{n_b}{N} \left| \mathrm{acc}_b - \mathrm{conf}_b \right|

    over the voxels where the network gives all foreground classes together more than 5 %: background is most of a
    scan and easy, so it would drown the rest. The label has no say in which voxels count: chosen by it, even a
    perfectly calibrated network would seem too sure or not sure enough. The confidence of a voxel is the probability
    that the network gives to the class of its largest logit (softmax, or what the network was trained with), its
    accuracy 1 where that class is the label's. Bin b holds the confidences in
    :math:`((b - 1) / 15, b / 15]`. All cases' voxels are pooled: a large structure weighs more than a small one.

    References: Naeini et al. 2015, AAAI (ECE); Guo et al. 2017, arXiv:1706.04599 (15 bins).
    """

    def __init__(self) -> None:
        self._count = np.zeros(BINS, dtype=np.int64)
        self._confidence, self._correct = np.zeros(BINS), np.zeros(BINS)  # sums

    @classmethod
    def of(cls, summaries: Iterable[Mapping[str, Any] | None]) -> Calibration:
        """What several counted together, from their :meth:`summary`; those that are None are left out."""
        pooled = cls()
        for summary in summaries:
            for i, part in enumerate(summary["bins"] if summary else ()):
                if part["count"]:
                    pooled._count[i] += part["count"]
                    pooled._confidence[i] += part["count"] * part["confidence"]
                    pooled._correct[i] += part["count"] * part["accuracy"]
        return pooled

    def add(self, logits: Tensor, label: Tensor, probabilities: Probabilities = softmax) -> None:
        """Count one case.

        Args:
            logits: ``(K, *spatial)``, K >= 2, on any device.
            label: class indices ``(*spatial)``, on the same device.
            probabilities: of the network, see :func:`~..networks.probabilities.probabilities_of`.

        Raises:
            ValueError: shapes that differ; fewer than two classes.
        """
        if logits.shape[1:] != label.shape:
            raise ValueError(f"logits {tuple(logits.shape)} and label {tuple(label.shape)} differ in shape")
        if logits.shape[0] < 2:
            raise ValueError(f"calibration needs K >= 2 on axis 0, got {tuple(logits.shape)}")
        foreground = probabilities(logits[None].float())[0, 1:].sum(dim=0) > FOREGROUND  # (*spatial)
        counted = logits[:, foreground].double()  # (K, voxels)
        pred = counted.argmax(dim=0)
        correct = pred == label[foreground]
        confidence = probabilities(counted[None])[0].gather(0, pred[None])[0].cpu().numpy()
        bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
        self._count += np.bincount(bins, minlength=BINS)
        self._confidence += np.bincount(bins, weights=confidence, minlength=BINS)
        self._correct += np.bincount(bins, weights=correct.cpu().numpy(), minlength=BINS)

    @property
    def ece(self) -> float:
        """The error, in [0, 1]; NaN where no voxel was counted."""
        total = int(self._count.sum())
        return float(np.abs(self._correct - self._confidence).sum() / total) if total else float("nan")

    def summary(self) -> dict[str, Any] | None:
        """``{ece, over, voxels, bins: [{low, high, count, confidence, accuracy}]}``; None where no voxel was counted.

        ``confidence`` and ``accuracy`` are means of the bin, None in an empty one.
        """
        if not self._count.any():
            return None
        return {
            "ece": self.ece,
            "over": f"voxels where the network gives foreground more than {100 * FOREGROUND:.0f} %",
            "voxels": int(self._count.sum()),
            "bins": [self._bin(i) for i in range(BINS)],
        }

    def _bin(self, i: int) -> dict[str, Any]:
        count = int(self._count[i])
        return {
            "low": i / BINS,
            "high": (i + 1) / BINS,
            "count": count,
            "confidence": float(self._confidence[i]) / count if count else None,
            "accuracy": float(self._correct[i]) / count if count else None,
        }
