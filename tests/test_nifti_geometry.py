"""The promises of custom/cohort/formats/nifti.py about headers that contradict themselves or the world: two transforms,
a rounded quaternion, lengths in other units than mm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from cohort_files import Cohort, lump, noise
from monai.data import MetaTensor
from monai.transforms import LoadImage
from saying import says
from scan_files import VOXELS, affine_ras, fault, write_nifti

from custom.cohort.facts import Facts, read
from custom.cohort.formats import ScanFault
from custom.cohort.reader import ScanReader
from custom.cohort.record import Record
from custom.inference.writer import GEOMETRY, GridWriter

MOVED = affine_ras() + np.array([[0, 0, 0, 7.0]] * 3 + [[0] * 4])


def loaded(path: Path) -> MetaTensor:
    return LoadImage(reader=ScanReader, ensure_channel_first=True)(path)


def both(path: Path) -> tuple[Facts, MetaTensor]:
    """What the check reads and what training reads: one grid."""
    facts, image = read(path), loaded(path)
    np.testing.assert_allclose(image.affine, facts.affine, rtol=1e-6, atol=1e-9)
    return facts, image


def two(path: Path, sform: np.ndarray, qform: np.ndarray, voxels: np.ndarray = VOXELS) -> Path:
    image = nib.Nifti1Image(voxels, sform)
    image.set_sform(sform, code="aligned")
    image.set_qform(qform, code="scanner")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def predicted(image: Path, out: Path) -> Path:
    """A prediction for the image, written as inference does."""
    scan, writer = loaded(image), GridWriter()
    writer.set_data_array(MetaTensor(scan > 0, meta=scan.meta))
    writer.set_metadata(scan.meta)
    writer.write(out)
    return out


# two transforms


@pytest.fixture
def cohort(tmp_path) -> Cohort:
    return Cohort(tmp_path)


SHIFTED = np.array([[1.0, 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(("sform", "qform"), [(SHIFTED, np.eye(4)), (np.eye(4), SHIFTED)])
def test_the_sform_is_used_and_the_check_says_so(tmp_path, sform, qform):
    facts, _ = both(two(tmp_path / "a.nii.gz", sform, qform))
    np.testing.assert_allclose(facts.affine, sform)
    name, affine = facts.unused
    assert name == "qform"
    np.testing.assert_allclose(affine, qform)
    assert facts.warnings == ("sform and qform differ: the sform is used",)


def test_the_unused_transform_is_in_the_record(tmp_path):
    file = str(two(tmp_path / "a.nii.gz", SHIFTED, np.eye(4)))
    found = Record(tmp_path / "record.json").facts([file])[file]
    assert Record(tmp_path / "record.json").known(file) == found
    assert found.unused is not None


def test_a_qform_that_agrees_with_the_voxel_sizes_is_used_where_the_sform_does_not(tmp_path):
    facts, _ = both(two(tmp_path / "a.nii.gz", np.diag([1.0, 1, 1, 1]), np.diag([2.0, 2, 3, 1])))
    assert (facts.spacing_mm, facts.unused[0]) == ((2.0, 2.0, 3.0), "sform")
    (warning,) = facts.warnings
    assert warning.startswith("affine and voxel sizes contradict each other")


def test_transforms_that_differ_by_rounding_are_one(tmp_path):
    facts, _ = both(two(tmp_path / "a.nii.gz", affine_ras().round(4), affine_ras()))
    assert (facts.unused, facts.warnings) == (None, ())


OFF_GRID = "Grids: labelled, p2: label p2.nii.gz is not on the grid of p2.nii.gz: origin"
REMEDY = (
    "sform is used",
    "by the other both lie on one grid",
    "Copy the header of p2.nii.gz",
    "the voxels as they are",
)


@pytest.mark.fault("5j", "a label that another tool wrote by the other transform")
def test_a_label_written_by_the_other_transform_keeps_its_voxels(cohort):
    """ITK does so: it writes the qform's place where sform and qform differ."""
    two(cohort.folder / "images/p2.nii.gz", np.eye(4), SHIFTED, noise("p2"))
    cohort.write("labels/p2.nii.gz", lump(), SHIFTED)
    (line,) = cohort.faults()
    says(line, OFF_GRID, "(5.0, 0.0, 0.0) against (0.0, 0.0, 0.0) mm", "the other's sform and qform differ", *REMEDY)


