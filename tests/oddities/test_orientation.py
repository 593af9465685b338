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
from nibabel.orientations import axcodes2ornt, ornt_transform
from oracle import infer

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
    """As NIfTI, or through ITK as another format."""
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
    found = sorted(out.iterdir())
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
    assert str(error.value.__cause__) == (
        "The scans cannot be used.\n"
        "  Slices:\n"
        "    unlabelled, sagittal: sagittal.nii.gz is thick along left-right (8 mm), and the network sees slices across "
        "foot-head (1 mm). Remove the entry, or, if all volumes are so, set orientation to ASR"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.fault("5o", "the thick axis stored first")
def test_a_stack_stored_with_its_thick_axis_first_is_cut_across_it(run_bundle, tmp_path):
    image = written(stored(body((1, 1, 8)), "SAR"), tmp_path / "images/p01.nii.gz")
    infer(run_bundle, tmp_path / "images", tmp_path / "out", 2, [16, 16])
    answer = nib.load(tmp_path / "out/p01_pred.nii.gz")
    np.testing.assert_array_equal(np.asarray(answer.dataobj), (nib.load(image).get_fdata() > 0) * CORNER)
