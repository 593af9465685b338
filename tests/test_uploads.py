"""What of a bundle decides whether an upload is taken."""

from __future__ import annotations

from dataclasses import dataclass, field

import nibabel
import numpy as np
import pytest

from annotate.requests_check import BadRequest
from annotate.uploads import judge_image


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
