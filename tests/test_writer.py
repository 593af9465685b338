"""The promises of custom/inference/writer.py: a prediction lies on the grid of its image, whatever the transforms between."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from dicom_files import dicom, placed
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import AsDiscreted, Compose, Invertd, LoadImage, LoadImaged, SaveImage, SaveImaged, Spacingd
from PIL import Image
from scan_files import OBLIQUE, SPACING, affine_ras, picture, write_itk, write_nifti, write_series

from custom.cohort.formats.itk_image import quiet_itk, read_image
from custom.cohort.reader import ScanReader
from custom.inference.writer import GEOMETRY, GridWriter, case_name

VOXELS = np.zeros((12, 10, 6), np.int16)
VOXELS[7:11, 3:5, 4] = 900  # what is found: bright


def loaded(path: Path) -> MetaTensor:
    return LoadImage(reader=ScanReader, ensure_channel_first=True)(path)


def predict(image: Path, out: Path, resample: Any = (1.0, 1.0, -1), suffix: str = ".nii.gz") -> Path:
    """Infer as inference.yaml does: load, resample, "network", back to the image's grid. Returns what was written."""
    load = LoadImaged(keys="image", reader=ScanReader, ensure_channel_first=True)
    before = Compose([load, Spacingd(keys="image", pixdim=resample, mode="bilinear")] if resample else [load])
    save = SaveImaged(keys="pred", output_dir=out, output_postfix="pred", output_ext=suffix, separate_folder=False,
                      print_log=False, writer=GridWriter, output_name_formatter=case_name)  # fmt: skip
    invert = Invertd(keys="pred", transform=before, orig_keys="image", nearest_interp=False, to_tensor=True)
    after = Compose([*([invert] if resample else []), AsDiscreted(keys="pred", argmax=True), save])
    (batch,) = DataLoader(Dataset([{"image": str(image)}], before), batch_size=1)
    batch["pred"] = torch.cat([450 - batch["image"], batch["image"] - 450], dim=1)  # logits: bright or not
    for case in decollate_batch(batch):
        after(case)
    (written,) = out.iterdir()
    return written


def save(pred: torch.Tensor, meta: dict, out: Path, label_values: Sequence[int] = range(256), **options: Any) -> None:
    writer = partial(GridWriter, label_values=label_values)
    SaveImage(out, writer=writer, print_log=False, **options)(MetaTensor(pred, meta=meta))


# NIfTI

HEADERS: dict[str, dict[str, Any]] = {
    "both transforms": {},
    "sform of 1 mm against voxel sizes": {"qform_code": 0, "sform_code": 2, "pixdim": [1, 1.5, 1.25, 8, 0, 0, 0, 0],
        "srow_x": [-1, 0, 0, 0], "srow_y": [0, -1, 0, 0], "srow_z": [0, 0, 1, 0]},
    "qform alone, mirrored": {"qform_code": 1, "sform_code": 0, "pixdim": [-1, 1.5, 1.25, 8, 2.5, 0, 0, 0],
        "quatern_b": 0.5, "quatern_c": 0.5, "quatern_d": 0.5, "qoffset_x": 7, "xyzt_units": 10},
    "two transforms that differ": {"qform_code": 1, "sform_code": 4, "qoffset_x": 99},
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_a_nifti_prediction_has_the_geometry_of_the_images_own_header(tmp_path, name):
    image = write_nifti(tmp_path / "p01.nii.gz", VOXELS, affine_ras(), **HEADERS[name])
    written = predict(image, tmp_path / "out")
    assert written.name == "p01_pred.nii.gz"
    mine, its = nib.load(written), nib.load(image)
    for field in GEOMETRY:
        np.testing.assert_array_equal(mine.header[field], its.header[field], err_msg=field)
    np.testing.assert_array_equal(mine.affine, its.affine)
    assert mine.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(mine.dataobj), VOXELS > 0)


