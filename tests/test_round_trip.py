"""Any scan that can be read comes back on its own grid: image -> preprocessing -> bank -> prediction -> file.

A label stands for the network's answer, so that what comes back can be compared with what went in.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import ROOT
from dicom_files import dicom, placed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from numpy.typing import NDArray
from scan_files import LPS_TO_RAS
from scipy.ndimage import gaussian_filter, maximum_filter, minimum_filter

pytestmark = pytest.mark.filterwarnings("ignore:transform info of .image. is not available")  # voxels that are kept
EXAMPLES = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
AXES = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
spacings = st.tuples(*[st.floats(0.5, 4.0).map(lambda v: round(v, 3))] * 3)


@st.composite
def affines(draw: Any, oblique: bool) -> NDArray[np.float64]:
    """4 x 4: an order of axes, flips, if ``oblique`` a rotation by up to 40 degrees about each axis, spacing, origin."""
    matrix = np.eye(3)[:, list(draw(st.sampled_from(AXES)))] * draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    if oblique:
        for axis in range(3):
            angle = math.radians(draw(st.floats(-40, 40)))
            i, j = [k for k in range(3) if k != axis]
            turn = np.eye(3)
            turn[[i, j, i, j], [i, j, j, i]] = math.cos(angle), math.cos(angle), -math.sin(angle), math.sin(angle)
            matrix = turn @ matrix
    affine = np.eye(4)
    affine[:3, :3] = matrix * draw(spacings)
    affine[:3, 3] = draw(st.tuples(*[st.floats(-200, 200).map(lambda v: round(v, 2))] * 3))
    return affine


@st.composite
def labels(draw: Any, values: Sequence[int], smallest: int = 3, slices: int = 1) -> NDArray[np.uint8]:
    """``(X, Y, Z)`` uint8 of smooth blobs of ``values``."""
    shape = draw(st.tuples(st.integers(smallest, 24), st.integers(smallest, 24), st.integers(slices, 12)))
    noise = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).normal(size=(len(values), *shape))
    smooth = np.stack([gaussian_filter(n, 2.0) for n in noise])
    return np.asarray(values, dtype=np.uint8)[smooth.argmax(axis=0)]


class Trip:
    """The transforms of the bundle's own inference.yaml, with another spacing."""

    def __init__(self) -> None:
        self.parser = ConfigParser()
        self.parser.read_config(str(ROOT / "bundles/supervised/configs/inference.yaml"))

    def transforms(self, spacing_mm: Sequence[float], label_values: Sequence[int], out: Path) -> tuple[Any, Any]:
        self.parser["spacing_mm"] = list(spacing_mm)
        self.parser["classes"] = [f"class {k}" for k in range(len(label_values))]
        self.parser["label_values"] = list(label_values)
        self.parser["output_dir"] = str(out)
        self.parser.parse(True)
        return self.parser.get_parsed_content("preprocessing"), self.parser.get_parsed_content("postprocessing")

    def __call__(
        self,
        label: NDArray[Any],
        affine: NDArray[Any],
        spacing_mm: Sequence[float],
        folder: Path,
        dtype: Any = np.int16,
    ) -> nib.Nifti1Image:
        """The file that a network would leave if it answered the bank's own label."""
        from scripts.stream.bank import Bank

        classes = int(label.max()) + 1
        image = (np.random.default_rng(0).random(label.shape) * 100).astype(dtype)
        nib.save(nib.Nifti1Image(image, affine), folder / "image.nii.gz")
        nib.save(nib.Nifti1Image(label, affine), folder / "label.nii.gz")
        entry = {"patient": "p", "image": str(folder / "image.nii.gz"), "label": str(folder / "label.nii.gz")}
        before, after = self.transforms(spacing_mm, range(classes), folder / "predictions")
        known = Bank([entry], before)[0]["label"]
        loaded = before({"image": entry["image"]})
        assert known.shape[1:] == loaded["image"].shape[1:]
        answer = torch.nn.functional.one_hot(known[0].long(), classes).movedim(-1, 0).float()
        loaded["pred"] = MetaTensor(answer, meta=loaded["image"].meta)  # as a network's output carries it
        after(loaded)
        after.transforms[-1].finish()
        return nib.load(next((folder / "predictions").glob("*.nii.gz")))


