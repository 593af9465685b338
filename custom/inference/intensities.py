"""Before a network sees a case: are its intensities like those of training?"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from torch import Tensor

from ..cohort.intensities import IntensityError, load, measure, nonsense, unlike
from ..cohort.names import stem

logger = logging.getLogger(__name__)


class IntensityCheck:
    """Handler of an evaluator: names each case whose intensities, after preprocessing, are unlike those in training.

    What training had lies beside the weights; of weights without that record (those of earlier versions) only what no network
    can read is refused.

    Args:
        weights: a file of weights, or their folder.
        channels: names, in the order of an image's channels.

    Raises:
        IntensityError: before the network runs: it would see nonsense.
    """

    def __init__(self, weights: str | Path, channels: Sequence[str]) -> None:
        path = Path(weights)
        self.record, self.channels = load(path if path.is_dir() else path.parent), list(channels)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        for number, image in enumerate(batch["image"]):
            self.judge(image, self._names(batch, number), _name(batch, image, number))

    def judge(self, image: Tensor, channels: Sequence[str], name: str) -> None:
        """Warn of an image ``(C, *spatial)`` with these C channels.

        Raises:
            IntensityError: see the class.
        """
        case = measure(torch.as_tensor(image), channels)
        if fault := nonsense(case, self.record):
            raise IntensityError(f"case {name}: {fault}.")
        if odd := unlike(case, self.record):
            logger.warning("case %s is unlike the scans in training after preprocessing: %s.", name, odd)

    def _names(self, batch: Mapping[str, Any], number: int) -> list[str]:
        """Of the channels that the case has."""
        if "modality" in batch and len(batch["image"][number]) == 1:
            return [batch["modality"][number]]
        if "present" in batch:
            return [name for name in self.channels if bool(batch["present"][name][number])]
        return self.channels


def _name(batch: Mapping[str, Any], image: Any, number: int) -> str:
    if "case" in batch:
        return str(batch["case"][number])
    file = image.meta.get("filename_or_obj", "") if isinstance(image, MetaTensor) else ""
    return stem(str(file)) or str(number)
