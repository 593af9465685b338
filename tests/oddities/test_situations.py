"""Scans as they come from the world, through ``configs/inference.yaml`` with a network whose answer is known.

A row is a situation that someone reported, and what is right: where the bright block is, in which number format, on which
grid; or the sentence that refuses it. A new report becomes a row.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from dicom_files import ENHANCED_CT, dicom, grouped, placed
from monai.transforms import ScaleIntensityRange
from oracle import infer
from PIL import Image
from saying import says

from custom.cohort.intensities import FILE, measure, seen
from custom.inference.writer import GEOMETRY

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
    """Files written by ``make``; what comes back is ``expected`` in ``dtype``, or the sentence ``refused``.

    Args:
        axes: of the image and of the network.
        window: of the network: all that it sees of an image.
        affine: of what comes back, where it is not that of a NIfTI image, whose header comes back.
        folder: that the images are in.
        task: overrides.
    """

    make: Callable[[Path], object]
    expected: np.ndarray = field(default_factory=lambda: np.zeros(0))
    dtype: str = "uint8"
    refused: str = ""
    suffix: str = ".nii.gz"
    axes: int = 3
    window: int = SIDE
    affine: np.ndarray | None = None
    folder: str = "images"
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


def series(step: tuple[float, float, float], lost: int = -1, inverted: int = -1) -> Callable[[Path], object]:
    """CT, a file a slice, whose names say nothing of their order; from slice to slice it goes on by ``step`` (mm, LPS)."""

    def make(folder: Path) -> None:
        voxels = tilted() if step[1] else block(SIDE, SIDE, 8)
        for k in set(range(8)) - {lost}:
            place = placed(np.multiply(k, step).tolist(), np.eye(3))
            greys = {"0028|0004 CS": "MONOCHROME1"} if k == inverted else {}
            file = folder / f"p01/{k * 3 % 8}.dcm"
            dicom(file, voxels[:, :, k].astype(np.uint16), {**place, **greys}, number=k * 5 % 8)

    return make


def tilted() -> np.ndarray:
    """A straight rod as slices have it that are each shifted against it by a voxel."""
    voxels = np.zeros((SIDE, SIDE, 8), np.int16)
    for k in range(8):
        voxels[10:14, 11 - k : 13 - k, k] = 900
    return voxels


def two_transforms(folder: Path) -> None:
    image = nib.Nifti1Image(block(), RAS)
    image.set_sform(RAS, code=2)
    image.set_qform(np.diag([1.0, 1, 1, 1]) + np.array([[0, 0, 0, 7]] + [[0] * 4] * 3), code=1)
    nib.save(image, folder / "p01.nii.gz")


def nrrd(more: str = "", size: int = 1) -> Callable[[Path], object]:
    """NRRD of int64 byte by byte: ITK's Python writes no such type, nor a unit.

    Args:
        more: lines of its header.
        size: of a voxel.
    """

    def make(folder: Path) -> None:
        header = (
            f"NRRD0004\ntype: int64\ndimension: 3\nspace: right-anterior-superior\nsizes: {SIDE} {SIDE} {SIDE}\n{more}"
            f"space directions: ({size},0,0) (0,{size},0) (0,0,{size})\nspace origin: (0,0,0)\nendian: little\nencoding: raw\n\n"
        )
        (folder / "p01.nrrd").write_bytes(header.encode() + block().astype("<i8").tobytes("F"))

    return make


def picture(values: int) -> Callable[[Path], object]:
    """The block in grey from ``values // 9`` to ``values``, for weights that were trained on 8 bits."""

    def make(folder: Path) -> None:
        grey = np.where(block(SIDE, SIDE).T > 0, values, values // 9) * (np.arange(SIDE) > 2)
        Image.fromarray(grey.astype(np.uint8 if values < 256 else np.uint16)).save(folder / "p01.png")
        trained = ScaleIntensityRange(0, 255, 0.0, 1.0, clip=True)(torch.where(torch.eye(9) > 0, 230.0, 25.0)[None])
        (folder.parent / FILE).write_text(json.dumps(seen([measure(trained, ["image"])])))

    return make


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
PICTURES = {
    "_target_": "Compose",
    "transforms": [LOAD, SCALE],
}  # no orientation: the reader lays two axes as pictures lie
BITS_8 = {"_target_": "Compose", "transforms": [LOAD, {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 0.0,
          "a_max": 255.0, "b_min": 0.0, "b_max": 1.0, "clip": True}]}  # fmt: skip
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
    "a coronal NIfTI of two axes, where volumes are turned": Situation(nifti(block(SIDE, SIDE), np.eye(4)[[0, 2, 1, 3]]), axes=2,
        refused="p01.nii.gz is a slice along the body ... axes run to R and S ... orientation RAS turns volumes"),
    "MONAI#6321: a NIfTI of two axes, .3 x .15 mm": Situation(
        nifti(block(SIDE, SIDE), np.diag([0.3, 0.15, 1, 1])), (block(SIDE, SIDE) > 0) * 1, axes=2
    ),
    "the same, stored to the left and to the back as pictures are": Situation(
        nifti(block(SIDE, SIDE)[::-1, ::-1], np.diag([-0.3, -0.15, 1, 1])), (block(SIDE, SIDE) > 0)[::-1, ::-1] * 1, axes=2
    ),
    "labelme#1529: a photograph that says in EXIF how it is to be turned": Situation(
        photograph, np.rot90(PICTURE), suffix=".png", axes=2
    ),
    "Slicer#6773: an enhanced file whose frames are out of order": Situation(
        frames_out_of_order, (block(SIDE, SIDE, 8) > 0) * np.where(np.arange(8) < 4, 1, 1 + 4),
        affine=np.diag([-1, -1, 2.5, 1])),
    "MONAI#1711: a DICOM series in no order": Situation(
        series((0, 0, 2.5)), (block(SIDE, SIDE, 8) > 0) * np.where(np.arange(8) < 4, 1, 1 + 4), affine=np.diag([-1, -1, 2.5, 1])),
    "SimpleITK#1128: a CT with a tilted gantry, in which a rod is straight": Situation(series((0, 1, 2)),
        (tilted() > 0) * np.where(np.arange(8) < 4, 1, 1 + 4), window=24, task={"spacing_mm": [1, 1, 2]},
        affine=np.array([[-1, 0, 0, 0], [0, -1, -1, 0], [0, 0, 2, 0], [0, 0, 0, 1]])),
    "a DICOM series that lacks a slice": Situation(series((0, 0, 2.5), lost=4),
        refused="p01 has slices at unequal distances ... up to 71% off the mean of 2.917 mm ... slice is missing"),
    "a DICOM series with a slice in MONOCHROME1": Situation(series((0, 0, 2.5), inverted=4),
        refused="p01 ... photometric interpretation (0028,0004) ... MONOCHROME1 and MONOCHROME2"),
    "spinalcordtoolbox#2106: a NIfTI whose sform and qform differ": Situation(two_transforms, FOUND),
    "int64 NRRD": Situation(nrrd(), FOUND, affine=RAS),
    "an NRRD of 35 micron": Situation(nrrd('space units: "um" "um" "um"\n', 35), FOUND, affine=np.diag([0.035, 0.035, 0.035, 1]),
                                      task={"spacing_mm": [0.035] * 3}),
    "an NRRD in inches": Situation(nrrd('space units: "in" "in" "in"\n'), refused="p01.nrrd has lengths in in, expected one"),
    "a picture of 8 bits": Situation(picture(230), PICTURE, suffix=".png", axes=2, task={"preprocessing": BITS_8}),
    "a picture of 16 bits, for weights that were trained on 8": Situation(picture(59110), axes=2, task={"preprocessing": BITS_8},
        refused="has its highest value in 81% of all voxels after preprocessing"),
    "label values beyond 255, of a picture": Situation(photograph, np.rot90(WIDE[PICTURE]), "uint16", suffix=".png", axes=2,
        task={"label_values": WIDE[:5].tolist()}),
    "a folder with a blank, an umlaut and a #": Situation(nifti(block()), FOUND, folder="Größe #2"),
    "python-fire#452: a folder called 2024": Situation(nifti(block()), FOUND, folder="2024"),
    "fmriprep#845: a quaternion rounded to just over 1": Situation(
        raw_header(256, np.array([0.6, 0.8, 1e-4])), FOUND, task={"orientation": "RSP"}),
    "voxels of 35 micron": Situation(nifti(block(), np.diag([35.0, 35, 35, 1]), xyzt_units=3), FOUND,
                                     task={"spacing_mm": [0.035] * 3}),
    "voxels of 35 mm that are to become .35": Situation(
        nifti(block(), np.diag([35.0, 35, 35, 1])), task={"spacing_mm": [0.35] * 3},
        refused="p01.nii.gz has 16x16x16 voxels of 35x35x35 mm ... spacing_mm 0.35x0.35x0.35"),
    "a pointer of Git LFS": Situation(
        lambda folder: (folder / "p01.nii.gz").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        refused="git lfs pull"),
    "datalad#3513: a link to content that was not fetched": Situation(
        lambda folder: (folder / "p01.nii.gz").symlink_to(folder / ".git/annex/objects/x"), refused="get"),
    "thick slices across another axis": Situation(
        nifti(block(), np.diag([8.0, 1, 1, 1])), task={"dimensions": 2, "slices": True},
        refused="thick along left-right (8 mm) ... slices across foot-head (1 mm)."),
}  # fmt: skip


