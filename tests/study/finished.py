"""A study whose trainings are done, without a training: the files that its runs leave, with figures that are known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import yaml

from custom.evaluation.case_report import CaseReport
from custom.evaluation.slices import ShownSlices
from custom.study.parts import Part
from custom.study.plan import cohort_of
from custom.study.settings import Settings, write
from custom.study.state import State
from custom.study.trainings import Trainings, final_name, fold_name, trainings

LABELLED, UNLABELLED, SIDE = 6, 4, 24
BETTER = {"supervised": 0.5, "mean_teacher": 0.75}  # shares of a square that the bundles find
TASK = {
    "classes": ["background", "spot"],
    "label_values": [0, 5],
    "dimensions": 3,
    "slices": False,
    "channels": ["image"],
}
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


def cube(side: int, at: int = 4) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE, 4), np.uint8)
    mask[at : at + side, at : at + side, 1:3] = 1
    return mask


def prediction(side: int, share: float) -> np.ndarray:
    """A part of the cube: so many of its rows."""
    mask = cube(side)
    mask[4 + round(share * side) :] = 0
    return mask


def study(folder: Path, shares: Mapping[str, float], **changed: object) -> State:
    """A study of six labelled patients in three folds.

    Args:
        folder: where everything goes.
        shares: of the label that each bundle finds.
        changed: settings.
    """
    images, labels = folder / "data/images", folder / "data/labels"
    images.mkdir(parents=True)
    labels.mkdir()
    random = np.random.default_rng(0)
    for k in range(LABELLED + UNLABELLED):
        name = f"p{k:02}_a.nii.gz"
        mask = cube(8 + k)
        nib.save(
            nib.Nifti1Image((mask * 100 + random.integers(0, 20, mask.shape)).astype(np.int16), AFFINE), images / name
        )
        if k < LABELLED:
            nib.save(nib.Nifti1Image(mask * 5, AFFINE), labels / name)
    planned = {"folds": 3, "steps": 400, "jobs": 2, **changed}
    settings = Settings(str(images), str(labels), r"^(p\d+)", **planned)  # type: ignore[arg-type]
    write(folder, settings)
    (folder / "task.yaml").write_text(yaml.safe_dump(TASK))
    found = trainings(folder, settings, cohort_of(folder, images, labels, settings.patient).scans)
    state = State(folder, settings, TASK, found, {}, 120.0)
    for bundle, share in shares.items():
        for part in found.parts:
            _fold(state, part, bundle, "", share)
            if settings.half:
                _fold(state, part, bundle, "half", share - 0.125)
            if settings.steps_at_equal_time and bundle == settings.baseline:
                _fold(state, part, bundle, "equal_time", share + 0.125)
        _final(state, bundle, share)
    return state


def record(bundle: Path, weights: Mapping[str, float], seed: int = 0) -> None:
    """What a run says of itself."""
    (bundle / "configs").mkdir(parents=True, exist_ok=True)
    config = {"seed": seed, "weights": weights, "train": {"method": {"_target_": "scripts.methods.MeanTeacher"}}}
    (bundle / "configs/train.yaml").write_text(yaml.safe_dump(config))
    scans = {"labelled": "1", "validation": "2"}
    about = {
        "amp": "off", "initial_weights": "", "terms that read unlabelled scans": ["consistency"],
        "sha256 of the scans, names and voxels": scans,
    }  # fmt: skip
    (bundle / "run.json").write_text(json.dumps(about))


def differ_in_unlabelled_alone(state: State) -> None:
    """The runs of every fold say so."""
    for part in state.trainings.parts:
        for bundle, weight in ((state.settings.baseline, 0), (state.settings.method, 1)):
            record(state.table(part, bundle).parents[2] / "bundle", {"supervised": 1.0, "consistency": weight})


def _number(patient: str) -> int:
    return int(patient[1:])


SECONDS = {"": 60.0, "half": 60.0, "equal_time": 63.0}  # of a training of a fold


def _fold(state: State, part: Part, bundle: str, kind: str, share: float) -> None:
    run = state.runs / fold_name(part, bundle, kind)
    report, shown = CaseReport(["spot"]), ShownSlices()
    maps: dict[str, np.ndarray] = {}
    for patient in part.judges:
        side = 8 + _number(patient)
        found, wanted = prediction(side, share), cube(side)
        report.add(f"{patient}_a", patient, found, wanted, (1, 1, 2), picture=wanted[None] * 100.0)
        shown.add(f"{patient}_a", wanted[None] * 100.0, wanted, found, (1, 1, 2), "RAS")
        maps[f"{patient}_a"] = found
    report.write(run / "evaluation/test", "model")
    (run / "evaluation/test/summary.json").write_text("{}")
    (run / "metrics.csv").write_text(f"step,seconds\n200,{SECONDS[kind] / 2}\n400,{SECONDS[kind] / 2}\n")
    shown.write(run / "evaluation/test/model.slices.npz")
    if not kind:
        _maps(run, maps)


def _maps(run: Path, maps: Mapping[str, np.ndarray]) -> None:
    out = run / "label_maps"
    out.mkdir(parents=True)
    for name, mask in maps.items():
        nib.save(nib.Nifti1Image(mask * 5, AFFINE), out / f"{name}_pred.nii.gz")
    sure = {name: 0.9 if mask.any() else None for name, mask in maps.items()}
    (out / "confidence.json").write_text(json.dumps(sure))


def _final(state: State, bundle: str, share: float) -> None:
    run = state.runs / final_name(bundle)
    maps = {f"p{k:02}_a": prediction(8 + k, share) for k in range(LABELLED, LABELLED + UNLABELLED)}
    maps["p09_a"] = np.zeros_like(maps["p09_a"])  # on the last one nothing is found
    _maps(run, maps)
    (run / "bundle").mkdir()
    (run / "bundle/run.json").write_text(json.dumps({"of": bundle}))


__all__ = [
    "BETTER",
    "LABELLED",
    "UNLABELLED",
    "Trainings",
    "cube",
    "differ_in_unlabelled_alone",
    "prediction",
    "record",
    "study",
]
