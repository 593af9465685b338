"""The promises of custom/cohort/reader.py: what LoadImaged gives with it, for every kind of scan."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import ROOT
from monai.data import ITKReader, NibabelReader
from monai.transforms import LoadImage, LoadImaged
from PIL import Image
from scan_files import OBLIQUE, SPACING, affine_ras, numbered, write_itk, write_nifti, write_series

from custom.cohort.facts import read
from custom.cohort.formats import ScanFault
from custom.cohort.reader import ScanReader

VOXELS = numbered(5, 4, 3)


def load(image: Any) -> Any:
    """Load as the configs do, by dotted path."""
    transform = LoadImaged(keys="image", reader="custom.cohort.reader.ScanReader", ensure_channel_first=True)
    paths = [str(path) for path in image] if isinstance(image, list) else str(image)
    return transform({"image": paths})["image"]


def colours(*shape: int) -> np.ndarray:
    """``(rows, columns, 3)``"""
    return numbered(*shape, 3, dtype=np.int64).astype(np.uint8)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ"])
def test_nifti_is_read_by_nibabel(tmp_path, name):
    affine = affine_ras()
    image = load(write_nifti(tmp_path / name, VOXELS, affine))
    assert image.shape == (1, 5, 4, 3)
    np.testing.assert_array_equal(image[0], VOXELS)
    np.testing.assert_allclose(image.affine, affine, atol=1e-5)


def test_the_fourth_axis_of_a_nifti_holds_the_channels(tmp_path):
    voxels = numbered(5, 4, 3, 2)
    image = load(write_nifti(tmp_path / "a.nii.gz", voxels))
    np.testing.assert_array_equal(image, np.moveaxis(voxels, -1, 0))


def test_a_picture_of_two_axes_in_a_nifti(tmp_path):
    voxels = numbered(5, 4)
    image = load(write_nifti(tmp_path / "a.nii", voxels, np.diag([-0.5, -0.7, 1, 1])))
    np.testing.assert_array_equal(image[0], voxels)
    stored_otherwise = load(write_nifti(tmp_path / "b.nii", voxels.T[:, ::-1], transposed()))
    np.testing.assert_array_equal(stored_otherwise[0], voxels)
    np.testing.assert_allclose(stored_otherwise.affine, image.affine, atol=1e-6)


def transposed() -> np.ndarray:
    """The affine of voxels whose first axis runs to the back, 0.7 mm each, the second to the right, from the left end."""
    affine = np.diag([0.5, -0.7, 1, 1])[:, [1, 0, 2, 3]]
    affine[0, 3] = -4 * 0.5
    return affine


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.mhd"])
@pytest.mark.parametrize("compression", [False, True])
def test_itk_formats_have_the_axes_and_affine_of_nibabel(tmp_path, name, compression):
    image = load(write_itk(tmp_path / name, VOXELS, compression))
    np.testing.assert_array_equal(image[0], VOXELS)
    np.testing.assert_allclose(image.affine, affine_ras(), atol=1e-6)
    reference = LoadImage(reader=ITKReader)(tmp_path / name)
    torch.testing.assert_close(image.affine, reference.affine, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.mhd"])
def test_names_in_capitals_are_read_as_small_ones(tmp_path, name):
    path = write_itk(tmp_path / name, VOXELS).rename(tmp_path / name.upper())
    np.testing.assert_array_equal(load(path)[0], VOXELS)
    assert read(path).shape == VOXELS.shape


def test_a_folder_is_one_dicom_series_in_the_order_of_its_slices(tmp_path):
    """Project-MONAI/MONAI#1711: DICOM loaded with wrong orientation."""
    folder = write_series(tmp_path / "p01", VOXELS)
    image, reference = load(folder), LoadImage(reader=ITKReader)(folder)
    np.testing.assert_array_equal(image[0], VOXELS)
    np.testing.assert_allclose(image.affine, affine_ras(), atol=1e-6)
    torch.testing.assert_close(image.affine, reference.affine, rtol=0, atol=1e-12)
    torch.testing.assert_close(image[0].as_tensor(), reference.as_tensor())
    far = image.affine.numpy() @ [4, 3, 2, 1]  # the last voxel, in RAS
    lps = np.array([10.0, -20.0, 30.0]) + OBLIQUE @ (np.array([4, 3, 2]) * SPACING)
    np.testing.assert_allclose(far[:3], lps * [-1, -1, 1], atol=1e-6)


def test_one_file_of_a_series_is_a_volume_of_one_slice(tmp_path):
    folder = write_series(tmp_path / "p01", VOXELS)
    assert load(folder / "1.2.3.4_0.dcm").shape == (1, 5, 4, 1)


