"""Are a case's intensities like those of training? Asked before a network sees it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from torch import Tensor

from ..cohort.intensities import IntensityError, load, measure, nonsense, odd_summary, outside_training
from ..cohort.names import stem
from ..cohort.words import plural

logger = logging.getLogger(__name__)


class IntensityCheck:
    """Handler of an evaluator: names the cases whose intensities, after preprocessing, are unlike those in training, in one
    line at the end of a run; not again in the next run of the same cases, by another network.

    What training had lies beside the weights; for weights without that record (of earlier versions) only what no
    network can read is refused, and the log says so.

    Args:
        weights: a file of weights, or their folder.
        channels: names, in the order of an image's channels.
        skip: the network does not see a case that would be nonsense to it, and goes on with the next one.

    Raises:
        IntensityError: before the network runs, or, with ``skip``, at the end of the run, of all cases: it would see nonsense.
    """

    def __init__(self, weights: str | Path, channels: Sequence[str], skip: bool = False) -> None:
        path, self.skip = Path(weights), skip
        self.record, self.channels = load(path if path.is_dir() else path.parent), list(channels)
        self._seen: dict[str, str] = {}  # what is odd of each case, by its name; empty where nothing is
        self._reported: dict[str, str] = {}
        self._refused: dict[str, str] = {}  # why the network did not see a case, by its name

    def attach(self, engine: Engine) -> None:
        if not self.record:
            logger.warning("Intensities: these weights keep no record of those in training: images are not compared with it. "
                           "Look whether yours have the same bits and unit.")  # fmt: skip
        engine.add_event_handler(Events.ITERATION_STARTED, self)
        engine.add_event_handler(Events.COMPLETED, self._tell)
        if self.skip:
            step = engine._process_function  # ignite has no other way to leave out an iteration
            engine._process_function = lambda e, batch: None if self._unfit(batch) else step(e, batch)
            engine.add_event_handler(Events.STARTED, self._forget)
            engine.add_event_handler(Events.COMPLETED, self._refuse)

    def __call__(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        for number, image in enumerate(batch["image"]):
            name = _name(batch, image, number)
            try:
                self._seen[name] = self.judge(image, self._names(batch, number), name)
            except IntensityError as error:
                if not self.skip:  # ends the run
                    self._tell()
                    raise
                self._seen[name], self._refused[name] = "", str(error)

    def _forget(self) -> None:
        self._refused.clear()

    def _unfit(self, batch: Mapping[str, Any]) -> bool:
        """Whether a case of a batch is refused; none of the batch is seen then."""
        names = [_name(batch, image, number) for number, image in enumerate(batch["image"])]
        refused = [name for name in names if name in self._refused]
        for name in names if refused else ():
            self._refused.setdefault(
                name, f"case {name}: in one batch with {refused[0]}. Set dataloader::batch_size to 1."
            )
        return bool(refused)

    def _refuse(self) -> None:
        if self._refused:
            others = ", all others are" if len(self._refused) < len(self._seen) else ""
            count = f"{len(self._refused)} of {plural(len(self._seen), 'scan')} not segmented{others}:"
            raise IntensityError("\n  ".join([count, *self._refused.values()]))

    def _tell(self) -> None:
        odd = {name: text for name, text in self._seen.items() if text}
        if odd and odd != self._reported:
            logger.warning("Intensities: %s", odd_summary(odd, len(self._seen)))
        self._reported = odd

    def judge(self, image: Tensor, channels: Sequence[str], name: str) -> str:
        """What is unlike training in an image ``(C, *spatial)`` with these C channels; empty where nothing is.

        Raises:
            IntensityError: see the class.
        """
        case = measure(torch.as_tensor(image), channels)
        if fault := nonsense(case, self.record):
            raise IntensityError(f"case {name}: {fault}.")
        return outside_training(case, self.record)

    def _names(self, batch: Mapping[str, Any], number: int) -> list[str]:
        """The names of the channels that the case has."""
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
