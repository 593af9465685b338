import math

import numpy as np
import pytest

from custom.evaluation.hardness import QUARTILE, REACH, boundary_dice, contrast, lowest_quartile

FLAT = (1.0, 1.0)


def square(size, half):
    """A square of ``2 half`` pixels a side in the middle of ``size``."""
    label = np.zeros((size, size), dtype=np.uint8)
    label[size // 2 - half : size // 2 + half, size // 2 - half : size // 2 + half] = 1
    return label


def test_contrast_in_closed_form():
    label = square(40, 4)
    picture = np.where(label, 30.0, 10.0)
    picture[:20] = np.where(label[:20], 30.0, 20.0)  # the upper half of the ring is brighter
    picture[0, 0], picture[0, 1] = (
        -1000.0,
        1000.0,
    )  # one voxel of 1600 each, below the 0.5th percentile: no say in the scale
    assert contrast(picture[None], label, FLAT) == pytest.approx((30 - (10 + 20) / 2) / (30 - 10))


def test_contrast_does_not_depend_on_the_scanners_units():
    label, random = square(40, 4), np.random.default_rng(0)
    picture = label + random.normal(size=(1, 40, 40))
    assert contrast(1000 - 7 * picture, label, FLAT) == pytest.approx(contrast(picture, label, FLAT))


def test_contrast_looks_no_further_than_the_ring_and_not_at_other_classes():
    label = square(60, 4)
    label[22:26, 22:26] = 2  # touches the square: foreground too, so not what surrounds it
    near = np.zeros((60, 60), dtype=bool)
    near[26 - REACH : 34 + REACH, 26 - REACH : 34 + REACH] = True
    near[22 - REACH : 26 + REACH, 22 - REACH : 26 + REACH] = True
    picture = np.where(label, 1.0, np.where(near, 0.5, 0.0))
    assert contrast(picture[None], label, FLAT) == pytest.approx(0.5)


def test_contrast_of_several_channels_is_the_mean_of_theirs():
    label = square(40, 4)
    bright, dark = np.where(label, 3.0, 1.0), np.where(label, -3.0, 1.0)
    dull = np.full(label.shape, 5.0)
    assert contrast(np.stack([bright, dark]), label, FLAT) == pytest.approx(1.0)  # opposite signs do not cancel
    assert contrast(np.stack([bright, dark, dull]), label, FLAT) == pytest.approx(2 / 3)


def test_contrast_of_pixels_that_are_bytes():
    label = square(40, 4)
    assert contrast(np.where(label, 200, 250).astype(np.uint8)[None], label, FLAT) == pytest.approx(1.0)


def test_along_thick_slices_the_surroundings_are_the_slice_itself():
    label = np.zeros((30, 30, 3), dtype=np.uint8)
    label[11:19, 11:19, 1] = 1
    picture = np.where(label, 1.0, 0.5)
    picture[..., (0, 2)] = 0.0
    assert contrast(picture[None], label, (1.0, 1.0, 8.0)) == pytest.approx(0.5)
    assert contrast(picture[None], label, (1.0, 1.0, 1.0)) > 0.6


def test_contrast_is_not_a_number_where_there_is_nothing_to_compare():
    picture = np.ones((1, 6, 6))
    assert math.isnan(contrast(picture, np.zeros((6, 6), dtype=np.uint8), FLAT))
    assert math.isnan(contrast(picture, np.ones((6, 6), dtype=np.uint8), FLAT))


def test_contrast_of_a_picture_on_another_grid_is_refused():
    with pytest.raises(ValueError, match=r"picture \(1, 6, 7\) and label \(6, 6\) do not share one grid"):
        contrast(np.ones((1, 6, 7)), np.ones((6, 6)), FLAT)


def test_boundary_dice_in_closed_form():
    label = np.zeros(60, dtype=np.uint8)
    label[20:50] = 1  # the band is 15..24 and 45..54: five inside and five outside of both ends
    pred = label.copy()
    pred[20:22] = 0  # two of the ten inside
    assert boundary_dice(pred, label, (1.0,)) == pytest.approx(2 * 8 / (8 + 10))
    pred[50:53] = 1  # three of the ten outside
    assert boundary_dice(pred, label, (1.0,)) == pytest.approx(2 * 8 / (11 + 10))


def test_boundary_dice_sees_nothing_beyond_the_band():
    label = square(60, 10)
    pred = label.copy()
    pred[28:32, 28:32] = 0  # a hole, six voxels from the surface
    pred[:3] = 1
    assert boundary_dice(pred, label, FLAT) == 1.0


def test_boundary_dice_is_the_mean_over_the_classes_of_the_reference():
    label = np.zeros((40, 80), dtype=np.uint8)
    label[15:25, 10:20], label[15:25, 50:60] = 1, 3
    pred = np.where(label == 1, label, 0)  # class 3 is missed
    pred[0, 0] = 2  # the reference has none
    assert boundary_dice(pred, label, FLAT) == pytest.approx((1 + 0) / 2)


def test_boundary_dice_in_three_dimensions_goes_by_the_finest_side():
    label = np.zeros((30, 30, 9), dtype=np.uint8)
    label[10:20, 10:20, 2:7] = 1
    pred = label.copy()
    pred[10:20, 10:20, 7] = 1  # a slice too many
    assert boundary_dice(pred, label, (1.0, 1.0, 8.0)) == 1.0  # 8 mm from the surface: beyond five voxels of 1 mm
    assert boundary_dice(pred, label, (1.0, 1.0, 2.0)) < 1.0


def test_boundary_dice_has_no_number_without_a_surface():
    nothing, full = np.zeros((8, 8), dtype=np.uint8), np.ones((8, 8), dtype=np.uint8)
    assert math.isnan(boundary_dice(full, nothing, FLAT))
    assert math.isnan(boundary_dice(full, full, FLAT))  # the image cuts it: its border is not in the image


def test_lowest_quartile_is_a_quarter_of_the_cases_with_a_contrast():
    rows = [
        {"case": i, "contrast": value} for i, value in enumerate([0.5, 0.1, math.nan, 0.9, 0.2, 0.3, 0.4, 0.8, 0.7])
    ]
    hard, rest = (
        [row["case"] for row in part] for part in (lowest_quartile(rows)[name] for name in QUARTILE)
    )  # fmt: skip
    assert (hard, rest) == ([1, 4], [0, 3, 5, 6, 7, 8])


@pytest.mark.parametrize("values", [[0.1, 0.2, 0.3], [0.1, 0.2, 0.3, math.nan], [0.2] * 8, [None] * 5])
def test_there_is_no_quartile_of_few_cases_or_of_equal_ones(values):
    assert lowest_quartile([{"case": i, "contrast": value} for i, value in enumerate(values)]) == {}
    assert lowest_quartile([{"case": i} for i in range(8)]) == {}


def test_a_single_bright_voxel_in_the_foreground_counts_no_more_than_the_range_of_the_image():
    label = square(40, 4)
    picture = np.where(label, 1.0, 0.0)
    picture[20, 20] = 1e6  # one of 1600: beyond the 99.5th percentile
    assert contrast(picture[None], label, FLAT) == pytest.approx(1.0)


def test_a_case_at_the_quartile_itself_belongs_to_the_lowest_quartile():
    rows = [{"case": i, "contrast": i / 10} for i in range(1, 6)]  # the first quartile of five numbers is the second
    assert [row["case"] for row in lowest_quartile(rows)[QUARTILE[0]]] == [1, 2]


def test_a_contrast_of_exactly_0_counts_among_the_lowest():
    from custom.evaluation.hardness import lowest_quartile

    rows = [{"case": str(i), "contrast": value} for i, value in enumerate((0.0, 0.2, 0.3, 0.4))]
    assert [row["case"] for row in next(iter(lowest_quartile(rows).values()))] == ["0"]