def test_several_files_become_channels_in_their_order(tmp_path):
    for kind in (write_nifti, write_itk):
        suffix = ".nii.gz" if kind is write_nifti else ".nrrd"
        files = [kind(tmp_path / f"{name}{suffix}", VOXELS + add) for name, add in (("b", 0), ("a", 100))]
        np.testing.assert_array_equal(load(files), np.stack([VOXELS, VOXELS + 100]))


def test_several_series_become_channels(tmp_path):
    folders = [write_series(tmp_path / name, VOXELS + add) for name, add in (("t1", 0), ("t2", 100))]
    np.testing.assert_array_equal(load(folders), np.stack([VOXELS, VOXELS + 100]))


def test_files_of_two_kinds_become_channels(tmp_path):
    files = [
        write_nifti(tmp_path / "flair.nii.gz", VOXELS, affine_ras()),
        write_itk(tmp_path / "t1.nrrd", VOXELS + 100),
    ]
    for order in (files, files[::-1]):
        image = load(order)
        np.testing.assert_array_equal(image, np.stack([VOXELS, VOXELS + 100])[:: 1 if order is files else -1])
        np.testing.assert_allclose(image.affine, affine_ras(), atol=1e-6)


@pytest.mark.fault("43", "modalities whose headers differ by rounding, of two kinds, with a fourth axis of length 1")
def test_modalities_on_one_grid_but_for_rounding_become_channels(tmp_path):
    moved, turned = np.eye(4), np.eye(4)
    moved[0, 3], turned[0, 1] = 5e-4, 2e-4
    affines = {"a": np.eye(4), "b": moved, "c": turned}
    for name, affine in affines.items():
        nib.save(nib.Nifti1Image(VOXELS.astype(np.float32), affine), tmp_path / f"{name}.nii")
    nib.save(nib.Nifti1Image(VOXELS.astype(np.float32)[..., None], np.eye(4)), tmp_path / "d.nii")
    for name in "bcd":
        image = load([tmp_path / "a.nii", tmp_path / f"{name}.nii"])
        assert image.shape == (2, *VOXELS.shape)
        np.testing.assert_array_equal(image.affine, np.eye(4))


def test_modalities_on_two_grids_are_refused(tmp_path):
    moved = np.eye(4)
    moved[0, 3] = 0.1
    for name, voxels, affine in (("a", VOXELS, np.eye(4)), ("b", VOXELS, moved), ("c", VOXELS[1:], np.eye(4))):
        nib.save(nib.Nifti1Image(voxels.astype(np.float32), affine), tmp_path / f"{name}.nii")
    for name in "bc":
        with pytest.raises(
            ScanFault, match=rf"^{name}\.nii \(.* voxels\) is not on the grid of a\.nii \(.*\): resample it"
        ):
            load([tmp_path / "a.nii", tmp_path / f"{name}.nii"])


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.JPEG"])
def test_a_colour_picture_has_three_channels_x_before_y(tmp_path, name):
    pixels = colours(6, 9)
    Image.fromarray(pixels).save(tmp_path / name, quality=100, subsampling=0)
    image = load(tmp_path / name)
    assert image.shape == (3, 9, 6)
    np.testing.assert_allclose(image, pixels.transpose(2, 1, 0), atol=0 if name == "a.png" else 12)


@pytest.mark.parametrize("pixels", [colours(6, 9)[..., 0], colours(6, 9)[..., 0] > 50], ids=["grey", "1 bit"])
def test_a_label_picture_has_one_channel(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        load(tmp_path / "a.png"), pixels.T[None].astype(np.uint8) * (255 if pixels.dtype == bool else 1)
    )


def test_a_resolution_for_printing_is_no_size(tmp_path):
    Image.fromarray(colours(6, 9)).save(tmp_path / "image.jpg", dpi=(72, 72))
    Image.fromarray(colours(6, 9)[..., 0]).save(tmp_path / "label.png")
    image, label = load(tmp_path / "image.jpg"), load(tmp_path / "label.png")
    assert image.pixdim.tolist() == label.pixdim.tolist() == [1.0, 1.0]
    torch.testing.assert_close(image.affine, label.affine)


def test_no_other_reader_is_tried_after_a_failure(tmp_path):
    """MONAI's own readers would take the first of two series, and say so on stderr alone."""
    write_series(tmp_path / "p01", VOXELS)
    write_series(tmp_path / "p01", VOXELS, series="5.6.7")
    with pytest.raises(ScanFault, match=r"^p01 holds 2 DICOM series, expected one a folder: .*1\.2\.3\.4_.*5\.6\.7_"):
        load(tmp_path / "p01")


