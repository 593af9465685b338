"""Folders of scans of a few voxels, of which lists are made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from custom.cohort.data_list import read
from custom.cohort.make import make
from custom.cohort.names import stem

PHASES = ("ED", "ES")


def fill(folder: Path, *names: str) -> Path:
    """Scans of 2 x 2 x 2 voxels; files with another suffix are empty."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name.endswith((".nii", ".nii.gz")):
            nib.save(nib.Nifti1Image(np.arange(8, dtype=np.uint8).reshape(2, 2, 2) % 2, np.eye(4)), folder / name)
        else:
            (folder / name).touch()
    return folder


def hospital(folder: Path, patients: int = 8, unlabelled: int = 3) -> tuple[Path, Path]:
    """Patients p0, p1, ... with two phases each, the last of them without labels."""
    names = [f"p{i}_{phase}.nii" for i in range(patients) for phase in PHASES]
    with_label = names[: 2 * (patients - unlabelled)]
    fill(folder / "labels", *with_label, *[f"{stem(name)}.json" for name in with_label])
    return fill(folder / "images", *names, "readme.txt"), folder / "labels"


BY_PATIENT = r"^(p\d+)_E[DS]$"
SPLIT = {"train": ["p3", "p7", "p1", "p2"], "val": ["p0"], "test": ["p4"]}


def patients_of(entries: Sequence[dict]) -> list[str]:
    return list(dict.fromkeys(entry["patient"] for entry in entries))


def made(*arguments, **options) -> dict[str, list[dict]]:
    (path,) = make(*arguments, **options)
    return read(path)


def who(parts: dict[str, list[dict]]) -> dict[str, list[str]]:
    return {part: patients_of(entries) for part, entries in parts.items()}


def write_json(path: Path, content: object) -> str:
    path.write_text(json.dumps(content))
    return str(path)
