"""What every bundle keeps at the edge of what it is made for: thin volumes, a class nobody drew, batches of one."""

from __future__ import annotations

import csv
import json
import logging
import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml
from conftest import DIFFERENT, TINY, each_bundle

PARTS = {"labelled": 2, "unlabelled": 2, "validation": 1, "test": 1}
ALONE = {"contrastive_mutual": "expected at least 2. Raise --unlabelled_batch"}
"""What a bundle says that cannot learn from one unlabelled patch."""


def short(bundle: Path) -> dict[str, Any]:
    """Overrides of a run of one epoch, long enough for every term: that of weight ``from: 0.926`` begins at 13 of 14."""
    weights = yaml.safe_load((bundle / "configs/train.yaml").read_text())["weights"].values()
    latest = max(entry.get("from", 0.0) if isinstance(entry, dict) else 0.0 for entry in weights)
    steps = max(4, math.ceil(1 / (1 - latest)))
    return {**TINY, "steps": steps, "epoch_steps": steps}


def channels(bundle: Path) -> list[str]:
    """The channels that the bundle needs: two networks, each for one modality, need two."""
    own = yaml.safe_load((bundle / "configs/train.yaml").read_text())["channels"]
    return own if len(own) == 2 else ["image"]


def stack(bundle: Path) -> str:
    """The task of slices of volumes, with four classes, that the bundle can learn."""
    return "phantom_two_channels" if len(channels(bundle)) == 2 else "phantom_2d"


def with_task(name: str) -> list[str]:
    return ["configs/train.yaml", f"scripts/tasks/{name}.yaml"]


def epochs(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_all_terms_are_numbers(out: Path) -> None:
    """Every term that the run weighed was computed, and none was ever NaN or infinite."""
    rows = epochs(out)
    weighed = {name.partition("/")[2] for row in rows for name in row
               if name.startswith("weight/") and float(row[name] or 0) > 0}  # fmt: skip
    computed = {name.partition("/")[2]: [float(row[name]) for row in rows if row[name]]
                for name in rows[0] if name.startswith("term/")}  # fmt: skip
    assert weighed <= set(computed)
    assert all(math.isfinite(value) for values in computed.values() for value in values), computed


def write_thin(folder: Path, names: list[str], size: tuple[int, int, int]) -> Path:
    """A cohort of volumes, with three classes of bars along the last axis."""
    random = np.random.default_rng(0)
    label = np.zeros(size, np.uint8)
    label[4:8, 4:14], label[8:12, 4:14], label[12:16, 4:14] = 1, 2, 3
    parts: dict[str, list[dict[str, Any]]] = {}
    for part, number in PARTS.items():
        for i in range(number):
            patient = f"{part}{i}"
            files = {name: folder / f"{patient}_{name}.nii.gz" for name in names}
            for file in files.values():
                voxels = 20 * label + random.normal(0, 10, size)
                nibabel.save(nibabel.Nifti1Image(voxels.astype(np.float32), 2.5 * np.eye(4)), file)
            target = folder / f"{patient}_label.nii.gz"
            nibabel.save(nibabel.Nifti1Image(label, 2.5 * np.eye(4)), target)
            image = {name: str(file) for name, file in files.items()} if len(names) > 1 else str(files[names[0]])
            entry = {"patient": patient, "image": image, "label": str(target)}
            parts.setdefault(part, []).append({k: v for k, v in entry.items() if part != "unlabelled" or k != "label"})
    (folder / "list.json").write_text(json.dumps(parts))
    return folder / "list.json"


@each_bundle(*DIFFERENT)
def test_volumes_thinner_than_the_patch_train_and_are_evaluated_whole(bundle, run_bundle, tmp_path):
    """Six slices, a patch of sixteen: padding on the way in, and none in what is scored."""
    size = (20, 20, 6)
    settings = {**short(bundle), "data_list": str(write_thin(tmp_path, channels(bundle), size)), "channels": channels(bundle),
            "patch": [16, 16, 16]}  # fmt: skip
    out = run_bundle(bundle, files=with_task("phantom_3d"), **settings)
    assert_all_terms_are_numbers(out)
    assert all(0 <= float(v) <= 1 for k, v in epochs(out)[-1].items() if k.startswith("val/") and "dice" in k)
    finished = out / "bundle"
    files = ["configs/train.yaml", "configs/evaluate.yaml"]
    own = {"output_dir": str(tmp_path / "eval"), "models_dir": str(finished / "models")}
    run_bundle(finished, "run", files, **own, workers=0)
    with (tmp_path / "eval/evaluation/test/model.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert 0 <= float(row["dice_mean"]) <= 1


@each_bundle(*DIFFERENT)
def test_a_class_that_no_labelled_case_has_is_named_and_batches_of_one_patch_train(
    bundle, run_bundle, phantoms, tmp_path, caplog
):
    """Unlabelled and validation scans hold the class; the labelled ones have background in its place."""
    source = phantoms / stack(bundle)
    parts = json.loads((source / "list.json").read_text())
    for entries in parts.values():
        for entry in entries:
            image = entry["image"]
            whole = {name: str(source / path) for name, path in image.items()} if isinstance(image, dict) else None
            entry["image"] = whole or str(source / image)
            entry |= {"label": str(source / entry["label"])} if "label" in entry else {}
    for entry in parts["labelled"]:
        label = nibabel.load(entry["label"])
        voxels = np.asarray(label.dataobj).copy()
        assert (voxels == 2).any()
        voxels[voxels == 2] = 0
        entry["label"] = str(tmp_path / Path(entry["label"]).name)
        nibabel.save(nibabel.Nifti1Image(voxels, label.affine, label.header), entry["label"])
    (tmp_path / "list.json").write_text(json.dumps(parts))
    settings = {**short(bundle), "data_list": str(tmp_path / "list.json"), "labelled_batch": 1, "unlabelled_batch": 1}
    if bundle.name in ALONE:
        with pytest.raises(RuntimeError) as refused:  # MONAI's, of an expression
            run_bundle(bundle, files=with_task(stack(bundle)), **settings)
        assert ALONE[bundle.name] in str(refused.value.__cause__)
        settings["unlabelled_batch"] = 2
    with caplog.at_level(logging.WARNING):
        out = run_bundle(bundle, files=with_task(stack(bundle)), **settings)
    assert "no scan has the class 2 myocardium: it cannot be learnt" in caplog.text
    assert_all_terms_are_numbers(out)
