"""What of a bundle decides whether an upload is taken."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from saying import raises

from annotate.requests_check import BadRequest
from annotate.uploads import judge_image, take_label
from custom.cohort.facts import read
from custom.cohort.formats.itk_image import quiet_itk


@dataclass
class Form:
    fill_nonfinite: bool
    channels: list[str] = field(default_factory=lambda: ["image"])
    label_values: list[int] = field(default_factory=lambda: [0, 1])
    dimensions: int = 3
    slices: bool = False
    orientation: str = ""
    spacing_mm: tuple[float, ...] | None = None

    @property
    def segments(self) -> dict[str, int]:
        return {f"class {value}": value for value in sorted(self.label_values)}


def test_a_nan_is_taken_where_the_bundle_fills_it_and_refused_where_it_does_not(tmp_path):
    voxels = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    voxels[0, 0, 0] = np.nan
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "a.nii.gz")
    judge_image(tmp_path / "a.nii.gz", Form(fill_nonfinite=True))
    with pytest.raises(BadRequest, match="non-finite"):
        judge_image(tmp_path / "a.nii.gz", Form(fill_nonfinite=False))


@pytest.mark.fault("31", "sent to an annotator, whose program shows it as it is stored")
def test_a_picture_that_slicer_shows_otherwise_than_viewers_is_refused(tmp_path):
    form = Form(fill_nonfinite=False, dimensions=2)
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    exif = Image.Exif()
    for name, exif[274] in (("a", 1), ("b", 3)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png", exif=exif)
    Image.fromarray(pixels // 32).save(tmp_path / "label.png")
    text = "^b.png says in EXIF .* 3D Slicer shows it as it is stored: .* Save it upright"
    judge_image(tmp_path / "a.png", form)
    take_label(tmp_path / "label.png", tmp_path / "a.png", form)
    with pytest.raises(BadRequest, match=text):
        judge_image(tmp_path / "b.png", form)
    with pytest.raises(BadRequest, match=text):
        take_label(tmp_path / "label.png", tmp_path / "b.png", form)


VALUES = [0, 600, 205]  # in the order of the task's classes; 205 is the first segment, 600 the second
SEGMENTS = [{"name": "class 205", "idx": 1}, {"name": "class 600", "idx": 2}]


def drawn(folder: Path, suffix: str, values: list[int]) -> tuple[Path, Path]:
    """An image and a label of three stripes."""
    pixels = np.repeat(np.asarray(values, np.uint16), 4)[:, None].repeat(6, axis=1)
    image, label = folder / f"image{suffix}", folder / f"label{suffix}"
    if suffix == ".png":
        Image.fromarray(np.arange(72, dtype=np.uint8).reshape(12, 6)).save(image)
        Image.fromarray(pixels).save(label)
    else:
        affine = np.diag([-2.0, 1.0, 3.0, 1.0])
        nibabel.save(
            nibabel.Nifti1Image(np.arange(72, dtype=np.int16).reshape(12, 6, 1).repeat(3, 2), affine), folder / "i.nii"
        )
        nibabel.save(nibabel.Nifti1Image(pixels[..., None].repeat(3, 2), affine), folder / "l.nii")
        for source, target in (("i.nii", image), ("l.nii", label)):
            itk = quiet_itk()
            itk.imwrite(itk.imread(str(folder / source)), str(target))
    return image, label


@pytest.mark.fault("34", "segments by number and files by value, in each format; neither")
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha", ".png"])
def test_segments_get_the_tasks_values_and_files_keep_theirs(tmp_path, suffix):
    form = Form(fill_nonfinite=False, dimensions=2 if suffix == ".png" else 3, label_values=VALUES)
    for values, segments in (([0, 1, 2], SEGMENTS), ([0, 205, 600], [])):
        image, label = drawn(tmp_path, suffix, values)
        before = read(label)
        take_label(label, image, form, segments)
        found = read(label)
        assert [value for value, _ in found.values] == [0, 205, 600]
        assert [count for _, count in found.values] == [count for _, count in before.values]
        assert (found.shape, found.affine) == (before.shape, before.affine)
    image, label = drawn(tmp_path, suffix, [0, 1, 2])
    with raises(BadRequest, "has the values {0, 1, 2}", "the task names {0, 600, 205}", "Remap 1, 2"):
        take_label(label, image, form)
    image, label = drawn(tmp_path, suffix, [0, 205, 600])
    with pytest.raises(BadRequest, match=r"has the values \{0, 205, 600\}, the task names 0..2"):
        take_label(label, image, form, SEGMENTS)


@pytest.mark.fault("19", "a segment with voxels whose name is not a class")
@pytest.mark.parametrize("named", ["Segment_1", "clas 205", "background"])
def test_a_segment_that_is_drawn_has_the_name_of_a_class(tmp_path, named):
    """Its number is its place in Slicer's list alone: by it, a segment of any other name would become some class."""
    form = Form(fill_nonfinite=False, label_values=VALUES)
    image, label = drawn(tmp_path, ".nii.gz", [0, 1, 2])
    before = label.read_bytes()
    hint = " (did you mean 'class 205'?)" if named == "clas 205" else ""
    found = ("label", "1 segment", f"{named!r} (number 1){hint};", "expected class 205, class 600.")
    with raises(BadRequest, *found, "Rename each", "in this order", "remove it"):
        take_label(label, image, form, [{"name": named, "idx": 1}, {"name": "Class 600", "idx": 2}])
    assert label.read_bytes() == before
    image, label = drawn(tmp_path, ".nii.gz", [0, 0, 2])
    take_label(label, image, form, [{"name": named, "idx": 1}, {"name": "class 600", "idx": 2}])  # empty: not judged
