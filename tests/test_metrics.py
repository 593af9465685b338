import math

import numpy as np
import pytest
from medpy.metric import binary as medpy

from custom.evaluation.metrics import ClassScore, CompatScore, case_scores, class_score, dice, surface_distances

ZERO = CompatScore(0.0, 0.0, 0.0, 0.0)


def brute_force_border(mask):
    """Voxels of the mask with a face neighbour outside it; beyond the image is outside."""
    voxels = {tuple(v) for v in np.argwhere(mask)}
    steps = [tuple(sign * (i == axis) for i in range(mask.ndim)) for axis in range(mask.ndim) for sign in (-1, 1)]
    border = [v for v in voxels if any(tuple(a + b for a, b in zip(v, s, strict=True)) not in voxels for s in steps)]
    return np.array(sorted(border), dtype=float)


def brute_force_distances(pred, label, spacing_mm):
    """All pairs of border voxels: nearest in the other, both ways."""
    a, b = (brute_force_border(mask) * np.array(spacing_mm) for mask in (pred, label))
    pairs = np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=-1))
    return pairs.min(axis=1), pairs.min(axis=0)


def percentile95(values):
    values = sorted(values)
    place = 0.95 * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (place - low) * (values[high] - values[low])


def random_masks(seed):
    """Two masks of the same random shape: blobs, full boxes that touch every edge, and specks."""
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(3, 9, size=2 + seed % 2))
    density = random.choice([0.1, 0.5, 0.95, 1.0], size=2)
    pred, label = (random.random(shape) < d for d in density)
    corner = tuple(random.integers(0, size) for size in shape)
    pred[corner] = label[corner[::-1] if len(set(shape)) == 1 else corner] = True
    return pred, label, random.uniform(0.3, 8.0, size=len(shape))


def voxels(shape, *places):
    mask = np.zeros(shape, dtype=bool)
    for place in places:
        mask[place] = True
    return mask


@pytest.mark.parametrize(
    ("pred", "label", "expected"),
    [
        ([1, 1, 0, 0], [0, 1, 1, 1], 2 * 1 / (2 + 3)),
        ([1, 1, 0, 0], [1, 1, 0, 0], 1.0),
        ([1, 1, 0, 0], [0, 0, 1, 1], 0.0),
        ([0, 0, 0, 0], [0, 0, 1, 1], 0.0),
        ([0, 0, 1, 1], [0, 0, 0, 0], 0.0),
        ([0, 0, 0, 0], [0, 0, 0, 0], math.nan),
    ],
)
def test_dice_in_closed_form(pred, label, expected):
    assert dice(np.array(pred, dtype=bool), np.array(label, dtype=bool)) == pytest.approx(expected, nan_ok=True)


def test_dice_of_numbers_counts_voxels_not_bits():
    assert dice(np.array([4, 0], dtype=np.uint8), np.array([2, 2], dtype=np.uint8)) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("pred", "label", "expected"),
    [([1, 1, 0, 0], [0, 1, 1, 1], 1 / 4), ([1, 1, 0], [1, 1, 0], 1.0), ([1, 0], [0, 1], 0.0), ([0, 0], [0, 1], 0.0)],
)
def test_jaccard_in_closed_form(pred, label, expected):
    score = class_score(np.array([pred]), np.array([label]), (1.0, 1.0))
    assert score.jaccard == pytest.approx(expected)
    assert score.compat.jaccard == pytest.approx(expected)


def test_distances_of_two_voxels_are_theirs_in_mm_and_in_voxels():
    pred, label = voxels((5, 5, 5), (0, 0, 0)), voxels((5, 5, 5), (1, 2, 2))
    score = class_score(pred, label, (12.0, 2.0, 1.5))
    assert score.hd95_mm == score.asd_mm == pytest.approx(math.sqrt(12**2 + 4**2 + 3**2))
    assert score.compat.hd95_voxels == score.compat.asd_voxels == pytest.approx(3.0)


@pytest.mark.parametrize("size_mm", [(2.0, 2.0), (2.0, 3.0)])
def test_hd95_pools_both_directions_and_asd_goes_from_prediction_to_label(size_mm):
    # pred is one end of a line of 21 voxels: distances 0 (pred) and 0, 1, ..., 20 (label). Of the 22 pooled ones the
    # 95th percentile lies at place 0.95 * 21 = 19.95 between 18 and 19; of the label's alone it would be 19.
    end, line = voxels((1, 21), (0, 0)), np.ones((1, 21), dtype=bool)
    there, back = class_score(end, line, size_mm), class_score(line, end, size_mm)
    assert there.hd95_mm == back.hd95_mm == pytest.approx(18.95 * size_mm[1])
    assert there.compat.hd95_voxels == pytest.approx(18.95)
    assert there.asd_mm == there.compat.asd_voxels == 0.0  # what the prediction misses does not count
    assert back.asd_mm == pytest.approx(10 * size_mm[1])  # the mean of 0..20
    assert back.compat.asd_voxels == pytest.approx(10)


