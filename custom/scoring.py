"""Scores of every network that a run serves, on whole cases in their own grid."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from torch import nn

from .checkpoint import write_text
from .cohort import under
from .evaluation import CaseReport

logger = logging.getLogger(__name__)


class ReportHandler:
    """Adds each evaluated case to ``report``, a :class:`~.evaluation.CaseReport`.

    Reads ``pred`` (class indices on the image's own grid, after postprocessing), ``reference`` (the label as it is in
    its file), ``case`` and ``patient`` of a decollated batch. Distances are in mm, from the affine of the reference.

    Args:
        classes: names of the foreground classes.

    Raises:
        ValueError: prediction and reference differ in shape.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.report = CaseReport(classes)

    def start_again(self) -> None:
        """Forget all cases: the next evaluation begins."""
        self.report = CaseReport(self.report.classes)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        state: Any = engine.state
        for batch, output in zip(state.batch, state.output, strict=True):
            reference, pred = batch["reference"], output["pred"]
            case = str(batch["case"])
            if pred.shape != reference.shape:
                raise ValueError(
                    f"case {case}: the prediction has the grid {tuple(pred.shape[1:])}, the label "
                    f"{tuple(reference.shape[1:])}. Image and label must share one grid."
                )
            spacing_mm = [float(s) for s in reference.pixdim[: pred.dim() - 1]]
            found, label = (x.detach().cpu().as_tensor()[0].round().byte().numpy() for x in (pred, reference))
            self.report.add(case, str(batch["patient"]), found, label, spacing_mm)


def evaluate_models(
    evaluator: SupervisedEvaluator,
    report: ReportHandler,
    network: nn.Module,
    models_dir: str | Path,
    output_dir: str | Path,
    part: str = "test",
    root: str | Path = ".",
) -> dict[str, Any]:
    """Score each ``*.pt`` of ``models_dir``; write ``<output_dir>/evaluation/<part>/<name>.csv`` and ``.json``.

    Returns:
        ``{name: mean Dice}``; also written to ``summary.json``, and logged, a line a network.
    """
    models_dir, folder = Path(models_dir), under(root, output_dir) / "evaluation" / part
    logger.info("Evaluating the networks of %s on the %s part.", models_dir, part)
    about = models_dir.parent / "run.json"
    names = json.loads(about.read_text())["networks"] if about.is_file() else {}
    found = {}
    for path in sorted(models_dir.glob("*.pt"), key=lambda p: (len(p.stem), p.stem)):
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        report.start_again()
        evaluator.run()
        report.report.write(folder, path.stem)
        metrics = report.report.summary()["metrics"]
        found[path.stem] = metrics["dice_mean"]["mean"]
        what = names.get(path.stem.removesuffix("_final"), path.stem) + (
            ", final weights" if path.stem.endswith("_final") else ", best in validation" if names else ""
        )
        dice = "  ".join(f"{k.removeprefix('dice_')} {v['mean']:.3f}" for k, v in metrics.items() if "dice" in k)
        logger.info("%-12s (%s)  Dice: %s", path.stem, what, dice)
    write_text(folder / "summary.json", json.dumps(found, indent=2) + "\n")  # last: it is there when all are
    logger.info("Scores of every case: %s", folder)
    return found
