"""The promises of custom/study/labels_worth.py: curves through exact points, and intervals that cover."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from saying import says

from custom.study import more_labels
from custom.study.labels_worth import Curve, NoCurve, Point, fit, patients_needed, worth

SIZES = (4, 16)


def points(a, b, sizes=SIZES, patients=6, ease=0.0):
    """Points on the curve a - b / sqrt(n), the last patient easier than the mean by ``ease``, the first harder."""
    own = np.linspace(-ease, ease, patients)
    return [Point(n, f"p{k}", a + own[k] - b / math.sqrt(n)) for k in range(patients) for n in sizes]


def curve(*args, **kwargs):
    found = fit(points(*args, **kwargs))
    assert isinstance(found, Curve)
    return found


@pytest.mark.parametrize("sizes", [(4, 16), (2, 3, 7, 50), (1, 2)])
@pytest.mark.parametrize(("a", "b"), [(0.9, 0.4), (0.7, 0.05), (1.0, 0.3), (0.6, 0.0)])
def test_a_curve_is_recovered_from_its_points(a, b, sizes):
    found = curve(a, b, sizes)
    assert (found.a, found.b) == pytest.approx((a, b), abs=1e-12)
    assert (found.largest, found.patients) == (sizes[-1], 6)
    np.testing.assert_allclose(found.draws[0], a)
    np.testing.assert_allclose(found.draws[1], b, atol=1e-12)


def test_two_sizes_in_closed_form():
    """.5 with 4 patients and .7 with 16: b = .2 / (1/2 - 1/4) = .8, a = .9; 64 patients: .8, +10 points."""
    found = fit([Point(n, f"p{k}", d) for k in range(3) for n, d in ((4, 0.5), (16, 0.7))])
    assert (found.a, found.b) == pytest.approx((0.9, 0.8))
    assert found.at(64).value == pytest.approx(0.8)
    gain = found.gain(48)
    assert (gain.value, gain.low, gain.high, gain.warning) == (*[pytest.approx(10)] * 3, "")
    assert found.gain(0).value == 0
    assert found.gain(12, start=4).value == pytest.approx(20)
    assert found.needed(0.8) == pytest.approx(64)
    assert found.needed(0.9) == math.inf
    assert found.needed(0.0) == 1  # d(1) = .1: there is no training with fewer


def test_twice_the_labels_bring_less_than_the_last_doubling_by_the_root_of_two():
    found = curve(0.9, 0.4, (5, 10))
    assert found.gain(10).value / found.gain(5, start=5).value == pytest.approx(2**-0.5)


def test_patients_who_differ_are_not_taken_for_what_labels_bring():
    """Each fold another number, easier patients in the fold with more labels: only what one patient gains counts."""
    easy = [Point(n, f"e{k}", 0.9 - 0.2 / math.sqrt(n)) for k in range(3) for n in (3, 6)]
    hard = [Point(n, f"h{k}", 0.5 - 0.2 / math.sqrt(n)) for k in range(3) for n in (2, 4)]
    found = fit(easy + hard)
    assert found.b == pytest.approx(0.2)


def test_labels_never_harm_and_no_dice_is_above_one():
    falls = fit([Point(n, f"p{k}", d) for k in range(4) for n, d in ((4, 0.7), (16, 0.6))])
    assert (falls.a, falls.b) == pytest.approx((0.65, 0.0))
    assert falls.gain(10).value == falls.gain(10).low == 0
    steep = fit([Point(n, f"p{k}", d) for k in range(4) for n, d in ((4, 0.1), (16, 0.9))])
    assert steep.a == pytest.approx(1.0)
    assert (steep.at(4).value + steep.at(16).value) / 2 == pytest.approx(0.5)  # through the mean
    assert steep.at(10**6).high <= 1


def test_beyond_four_times_the_largest_it_says_so():
    found = curve(0.9, 0.4)
    assert found.gain(48).warning == found.at(64).warning == ""
    text = "a guess: more than 4 times the 16 labelled patients of the largest training"
    assert found.gain(49).warning == found.at(65).warning == text


def test_the_interval_of_a_gain_covers():
    """Patients differ in ease and in what labels bring them; 95 % intervals over 8 of them."""
    random = np.random.default_rng(0)
    unit = 100 * (16**-0.5 - 24**-0.5)
    covered = []
    for _ in range(200):
        own = random.normal(0.8, 0.05, 8), random.normal(0.4, 0.2, 8)
        drawn = [Point(n, f"p{k}", float(np.clip(a - b / math.sqrt(n), 0, 1)))
                 for k, (a, b) in enumerate(zip(*own, strict=True)) for n in SIZES]  # fmt: skip
        gain = fit(drawn).gain(8)
        covered.append(gain.low <= 0.4 * unit <= gain.high)
    assert 0.91 <= np.mean(covered) <= 0.99


def test_an_interval_holds_its_value_and_the_seed_draws_it():
    random = np.random.default_rng(0)
    noisy = [Point(n, f"p{k}", random.uniform(0.3, 0.5) + n / 50) for k in range(6) for n in SIZES]
    gain = fit(noisy).gain(10)
    assert gain.low < gain.value < gain.high
    assert fit(noisy).gain(10) == gain == fit(noisy[::-1]).gain(10)
    assert fit(noisy, seed=1).gain(10) != gain


TWO = "two numbers of labelled patients"


@pytest.mark.parametrize(("given", "parts"), [
    ([], [TWO, "trained here: none"]),
    (points(0.9, 0.4, (4,)), [TWO, "trained here: all with 4 labelled patients"]),
    (points(0.9, 0.4, patients=2), ["3 patients", "held out at two numbers of labels", "found 2"]),
    ([Point(n, f"p{n}{k}", 0.5) for n in SIZES for k in range(5)],
     ["3 patients", "held out at two numbers of labels", "found 0"]),
    ([*points(0.9, 0.4, (4,)), Point(16, "p0", math.nan)], [TWO, "trained here: all with 4 labelled patients"]),
])  # fmt: skip
def test_where_there_is_no_curve_the_reason_is_told(given, parts):
    found = fit(given)
    assert isinstance(found, NoCurve)
    says(found.reason, *parts)


@pytest.mark.parametrize(
    ("point", "found"), [(Point(0, "p", 0.5), "Dice 0.5 with 0"), (Point(3, "p", 1.5), "Dice 1.5 with 3")]
)
def test_points_out_of_range_are_refused(point, found):
    with pytest.raises(ValueError, match=f"patient p: {found} labelled patients; expected a Dice in"):
        fit([point])


def test_a_gain_from_nowhere_is_refused():
    for more, start in ((-1, 4), (3, 0)):
        with pytest.raises(ValueError, match=f"expected more >= 0 and start >= 1, got {more} and {start}"):
            curve(0.9, 0.4).gain(more, start)


# Labels' worth


def test_unlabelled_scans_in_labels_worth():
    """Ours with 4 patients: .8 - .2 / 2 = .7; the baseline .9 - .8 / sqrt(n) is there with 16."""
    found = worth(curve(0.8, 0.2), curve(0.9, 0.8), 4)
    assert found.value == pytest.approx(16)
    assert found.low == pytest.approx(16, abs=1)
    assert found.high == pytest.approx(16, abs=1)
    assert found.warning == ""


def test_what_the_baseline_never_reaches_is_infinite():
    found = worth(curve(0.95, 0.1), curve(0.8, 0.4), 16)
    assert (found.value, found.low, found.high) == (math.inf,) * 3
    assert found.warning == "the baseline's curve never reaches Dice 0.925"


@pytest.mark.parametrize("only_unlabelled", [False, True])
@pytest.mark.parametrize(
    ("ease", "interval"), [(0.0, "the 95 % interval is above 64."), (0.15, "the 95 % interval is from")]
)
def test_a_gain_that_no_number_of_labels_has_is_told_as_one(monkeypatch, only_unlabelled, ease, interval):
    """Ours has .925 with 16 patients, and the baseline .8 with ever so many: the largest worth there is, not the least."""
    ours = (0.825, 0.01) if ease else (0.95, 0.1)
    curves = {"theirs": (curve(0.8, 0.4, ease=ease), []), "ours": (curve(*ours), [Point(16, "p0", 0.9)])}
    monkeypatch.setattr(more_labels, "curves_of", lambda *_: curves)
    monkeypatch.setattr(more_labels, "_curve_chart", lambda *_: None)
    names = {"baseline": "supervised", "method": "mean_teacher"}
    state = SimpleNamespace(
        settings=SimpleNamespace(half=True, **names), bundles=tuple(names.values()), labelled=20, phrases=("without", "with"),
        only_unlabelled=only_unlabelled,
    )  # fmt: skip
    *_, line = more_labels.worth(state, []).lines
    here = "0.823" if ease else "0.925"
    who = f"mean_teacher with 16 labelled patients (Dice {here}) is above what supervised comes to"
    if only_unlabelled:
        who = f"16 labelled patients with the unlabelled scans (Dice {here}) are above what ever more come to without"
    says(
        line,
        "In labels' worth",
        who,
        "(Dice 0.800)",
        "no number is named",
        "extrapolated",
        "the 16 labelled patients",
        interval,
    )
    assert "inf" not in line


def test_what_lies_far_beyond_the_largest_training_is_a_guess():
    found = worth(curve(0.88, 0.0), curve(0.9, 0.4), 4)  # (.4 / .02)^2
    assert found.value == pytest.approx(400)
    assert found.high == math.inf
    assert found.warning.startswith("a guess: more than 4 times")


def test_the_same_method_is_worth_as_many_labels_as_it_has():
    same = fit(points(0.8, 0.4, ease=0.15))
    found = worth(same, same, 16)
    assert found.value == pytest.approx(16)
    assert (found.low, found.high) == (pytest.approx(16), pytest.approx(16))  # paired: the patients' ease is in both


def test_an_uncertain_worth_has_an_interval():
    random = np.random.default_rng(0)
    ours, baseline = (
        fit([Point(n, f"p{k}", float(a - b * (1 + gain) / math.sqrt(n))) for k, gain in enumerate(random.normal(0, 0.3, 8))
             for n in SIZES])
        for a, b in ((0.8, 0.2), (0.9, 0.8))
    )  # fmt: skip
    found = worth(ours, baseline, 4)
    assert 4 < found.low < found.value < found.high <= 64


# What it would take to know


def test_patients_needed_in_closed_form():
    """Differences of +-10 points of n patients: s = 10 sqrt(n / (n - 1)). Of 100, (t + z) s / 10: t of 99 degrees of freedom and
    z of a power of 0.8 are 1.984217 and 0.841621, from tables."""
    differences = [0.1, -0.1] * 50
    spread = 10 * math.sqrt(100 / 99)
    assert patients_needed(differences, 2.825838 * spread / 10 + 1e-5) == 100
    assert patients_needed([*differences, math.nan], 2.825838 * spread / 10 - 1e-5) == 101
    assert patients_needed(differences, (2.262157 + 0.841621) * spread / math.sqrt(10) + 1e-5) == 10  # t of 9


def test_no_verdict_is_given_on_fewer_than_six():
    assert patients_needed([0.05] * 10, 1.0) == 6


@pytest.mark.parametrize(("differences", "width", "text"), [
    ([0.1], 1.0, "got 1 and 1"), ([0.1, math.nan], 1.0, "got 1 and 1"), ([0.1, 0.2], 0.0, "got 2 and 0"),
    ([0.1, 0.2], math.nan, "got 2 and nan"),
])  # fmt: skip
def test_without_a_spread_or_a_width_it_is_refused(differences, width, text):
    with pytest.raises(ValueError, match=f"expected two differences or more and an amount above 0, {text}"):
        patients_needed(differences, width)


def test_as_many_patients_tell_the_difference_in_four_of_five_studies():
    random = np.random.default_rng(1)
    count = patients_needed([0.08, -0.08] * 500, 2.0)
    studies = random.normal(0.02, 0.08, (2000, count))
    half = 1.97 * studies.std(axis=1, ddof=1) / math.sqrt(count)  # t of some 125 patients
    assert np.mean(studies.mean(axis=1) > half) == pytest.approx(0.8, abs=0.04)