@pytest.fixture
def trip(bundle_cwd: Any) -> Trip:
    bundle_cwd(ROOT / "bundles/supervised")
    return Trip()


@EXAMPLES
@given(label=labels([0, 1, 2, 3]), affine=affines(oblique=True))
def test_without_resampling_orientation_and_flips_are_exact(trip, label, affine):
    with tempfile.TemporaryDirectory() as folder:
        found = trip(label, affine, [-1, -1, -1], Path(folder))
        np.testing.assert_array_equal(np.asarray(found.dataobj), label)
        np.testing.assert_allclose(found.affine, affine, atol=1e-3)
        assert found.get_data_dtype() == np.uint8


@EXAMPLES
@given(label=labels([0, 1, 2]), affine=affines(oblique=True), target=spacings)
def test_a_label_resampled_there_and_back_is_itself_beyond_a_voxel_of_its_boundary(trip, label, affine, target):
    with tempfile.TemporaryDirectory() as folder:
        found = trip(label, affine, target, Path(folder))
        np.testing.assert_allclose(found.affine, affine, atol=1e-3)
        answer = np.asarray(found.dataobj)
        assert answer.shape == label.shape
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        # half a voxel of the network's grid each way, and half of one that a turned axis lacks, which begins at its other end
        reach = [2 * math.ceil(t / s + 1e-6) + 1 for t, s in zip(target, spacing, strict=True)]
        far = maximum_filter(label, reach, mode="nearest") == minimum_filter(label, reach, mode="nearest")
        np.testing.assert_array_equal(answer[far], label[far])


@EXAMPLES
@given(
    label=labels([0, 1]), affine=affines(oblique=False),
    dtype=st.sampled_from([np.uint8, np.int8, np.int16, np.uint16, np.int32, np.float32, np.float64]),
    swapped=st.booleans(),
)  # fmt: skip
def test_the_voxel_type_of_the_image_does_not_matter(trip, label, affine, dtype, swapped):
    with tempfile.TemporaryDirectory() as folder:
        kind = np.dtype(dtype).newbyteorder(">") if swapped else np.dtype(dtype)
        found = trip(label, affine, [-1, -1, -1], Path(folder), kind)
        np.testing.assert_array_equal(np.asarray(found.dataobj), label)


@EXAMPLES
@given(
    indices=labels([0, 1, 2]), values=st.lists(st.integers(0, 255), min_size=3, max_size=3, unique=True),
    kind=st.sampled_from([np.uint8, np.int16, np.float32]),
)  # fmt: skip
def test_label_values_of_any_numbers_become_the_classes_in_their_order(trip, indices, values, kind):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "label.nii.gz"
        nib.save(nib.Nifti1Image(np.asarray(values)[indices].astype(kind), np.eye(4)), file)
        before, _ = trip.transforms([-1, -1, -1], values, Path(folder))
        np.testing.assert_array_equal(before({"image": str(file), "label": str(file)})["label"][0].numpy(), indices)


@EXAMPLES
@given(
    indices=labels([0, 1, 2]),
    values=st.lists(st.integers(-(2**24), 2**24) | st.integers(-300, 300), min_size=3, max_size=3, unique=True),
)
def test_label_values_of_any_size_come_back_in_a_prediction(trip, indices, values):
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.nii.gz"
        nib.save(nib.Nifti1Image(indices.astype(np.float32), np.eye(4)), image)
        before, after = trip.transforms([-1, -1, -1], values, Path(folder) / "predictions")
        loaded = before({"image": str(image)})
        answer = torch.nn.functional.one_hot(torch.as_tensor(indices).long(), 3).movedim(-1, 0).float()
        after({**loaded, "pred": MetaTensor(answer, meta=loaded["image"].meta)})
        after.transforms[-1].finish()
        (written,) = (Path(folder) / "predictions").glob("*_pred.*")
        np.testing.assert_array_equal(nib.load(written).dataobj, np.asarray(values)[indices])


