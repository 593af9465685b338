"""Scans of every kind, written as scanners and tools write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

TURN = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
TILT = np.array([[1.0, 0.0, 0.0], [0.0, 0.6, -0.8], [0.0, 0.8, 0.6]])
OBLIQUE = TURN @ TILT  # columns: the axes of an oblique scan in LPS
SPACING = (0.75, 1.25, 4.0)
ORIGIN = (10.0, -20.0, 30.0)
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def affine_ras(spacing: Sequence[float] = SPACING, direction: np.ndarray = OBLIQUE) -> np.ndarray:
    """The affine of an image with ITK's ``direction`` and ``spacing``, whose first voxel is at ``ORIGIN`` (LPS)."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = direction * np.asarray(spacing), ORIGIN
    return LPS_TO_RAS @ affine


def numbered(*shape: int, dtype: Any = np.int16) -> np.ndarray:
    """Voxels 0, 1, 2, ... so that no two axes can be exchanged unnoticed."""
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


VOXELS = numbered(5, 4, 3)


def write_nifti(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None, **header: Any) -> Path:
    """``header``: fields that are set last, whatever they contradict."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine)
    for field, value in header.items():
        image.header[field] = value
    if header:
        image = nib.Nifti1Image(voxels, None, image.header)
    nib.save(image, path)
    return path


def itk_image(voxels: np.ndarray, spacing: Sequence[float] = SPACING) -> Any:
    """An oblique image of ``(X, Y, Z)`` voxels."""
    from custom.cohort.formats.itk_image import quiet_itk

    itk = quiet_itk()
    image = itk.image_from_array(np.ascontiguousarray(voxels.T))
    image.SetSpacing(list(spacing))
    image.SetOrigin(list(ORIGIN))
    image.SetDirection(itk.matrix_from_array(OBLIQUE))
    return image


def write_itk(path: Path, voxels: np.ndarray, compression: bool = False) -> Path:
    from custom.cohort.formats.itk_image import quiet_itk

    quiet_itk().imwrite(itk_image(voxels), str(path), compression=compression)
    return path


def write_series(folder: Path, voxels: np.ndarray, series: str = "1.2.3.4", at: Sequence[float] = ()) -> Path:
    """A DICOM series of ``(X, Y, Z)`` voxels, a file a slice, whose names say nothing of their order.

    Args:
        at: positions of the slices along their normal, in slice distances; 0, 1, 2, ... where it is empty.
    """
    from custom.cohort.formats.itk_image import quiet_itk

    itk = quiet_itk()
    folder.mkdir(parents=True, exist_ok=True)
    for k, position in enumerate(at or range(voxels.shape[2])):
        image = itk_image(voxels[:, :, k : k + 1])
        origin = np.asarray(ORIGIN) + OBLIQUE[:, 2] * SPACING[2] * position
        image.SetOrigin(origin.tolist())
        tags = {
            "0008|0060": "MR",
            "0008|0021": "20200101",
            "0020|000d": "1.2.3",
            "0020|000e": series,
            "0020|0011": "1",
            "0020|0013": str(k),
            "0018|0050": str(SPACING[2]),
            "0020|0032": "\\".join(f"{x:.10g}" for x in origin),
            "0020|0037": "\\".join(f"{x:.10g}" for x in OBLIQUE[:, :2].T.ravel()),
        }
        for tag, text in tags.items():
            image.GetMetaDataDictionary()[tag] = text
        io = itk.GDCMImageIO.New()
        io.KeepOriginalUIDOn()
        name = f"{series}_{k * 7 % 10}.dcm"
        writer = itk.ImageFileWriter[type(image)].New(Input=image, FileName=str(folder / name), ImageIO=io)
        writer.UseInputMetaDataDictionaryOn()
        writer.Update()
    return folder


def fault(path: Path, **options: Any) -> str:
    """What reading the file says of it, which begins with its name."""
    from custom.cohort.facts import ScanFault, read

    with pytest.raises(ScanFault) as error:
        read(path, **options)
    assert str(error.value).startswith(path.name)
    return str(error.value)


def picture(path: Path, pixels: np.ndarray | None = None, **options: Any) -> Path:
    noise = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(noise if pixels is None else pixels).save(path, **options)
    return path