def test_equal_masks_have_distance_zero():
    mask = random_masks(3)[0]
    score = class_score(mask, mask, (1.0,) * mask.ndim)
    assert score == ClassScore(1.0, 1.0, 0.0, 0.0, False, False, False, CompatScore(1.0, 1.0, 0.0, 0.0))


def test_outside_the_image_is_background_so_a_full_mask_has_a_shell():
    full = np.ones((5, 5, 5), dtype=bool)
    ours, theirs = surface_distances(full, full, (1.0, 1.0, 1.0))
    assert len(ours) == len(theirs) == 5**3 - 3**3


@pytest.mark.parametrize("seed", range(60))
def test_distances_equal_all_pairs(seed):
    pred, label, spacing_mm = random_masks(seed)
    found, expected = surface_distances(pred, label, spacing_mm), brute_force_distances(pred, label, spacing_mm)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.sort(ours), np.sort(theirs), atol=1e-6)
    pooled, score = np.concatenate(expected).tolist(), class_score(pred, label, spacing_mm)
    assert score.hd95_mm == pytest.approx(percentile95(pooled), abs=1e-6)
    assert score.asd_mm == pytest.approx(expected[0].mean(), abs=1e-6)


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("isotropic", [False, True])
def test_scores_equal_medpy(seed, isotropic):
    pred, label, spacing_mm = random_masks(seed)
    spacing_mm = (0.625,) * pred.ndim if isotropic else tuple(spacing_mm)
    score = class_score(pred, label, spacing_mm)
    assert score.dice == score.compat.dice == pytest.approx(medpy.dc(pred, label), abs=1e-12)
    assert score.jaccard == score.compat.jaccard == pytest.approx(medpy.jc(pred, label), abs=1e-12)
    assert score.hd95_mm == pytest.approx(medpy.hd95(pred, label, spacing_mm), abs=1e-6)
    assert score.asd_mm == pytest.approx(medpy.asd(pred, label, spacing_mm), abs=1e-6)
    assert score.compat.hd95_voxels == pytest.approx(medpy.hd95(pred, label), abs=1e-6)
    assert score.compat.asd_voxels == pytest.approx(medpy.asd(pred, label), abs=1e-6)


@pytest.mark.parametrize("place", [(0, 0, 0), (6, 7, 4), (3, 3, 2)])
def test_a_single_voxel_in_a_corner_or_inside_equals_medpy(place):
    label = np.zeros((7, 8, 5), dtype=bool)
    label[2:5, 2:6, 1:4] = True
    score = class_score(voxels(label.shape, place), label, (1.4, 1.4, 10.0))
    assert score.hd95_mm == pytest.approx(medpy.hd95(voxels(label.shape, place), label, (1.4, 1.4, 10.0)), abs=1e-6)
    assert score.asd_mm == pytest.approx(medpy.asd(voxels(label.shape, place), label, (1.4, 1.4, 10.0)), abs=1e-6)


