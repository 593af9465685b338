"""One scan, stored in every way: nnUNet#2897, #2768 and #2400 report that what is stored otherwise is segmented wrongly.

A block is bright in one corner of the body; the oracle says in which half of each axis of *what it sees* a bright voxel
lies, so that its answer names the corner, or betrays a wrong turn.
"""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from cohort_files import assert_says, logged, lump, noise, save_grey
from monai.transforms import LoadImage
from nibabel.orientations import axcodes2ornt, ornt_transform
from oracle import infer
from saying import says

from custom.cohort.facts import read
from custom.cohort.reader import ScanReader

SHAPE = (16, 16, 16)
CODES = ["".join(code) for axes in itertools.permutations(("RL", "AP", "SI")) for code in itertools.product(*axes)]
AFFINE = np.diag([1.0, 1.0, 1.0, 1.0])


def body(spacing_mm: tuple[float, float, float] = (1, 1, 1)) -> nib.Nifti1Image:
    """RAS; bright on the right, in front and at the feet: the second half of axes 0 and 1, the first of axis 2."""
    voxels = np.zeros(SHAPE, np.int16)
    voxels[10:14, 9:13, 2:6] = 900
    return nib.Nifti1Image(voxels, np.diag([*map(float, spacing_mm), 1.0]))


def stored(image: nib.Nifti1Image, code: str) -> nib.Nifti1Image:
    """The same body in another order of voxels."""
    return image.as_reoriented(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(code)))


