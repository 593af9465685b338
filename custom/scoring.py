"""Scores of every network that a run serves, on whole cases in their own grid."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.utils import convert_to_tensor
from torch import nn

from .checkpoint import write_text
from .cohort import under
from .cuts import Cuts
from .evaluation import CaseReport

logger = logging.getLogger(__name__)


class ReportHandler:
    """Adds each evaluated case to ``report``, a :class:`~.evaluation.CaseReport` with its calibration, and a slice of
    it to ``cuts``.

    Reads of a decollated batch ``pred`` (logits on the image's own grid, after postprocessing), ``reference`` (class
    indices on the grid of the label's file), ``picture`` (the image as it is in its file), ``case``, ``patient`` and
    ``attributes``. Distances are in mm, from the affine of the reference.

    Args:
        classes: names of the foreground classes.

    Raises:
        ValueError: prediction and reference differ in shape.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.report, self.cuts = CaseReport(classes), Cuts()

    def start_again(self) -> None:
        """Forget all cases: the next evaluation begins."""
        self.report, self.cuts = CaseReport(self.report.classes), Cuts()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        state: Any = engine.state
        for batch, output in zip(state.batch, state.output, strict=True):
            self._add(batch, convert_to_tensor(output["pred"], track_meta=False).detach())

    def write(self, folder: Path, name: str) -> dict[str, Any]:
        """Writes the report and ``<name>.slices.npz``; returns the summary."""
        summary = self.report.write(folder, name)
        self.cuts.write(folder / f"{name}.slices.npz")
        return summary

    def _add(self, batch: Mapping[str, Any], logits: torch.Tensor) -> None:
        from nibabel.orientations import aff2axcodes

        case, reference = str(batch["case"]), batch["reference"]
        if reference.shape != (1, *logits.shape[1:]):
            raise ValueError(
                f"case {case}: the prediction has the grid {tuple(logits.shape[1:])}, the label "
                f"{tuple(reference.shape[1:])}. Image and label must share one grid."
            )
        label = convert_to_tensor(reference, track_meta=False)[0].round().byte().to(logits.device)
        spacing_mm = [float(size) for size in reference.pixdim[: label.dim()]]
        found, wanted = (x.byte().cpu().numpy() for x in (logits.argmax(dim=0), label))
        patient, attributes = str(batch["patient"]), batch.get("attributes")
        self.report.add(case, patient, found, wanted, spacing_mm, attributes)
        self.report.calibration.add(logits, label)
        codes = "".join(aff2axcodes(reference.affine.cpu().numpy()))
        self.cuts.add(case, np.asarray(batch["picture"].cpu()), wanted, found, spacing_mm, codes)


def evaluate_models(
    evaluator: SupervisedEvaluator,
    report: ReportHandler,
    network: nn.Module,
    models_dir: str | Path,
    output_dir: str | Path,
    part: str = "test",
    root: str | Path = ".",
) -> dict[str, Any]:
    """Score each ``*.pt`` of ``models_dir``; write its files and ``report.html`` to ``<output_dir>/evaluation/<part>``.

    Returns:
        ``{name: mean Dice}``; also written to ``summary.json``, and logged, a line a network.
    """
    models_dir, output = Path(models_dir), under(root, output_dir)
    folder = output / "evaluation" / part
    logger.info("Evaluating the networks of %s on the %s part.", models_dir, part)
    names = _content(models_dir.parent / "run.json").get("networks", {})
    found = {}
    for path in sorted(models_dir.glob("*.pt"), key=lambda p: (p.stem != "model", len(p.stem), p.stem)):
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        report.start_again()
        evaluator.run()
        summary = report.write(folder, path.stem)
        found[path.stem] = summary["metrics"]["dice_mean"]["mean"]
        logger.info("%-13s (%s)  %s", path.stem, _what(path.stem, names), _line(summary))
    write_text(folder / "summary.json", json.dumps(found, indent=2) + "\n")  # last: it is there when all are
    logger.info("Scores of every case: %s (.csv; .md to read)", folder)
    task = _content(models_dir.parent / "configs" / "metadata.json").get("task", "Segmentation")
    _write_page(folder, f"{task}, {part} part", output / "metrics.csv")
    return found


def _content(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _what(stem: str, names: Mapping[str, str]) -> str:
    """The network of a file of weights, and of which moment they are."""
    name = names.get(stem.removesuffix("_final"), stem)
    if stem.endswith("_final"):
        return f"{name}, final weights"
    return f"{name}, best in validation" if names else name


def _line(summary: Mapping[str, Any]) -> str:
    """Dice of each class, HD95, failures and calibration of one network."""

    def mean(metric: str, digits: int) -> str:
        value = summary["metrics"][metric]["mean"]
        return "-" if value is None else f"{value:.{digits}f}"

    dice = "  ".join(f"{name} {mean(f'dice_{name}', 3)}" for name in [*summary["classes"], "mean"])
    ece = summary["calibration"]["ece"] if summary["calibration"] else float("nan")
    return f"Dice: {dice} | HD95 {mean('hd95_mm_mean', 1)} mm | failures {summary['failures']} | ECE {ece:.3f}"


def _write_page(folder: Path, title: str, metrics_csv: Path) -> None:
    try:
        from .report import write_report

        page = write_report(folder, title, metrics_csv if metrics_csv.is_file() else None)
    except ImportError as error:  # matplotlib is optional where a bundle only serves
        logger.info("No report.html is written: %s", error)
    else:
        logger.info("With pictures: %s", page)