@pytest.mark.fault("35", "scans through inference")
@pytest.mark.parametrize("name", SITUATIONS)
def test_a_scan_as_it_comes_is_right_or_refused(run_bundle, tmp_path, name):
    case = SITUATIONS[name]
    images, out = tmp_path / case.folder, tmp_path / "out"
    images.mkdir()
    case.make(images)
    task = {"dimensions": case.axes, "slices": False, **case.task}
    if case.axes == 2:
        task.setdefault("preprocessing", PICTURES)
    dimensions = task.pop("dimensions")
    if case.refused:
        with pytest.raises((RuntimeError, OSError, ValueError)) as error:
            infer(run_bundle, images, out, dimensions, [case.window] * dimensions, **task)
        says(f"{error.value} {error.value.__cause__}", *case.refused.split(" ... "))
        assert not list(out.glob("*_pred*")), "what a network would make of it"
        return
    infer(run_bundle, images, out, dimensions, [case.window] * dimensions, **task)
    (written,) = out.glob("*_pred.*")
    assert written.name.endswith(case.suffix)
    if case.suffix == ".png":
        answer = itk.array_from_image(itk.imread(written))
    else:
        answer = np.asarray(nib.load(written).dataobj)
        header, affine = nib.load(written).header, nib.load(written).affine
        if case.affine is None:
            for key in GEOMETRY:
                np.testing.assert_allclose(
                    header[key], nib.load(next(images.iterdir())).header[key], atol=1e-3, err_msg=key
                )
        else:
            np.testing.assert_allclose(affine, case.affine, atol=1e-6)
    np.testing.assert_array_equal(answer, case.expected)
    assert answer.dtype == case.dtype
