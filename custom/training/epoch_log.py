"""An epoch in numbers: the means of what its steps computed, and its line in the log."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from torch import Tensor


class Means:
    """Means of named scalars over an epoch, summed on the device: one read an epoch, none a step."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: Counter[str] = Counter()

    def add(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
            self.counts[name] += 1

    def means(self) -> dict[str, float]:
        return {name: float(total) / self.counts[name] for name, total in self.sums.items()}


def line(
    row: Mapping[str, float], epochs: int, networks: Iterable[str], best: Mapping[str, float], skipped_steps: int
) -> str:
    """Say how an epoch went: terms, Dice of each network and class, the best score so far.

    Args:
        row: of ``metrics.csv``.
        epochs: of the run.
        networks: names of those that are validated, the first one chooses the best.
        best: ``score`` and its ``epoch``, 0 where there is none.
        skipped_steps: by the loss scaler.
    """
    terms = "  ".join(f"{k.removeprefix('term/')} {v:.4f}" for k, v in row.items() if k.startswith("term/"))
    text = f"epoch {row['epoch']}/{epochs}  step {row['step']}  {terms}"
    for name in networks:
        classes = [f"{v:.3f}" for k, v in row.items() if k.startswith(f"val/{name}/dice_") and "mean" not in k]
        text += f"  | {name} Dice {row.get(f'val/{name}/dice_mean', math.nan):.3f} ({' '.join(classes)})"
    if best["epoch"]:
        text += f"  best {best['score']:.3f} at {best['epoch']:.0f}"
    return text + (f"  skipped steps {skipped_steps}" if skipped_steps else "")
