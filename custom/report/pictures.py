"""The tracker that draws a run's pictures: learning curves and validation cases."""

from __future__ import annotations

import copy
import logging

import torch
from ignite.engine import Engine

from .. import distributed
from ..run.output import Output
from ..run.tracker import Rows
from ..training.validation import ServingEvaluator
from .learning_curves import learning_curves
from .validation_picture import validation_picture

logger = logging.getLogger(__name__)


class Pictures:
    """Draws ``learning_curves.png`` and ``validation.png`` when a run ends; a picture that fails stops no run.

    List it before the trackers that send pictures.

    Args:
        output: the run's folder.
        validator: whose cases are drawn, with the first network that it serves; None draws the curves alone.
    """

    def __init__(self, output: Output, validator: ServingEvaluator | None = None) -> None:
        self.output, self.validator = output, validator

    def attach(self, engine: Engine) -> None:
        if distributed.rank() == 0:
            self.output.trackers.append(self)

    def begin(self, rows: Rows) -> None: ...

    def update(self, rows: Rows) -> None: ...

    def finish(self, rows: Rows) -> None:
        try:
            self._draw()
        except ImportError as error:  # matplotlib is optional where a bundle only serves
            logger.info("No pictures are drawn: %s", error)
        except Exception as error:  # a picture is not worth losing the end of a run
            logger.warning("Not all pictures could be drawn: %s", error)

    def close(self) -> None: ...

    def _draw(self) -> None:
        folder = self.output.folder
        learning_curves(folder / "metrics.csv", folder / "learning_curves.png")
        if self.validator is None or not len(self.validator.dataset):
            return
        name, network = next(iter(self.validator.method.serving().items()))
        serving = copy.deepcopy(network)  # the weights in memory are the last ones, not those that serve
        weights = torch.load(self.output.models / "model.pt", map_location="cpu", weights_only=True)
        serving.load_state_dict(weights)
        validation_picture(self.validator, serving, folder / "validation.png", name)