def test_neither_scaling_nor_texts_of_the_image_are_copied(tmp_path):
    image = write_nifti(tmp_path / "p01.nii", VOXELS, cal_max=900, descrip=b"a patient's name")
    with image.open("r+b") as file:  # scl_slope, scl_inter
        file.seek(112)
        file.write(np.array([2, 5], "<f4").tobytes())
    written = nib.load(predict(image, tmp_path / "out", resample=None))
    assert (written.header["cal_max"], bytes(written.header["descrip"].item())) == (0, b"")
    assert set(np.unique(written.dataobj)) == {0, 1}


def test_a_big_endian_image_and_a_nifti_2_image(tmp_path):
    for kind, name in ((nib.Nifti1Image, "big.nii"), (nib.Nifti2Image, "two.nii.gz")):
        header = kind.header_class(endianness=">" if name == "big.nii" else "<")
        nib.save(kind(VOXELS, affine_ras(), header), tmp_path / name)
        written = nib.load(predict(tmp_path / name, tmp_path / f"out_{name}"))
        np.testing.assert_array_equal(written.affine, nib.load(tmp_path / name).affine)
        np.testing.assert_array_equal(np.asarray(written.dataobj), VOXELS > 0)


def test_an_axis_of_one_slice_stays(tmp_path):
    image = write_nifti(tmp_path / "p01.nii.gz", VOXELS[:, :, 4:5])
    assert nib.load(predict(image, tmp_path / "out", resample=None)).shape == (12, 10, 1)


# other formats


def test_a_dicom_prediction_lies_on_the_grid_of_its_series(tmp_path):
    series = write_series(tmp_path / "1.2.840.7", VOXELS)
    written = predict(series, tmp_path / "out")
    assert written.name == "1.2.840.7_pred.nii.gz"
    mine = nib.load(written)
    np.testing.assert_array_equal(np.asarray(mine.dataobj), VOXELS > 0)
    np.testing.assert_allclose(mine.affine, affine_ras(), atol=1e-5)
    # a known voxel's place, by the definition of DICOM: position of the first + steps along its axes, LPS
    place = np.array([10.0, -20.0, 30.0]) + OBLIQUE @ (np.array([7, 3, 4]) * SPACING)
    np.testing.assert_allclose(nib.affines.apply_affine(mine.affine, [7, 3, 4]), place * [-1, -1, 1], atol=1e-4)
    assert (mine.header["qform_code"], mine.header["sform_code"], mine.header.get_xyzt_units()[0]) == (1, 1, "mm")


def test_the_prediction_of_a_ct_with_a_tilted_gantry_has_one_transform(tmp_path):
    """A qform holds no shear: beside the sform it would be another answer."""
    for k in range(6):
        place = placed((0, 10 - 0.9 * k, 2.5 * k), np.eye(3))
        dicom(tmp_path / f"p01/{k}.dcm", VOXELS[:, :, k], place, number=k)
    mine = nib.load(predict(tmp_path / "p01", tmp_path / "out", (1.0, 1.0, 2.5)))
    np.testing.assert_array_equal(np.asarray(mine.dataobj), VOXELS > 0)
    assert (mine.header["qform_code"], mine.header["sform_code"]) == (0, 1)
    np.testing.assert_allclose(nib.affines.apply_affine(mine.affine, [7, 3, 4]), (-7, -(3 + 10 - 3.6), 10), atol=1e-5)


def test_itk_and_nibabel_agree_about_what_was_written(tmp_path):
    written = predict(write_series(tmp_path / "p01", VOXELS), tmp_path / "out")
    mask, series = read_image(written), read_image(tmp_path / "p01")
    for index in ([0, 0, 0], [7, 3, 4], [11, 9, 5]):
        its = mask.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(its, series.TransformIndexToPhysicalPoint(index), atol=1e-3)
        ras = nib.affines.apply_affine(nib.load(written).affine, index)
        np.testing.assert_allclose(np.asarray(its) * [-1, -1, 1], ras, atol=1e-4)
    assert mask.GetPixel([7, 3, 4]) == 1
    assert mask.GetPixel([3, 7, 4]) == 0


