"""Where classes lie, read from label files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cohort_files import save_grey
from scan_files import write_nifti

from custom.study.places import Place, class_places, same_side, sides


def label(file: Path, value: int, *where: slice, affine: np.ndarray | None = None) -> dict[str, str]:
    voxels = np.zeros((10, 20, 4), np.uint8)
    voxels[where] = value
    return {"patient": file.name[:2], "label": str(write_nifti(file, voxels, affine))}


def test_the_centroid_is_a_share_of_the_extent_from_the_middle(tmp_path):
    entry = label(tmp_path / "p0.nii", 3, slice(9, 10), slice(0, 20), slice(0, 2))
    assert class_places([entry], [1, 3]) == [Place("p0", 3, pytest.approx((0.45, 0.0, -0.25)))]


def test_a_volume_is_turned_to_ras_first(tmp_path):
    """Stored as LPS, the voxel with the last x and the first y lies left and front."""
    where = slice(9, 10), slice(0, 1), slice(0, 4)
    entry = label(tmp_path / "p0.nii", 1, *where, affine=np.diag([-1.0, -1.0, 1.0, 1.0]))
    assert class_places([entry], [1])[0].centre == pytest.approx((-0.45, 0.475, 0.0))


def test_a_picture_is_read_as_it_is_shown(tmp_path):
    pixels = np.zeros((10, 20), np.uint8)  # rows, columns
    pixels[0, :10] = 255
    save_grey(tmp_path / "p0.png", pixels)
    (place,) = class_places([{"patient": "p0", "label": str(tmp_path / "p0.png")}], [255])
    assert place.centre == pytest.approx((-0.25, -0.45))
    (across, down) = sides([Place(f"p{i}", 255, place.centre) for i in range(9)], {255: "polyp"}, [0, 1])
    assert across.why == "polyp lies to the left of the middle in all 9 labelled patients"
    assert down.why == "polyp lies to the top of the middle in all 9 labelled patients"


def test_of_many_labels_some_from_all_over_the_list_are_read(tmp_path):
    entries = [label(tmp_path / f"p{i}.nii", 1, slice(i, i + 1)) for i in range(9)]
    assert [place.patient for place in class_places(entries, [1], most=3)] == ["p0", "p3", "p6"]


@pytest.mark.parametrize(("offsets", "known"), [
    ([0.5], False),  # one patient says nothing
    ([0.23] * 2, False),  # t(4) = 2.776, spread sqrt(3 * 0.08^2 / 4), times sqrt(3 / 2): 0.2356
    ([0.24] * 2, True),
    ([-0.24] * 2, True),
    ([0.2, 0.4], False),  # spread sqrt((3 * 0.08^2 + 0.02) / 4): 0.3366 against 0.3
    ([0.3, 0.5], True),  # against 0.4
    ([-0.05, -0.2, -0.1, -0.15, -0.1], False),  # five tumours on the left
    ([0.2] * 30 + [-0.001], False),  # one is on the other side
])  # fmt: skip
def test_a_side_is_known_where_the_next_patient_is_expected_there_as_well(offsets, known):
    assert same_side(np.array(offsets)) is known