# every format


def written(folder: Path, form: str, voxels: NDArray[Any], affine: NDArray[Any]) -> Path:
    """``(X, Y, Z)`` voxels on this grid, as a file or, of DICOM, a folder."""
    if form == "nii.gz":
        nib.save(nib.Nifti1Image(voxels, affine), folder / "image.nii.gz")
        return folder / "image.nii.gz"
    lps = LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    direction = lps[:3, :3] / spacing
    if form == "DICOM":
        if np.linalg.det(direction) < 0:  # a series is laid along the normal of its slices
            voxels, lps = (
                voxels[:, :, ::-1],
                lps @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, voxels.shape[2] - 1], [0, 0, 0, 1]]),
            )
        for k in range(voxels.shape[2]):
            place = placed((lps @ [0, 0, k, 1])[:3], direction, spacing)
            dicom(folder / f"image/{k}.dcm", np.ascontiguousarray(voxels[:, :, k]), place, number=k)
        return folder / "image"
    import itk

    image = itk.image_from_array(np.ascontiguousarray(voxels.T))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(direction)))
    itk.imwrite(image, str(folder / f"image.{form}"))
    return folder / f"image.{form}"


FORMS = {
    "nii.gz": [np.uint8, np.int16, np.float32, np.float64],
    "nrrd": [np.uint8, np.int16, np.uint16, np.float32],
    "mha": [np.uint8, np.int32, np.float64],
    "DICOM": [np.uint16, np.int16],
}


def bright(image: torch.Tensor) -> torch.Tensor:
    """A network that finds what is in the upper half of the intensities: logits ``(B, 2, *spatial)``."""
    return torch.nn.functional.one_hot((image[:, 0] >= 0.5).long(), 2).movedim(-1, 1).float()


@settings(EXAMPLES, max_examples=10)
@given(
    label=labels([0, 1], slices=2).filter(lambda mask: 0.05 < mask.mean() < 0.95), affine=affines(oblique=True),
    data=st.data(), slices=st.booleans(),
)  # fmt: skip
@pytest.mark.parametrize("form", FORMS)
def test_a_mask_in_an_image_of_any_format_comes_back_as_itself(trip, form, label, affine, data, slices):
    with tempfile.TemporaryDirectory() as folder:
        file = written(Path(folder), form, label.astype(data.draw(st.sampled_from(FORMS[form]))) * 100, affine)
        axes = 2 if slices else 3
        inferer = {
            "_target_": "SliceInferer" if slices else "SlidingWindowInferer",
            "roi_size": [16] * axes,
            "mode": "gaussian",
        }
        trip.parser["inferer"] = {**inferer, "overlap": 0.25} | ({"spatial_dim": 2} if slices else {})
        trip.parser["slices"], trip.parser["dimensions"] = slices, axes
        before, after = trip.transforms([-1, -1, -1], [0, 1], Path(folder) / "predictions")
        loaded = before({"image": str(file)})
        logits = trip.parser.get_parsed_content("inferer")(loaded["image"].as_tensor()[None], bright)[0]
        after({**loaded, "pred": MetaTensor(logits, meta=loaded["image"].meta)})
        after.transforms[-1].finish()
        (answer,) = (Path(folder) / "predictions").glob("*_pred.*")
        found, expected = map(nib.as_closest_canonical, (nib.load(answer), nib.Nifti1Image(label, affine)))
        np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(expected.dataobj))
        np.testing.assert_allclose(found.affine, expected.affine, atol=1e-3)