@pytest.mark.parametrize("name", ["p01.nrrd", "p01.mha"])
def test_nrrd_and_mha_give_their_affine_as_read(tmp_path, name):
    mine = nib.load(predict(write_itk(tmp_path / name, VOXELS), tmp_path / "out"))
    np.testing.assert_allclose(mine.affine, affine_ras(), atol=1e-5)
    np.testing.assert_array_equal(np.asarray(mine.dataobj), VOXELS > 0)


# pictures


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_pictures_prediction_is_a_grey_png_of_class_numbers_in_its_own_axes(tmp_path, suffix):
    pixels = np.zeros((20, 30), np.uint8)
    pixels[2:5, 8:16] = 255
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}")
    load = LoadImage(reader=ScanReader, ensure_channel_first=True)
    image = load(tmp_path / f"a{suffix}")
    pred = MetaTensor((image > 128) * 2.0, meta=image.meta)
    SaveImage(tmp_path / "out", "pred", ".png", separate_folder=False, print_log=False, writer=GridWriter)(pred)
    with Image.open(tmp_path / "out/a_pred.png") as written:
        assert (written.mode, written.size) == ("L", (30, 20))
        np.testing.assert_array_equal(np.asarray(written), (pixels > 128) * 2)
    torch.testing.assert_close(load(tmp_path / "out/a_pred.png").as_tensor(), pred.as_tensor())


# number formats


@pytest.mark.fault("30", "negative, above 255, above 65535; a case with a few of them")
@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 1], np.uint8),
        ([0, 255], np.uint8),
        ([0, 205, 500, 600], np.int16),  # as uint8 0, 205, 244, 88
        ([-1, 0, 1], np.int16),
        ([0, 40000], np.uint16),
        ([-1, 40000], np.int32),
        ([0, 2**24], np.int32),
    ],
)
def test_the_smallest_format_that_holds_the_tasks_values_also_where_a_case_has_few_of_them(tmp_path, values, kind):
    image = loaded(write_nifti(tmp_path / "p01.nii.gz", VOXELS))
    pred = torch.where(image > 0, values[-1], values[0])
    for number, answer in enumerate([pred, torch.full_like(pred, values[0])]):
        save(answer, dict(image.meta), tmp_path / str(number), label_values=values)
        (written,) = (tmp_path / str(number)).rglob("*.nii.gz")
        assert nib.load(written).get_data_dtype() == kind
        np.testing.assert_array_equal(nib.load(written).dataobj, answer[0])
        np.testing.assert_array_equal(loaded(written)[0], answer[0])


@pytest.mark.fault("30", "in PNG, of 8 and of 16 bits")
@pytest.mark.parametrize(("values", "mode"), [([0, 255], "L"), ([0, 205, 500, 600], "I;16"), ([0, 65535], "I;16")])
def test_a_png_has_8_or_16_bits_by_the_tasks_values(tmp_path, values, mode):
    picture(tmp_path / "a.png", np.arange(600, dtype=np.uint16).reshape(20, 30))
    image = loaded(tmp_path / "a.png")
    pred = torch.where(image > 300, values[-1], values[0])
    save(pred, dict(image.meta), tmp_path / "out", label_values=values, output_ext=".png")
    (written,) = (tmp_path / "out").rglob("*.png")
    with Image.open(written) as opened:
        assert opened.mode == mode
        np.testing.assert_array_equal(np.asarray(opened).T, pred[0])


# refused