def written(image: nib.Nifti1Image, path: Path) -> Path:
    """The image, written as NIfTI, or through ITK in another format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".nii.gz"):
        nib.save(image, path)
        return path
    import itk

    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine  # ITK's axes run to L, P and S
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    other = itk.image_from_array(np.ascontiguousarray(np.asarray(image.dataobj).T))
    other.SetSpacing(spacing.tolist())
    other.SetOrigin(affine[:3, 3].tolist())
    other.SetDirection(itk.matrix_from_array(affine[:3, :3] / spacing))
    itk.imwrite(other, str(path))
    return path


CORNER = 1 + 1 + 2  # right and in front, whatever the slice; in 3D the third bit is that of the foot: 0


@pytest.mark.fault("5o", "one body in all 48 orders of voxels, and by ITK (nnUNet#2897, #2768, #2400)")
@pytest.mark.parametrize("dimensions", [2, 3])
def test_all_48_ways_to_store_a_volume_are_segmented_alike(run_bundle, tmp_path, dimensions, caplog):
    images, out = tmp_path / "images", tmp_path / "out"
    for code in CODES:
        written(stored(body(), code), images / f"{code}.nii.gz")
    for code in ("LPS", "SLA"):
        written(stored(body(), code), images / f"itk_{code}.nrrd")
    with caplog.at_level(logging.INFO):
        infer(run_bundle, images, out, dimensions, [16] * dimensions)
    found = sorted(out.glob("*_pred.*"))
    assert len(found) == len(CODES) + 2
    for path in found:
        image = (
            nib.load(next(images.glob(path.name.removesuffix("_pred.nii.gz") + ".*")))
            if "itk" not in path.name
            else None
        )
        answer = nib.load(path)
        if image is not None:
            np.testing.assert_allclose(answer.affine, image.affine, err_msg=path.name)
            np.testing.assert_array_equal(
                np.asarray(answer.dataobj), (image.get_fdata() > 0) * CORNER, err_msg=path.name
            )
        upright = nib.as_closest_canonical(answer)
        np.testing.assert_array_equal(np.asarray(upright.dataobj), (body().get_fdata() > 0) * CORNER, err_msg=path.name)
    assert "orientation of the volumes: 2 LPS" in caplog.text
    assert "; they are turned to RAS when they are read" in caplog.text


@pytest.mark.fault("5o", "slices across another axis")
def test_slices_that_lie_across_another_axis_are_refused_with_both_axes(run_bundle, tmp_path):
    written(body((1, 1, 8)), tmp_path / "images/axial.nii.gz")
    written(stored(body((1, 1, 8)), "SAR"), tmp_path / "images/axial_first.nii.gz")  # the same body: no fault
    written(body((8, 1, 1)), tmp_path / "images/sagittal.nii.gz")
    with pytest.raises(RuntimeError) as error:
        infer(run_bundle, tmp_path / "images", tmp_path / "out", 2, [16, 16])
    _, kind, line = str(error.value.__cause__).splitlines()
    assert kind == "  Slices:"
    found = ("thick along left-right (8 mm)", "across foot-head (1 mm)")
    says(line, "unlabelled, sagittal: sagittal.nii.gz", *found, "Remove the entry", "set orientation to ASR")
    assert not (tmp_path / "out").exists()


@pytest.mark.fault("5o", "the thick axis stored first")
def test_a_stack_stored_with_its_thick_axis_first_is_cut_across_it(run_bundle, tmp_path):
    image = written(stored(body((1, 1, 8)), "SAR"), tmp_path / "images/p01.nii.gz")
    infer(run_bundle, tmp_path / "images", tmp_path / "out", 2, [16, 16])
    answer = nib.load(tmp_path / "out/p01_pred.nii.gz")
    np.testing.assert_array_equal(np.asarray(answer.dataobj), (nib.load(image).get_fdata() > 0) * CORNER)


# two axes

SCALED = {"_target_": "Compose", "transforms": [
    {"_target_": "LoadImaged", "keys": "image", "reader": "scripts.cohort.reader.ScanReader", "ensure_channel_first": True},
    {"_target_": "ScaleIntensityd", "keys": "image"}]}  # fmt: skip
PLANES = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}  # of the body's axes, to the right, front and head
ORDERS = list(itertools.product((False, True), (False, True), (False, True)))


def slice_of(plane: str, swap: bool, *flips: bool) -> nib.Nifti1Image:
    """A slice of a body, stored in any order; bright on the right, in front and at the head: where axes run to L, P and I,
    in the first half of both."""
    voxels, affine = np.zeros((16, 12), np.int16), np.eye(4)
    voxels[2:6, 1:4] = 900
    affine[:3, :2] = 0
    for axis, along in enumerate(PLANES[plane]):
        affine[along, axis] = -(0.5, 2.0)[axis]
    affine[:3, 2], affine[:3, 3] = np.cross(*affine[:3, :2].T), (7, -8, 9)
    for axis in np.flatnonzero(flips):
        voxels = np.flip(voxels, axis)
        affine[:, 3] += affine[:, axis] * (voxels.shape[axis] - 1)
        affine[:, axis] *= -1
    return nib.Nifti1Image(voxels.T, affine[:, [1, 0, 2, 3]]) if swap else nib.Nifti1Image(voxels, affine)


def by_itk(image: nib.Nifti1Image, path: Path) -> None:
    """A slice in the axial plane, of which ITK keeps two coordinates."""
    import itk

    affine = -image.affine[:2, [0, 1, 3]]
    spacing = np.linalg.norm(affine[:, :2], axis=0)
    other = itk.image_from_array(np.ascontiguousarray(np.asarray(image.dataobj).T))
    other.SetSpacing(spacing.tolist())
    other.SetOrigin(affine[:, 2].tolist())
    other.SetDirection(itk.matrix_from_array(affine[:, :2] / spacing))
    itk.imwrite(other, str(path))


@pytest.mark.fault("37", "one slice of a body in all 8 orders of pixels and three planes, and by ITK")
def test_all_8_ways_to_store_a_scan_of_two_axes_are_segmented_alike(run_bundle, tmp_path, caplog):
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    stored = {}
    for plane, order in itertools.product(PLANES, ORDERS):
        name = "_".join([plane, *map(str, map(int, order))])
        stored[name] = slice_of(plane, *order)
        nib.save(stored[name], images / f"{name}.nii.gz")
    for suffix, order in itertools.product((".nrrd", ".mha"), ORDERS):
        name = "_".join([suffix[1:], *map(str, map(int, order))])
        stored[name] = slice_of("axial", *order)
        by_itk(stored[name], images / f"{name}{suffix}")
    with caplog.at_level(logging.INFO):
        infer(run_bundle, images, out, 2, [16, 12], slices=False, orientation="", preprocessing=SCALED)
    for name, image in stored.items():
        answer = nib.load(out / f"{name}_pred.nii.gz")
        np.testing.assert_array_equal(np.asarray(answer.dataobj), np.asarray(image.dataobj) > 0, err_msg=name)
        columns = [0, 1, 3] if name.startswith(("nrrd", "mha")) else [0, 1, 2, 3]
        np.testing.assert_allclose(answer.affine[: len(columns) - 1, columns], image.affine[: len(columns) - 1, columns],
                                   atol=1e-5, err_msg=name)  # fmt: skip
    assert len(list(out.glob("*_pred.*"))) == len(stored)
    says(caplog.text, "two axes: 3 AL (unlabelled, axial_1_0_1", "turned to LP, LI or PI", "as pictures lie")


@pytest.mark.parametrize("order", ORDERS)
def test_an_image_of_two_axes_and_its_label_reach_a_training_as_one_array_and_the_check_sees_the_same(tmp_path, order):
    plain, other = tmp_path / "plain.nii.gz", tmp_path / "other.nii.gz"
    nib.save(slice_of("coronal", *ORDERS[0]), plain)
    nib.save(slice_of("coronal", *order), other)
    first, second = (LoadImage(reader=ScanReader, ensure_channel_first=True)(file) for file in (plain, other))
    np.testing.assert_array_equal(second, first)
    np.testing.assert_allclose(second.affine, first.affine, atol=1e-6)
    facts = read(other)
    np.testing.assert_allclose(facts.affine, first.affine, atol=1e-6)
    assert (facts.shape, facts.voxels, len(facts.stored)) == ((16, 12), read(plain).voxels, 2)


@pytest.mark.fault("37", "a label of two axes in another order of pixels, and one as a picture")
def test_a_label_of_two_axes_that_does_not_lie_as_its_image_is_refused(good, caplog):
    good.task |= {"dimensions": 2}
    for part, patients in {
        "labelled": ["p1", "p2"],
        "unlabelled": ["p3"],
        "validation": ["p4"],
        "test": ["p5"],
    }.items():
        for k, patient in enumerate(patients):
            good.parts[part][k]["image"] = good.write(f"images/{patient}.nii.gz", noise(patient, (16, 16)))
            if part != "unlabelled":
                good.write(f"labels/{patient}.nii.gz", lump(shape=(16, 16)))
    caplog.set_level(logging.INFO)
    good.check()
    found = "5 RA (labelled, p1; labelled, p2; unlabelled, p3; ...)"
    says(logged(caplog)[0], "INFO orientation", "two axes", found, "turned to LP, LI or PI", "as pictures lie")
    flipped = np.diag([-1.0, 1, 1, 1])
    flipped[0, 3] = 15
    good.write("labels/p1.nii.gz", lump(shape=(16, 16))[::-1], flipped)
    save_grey(good.folder / "p2.png", lump(shape=(16, 16)))
    good.parts["labelled"][1]["label"] = str(good.folder / "p2.png")
    assert_says(
        good.faults(),
        "Grids: labelled, p1: label p1.nii.gz is not on the grid of p1.nii.gz: orientation LA against RA. Draw or export it",
        "Grids: labelled, p2: label p2.png is not on the grid of p2.nii.gz: orientation LP against RA. Save both in one format: "
        "a picture says nothing of where its axes run to",
    )