def test_scores_of_a_case_equal_medpy_class_by_class():
    random = np.random.default_rng(0)
    pred, label = np.zeros((2, 12, 14, 9), dtype=np.uint8)
    pred[2:9, 3:11, 2:7] = random.integers(0, 4, (7, 8, 5))
    label[3:11, 2:9, 1:8] = random.integers(0, 4, (8, 7, 7))
    for i, score in enumerate(case_scores(pred, label, ["a", "b", "c"], (1.5, 1.2, 8.0)).values(), start=1):
        assert score.hd95_mm == pytest.approx(medpy.hd95(pred == i, label == i, (1.5, 1.2, 8.0)), abs=1e-6)
        assert score.asd_mm == pytest.approx(medpy.asd(pred == i, label == i, (1.5, 1.2, 8.0)), abs=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_large_borders_are_measured_alike_by_distance_transforms(seed, monkeypatch):
    pred, label, spacing_mm = random_masks(seed)
    there, too = (np.pad(mask, [(3, 2)] * mask.ndim) for mask in (pred, label))
    by_trees = surface_distances(there, too, spacing_mm)
    monkeypatch.setattr("custom.evaluation.metrics._MANY_BORDER_VOXELS", 0)
    monkeypatch.setattr("scipy.spatial.KDTree", None)  # no longer asked
    for tree, transform in zip(by_trees, surface_distances(there, too, spacing_mm), strict=True):
        np.testing.assert_allclose(transform, tree, atol=1e-9)  # in the same order
    score = class_score(there, too, spacing_mm)
    assert score.hd95_mm == pytest.approx(medpy.hd95(there, too, spacing_mm), abs=1e-6)
    assert score.asd_mm == pytest.approx(medpy.asd(there, too, spacing_mm), abs=1e-6)


def test_random_masks_are_of_both_dimensions_and_touch_the_edges():
    masks = [random_masks(seed)[0] for seed in range(60)]
    assert {mask.ndim for mask in masks} == {2, 3}
    assert sum(mask.all() for mask in masks) > 5


def test_distances_do_not_depend_on_where_the_pair_lies():
    pred, label, spacing_mm = random_masks(4)
    there, too = (np.pad(mask, [(7, 2)] * mask.ndim) for mask in (pred, label))
    moved, score = class_score(there, too, spacing_mm), class_score(pred, label, spacing_mm)
    assert (moved.hd95_mm, moved.asd_mm) == pytest.approx((score.hd95_mm, score.asd_mm), abs=1e-9)


@pytest.mark.parametrize(("false_alarm", "overlap"), [(False, 0.0), (True, math.nan)])
def test_a_missed_structure_has_dice_zero_a_false_alarm_none_and_neither_has_a_distance(false_alarm, overlap):
    pair = np.zeros((4, 4), dtype=int), voxels((4, 4), (1, 1)).astype(int)
    pred, label = pair[::-1] if false_alarm else pair
    score = case_scores(pred, label, ["polyp"], (1.0, 1.0))["polyp"]
    assert math.isnan(score.hd95_mm)
    assert math.isnan(score.asd_mm)
    assert (score.missed, score.false_alarm, score.empty_label) == (not false_alarm, false_alarm, false_alarm)
    assert (score.dice, score.jaccard) == pytest.approx((overlap, overlap), nan_ok=True)
    assert score.compat == ZERO  # the rule of published tables


def test_both_empty_is_not_counted_and_no_fault():
    empty = np.zeros((4, 4), dtype=int)
    score = case_scores(empty, empty, ["polyp"], (1.0, 1.0))["polyp"]
    for value in (score.dice, score.jaccard, score.hd95_mm, score.asd_mm):
        assert math.isnan(value)
    assert score.compat == ZERO
    assert (score.missed, score.false_alarm) == (False, False)
    assert score.empty_label


def test_classes_are_scored_by_their_index():
    label = np.array([[1, 1, 2, 0]])
    pred = np.array([[1, 0, 2, 2]])
    scores = case_scores(pred, label, ["RV", "LV"], (1.0, 5.0))
    assert list(scores) == ["RV", "LV"]
    for score in scores.values():  # distances 0 of the smaller mask; 0 and 5 mm of the larger: place 1.9 of (0, 0, 5)
        assert (score.dice, score.jaccard) == pytest.approx((2 / 3, 1 / 2))
        assert (score.missed, score.false_alarm) == (False, False)
        assert not score.empty_label
        assert score.hd95_mm == pytest.approx(4.5)
        assert score.compat.hd95_voxels == pytest.approx(0.9)
    assert scores["RV"].asd_mm == 0.0
    assert scores["LV"].asd_mm == pytest.approx((0 + 5) / 2)


def test_an_empty_mask_has_no_surface():
    with pytest.raises(ValueError, match="an empty mask has no surface"):
        surface_distances(np.zeros((3, 3), dtype=bool), np.ones((3, 3), dtype=bool), (1.0, 1.0))


@pytest.mark.parametrize("spacing_mm", [(1.0,), (1.0, 0.0), (1.0, -1.0), (1.0, math.nan), (1.0, 1.0, 1.0)])
def test_a_spacing_that_does_not_fit_is_refused_even_for_empty_masks(spacing_mm):
    empty = np.zeros((3, 3), dtype=bool)
    with pytest.raises(ValueError, match="spacing_mm needs 2 positive sizes in mm, one an axis, got"):
        class_score(empty, empty, spacing_mm)


def test_shapes_that_differ_are_refused():
    for score in (dice, lambda a, b: case_scores(a, b, ["x"], (1.0, 1.0))):
        with pytest.raises(ValueError, match=r"prediction \(3, 3\) and label \(3, 4\) differ in shape"):
            score(np.ones((3, 3), dtype=int), np.ones((3, 4), dtype=int))


@pytest.mark.parametrize(("value", "text"), [(3, "3"), (255, "255"), (-1, "-1"), (1.5, "1.5")])
def test_values_that_no_class_has_are_refused(value, text):
    label = np.array([[0, 1], [2, value]])
    with pytest.raises(ValueError, match=rf"label has the values {text}, the classes \['RV', 'LV'\] allow 0\.\.2"):
        case_scores(np.zeros((2, 2), dtype=np.uint8), label, ["RV", "LV"], (1.0, 1.0))