@pytest.mark.fault("30", "a prediction with a value of no class")
def test_values_that_a_file_cannot_hold_are_refused(tmp_path):
    volume, flat = loaded(write_nifti(tmp_path / "p01.nii.gz", VOXELS)), loaded(picture(tmp_path / "a.png"))[:1]
    for image, values, suffix, text in (
        (
            volume,
            [0, 1],
            ".nii.gz",
            r"for p01.nii.gz with the values \{900\}, the task names 0..1; put AsDiscreted and",
        ),
        (volume / 1800, [0, 1], ".nii.gz", r"with the values \{0.5\}, the task names 0..1"),
        (volume, [0, 2**31], ".nii.gz", "NIfTI holds whole numbers from -2147483648 to 2147483647. Give the classes"),
        (
            flat * 0,
            [-1, 0],
            ".png",
            r"for a.png: label_values -1..0: PNG, in which .* holds whole numbers from 0 to 65535",
        ),
    ):
        with pytest.raises(RuntimeError, match=text):
            save(image.as_tensor(), dict(image.meta), tmp_path / "out", label_values=values, output_ext=suffix)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_another_shape_or_affine_is_refused(tmp_path):
    image = loaded(write_nifti(tmp_path / "p01.nii.gz", VOXELS))
    for pred, meta, text in (
        (
            image[..., :-1],
            image.meta,
            "a prediction of 12x10x5 voxels for p01.nii.gz, expected 12x10x6; put Invertd before",
        ),
        (
            image,
            {**image.meta, "affine": np.diag([1, 1, 2, 1])},
            "a prediction for p01.nii.gz with another affine than",
        ),
        (
            torch.cat([image, image]),
            image.meta,
            "a prediction has one channel, found 2x12x10x6; put AsDiscreted before",
        ),
    ):
        with pytest.raises(RuntimeError, match=text):
            save(torch.as_tensor(pred), dict(meta), tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.nii.gz"))


@pytest.mark.parametrize("name", ["p01.nii.gz", "p01.nii"])
def test_the_prediction_of_a_nifti_of_two_axes_is_one_with_its_axes_and_spacing(tmp_path, name):
    """A bundle of pictures writes PNG, which would lie transposed and without its spacing."""
    image = write_nifti(tmp_path / name, VOXELS[:, :, 4], np.diag([0.3, 0.15, 1.0, 1.0]))
    written = predict(image, tmp_path / "out", resample=None, suffix=".png")
    assert written.name == "p01_pred.nii.gz"
    mine, its = nib.load(written), nib.load(image)
    np.testing.assert_array_equal(np.asarray(mine.dataobj), VOXELS[:, :, 4] > 0)
    np.testing.assert_allclose(mine.header.get_zooms(), (0.3, 0.15), rtol=1e-6)
    np.testing.assert_array_equal(mine.affine, its.affine)


def test_the_prediction_of_an_nrrd_of_two_axes_keeps_its_spacing(tmp_path):
    itk = quiet_itk()
    image = itk.image_from_array(np.ascontiguousarray(VOXELS[:, :, 4].T))
    image.SetSpacing([0.3, 0.15])
    itk.imwrite(image, str(tmp_path / "p01.nrrd"))
    mine = nib.load(predict(tmp_path / "p01.nrrd", tmp_path / "out", resample=None, suffix=".png"))
    np.testing.assert_array_equal(np.asarray(mine.dataobj), VOXELS[:, :, 4] > 0)
    np.testing.assert_allclose(mine.header.get_zooms(), (0.3, 0.15), rtol=1e-6)


@pytest.mark.parametrize(
    ("path", "name"),
    [("/d/p01.nii.gz", "p01"), ("/d/p.01.nii", "p.01"), ("/d/1.2.3", "1.2.3"), ("/d/a.b.jpg", "a.b")],
)
def test_the_name_of_a_prediction(tmp_path, path, name):
    saver = SaveImage(tmp_path, "pred", separate_folder=False, output_name_formatter=case_name)
    written = saver.folder_layout.filename(**case_name({"filename_or_obj": path}, saver))
    assert written == str(tmp_path / f"{name}_pred.nii.gz")


@pytest.mark.parametrize("name", ["pred.nii", "pred.nii.gz"])
def test_the_digest_that_is_told_before_a_file_has_its_name_is_the_files(tmp_path, name):
    image, reported = write_nifti(tmp_path / "p01.nii.gz", VOXELS), []
    writer = GridWriter([0, 1], lambda path, sha256: reported.append((path.exists(), path.name, sha256)))
    writer.set_data_array(torch.from_numpy(VOXELS > 0)[None])
    writer.set_metadata({"filename_or_obj": str(image), "spatial_shape": VOXELS.shape})
    writer.write(str(tmp_path / name))
    assert reported == [(False, name, hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())]
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / name).dataobj), VOXELS > 0)
