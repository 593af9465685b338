"""The promises of custom/study/quality.py: sums a reader can do on paper, then what holds for every input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from saying import raises, says

from custom.study import quality
from custom.study.quality import FEWEST, MODELS, ScanFeatures, agreement, pool_adjacent_violators, predict


def held_out(agreements, dices, confidences=None, patients=None):
    count = len(agreements)
    patients, confidences = patients or [f"p{i}" for i in range(count)], confidences or [0.9] * count
    rows = zip(agreements, confidences, patients, dices, strict=True)
    return [ScanFeatures(f"s{i}", a, c, p, d) for i, (a, c, p, d) in enumerate(rows)]


def new(*agreements):
    return [ScanFeatures(f"u{i}", a, 0.9) for i, a in enumerate(agreements)]


# Agreement


@pytest.mark.parametrize(("maps", "expected"), [
    ([[0, 1, 1, 2], [0, 1, 1, 2]], 1.0),
    ([[1, 1, 0, 0], [0, 1, 1, 0]], 2 * 1 / (2 + 2)),
    ([[1, 1, 2, 0], [1, 0, 2, 2]], (2 * 1 / 3 + 2 * 1 / 3) / 2),  # the mean of two classes
    ([[1, 1, 2, 0], [1, 1, 0, 0]], (1 + 0) / 2),  # class 2 in one of the two: 0
    ([[1, 1, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0]], (1 + 1 / 2 + 1 / 2) / 3),  # the mean of three pairs
    ([[1, 0], [0, 0], [0, 0]], 0.0),  # two pairs disagree, the empty pair says nothing
    ([[0, 0], [0, 0]], math.nan),  # nothing found: they agree on nothing
])  # fmt: skip
def test_agreement_in_closed_form(maps, expected):
    found = agreement([np.array(labels, np.uint8).reshape(2, -1) for labels in maps], classes=3)
    assert found == pytest.approx(expected, nan_ok=True)


def test_agreement_is_the_same_in_any_order():
    random = np.random.default_rng(0)
    maps = [random.integers(4, size=(5, 6, 7)) for _ in range(3)]
    assert agreement(maps, 4) == pytest.approx(agreement(maps[::-1], 4), abs=1e-15)


@pytest.mark.parametrize(("maps", "text"), [
    ([np.zeros((2, 2), int)], "agreement is between two label maps at least, got 1"),
    ([np.zeros((2, 2), int), np.zeros((2, 3), int)], r"label maps differ in shape: \(2, 2\), \(2, 3\)"),
    ([np.zeros(2, int), np.array([0, 3])], r"expected whole numbers 0..2 in a label map, got int64 from 0 to 3"),
    ([np.zeros(2, int), np.array([0, -1])], r"expected whole numbers 0..2 in a label map, got int64 from -1 to 0"),
    ([np.zeros(2), np.zeros(2, int)], r"expected whole numbers 0..2 in a label map, got float64"),
])  # fmt: skip
def test_maps_that_do_not_fit_are_refused(maps, text):
    with pytest.raises(ValueError, match=text):
        agreement(maps, classes=3)


# Models


def test_a_line_is_recovered_but_for_the_ridge():
    """The slope found from n scans on a line is n / (n + 1) of the true one, and the line passes through their mean."""
    at = np.linspace(0.5, 0.9, 9)
    line = MODELS["line"](np.stack([at, np.full(9, 0.9)], axis=1), 0.2 + 0.8 * at, np.arange(9))
    new = np.array([0.6, 0.7, 1.0])
    np.testing.assert_allclose(line(np.stack([new, np.full(3, 0.9)], axis=1)), 0.76 + 0.9 * 0.8 * (new - 0.7))


def test_what_the_chosen_model_says_comes_with_its_basis():
    at = np.linspace(0.5, 0.9, 9)
    found = predict(held_out(at, 0.2 + 0.8 * at), new(0.5, 0.9))
    assert found.predicted == pytest.approx({"u0": 0.6, "u1": 0.92})  # isotonic: through every point
    assert found.useful
    assert found.rank_correlation == pytest.approx(1)
    assert (found.model, found.reason, found.scans, found.patients) == ("isotonic", "", 9, 9)


def test_error_and_naive_error_in_closed_form():
    """All agreement equal: each patient is guessed by the mean of the others, y_i - mean of the others = n / (n - 1) of
    its distance from the mean."""
    found = predict(held_out([0.8] * 4, [0.5, 0.6, 0.8, 0.9]), new(0.85, 0.9))
    assert found.model == "constant"
    assert found.error == found.naive_error == pytest.approx(4 / 3 * (0.2 + 0.1 + 0.1 + 0.2) / 4)
    assert not found.useful
    assert math.isnan(found.rank_correlation)
    assert found.predicted == pytest.approx({"u0": 0.7, "u1": 0.7})
    assert found.first == ("u0", "u1")  # by agreement, where the prediction is the same


def test_a_step_is_found_by_isotonic_regression():
    at = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    found = predict(held_out(at, [0.2] * 5 + [0.9] * 5), new(0.1, 0.25, 0.55, 0.95))
    assert found.model == "isotonic"
    assert found.predicted == pytest.approx({"u0": 0.2, "u1": 0.2, "u2": 0.55, "u3": 0.9})


@pytest.mark.parametrize(("dices", "model"), [
    ([0.93, 0.93, 0.93, 0.94, 0.96, 0.97, 0.97, 0.97, 0.98], "isotonic"),  # level at its foot
    ([0.84, 0.87, 0.86, 0.9, 0.89, 0.93, 0.92, 0.96, 0.95], "line"),
])  # fmt: skip
def test_where_networks_agree_less_than_on_any_labelled_scan_there_is_no_figure(dices, model):
    """All labelled scans are outlined well: what they teach says nothing of an outline that is not."""
    found = predict(held_out(np.linspace(0.9, 0.98, 9), dices), new(0.95, 0.3, 0.9, 0.89, 1.0))
    assert (found.model, found.useful) == (model, True)
    assert found.beyond == ("u1", "u3")
    assert [name for name, dice in found.predicted.items() if math.isnan(dice)] == ["u1", "u3"]
    assert found.first == ("u1", "u3", "u2", "u0", "u4")  # before all that have a figure


def test_without_a_figure_for_any_scan_those_beyond_are_known_all_the_same():
    found = predict(held_out([0.8] * 4, [0.5, 0.6, 0.8, 0.9]), new(0.2, 0.9))
    assert (found.useful, found.beyond, found.first) == (False, ("u0",), ("u0", "u1"))


def test_confidence_is_used_where_agreement_says_nothing():
    confidences = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    scans = held_out([0.8] * 6, [0.4, 0.5, 0.6, 0.7, 0.8, 0.9], confidences)
    found = predict(scans, [ScanFeatures("sure", 0.8, 1.0), ScanFeatures("unsure", 0.8, 0.5)])
    assert found.model == "line"
    assert found.predicted["sure"] - found.predicted["unsure"] == pytest.approx(6 / 7 * 0.5)


def test_a_prediction_that_is_not_worth_a_figure_makes_no_order(monkeypatch):
    scans = held_out([0.8] * 6, [0.4, 0.5, 0.6, 0.7, 0.8, 0.9], [0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    later = [ScanFeatures("sure", 0.8, 1.0), ScanFeatures("unsure", 0.81, 0.5)]
    assert predict(scans, later).first == ("unsure", "sure")
    monkeypatch.setattr(quality.Quality, "useful", property(lambda self: False))
    assert predict(scans, later).first == ("sure", "unsure"), "by what the page says: how far the networks agree"


def test_agreement_never_speaks_against_a_scan():
    at = np.linspace(0.5, 0.9, 9)
    found = predict(held_out(at, 0.9 - at / 2), new(0.5, 0.9))
    assert found.predicted["u0"] == pytest.approx(found.predicted["u1"])
    assert not found.useful


def test_a_prediction_is_a_dice():
    found = predict(held_out(np.linspace(0.5, 0.9, 9), np.linspace(0.0, 1.0, 9)), new(0.5, 1.0))
    assert found.predicted == {"u0": 0.0, "u1": 1.0}


def test_the_patient_who_judges_takes_no_part():
    """Both scans of a patient are held out together: a patient who alone knows of low Dice is guessed by the others."""
    scans = held_out([0.5] * 2 + [0.9] * 6, [0.1] * 2 + [0.8] * 6, patients=["a", "a", "b", "b", "c", "c", "d", "d"])
    found = predict(scans, new(0.5))
    # for "a" the others say .8; for each other patient the mean of two scans of .1 and four of .8
    assert found.naive_error == pytest.approx((2 * 0.7 + 6 * (0.8 - (2 * 0.1 + 4 * 0.8) / 6)) / 8)
    assert (found.scans, found.patients) == (8, 4)


@pytest.mark.parametrize(("correlation", "expected"), [(0.3, True), (0.0, False), (-0.19, False), (math.nan, False)])
def test_a_prediction_that_puts_bad_scans_above_good_ones_is_not_useful(correlation, expected):
    """As of ten heads outlined well: closer than their mean by .0004, in no order."""
    found = quality.Quality(
        {}, (), (), 10, 8, model="line", error=0.0086, naive_error=0.009, rank_correlation=correlation
    )
    assert found.useful is expected


def test_features_that_are_noise_are_seldom_called_useful():
    random = np.random.default_rng(0)
    useful = 0
    for _ in range(60):
        dices = np.clip(random.normal(0.75, 0.07, 6), 0, 1)
        useful += predict(held_out(random.uniform(0.5, 1, 6), dices, list(random.uniform(0.5, 1, 6))), []).useful
    assert useful <= 12  # one in five; without holding out the choice of the model it is one in three


@pytest.mark.parametrize("seed", range(5))
def test_isotonic_regression_is_the_max_of_min_of_means(seed):
    random = np.random.default_rng(seed)
    y, w = random.normal(size=12), random.integers(1, 4, 12)
    mean = [[np.average(y[j : k + 1], weights=w[j : k + 1]) for k in range(j, 12)] for j in range(12)]
    expected = [max(min(mean[j][i - j :]) for j in range(i + 1)) for i in range(12)]
    np.testing.assert_allclose(pool_adjacent_violators(y, w), expected)


# Edge cases and order


def test_with_three_patients_there_is_an_order_and_no_figure():
    scans = held_out([0.5, 0.7, 0.9, 0.9], [0.4, 0.6, 0.8, math.nan])
    found = predict(scans, new(0.8, 0.6, 0.7))
    assert found.patients == FEWEST - 1
    assert all(math.isnan(x) for x in (*found.predicted.values(), found.error, found.naive_error))
    assert found.first == ("u1", "u2", "u0")
    assert (found.model, found.useful) == ("", False)
    left_out = ("1 scan left out", "nothing found", "structure in the label")
    says(found.reason, "3 labelled patients", "4 are needed", *left_out, "order of the networks' agreement")


def test_where_nothing_was_found_there_is_a_mark_and_no_figure():
    at = np.linspace(0.5, 0.9, 9)
    not_by_the_one_that_serves = ScanFeatures("x", 0.0, math.nan)
    empty = [ScanFeatures("z", math.nan, 1.0), ScanFeatures("y", math.nan, math.nan), not_by_the_one_that_serves]
    found = predict(held_out(at, at), [*new(0.9, 0.5), *empty])
    assert found.nothing_found == ("x", "y", "z")
    assert found.first == ("x", "y", "z", "u1", "u0")
    assert all(math.isnan(found.predicted[name]) for name in "xyz")
    assert list(found.predicted) == ["u0", "u1", "z", "y", "x"]


def test_scans_without_a_dice_or_in_which_nothing_was_found_teach_nothing():
    at = list(np.linspace(0.5, 0.9, 9))
    plain = predict(held_out(at, at), new(0.6))
    sure = [0.9] * 11 + [math.nan]
    more = predict(held_out([*at, 0.9, math.nan, 0.0], [*at, math.nan, 0.0, 0.0], sure), new(0.6))
    assert more == plain


def test_equal_predictions_are_in_the_order_of_names():
    found = predict(held_out([0.8] * 4, [0.7] * 4), [ScanFeatures(name, 0.8, 0.9) for name in "cab"])
    assert found.first == ("a", "b", "c")


def test_nothing_to_predict_and_nothing_to_learn_from():
    assert predict([], []).reason.startswith("0 labelled patients to learn from")
    assert predict(held_out([0.5, 0.6, 0.7, 0.8], [0.5, 0.6, 0.7, 0.8]), []).predicted == {}


def test_all_that_is_no_number_in_its_range_is_told_at_once():
    scans = [ScanFeatures("a", 1.5, 0.5), ScanFeatures("b", 0.5, math.inf), ScanFeatures("b", 0.5, 0.5, dice=-1.0)]
    with raises(ValueError, "quality") as caught:
        predict(scans, [])
    _, *lines = str(caught.value).splitlines()
    says(lines[0], "b: twice", "held-out", "expected once")
    for line, found in zip(lines[1:], ("a: agreement is 1.5", "b: confidence is inf", "b: dice is -1"), strict=True):
        says(line, found, "expected a number in [0, 1]")
