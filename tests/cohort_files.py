"""A good cohort of small files, for tests that spoil it.

Labelled p1, p2; unlabelled p3; validation p4; test p5; 16 x 16 x 16 voxels of 1 mm, labels 0 and 1.
"""

from __future__ import annotations

import gzip
import json
import re
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.image
import nibabel
import numpy as np
import pytest
from PIL import Image

from custom.cohort.check import Check
from custom.cohort.errors import CohortError

SIZE = (16, 16, 16)
PARTS = {"labelled": ["p1", "p2"], "unlabelled": ["p3"], "validation": ["p4"], "test": ["p5"]}
LABEL, IMAGE = "labels/p2.nii.gz", "images/p2.nii.gz"
ONE_CHANNEL = {"channels": ["image"], "classes": ["background", "tumour"], "dimensions": 3}


class Cohort:
    """Good files and the list of them; the methods spoil them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.task = folder, dict(ONE_CHANNEL)
        self.parts: dict[str, list[dict]] = {part: [] for part in PARTS}
        for part, patients in PARTS.items():
            for patient in patients:
                self.add(part, patient)

    def add(self, part: str, patient: str) -> dict:
        entry = {"patient": patient, "image": self.write(f"images/{patient}.nii.gz", noise(patient))}
        if part != "unlabelled":
            entry["label"] = self.write(f"labels/{patient}.nii.gz", lump())
        self.parts[part].append(entry)
        return entry

    def write(self, name: str, voxels: np.ndarray, affine: np.ndarray | None = None) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
        return str(path)

    def picture(self, name: str, voxels: np.ndarray) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        matplotlib.image.imsave(path, voxels) if voxels.ndim == 3 else save_grey(path, voxels)
        return str(path)

    def bytes(self, name: str, change: Callable[[bytearray], bytes | bytearray]) -> None:
        """Replace a file by what ``change`` makes of its bytes."""
        path = self.folder / name
        path.write_bytes(change(bytearray(path.read_bytes())))

    def header(self, name: str, offset: int, form: str, *values: float) -> None:
        """Overwrite bytes of a NIfTI header; the stream's checksum is right."""

        def change(content: bytearray) -> bytes:
            plain = bytearray(gzip.decompress(content))
            struct.pack_into(form, plain, offset, *values)
            return gzip.compress(bytes(plain))

        self.bytes(name, change)

    def check(self, **more: object) -> dict[str, int]:
        return Check(**{**self.task, **more})(self.parts)

    def faults(self, **more: object) -> list[str]:
        """The lines of the error, each behind the kind that stands above it: ``Labels: labelled, p2: ...``."""
        with pytest.raises(CohortError) as error:
            self.check(**more)
        first, *lines = str(error.value).split("\n")
        assert first == "The scans cannot be used."
        found, kind = [], ""
        for line in lines:
            if line.startswith("    "):
                found.append(f"{kind}: {line.strip()}")
            else:
                kind = line.strip().rstrip(":").partition(" (")[0]
        return found


def assert_says(lines: Sequence[str], *patterns: str) -> None:
    """Each line begins as its pattern does; ``...`` in a pattern is any text: what matters is case, found, remedy."""
    assert len(lines) == len(patterns), lines
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.match(".*?".join(map(re.escape, re.split(r" ?\.\.\. ?", pattern))), line), line


def noise(patient: str, shape: tuple[int, ...] = SIZE) -> np.ndarray:
    return np.random.default_rng(list(patient.encode())).integers(0, 1000, shape).astype(np.int16)


def lump(value: float = 1, dtype: type = np.uint8, shape: tuple[int, ...] = SIZE) -> np.ndarray:
    label = np.zeros(shape, dtype)
    label[4:8, 4:8] = value
    return label


def save_grey(path: Path, voxels: np.ndarray) -> None:
    Image.fromarray(voxels).save(path)


def affine(spacing: tuple[float, ...] = (1, 1, 1), origin: tuple[float, ...] = (0, 0, 0)) -> np.ndarray:
    matrix = np.diag([*spacing, 1.0])
    matrix[:3, 3] = origin
    return matrix


def with_nan(count: int) -> np.ndarray:
    voxels = noise("p2").astype(np.float32)
    voxels.reshape(-1)[:count] = np.nan
    return voxels


def two_modalities(good: Cohort) -> None:
    for part in good.parts:
        for e in good.parts[part]:
            name = e["patient"]
            e["image"] = {"flair": e["image"], "t1ce": good.write(f"{name}_t1ce.nii.gz", noise(f"x{name[1]}"))}


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """All lines except the closing one."""
    lines = [f"{record.levelname} {record.getMessage()}" for record in caplog.records]
    return [line for line in lines if not line.startswith("INFO No faults in")]


def write_list(good: Cohort, **more: object) -> Path:
    (good.folder / "list.json").write_text(json.dumps({**good.parts, **more}))
    return good.folder / "list.json"
