"""Scans as they come from the world, through ``configs/inference.yaml`` with a network whose answer is known.

A row is a situation that someone reported, and what is right: where the bright block is, in which number format, on which
grid; or the sentence that refuses it. A new report becomes a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
import pytest
from dicom_files import ENHANCED_CT, dicom, grouped, placed
from oracle import infer
from PIL import Image

SIDE = 16
CORNER = 1 + 1 + 2  # of the block below: the second half of the first two axes, the first of the third
RAS, LPS = np.eye(4), np.diag([-1.0, -1.0, 1.0, 1.0])


def block(*lengths: int) -> np.ndarray:
    """Bright in the second half of the first two axes, and in the first half of a third."""
    voxels = np.zeros(lengths or (SIDE,) * 3, np.int16)
    voxels[10:14, 9:13, ...] = 900
    if voxels.ndim == 3:
        voxels[:, :, 6:] = 0
    return voxels


@dataclass(frozen=True)
class Situation:
    """Files written by ``make``; what comes back is ``expected`` in ``dtype``, or the sentence ``refused``."""

    make: Callable[[Path], object]
    expected: np.ndarray = field(default_factory=lambda: np.zeros(0))
    dtype: str = "uint8"
    refused: str = ""
    suffix: str = ".nii.gz"
    axes: int = 3
    task: dict[str, Any] = field(default_factory=dict)


def nifti(
    voxels: np.ndarray, affine: np.ndarray = RAS, name: str = "p01.nii.gz", **header: Any
) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        image = nib.Nifti1Image(voxels, affine)
        for key, value in header.items():
            image.header[key] = value
        nib.save(image, folder / name)

    return make


def raw_header(offset: int, value: np.ndarray) -> Callable[[Path], object]:
    """A NIfTI file with a few bytes of its header overwritten, as no library would write them."""

    def make(folder: Path) -> None:
        image = nib.Nifti1Image(block(), RAS)
        image.set_qform(RAS, code=1)
        image.set_sform(None, code=0)
        nib.save(image, folder / "p01.nii")
        with (folder / "p01.nii").open("r+b") as file:
            file.seek(offset)
            file.write(value.astype("<f4").tobytes())

    return make


def frames_out_of_order(folder: Path) -> None:
    """Enhanced CT: frames 2.5 mm apart, the last first; its axes run to L and P, those of the network to R and A."""
    voxels = block(SIDE, SIDE, 8).astype(np.uint16)[:, :, ::-1]
    functional = [grouped(placed((0, 0, 2.5 * (7 - k)), np.eye(3))) for k in range(8)]
    dicom(folder / "p01/frames.dcm", np.ascontiguousarray(voxels), {"5200|9230 SQ": functional}, kind=ENHANCED_CT)


def photograph(folder: Path) -> None:
    """Taken with the camera on its side: EXIF orientation 6, to be turned by 90 degrees clockwise."""
    upright = np.zeros((SIDE, SIDE), np.uint8)  # rows, columns
    upright[9:13, 10:14] = 230
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(upright)).save(folder / "p01.jpg", quality=100, exif=exif)


LOAD = {
    "_target_": "LoadImaged",
    "keys": "image",
    "reader": "scripts.cohort.reader.ScanReader",
    "ensure_channel_first": True,
}
SCALE = {"_target_": "scripts.cohort.scaling.ScalePercentilesd", "keys": "image", "lower": 0.5, "upper": 99.5, "b_min": 0.0,
         "b_max": 1.0, "clip": True}  # fmt: skip
PICTURES = {"_target_": "Compose", "transforms": [LOAD, SCALE]}  # no orientation: two axes have none
FOUND = (block() > 0) * CORNER
PICTURE = (block(SIDE, SIDE) > 0).T * CORNER  # rows, columns
WIDE = np.array([0, 205, 500, 600, 32000, 1, 2, 3, 4])
SITUATIONS = {
    "label values beyond 255 (a byte holds 500 as 244)": Situation(
        nifti(block()), WIDE[FOUND], "int16", task={"label_values": WIDE.tolist()}
    ),
    "negative label values": Situation(
        nifti(block()), np.arange(0, -9, -1)[FOUND], "int16", task={"label_values": [-k for k in range(9)]}
    ),
    "nearly every voxel is 0": Situation(nifti(np.where(np.arange(SIDE) == 4, block(), 0)),
                                                      np.where(np.arange(SIDE) == 4, FOUND, 0)),
    "a NIfTI of two axes, .3 x .15 mm": Situation(
        nifti(block(SIDE, SIDE), np.diag([0.3, 0.15, 1, 1])), (block(SIDE, SIDE) > 0) * CORNER, axes=2
    ),
    "labelme#1529: a photograph that says in EXIF how it is to be turned": Situation(photograph, PICTURE, suffix=".png", axes=2),
    "Slicer#6773: an enhanced file whose frames are out of order": Situation(
        frames_out_of_order, (block(SIDE, SIDE, 8) > 0) * np.where(np.arange(8) < 4, 1, 1 + 4)),
    "fmriprep#845: a quaternion rounded to just over 1": Situation(
        raw_header(256, np.array([0.6, 0.8, 1e-4])), FOUND, task={"orientation": "RSP"}),
    "voxels of 35 micron": Situation(nifti(block(), np.diag([35.0, 35, 35, 1]), xyzt_units=3), FOUND,
                                     task={"spacing_mm": [0.035] * 3}),
    "voxels of 35 mm that are to become .35": Situation(
        nifti(block(), np.diag([35.0, 35, 35, 1])), task={"spacing_mm": [0.35] * 3},
        refused="p01.nii.gz has 16x16x16 voxels of 35x35x35 mm; resampled to spacing_mm 0.35x0.35x0.35 it would"),
    "a pointer of Git LFS": Situation(
        lambda folder: (folder / "p01.nii.gz").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        refused="git lfs pull"),
    "datalad#3513: a link to content that was not fetched": Situation(
        lambda folder: (folder / "p01.nii.gz").symlink_to(folder / ".git/annex/objects/x"), refused="get"),
    "thick slices across another axis": Situation(
        nifti(block(), np.diag([8.0, 1, 1, 1])), task={"dimensions": 2, "slices": True},
        refused="is thick along left-right (8 mm), and the network sees slices across foot-head (1 mm)."),
}  # fmt: skip


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_scan_as_it_comes_is_right_or_refused(run_bundle, tmp_path, name):
    case = SITUATIONS[name]
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    case.make(images)
    task = {"dimensions": case.axes, "slices": False, **case.task}
    if case.axes == 2:
        task["preprocessing"] = PICTURES
    dimensions = task.pop("dimensions")
    if case.refused:
        with pytest.raises((RuntimeError, OSError, ValueError)) as error:
            infer(run_bundle, images, out, dimensions, [SIDE] * dimensions, **task)
        assert case.refused in f"{error.value} {error.value.__cause__}"
        assert not out.exists()
        return
    infer(run_bundle, images, out, dimensions, [SIDE] * dimensions, **task)
    (written,) = out.iterdir()
    assert written.name.endswith(case.suffix)
    if case.suffix == ".png":
        answer = itk.array_from_image(itk.imread(written))
    else:
        answer = np.asarray(nib.load(written).dataobj)
        if not (images / "p01").is_dir():
            np.testing.assert_array_equal(
                nib.load(written).header["pixdim"][1:4], nib.load(next(images.iterdir())).header["pixdim"][1:4]
            )
    np.testing.assert_array_equal(answer, case.expected)
    assert answer.dtype == case.dtype
