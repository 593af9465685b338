"""What of a bundle decides whether an upload is taken."""

from __future__ import annotations

from dataclasses import dataclass, field

import nibabel
import numpy as np
import pytest
from PIL import Image

from annotate.requests_check import BadRequest
from annotate.uploads import judge_image, judge_label


@dataclass
class Form:
    fill_nonfinite: bool
    channels: list[str] = field(default_factory=lambda: ["image"])
    classes: list[str] = field(default_factory=lambda: ["background", "organ"])
    dimensions: int = 3
    slices: bool = False


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
    text = "^b.png says in EXIF how it is to be turned, and 3D Slicer shows it as it is stored: .* Save it upright"
    judge_image(tmp_path / "a.png", form)
    judge_label(tmp_path / "label.png", tmp_path / "a.png", form)
    with pytest.raises(BadRequest, match=text):
        judge_image(tmp_path / "b.png", form)
    with pytest.raises(BadRequest, match=text):
        judge_label(tmp_path / "label.png", tmp_path / "b.png", form)
