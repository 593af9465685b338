"""How sure a network is of each case that it segments: a number a case, in a file beside the predictions."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch import Tensor

from ..cohort.names import stem
from ..files import write_text
from ..networks.probabilities import Probabilities, probabilities_of, softmax
from .made import Made
from .slabs import LogitSlabs

FILE = "confidence.json"
NOTE = "confidence"  # in the line of a prediction
FOREGROUND = 0.05  # of probability that is not background's, above which a voxel counts, as in calibration


def confidence(logits: Tensor, probabilities: Probabilities = softmax) -> float:
    r"""Mean confidence where something may be.

    .. math:: C = \frac{1}{|V|} \sum_{v \in V} \max_k p_{vk}, \qquad V = \{v : \textstyle\sum_{k > 0} p_{vk} > 0.05\}

    with class 0 the background. NaN where V is empty: the network is sure that nothing is there.

    Shape:
        - logits: ``(K, *spatial)``, K >= 2.
    """
    return _mean([_share(logits, probabilities)])


def _share(logits: Tensor, probabilities: Probabilities) -> tuple[float, int]:
    """The sum over V, and its size."""
    p = probabilities(logits[None].float())[0]
    seen = p[1:].sum(dim=0) > FOREGROUND
    return float(p.max(dim=0).values[seen].double().sum()), int(seen.sum())


def _mean(shares: Sequence[tuple[float, int]]) -> float:
    total, count = (sum(numbers) for numbers in zip(*shares, strict=True))
    return total / count if count else math.nan


class Confidence:
    """Handler of an inference: writes ``confidence.json``, ``{case: confidence}``, when all cases are done; null where the
    network is sure that nothing is there.

    Cases have the names of their images' files without suffix. The numbers are of the network's own grid, before its
    answer is brought back to the image's. For predictions that the inference keeps they come from its record.

    Args:
        output_dir: an absolute path.
        network: whose probabilities are asked for.
        made: of the inference, with ``confidence`` among its notes.
    """

    def __init__(self, output_dir: str | Path, network: torch.nn.Module, made: Made) -> None:
        self.folder, self.made, self._probabilities = Path(output_dir), made, probabilities_of(network)
        self.found: dict[str, float | None] = {}
        """Of each case that was segmented."""

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def __call__(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        for image, logits in zip(batch["image"], output["pred"], strict=True):
            add = partial(self._add, str(image.meta["filename_or_obj"]), [])
            if isinstance(logits, LogitSlabs):  # not computed yet
                logits.watchers.append(add)
            else:
                add(torch.as_tensor(logits))

    def _add(self, file: str, shares: list[tuple[float, int]], logits: Tensor) -> None:
        """One of the slabs of a case, or all of it; the last comes before the prediction is written."""
        shares.append(_share(logits, self._probabilities))
        mean = _mean(shares)
        value = None if math.isnan(mean) else round(mean, 5)
        self.found[stem(file)] = value
        self.made.noted[self.made.saving.path_of(file)] = {NOTE: value}

    def finish(self) -> None:
        """Write the file."""
        kept = {stem(file): self.made.noted[path][NOTE] for file, path in self.made.kept}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / FILE, json.dumps(kept | self.found, indent=1) + "\n")
