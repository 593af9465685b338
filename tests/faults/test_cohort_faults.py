"""Every fault of a cohort's files, made from good ones, is told with its case before the first step."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable

import numpy as np
import pytest
from cohort_files import IMAGE, LABEL, SIZE, Cohort, affine, assert_says, lump, noise, with_nan


def test_good_files_pass_and_are_counted(good, caplog):
    caplog.set_level(logging.INFO)
    assert good.check() == {"labelled": 2, "unlabelled": 1, "validation": 1, "test": 1}
    assert caplog.messages == ["No faults in 5 scans (9 files read, 0 unchanged since an earlier check)."]


def flip(position: float) -> Callable[[bytearray], bytearray]:
    def change(content: bytearray) -> bytearray:
        content[int(position * len(content))] ^= 0b100
        return content

    return change


def cut(percent: int) -> Callable[[Cohort], None]:
    return lambda c: c.bytes(IMAGE, lambda b: b[: len(b) * percent // 100])


def written(name: str, voxels: np.ndarray, affine: np.ndarray | None = None) -> Callable[[Cohort], object]:
    return lambda c: c.write(name, voxels, affine)


def turned(degrees: float) -> np.ndarray:
    matrix, angle = np.eye(4), np.deg2rad(degrees)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return matrix


def entry(c: Cohort, part: str, number: int, **keys: object) -> None:
    c.parts[part][number].update(keys)


BROKEN = "Files that cannot be read: "
GRID = "Grids: labelled, p2: label p2.nii.gz is not on the grid of p2.nii.gz: "
VALUES = "Labels: labelled, p2: label p2.nii.gz has the values "
COPY = "One scan in two places: "

# row and what was done, how, and what is told: the case, what was found, the remedy
ROWS = [
    ("5a 10 %", cut(10), f"{BROKEN}labelled, p2: p2.nii.gz is truncated"),
    ("5a 50 %", cut(50), f"{BROKEN}labelled, p2: p2.nii.gz is truncated"),
    ("5a 99 %", cut(99), f"{BROKEN}labelled, p2: p2.nii.gz is truncated"),
    ("5a the label", lambda c: c.bytes(LABEL, lambda b: b[: len(b) // 2]),
     f"{BROKEN}labelled, p2: label p2.nii.gz is truncated"),
    ("5b one bit", lambda c: c.bytes("images/p5.nii.gz", flip(0.5)), f"{BROKEN}test, p5: p5.nii.gz is damaged"),
    ("5b the checksum alone", lambda c: c.bytes("images/p3.nii.gz", lambda b: b[:-8] + bytes([b[-8] ^ 1]) + b[-7:]),
     f"{BROKEN}unlabelled, p3: p3.nii.gz is damaged: ... checksum"),
    ("5c a singular affine", lambda c: c.header(IMAGE, 280, "<4f", 0, 0, 0, 0),
     f"{BROKEN}labelled, p2: p2.nii.gz has a singular affine"),
    ("5c an affine that is not finite", lambda c: c.header(IMAGE, 280, "<4f", np.nan, 0, 0, 0),
     f"{BROKEN}labelled, p2: p2.nii.gz has an affine that is not finite"),
    ("5d respaced", written(LABEL, lump(), affine((1, 1, 2))),
     f"{GRID}spacing 1.0x1.0x2.0 against 1.0x1.0x1.0 mm ... Draw or export ... or resample it"),
    ("5d shifted", written(LABEL, lump(), affine(origin=(0, 0, 2.5))),
     f"{GRID}origin (0.0, 0.0, 2.5) against (0.0, 0.0, 0.0) mm"),
    ("5d flipped", written(LABEL, lump(), affine((-1, 1, 1))), f"{GRID}orientation LAS against RAS"),
    ("5d turned", written(LABEL, lump(), turned(3)), f"{GRID}direction turned by 3 degrees"),
    ("5d cropped", written(LABEL, lump(shape=(16, 16, 12))), f"{GRID}shape 16x16x12 against 16x16x16 voxels"),
    ("5d a picture for a volume", written(LABEL, lump(shape=(16, 16))), f"{GRID}shape 16x16 against 16x16x16 voxels"),
    ("5e zero size", lambda c: c.header(IMAGE, 40, "<4h", 3, 16, 0, 16), f"{BROKEN}labelled, p2: p2.nii.gz ... 16x0x16"),
    ("5e 32767^3 voxels", lambda c: c.header(IMAGE, 40, "<4h", 3, 32767, 32767, 32767),
     f"{BROKEN}labelled, p2: p2.nii.gz ... 32767x32767x32767 voxels"),
    ("5f one voxel", written(IMAGE, with_nan(1)),
     "Voxels: labelled, p2: p2.nii.gz has 1 non-finite voxel of 4096 ... set fill_nonfinite"),
    ("5f in a label", written(LABEL, np.where(lump(), np.nan, 0).astype(np.float32)),
     "Labels: labelled, p2: label p2.nii.gz has 256 non-finite voxels of 4096. Correct the file"),
    ("5g 255", written(LABEL, lump(255)), f"{VALUES}{{0, 255}} ... the task names 0..1 ... Remap 255 ... label_values"),
    ("5g -1", written(LABEL, lump(-1, np.int16)), f"{VALUES}{{-1, 0}} ... Remap -1"),
    ("5g 1.5", written(LABEL, lump(1.5, np.float32)), f"{VALUES}{{0, 1.5}} ... Remap 1.5"),
    ("5g the image as label", written(LABEL, noise("p2")),
     "Labels: labelled, p2: label p2.nii.gz has more than 64 different values ... Is it the image?"),
    ("5g two channels", written(LABEL, lump(shape=(*SIZE, 2))),
     "Labels: labelled, p2: label p2.nii.gz has 2 channels, a label has 1"),
    ("6a nothing labelled", lambda c: c.parts["labelled"].clear(),
     "The list: no labelled scans ... Add entries under 'labelled'"),
    ("6b the same patient", lambda c: entry(c, "test", 0, patient="p1"),
     "The list: patient p1: in training and in test. Keep all scans of a patient in one part"),
    ("6b a renamed copy in test", lambda c: shutil.copy(c.folder / IMAGE, c.folder / "images/p5.nii.gz"),
     f"{COPY}test, p5: p5.nii.gz ... p2.nii.gz of labelled, p2. Remove it from training or from test"),
    ("6b written anew as real numbers", written("images/p4.nii.gz", noise("p3").astype(np.float32), affine()),
     f"{COPY}validation, p4: p4.nii.gz ... p3.nii.gz of unlabelled, p3. Remove it from training or from validation"),
    ("6b validation and test", written("images/p5.nii.gz", noise("p4")),
     f"{COPY}test, p5: p5.nii.gz ... p4.nii.gz of validation, p4. Remove it from validation or from test"),
    ("6b labelled and unlabelled", written("images/p3.nii.gz", noise("p1")),
     f"{COPY}unlabelled, p3: p3.nii.gz ... p1.nii.gz of labelled, p1. Remove one entry, or set shared_scans"),
    ("7 a second channel in the file", written(IMAGE, noise("p2", (*SIZE, 2))),
     "Channels: labelled, p2: p2.nii.gz: 2 channels, the task names 1 (image) ... or channels in the task"),
    ("7 an unknown modality", lambda c: entry(c, "unlabelled", 0, image={"imgae": c.parts["unlabelled"][0]["image"]}),
     "Channels: unlabelled, p3: ... 'imgae' (did you mean 'image'?) ... the task names image"),
    ("7 a picture for a volume", written("images/p3.nii.gz", noise("p3", (128, 128))),
     "Dimensions: unlabelled, p3: p3.nii.gz is a picture of 128x128, the task wants volumes. Set dimensions"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [pytest.param(*rest, id=name, marks=pytest.mark.fault(*name.split(" ", 1))) for name, *rest in ROWS],
)
def test_the_fault_is_told_with_its_case_and_nothing_else_is(good, spoil, expected):
    spoil(good)
    assert_says(good.faults(), expected)


def test_all_faults_of_all_cases_come_in_one_error(good):
    for name, spoil, _ in ROWS:
        if name in ("5b one bit", "5b the checksum alone", "5d shifted", "6b validation and test"):
            spoil(good)
    good.write("labels/p1.nii.gz", lump(7))
    good.parts["labelled"].append({"patient": "p6", "image": str(good.folder / "p6.nii.gz")})
    assert_says(
        good.faults(),
        "The list: labelled, p6: no label",
        "The list: labelled, p6: ... does not exist",
        "Labels: labelled, p1",
        "Grids: labelled, p2",
        f"{BROKEN}unlabelled, p3",
        f"{COPY}test, p5",
    )
