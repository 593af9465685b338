"""Scores of every network that a run serves, on whole cases in their own grid."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from ignite.engine import Engine
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.utils import convert_to_tensor
from torch import nn
from torch.utils.data import Subset

from ..cohort.formats.itk_image import is_picture
from ..errors import UserError
from ..files import under, write_text
from ..inference.state_dict import read
from ..inference.weight_files import load_weights
from ..networks.one_channel import channel_of
from ..networks.probabilities import probabilities_of, softmax
from ..run.config import RunConfig
from ..run.trained import check_trained
from .case_report import FAULTS, CaseReport, faults_of
from .slices import ShownSlices

logger = logging.getLogger(__name__)


class ScoringError(UserError, ValueError):
    """The weights cannot read the cases."""


class ReportHandler:
    """Add each evaluated case to ``report``, a :class:`~.case_report.CaseReport` with its calibration, and a slice of
    it to ``slices``.

    Reads of a decollated batch ``pred`` (logits on the image's own grid, after postprocessing), ``reference`` (class
    indices on the grid of the label's file), ``picture`` (the image as it is in its file), ``case``, ``patient`` and
    ``attributes``. Distances are in mm, from the affine of the reference; in pixels where the references are pictures.
    Where the network reads one modality, that is what counts as the picture.

    Args:
        classes: names of the foreground classes.

    Raises:
        ValueError: prediction and reference differ in shape.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.report, self.slices = CaseReport(classes), ShownSlices()
        self._pictures: list[bool] = []
        self._channel: int | None = None
        self._probabilities = softmax

    @property
    def unit(self) -> str:
        """The unit of distances: ``pixels`` where every reference is a picture, else ``mm``."""
        return "pixels" if self._pictures and all(self._pictures) else "mm"

    def start_again(self, network: nn.Module | None = None) -> None:
        """Forget all cases, for the next network; without one it reads all channels, and its probabilities are softmax."""
        self._channel, self._probabilities = None, softmax
        if network is not None:
            self._channel, self._probabilities = channel_of(network), probabilities_of(network)
        self.report, self.slices, self._pictures = CaseReport(self.report.classes), ShownSlices(), []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        state: Any = engine.state
        for batch, output in zip(state.batch, state.output, strict=True):
            self._add(batch, convert_to_tensor(output["pred"], track_meta=False).detach())

    def write(self, folder: Path, name: str, reads: Reads | None = None, same_as: str = "") -> dict[str, Any]:
        """Write the report, its ``.json`` with the ``unit`` of distances, and ``<name>.slices.npz``; return the summary.

        With ``reads``, ``.json`` has the ``modality`` and how many cases were ``left_out`` too, ``.md`` a sentence on it;
        with ``same_as``, the name of the file that holds the same weights, so do both.
        """
        summary, said = self.report.write(folder, name, self.unit), []
        if reads is not None:
            summary |= {"modality": reads.modality, "left_out": reads.left_out}
            said.append(str(reads))
        if same_as:
            summary["same_as"] = same_as
            said.append(f"The same weights as {same_as}, scored once.")
        page = folder / f"{name}.md"
        write_text(page, "\n".join([page.read_text(encoding="utf-8"), *(f"{line}\n" for line in said)]))
        write_text(folder / f"{name}.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
        self.slices.write(folder / f"{name}.slices.npz")
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
        picture = np.asarray(batch["picture"].cpu())
        if self._channel is not None and len(picture) > 1:
            picture = picture[[self._channel]]
        self.report.add(case, patient, found, wanted, spacing_mm, attributes, picture)
        self.report.calibration.add(logits, label, self._probabilities)
        self._pictures.append(is_picture(str(reference.meta.get("filename_or_obj", ""))))
        codes = "".join(aff2axcodes(reference.affine.cpu().numpy()))
        self.slices.add(case, picture, wanted, found, spacing_mm, codes)


@dataclass(frozen=True)
class Reads:
    """What a network that reads one modality can be scored on.

    Args:
        loader: of the cases that have it.
        left_out: number of the others.
    """

    modality: str
    loader: DataLoader
    left_out: int

    def __str__(self) -> str:
        total = len(self.loader.dataset) + self.left_out  # type: ignore[arg-type]
        return f"This network reads {self.modality} alone. Left out for lack of it: {self.left_out} of {total} cases."


def readable(network: nn.Module, loader: DataLoader) -> Reads | None:
    """Return the cases that have the modality of a network; None for one that reads all channels, or files with all of them.

    Raises:
        ScoringError: a case lacks a channel, and the network reads them all.
    """
    cases, channel = loader.dataset.data, channel_of(network)  # type: ignore[attr-defined]
    present = [case.get("present", {}) for case in cases]
    if channel is None:
        for case, has in zip(cases, present, strict=True):
            if lacks := [name for name, there in has.items() if not there]:
                raise ScoringError(
                    f"case {case['case']} lacks {', '.join(lacks)}, and the network reads {' and '.join(has)}. "
                    "Add the file to the entry, or remove the entry"
                )
        return None
    names = next((list(has) for has in present if has), [])
    if not names:
        return None
    chosen = [i for i, has in enumerate(present) if has.get(names[channel], True)]
    subset = DataLoader(Subset(loader.dataset, chosen), num_workers=loader.num_workers, batch_size=loader.batch_size)
    return Reads(names[channel], subset, len(cases) - len(chosen))


def evaluate_models(
    evaluator: SupervisedEvaluator,
    report: ReportHandler,
    network: nn.Module,
    models_dir: str | Path,
    output_dir: str | Path,
    part: str = "test",
    root: str | Path = ".",
    config: RunConfig | None = None,
) -> dict[str, Any]:
    """Score each ``*.pt`` of ``models_dir``; write its files to ``<output_dir>/evaluation/<part>``.

    Files that hold the same weights (the best epoch was the last one, or none was chosen) are scored once.

    Args:
        config: that of this evaluation, to compare with ``train.yaml`` of the bundle around ``models_dir``.

    Returns:
        ``{name: mean Dice}``, except of networks for a modality that no case has; also written to ``summary.json``, and
        logged, a line a network.

    Raises:
        TrainedOtherwiseError: trained under other settings that decide the scores.
        WeightsError: they are damaged, or do not fit the network.
        ScoringError: they cannot read the cases.
    """
    models_dir, folder = Path(models_dir), under(root, output_dir) / "evaluation" / part
    if config is not None:
        check_trained(models_dir.parent, config)
    logger.info("Evaluating the networks of %s on the %s part.", models_dir, part)
    run = _content(models_dir.parent / "run.json")
    found: dict[str, Any] = {}
    loader = cast(DataLoader, evaluator.data_loader)
    paths = sorted(models_dir.glob("*.pt"), key=lambda p: (p.stem != "model", len(p.stem), p.stem))
    for path, *others in _by_content(paths):
        load_weights(network, path)
        reads = readable(network, loader)
        if reads is not None and not len(reads.loader):
            logger.warning("%s is not evaluated: no case of the %s part has %s.", path.stem, part, reads.modality)
            continue
        evaluator.data_loader = loader if reads is None else reads.loader
        evaluator.state.epoch_length = len(evaluator.data_loader)
        report.start_again(network)
        evaluator.run()
        summary = report.write(folder, path.stem, reads)
        found[path.stem] = summary["metrics"]["dice_mean"]["mean"]
        logger.info("%-13s (%s)  %s", path.stem, _what(path.stem, run), score_line(summary))
        for other in others:
            report.write(folder, other.stem, reads, path.stem)
            found[other.stem] = found[path.stem]
            logger.info("%-13s (%s)  the same weights as %s", other.stem, _what(other.stem, run), path.stem)
    if not found:
        raise ScoringError(f"nothing was evaluated: no case of the {part} part has a modality that a network reads")
    found = {path.stem: found[path.stem] for path in paths if path.stem in found}
    write_text(folder / "summary.json", json.dumps(found, indent=2) + "\n")  # last: it is there when all are
    logger.info("Scores of every case: %s (.csv; .md to read)", folder)
    return found


def _content(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _by_content(paths: Sequence[Path]) -> list[list[Path]]:
    """The files, those with the same weights together, each group where its first one stands."""
    groups: dict[str, list[Path]] = {}
    for path in paths:
        groups.setdefault(_digest(path), []).append(path)
    return list(groups.values())


def _digest(path: Path) -> str:
    """SHA-256 of names, types and values: two files of the same weights differ as files."""
    found = hashlib.sha256()
    for name, value in read(path).items():
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _what(stem: str, run: Mapping[str, Any]) -> str:
    """The network of a file of weights, and of which moment they are, by the run's ``run.json``."""
    names = run.get("networks", {})
    name = names.get(stem.removesuffix("_final"), stem)
    if stem.endswith("_final"):
        return f"{name}, final weights"
    if not names:
        return name
    return f"{name}, {'best in validation' if run.get('best in validation') else 'final weights'}"


def score_line(summary: Mapping[str, Any]) -> str:
    """Dice of each class, HD95, missed structures, false alarms and calibration of one network."""

    def mean(metric: str, digits: int) -> str:
        value = summary["metrics"][metric]["mean"]
        return "-" if value is None else f"{value:.{digits}f}"

    dice = "  ".join(f"{name} {mean(f'dice_{name}', 3)}" for name in [*summary["classes"], "mean"])
    ece = summary["calibration"]["ece"] if summary["calibration"] else float("nan")
    faults = " | ".join(f"{FAULTS[kind].lower()} {text}" for kind, text in faults_of(summary).items())
    line = f"Dice: {dice} | HD95 {mean('hd95_mm_mean', 1)} {summary['unit']} | {faults} | ECE {ece:.3f}"
    if left_out := summary.get("left_out"):
        line += f" | {left_out} of {left_out + summary['cases']} cases lack {summary['modality']}"
    return line