@pytest.mark.fault("5j", "a label with two transforms")
def test_a_label_with_two_transforms_of_which_the_unused_one_fits(cohort):
    two(cohort.folder / "labels/p2.nii.gz", SHIFTED, np.eye(4), lump())
    (line,) = cohort.faults()
    says(line, OFF_GRID, "(5.0, 0.0, 0.0) against (0.0, 0.0, 0.0) mm", "its sform and qform differ", *REMEDY)


@pytest.mark.fault("5j", "a label of another grid beside an image with two transforms")
def test_a_label_that_fits_neither_transform_is_to_be_drawn_anew(cohort):
    two(cohort.folder / "images/p2.nii.gz", np.eye(4), SHIFTED, noise("p2"))
    cohort.write("labels/p2.nii.gz", lump(), 2 * SHIFTED - np.diag([1.0, 1, 1, 1]))
    (line,) = cohort.faults()
    found = ("(10.0, 0.0, 0.0) against (0.0, 0.0, 0.0) mm", "the other's sform and qform differ", "sform is used")
    says(line, OFF_GRID, *found, "Draw or export it on the image", "resample it by nearest neighbour")
    assert "on one grid" not in line


def test_other_faults_of_such_a_label_are_in_the_same_report(cohort):
    two(cohort.folder / "images/p2.nii.gz", np.eye(4), SHIFTED, noise("p2"))
    cohort.write("labels/p2.nii.gz", lump(3), SHIFTED)
    assert [line.split(":")[0] for line in cohort.faults()] == ["Grids", "Labels"]


def test_image_and_label_with_the_same_two_transforms_are_no_fault(cohort):
    for folder, voxels in (("images", noise("p2")), ("labels", lump())):
        two(cohort.folder / folder / "p2.nii.gz", np.eye(4), SHIFTED, voxels)
    cohort.check()


# a quaternion that rounding made longer than 1


def rounded(path: Path, length: float, kind: Any = nib.Nifti1Image, **header: Any) -> Path:
    """A file placed by its qform alone, a half turn about (3, 4, 0)."""
    image = kind(VOXELS, None)
    image.header["pixdim"][:4] = (1, 0.75, 1.25, 4)
    for field, value in {"qform_code": 1, "quatern_b": 0.6 * length, "quatern_c": 0.8 * length, **header}.items():
        image.header[field] = value
    nib.save(image, path)
    return path


HALF_TURN = np.array([[-0.28, 0.96, 0], [0.96, 0.28, 0], [0, 0, -1]]) * (0.75, 1.25, 4)


@pytest.mark.fault("5j", "a quaternion rounded to more than 1")
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("length", [1.0, 1 + 2e-7, 1.00001, 1.0009])
def test_a_quaternion_that_rounding_made_too_long(tmp_path, length, kind):
    """nipreps/fmriprep#845: w2 should be positive, but is -3.845952e-07."""
    file = rounded(tmp_path / "a.nii.gz", length, kind)
    facts, image = both(file)
    np.testing.assert_allclose(np.array(facts.affine)[:3, :3], HALF_TURN, atol=1e-6)
    np.testing.assert_array_equal(image[0], VOXELS)
    mine = nib.load(predicted(file, tmp_path / "p.nii.gz"))  # nibabel would not open it with the image's own quaternion
    np.testing.assert_allclose(mine.affine[:3, :3], HALF_TURN, atol=1e-6)


@pytest.mark.fault("5j", "a quaternion of length 1.2")
def test_a_quaternion_that_is_none_is_refused(tmp_path):
    file = rounded(tmp_path / "a.nii.gz", 1.2)
    says(fault(file), "a.nii.gz", "header", "quaternion has the length 1.2", "expected at most 1")
    with pytest.raises(ScanFault, match=r"^a\.nii\.gz cannot be read: its quaternion has the length 1\.2"):
        loaded(file)


def test_a_quaternion_that_is_not_used_may_be_anything(tmp_path):
    header = {"sform_code": 1, "srow_x": [2, 0, 0, 0], "srow_y": [0, 2, 0, 0], "srow_z": [0, 0, 2, 0]}
    for name, code in (("a.nii.gz", 0), ("b.nii.gz", 1)):
        facts, _ = both(rounded(tmp_path / name, 1.2, qform_code=code, pixdim=[1, 2, 2, 2, 0, 0, 0, 0], **header))
        np.testing.assert_allclose(facts.affine, np.diag([2, 2, 2, 1]))


