"""What more labels would bring: Dice against the number of labelled patients, and unlabelled scans in labels' worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..evaluation.bootstrap import LEVEL, widening
from ..evaluation.compare import FEW_PATIENTS

EXPONENT = 0.5
REACH = 4  # times the largest number of labelled patients: what lies beyond is said to be a guess
FEWEST = 3  # patients
DRAWS = 4000
POINTS = 100  # Dice points of 1 Dice
POWER = 0.8  # share of studies that are to tell a difference that is there

Draws = NDArray[np.float64]  # (DRAWS,)


@dataclass(frozen=True)
class Point:
    """Dice of a held-out patient's scan, of a network trained with so many labelled patients.

    Args:
        labelled: labelled patients it was trained with, >= 1.
        patient: who was held out.
        dice: in [0, 1]; NaN where the label has none of the structures.
    """

    labelled: int
    patient: str
    dice: float


@dataclass(frozen=True)
class Amount:
    """A number, its 95 % interval over patients, and what must be said with it.

    Args:
        warning: such as that it lies beyond :data:`REACH` times the largest number of labelled patients; else empty.
    """

    value: float
    low: float
    high: float
    warning: str = ""


@dataclass(frozen=True)
class NoCurve:
    """Why there is no curve."""

    reason: str


@dataclass(frozen=True, eq=False)
class Curve:
    r"""Dice against the number of labelled patients, :math:`d(n) = a - b \, n^{-1/2}`.

    Args:
        a: Dice with any number of labels, in [0, 1].
        b: what labels are short of it, >= 0.
        largest: most labelled patients that a network was trained with.
        patients: how many were held out.
        draws: a and b of each resampling of the patients.
    """

    a: float
    b: float
    largest: int
    patients: int
    draws: tuple[Draws, Draws] = field(repr=False)

    def at(self, labelled: float) -> Amount:
        """Dice with so many labelled patients, in [0, 1]."""
        value = self.a - self.b * labelled**-EXPONENT
        low, high = _interval(value, _dices(self.draws, labelled), self.patients)
        return Amount(value, max(low, 0.0), min(high, 1.0), _beyond(labelled, self.largest))

    def gain(self, more: int, start: int | None = None) -> Amount:
        r"""Change in Dice points, :math:`100 \, b (s^{-1/2} - (s + m)^{-1/2})`, from s labelled patients to m more.

        Args:
            more: m >= 0.
            start: s >= 1; None: :attr:`largest`.

        Raises:
            ValueError: less than none more, or a start below 1.
        """
        first = self.largest if start is None else start
        if more < 0 or first < 1:
            raise ValueError(f"expected more >= 0 and start >= 1, got {more} and {first}")
        unit = POINTS * (first**-EXPONENT - (first + more) ** -EXPONENT)
        low, high = _interval(self.b * unit, self.draws[1] * unit, self.patients)
        most = POINTS * (1 - self.at(first).value)  # no Dice is above 1
        return Amount(self.b * unit, max(low, 0.0), min(high, most), _beyond(first + more, self.largest))

    def needed(self, dice: float) -> float:
        r"""Labelled patients with which the curve reaches a Dice, :math:`(b / (a - d))^2`, at least 1; infinite where
        it never does."""
        if dice >= self.a:
            return 1.0 if dice == self.a and self.b == 0 else math.inf
        return max(1.0, (self.b / (self.a - dice)) ** (1 / EXPONENT))


def fit(points: Sequence[Point], seed: int = 0) -> Curve | NoCurve:
    r"""Fit :math:`d(n) = a - b \, n^{-c}` with :math:`c = 1/2`, :math:`b \ge 0` and :math:`a \le 1`.

    .. math::
        b = \frac{\sum_{p, i} (x_{pi} - \bar x_p)(\bar y_p - y_{pi})}{\sum_{p, i} (x_{pi} - \bar x_p)^2}, \qquad
        a = \bar y + b \bar x, \qquad x = n^{-1/2}

    b is by least squares *within* patients (p), each judged at two numbers of labels or more: else that one fold's
    patients are easier than another's would pass for what labels bring. The curve passes through the mean of all
    points; b is cut where it falls below 0 or takes a above 1.

    c is not fitted, because two numbers of labels determine two parameters. 1/2 is the exponent of estimates from n
    independent samples; fits to large sets found 0.07 to 0.35, theories have 1/2 and 1. It matters less than it seems:
    twice the labels bring :math:`2^{-c}` of what the last doubling brought, which is 0.71; between 1 (c = 0) and 0.5
    (c = 1).

    The intervals resample patients with all their points, and are widened for few, as those of
    :func:`~..evaluation.bootstrap.bootstrap_interval`. What they do not hold: which patients happened to train, the
    seed of the training, and c.

    Args:
        points: of one method, in any order; those whose Dice is NaN are left out.
        seed: of the draws. Curves of the same held-out patients, with the same seed, draw the same ones.

    Returns:
        The curve; or why there is none: fewer than two numbers of labels, or than three patients judged at two of them.

    Raises:
        ValueError: fewer than one labelled patient, a Dice outside [0, 1].

    References: Figueroa et al. 2012, doi 10.1186/1472-6947-12-8 (inverse power law of the sample size, medical data);
    Hestness et al. 2017, arXiv:1712.00409 (exponents found); Hutter 2021, arXiv:2102.04074 (1/2 and 1 in theory).
    """
    for point in points:
        if point.labelled < 1 or not (0 <= point.dice <= 1 or math.isnan(point.dice)):
            raise ValueError(
                f"patient {point.patient}: Dice {point.dice:g} with {point.labelled} labelled patients; expected a "
                "Dice in [0, 1] and at least 1 labelled patient"
            )
    known = [point for point in points if not math.isnan(point.dice)]
    by_patient = {name: [p for p in known if p.patient == name] for name in sorted({p.patient for p in known})}
    sizes = sorted({point.labelled for point in known})
    if len(sizes) < 2:
        only = f"all with {sizes[0]} labelled patients" if sizes else "none"
        return NoCurve(f"a curve needs networks trained with two numbers of labelled patients; trained here: {only}")
    twice = sum(len({point.labelled for point in own}) > 1 for own in by_patient.values())
    if twice < FEWEST:
        return NoCurve(f"a curve needs {FEWEST} patients who were held out at two numbers of labels; found {twice}")
    sums = np.array([_sums(own) for own in by_patient.values()])  # (patients, 5)
    a, b = _solve(sums.sum(axis=0))
    random = np.random.default_rng(seed)
    drawn = random.integers(len(sums), size=(DRAWS, len(sums)))
    counts = np.stack([(drawn == k).sum(axis=1) for k in range(len(sums))], axis=1)  # (DRAWS, patients)
    return Curve(float(a), float(b), sizes[-1], len(sums), _solve(counts @ sums))


def worth(ours: Curve, baseline: Curve, labelled: int) -> Amount:
    """Labelled patients that the baseline needs to be as good as ours with so many: unlabelled scans in labels' worth.

    The interval holds the numbers at which the difference of the two curves has 0 in its own interval, up to
    :data:`REACH` times the largest: beyond that a bound is infinite. Where both curves are of the same held-out
    patients, the difference is paired.

    Args:
        ours, baseline: of :func:`fit`, with the same seed.
        labelled: patients that ours was trained with.

    Returns:
        Numbers of labelled patients; infinite where the baseline's curve never gets there.
    """
    goal, goals = ours.at(labelled).value, _dices(ours.draws, labelled)
    patients = min(ours.patients, baseline.patients)
    low = high = math.inf  # where the difference may be 0 or above, and where it must
    for number in range(REACH * baseline.largest, 0, -1):
        difference, drawn = baseline.at(number).value - goal, _dices(baseline.draws, number) - goals
        least, most = _interval(difference, drawn, patients)
        low, high = number if most >= 0 else low, number if least >= 0 else high
    value = baseline.needed(goal)
    never = f"the baseline's curve never reaches Dice {goal:.3f}" if value == math.inf else ""
    return Amount(value, min(low, value), max(high, value), never or _beyond(value, baseline.largest))


def patients_needed(differences: Sequence[float], amount: float) -> int:
    r"""Test patients with whom a mean paired difference is told from 0 in four of five studies: the least n with
    :math:`(t_{n-1,\,0.975} + z_{0.8}) \, s / \sqrt{n} \le d`.

    s is the standard deviation of the patients' differences, d the difference. At least as many as a verdict asks for
    (:data:`~..evaluation.compare.FEW_PATIENTS`).

    Args:
        differences: ours minus the baseline, Dice in [-1, 1], a number a patient; NaN is left out.
        amount: d > 0, in Dice points.

    Raises:
        ValueError: fewer than two differences, which have no spread; an amount that is not above 0.
    """
    known = np.array([value for value in differences if not math.isnan(value)])
    if len(known) < 2 or not amount > 0:
        raise ValueError(f"expected two differences or more and an amount above 0, got {len(known)} and {amount:g}")
    from scipy.special import ndtri, stdtrit

    upper, ratio = (1 + LEVEL) / 2, POINTS * float(known.std(ddof=1)) / amount
    power = float(ndtri(POWER))
    count = max(FEW_PATIENTS, math.ceil(((float(ndtri(upper)) + power) * ratio) ** 2))  # by the normal law: too few
    while (float(stdtrit(count - 1, upper)) + power) * ratio > math.sqrt(count):
        count += 1
    return count


def _sums(points: Sequence[Point]) -> tuple[float, ...]:
    """Number of points of one patient, sums of x and y, and of squares and products round the patient's own means."""
    x = np.array([float(point.labelled) for point in points]) ** -EXPONENT
    y = np.array([point.dice for point in points])
    dx, dy = x - x.mean(), y - y.mean()
    return len(x), x.sum(), y.sum(), dx @ dx, -dx @ dy


def _solve(sums: NDArray[np.float64]) -> tuple[Draws, Draws]:
    """a and b of sums over patients, ``(..., 5)``."""
    count, x, y, squares, products = np.moveaxis(sums, -1, 0)
    slope = np.divide(
        products, squares, out=np.zeros_like(products), where=squares > 0
    )  # drawn: patients at one number alone
    mean_x, mean_y = x / count, y / count
    b = np.clip(slope, 0.0, (1 - mean_y) / mean_x)
    return mean_y + b * mean_x, b


def _dices(draws: tuple[Draws, Draws], labelled: float) -> Draws:
    a, b = draws
    return a - b * labelled**-EXPONENT


def _interval(value: float, drawn: Draws, patients: int) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    low, high = value + widening(patients, 1 - tail) * (np.quantile(drawn, [tail, 1 - tail]) - value)
    return float(low), float(high)


def _beyond(labelled: float, largest: int) -> str:
    if labelled <= REACH * largest:
        return ""
    return f"a guess: more than {REACH} times the {largest} labelled patients of the largest training"