@pytest.mark.parametrize("name", ["gone.nii.gz", "gone.nrrd", "gone.png"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(ScanFault, match=rf"^{name} (cannot be read: No such file|does not exist)"):
        load(tmp_path / name)


def test_a_file_that_is_cut_short_is_named(tmp_path):
    file = write_nifti(tmp_path / "p17.nii.gz", VOXELS)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ScanFault, match=r"^p17\.nii\.gz cannot be read"):
        load(file)


def test_threads_share_a_reader_without_mixing_their_channels(tmp_path):
    """MONAI's own remembers the files of its last call: a case of one modality would take a channel from another."""
    one = [write_nifti(tmp_path / "a.nii", VOXELS)]
    two = [*one, write_nifti(tmp_path / "b.nii", VOXELS)]
    transform = LoadImage(reader="custom.cohort.reader.ScanReader", ensure_channel_first=True)

    def channels(files: list[Path]) -> int:
        return len(transform(files))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(channels, [one, two] * 50)) == [1, 2] * 50


def test_a_contradictory_header_is_read_as_monai_reads_it(tmp_path):
    file = write_nifti(tmp_path / "a.nii.gz", VOXELS, pixdim=[1, 1.5, 1.5, 10, 1, 1, 1, 1])
    torch.testing.assert_close(load(file).affine, LoadImage(reader=NibabelReader)(file).affine)
    assert load(file).pixdim.tolist() == [1.5, 1.5, 10.0]


@pytest.mark.parametrize("channels", [1, 2])
def test_a_contradictory_header_is_read_alike_with_and_without_an_axis_of_channels(tmp_path, channels):
    sizes, affine = [1, 1.5, 1.5, 10, 2.5, 1, 1, 1], np.diag([1.0, 1, 1, 1])
    affine[:3, 3] = -90, 40, 7  # which is not the time between two volumes
    one = write_nifti(tmp_path / "a.nii.gz", VOXELS, affine, pixdim=sizes)
    several = write_nifti(tmp_path / "b.nii.gz", np.stack([VOXELS] * channels, -1), affine, pixdim=sizes)
    torch.testing.assert_close(load(several).affine, load(one).affine)
    assert read(several).spacing_mm == read(one).spacing_mm == (1.5, 1.5, 10.0)
    sound = np.diag([1.5, 1.5, 10, 1])
    sound[:3, 3] = affine[:3, 3]
    several = write_nifti(tmp_path / "c.nii.gz", np.stack([VOXELS] * channels, -1), sound, pixdim=sizes)
    np.testing.assert_allclose(read(several).affine, sound)
    assert not read(several).warnings


def test_nonfinite_voxels_become_the_darkest_finite_one_where_that_is_wanted(tmp_path):
    voxels = np.array([[[3.0, np.nan], [np.inf, 2.0]], [[7.0, -np.inf], [4.0, 5.0]]], dtype=np.float32)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "a.nii.gz")
    kept = LoadImage(reader=ScanReader)(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(kept.numpy(), voxels)
    filled = LoadImage(reader=ScanReader, fill_nonfinite=True)(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(filled.numpy(), np.where(np.isfinite(voxels), voxels, 2.0))


def test_an_image_without_any_finite_voxel_is_filled_with_0(tmp_path):
    nib.save(nib.Nifti1Image(np.full((2, 2, 2), np.nan, np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    assert (LoadImage(reader=ScanReader, fill_nonfinite=True)(tmp_path / "a.nii.gz") == 0).all()


SLOW_ITK = """
import sys, threading, types
module = sys.modules["itk"] = types.ModuleType("itk")  # as ITK does: without its parts, for a while
threading.Event().wait(0.5)
class Part:
    SetGlobalWarningDisplay = staticmethod(lambda on: None)
for name in ("ProcessObject", "ImageFileReader", "GDCMSeriesFileNames", "MetaImageIO", "PyBuffer"):
    setattr(module, name, Part)
"""


def test_threads_that_need_itk_at_once_all_get_the_whole_of_it(tmp_path):
    (tmp_path / "itk").mkdir()
    (tmp_path / "itk/__init__.py").write_text(SLOW_ITK)
    code = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from custom.cohort.formats.itk_image import quiet_itk\n"
        "with ThreadPoolExecutor(4) as pool:\n"
        "    print(len([found.PyBuffer for found in pool.map(lambda _: quiet_itk(), range(4))]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path)},
                          capture_output=True, text=True, encoding="utf-8")  # fmt: skip
    assert done.stdout == "4\n", done.stderr[-800:]