# units


@pytest.mark.fault("5k", "voxel sizes in micron and in metres")
@pytest.mark.parametrize(("code", "unit", "size"), [(1, "metre", 0.0015), (3, "micron", 1500.0)])
@pytest.mark.parametrize("form", ["sform_code", "qform_code"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_lengths_are_read_in_mm_whatever_their_unit(tmp_path, code, unit, size, form, kind):
    affine = np.diag([size, size, 2 * size, 1.0])
    affine[:3, 3] = (10 * size, 0, -20 * size)
    image = kind(VOXELS, affine)
    image.header["xyzt_units"] = code + 8  # and seconds
    image.set_qform(affine, code="scanner")
    image.header[{"sform_code": "qform_code", "qform_code": "sform_code"}[form]] = 0
    nib.save(image, tmp_path / "a.nii.gz")
    facts, scan = both(tmp_path / "a.nii.gz")
    expected = np.diag([1.5, 1.5, 3.0, 1.0])
    expected[:3, 3] = (15, 0, -30)
    np.testing.assert_allclose(facts.affine, expected, rtol=1e-6)
    np.testing.assert_allclose(scan.pixdim, (1.5, 1.5, 3.0), rtol=1e-6)
    sizes = f"{size:.4g}x{size:.4g}x{2 * size:.4g}"
    assert facts.warnings == (f"unit {unit}: voxel sizes of {sizes} are read as 1.5x1.5x3 mm",)


@pytest.mark.parametrize("code", [0, 2, 5])
def test_unknown_units_are_mm(tmp_path, code):
    facts, _ = both(write_nifti(tmp_path / "a.nii.gz", VOXELS, affine_ras(), xyzt_units=code))
    np.testing.assert_allclose(facts.affine, affine_ras(), atol=1e-5)
    assert facts.warnings == ()


def test_a_prediction_keeps_the_unit_of_its_image(tmp_path):
    image = write_nifti(tmp_path / "a.nii.gz", VOXELS, np.diag([35.0, 35, 70, 1]), xyzt_units=3)
    mine, its = nib.load(predicted(image, tmp_path / "p.nii.gz")), nib.load(image)
    for field in GEOMETRY:
        np.testing.assert_array_equal(mine.header[field], its.header[field], err_msg=field)
    assert mine.header.get_xyzt_units()[0] == "micron"
    np.testing.assert_allclose(both(tmp_path / "p.nii.gz")[0].affine, both(image)[0].affine)


def test_a_label_without_the_images_unit_is_on_another_grid(cohort):
    for name, voxels, unit in (("images/p2.nii.gz", noise("p2"), 3), ("labels/p2.nii.gz", lump(), 0)):
        write_nifti(cohort.folder / name, voxels, np.diag([35.0, 35, 35, 1]), xyzt_units=unit)
    assert "spacing 35.0x35.0x35.0 against 0.035x0.035x0.035 mm" in cohort.faults()[0]


# axes behind that of channels


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_trailing_axes_of_one_voxel_are_none(tmp_path, name, kind):
    """One volume, written with axes of time and of vectors."""
    affine = affine_ras()
    write_nifti(tmp_path / "plain.nii", VOXELS[..., None], affine)
    nib.save(kind(VOXELS[..., None, None, None], affine), tmp_path / name)
    plain, (facts, image) = read(tmp_path / "plain.nii"), both(tmp_path / name)
    assert (facts.shape, facts.channels, facts.voxels) == (VOXELS.shape, 1, plain.voxels)
    np.testing.assert_array_equal(image[0], VOXELS)
    out = predicted(tmp_path / name, tmp_path / "out.nii.gz")
    assert read(out).shape == VOXELS.shape


@pytest.mark.parametrize("shape", [(5, 4, 3, 1, 2), (5, 4, 3, 2, 2, 1)])
def test_five_axes_of_more_than_one_voxel_are_refused(tmp_path, shape):
    write_nifti(tmp_path / "a.nii", np.zeros(shape, np.int16))
    assert "expected two or three axes, and one of channels" in fault(tmp_path / "a.nii")
