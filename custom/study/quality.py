"""How good a label map of a scan without a label probably is, learnt from scans whose label the network did not see."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ..cohort.words import plural
from ..dice import mean_of_known

FEWEST = 4  # patients: of three, one held out leaves two, and any two lie on a line
FOLDS = 40  # at most; up to so many patients each is held out by itself
RIDGE = 1.0  # scans' worth of "the features say nothing": of n scans a slope is n / (n + 1) of the plain one
BETTER = 1e-9  # of Dice: less is rounding

Features = NDArray[np.float64]  # (scans, 2): agreement, confidence
Values = NDArray[np.float64]  # (scans,): Dice
Patients = NDArray[np.int64]  # (scans,): a number for each scan's patient
Predict = Callable[[Features], Values]
Fit = Callable[[Features, Values, Patients], Predict]


@dataclass(frozen=True)
class ScanFeatures:
    """What is known of a scan without opening its label; and, of one that was held out, how good the label map is.

    Args:
        name: unique among the scans it comes with.
        agreement: :func:`agreement` of networks that did not train on the scan's label, in [0, 1]; NaN where none of
            them found anything.
        confidence: of the network that serves, in [0, 1]; NaN where it is sure that nothing is there.
        patient: whose scan it is; empty: the scan's name.
        dice: mean over the classes of the network that serves, in [0, 1]; NaN where the label has none of the
            structures, or is not known.
    """

    name: str
    agreement: float
    confidence: float
    patient: str = ""
    dice: float = math.nan

    @property
    def nothing_found(self) -> bool:
        """No network found anything, or the one that serves did not: where there is a structure, its Dice is 0, however
        well the networks agree."""
        return math.isnan(self.agreement) or math.isnan(self.confidence)


@dataclass(frozen=True)
class Quality:
    """Predicted Dice of scans without a label, and how far it may be trusted.

    Args:
        predicted: Dice in [0, 1] by the scan's name; NaN where nothing was found, and where there is no figure.
        first: all names, what to correct first first: scans in which nothing was found, then those beyond, then by
            predicted Dice, then by agreement, then by name.
        nothing_found: names of those scans (:attr:`ScanFeatures.nothing_found`), in alphabetical order.
        beyond: names of the scans on which the networks agree less than on every labelled one, in alphabetical order:
            how good such a label map is was never seen.
        scans, patients: how many labelled ones that rests on.
        reason: why there is no figure; empty where there is.
        model: ``constant``, ``line`` or ``isotonic``; empty where there is no figure.
        error: mean absolute error of Dice on held-out patients, the choice of the model included.
        naive_error: the same of the naive guess, the mean of the other patients' scans.
        rank_correlation: Spearman's, of the held-out predictions with the true Dice; NaN for a constant.
    """

    predicted: Mapping[str, float]
    first: tuple[str, ...]
    nothing_found: tuple[str, ...]
    scans: int
    patients: int
    beyond: tuple[str, ...] = ()
    reason: str = ""
    model: str = ""
    error: float = math.nan
    naive_error: float = math.nan
    rank_correlation: float = math.nan

    @property
    def useful(self) -> bool:
        """Whether held-out patients are predicted better than by the naive guess, and good scans above bad ones: on labelled
        scans that are all outlined well a figure may be closer than their mean by a hair and in no order."""
        better = self.error < self.naive_error - BETTER and self.rank_correlation > 0
        return bool(self.model) and self.model != "constant" and better


def agreement(maps: Sequence[NDArray[np.integer]], classes: int) -> float:
    r"""Return the mean Dice between each two label maps of a scan, over the classes that one of the two has.

    .. math:: \frac{1}{|P|} \sum_{(i, j) \in P} \frac{1}{|C_{ij}|} \sum_{c \in C_{ij}}
              \frac{2 |A_i^c \cap A_j^c|}{|A_i^c| + |A_j^c|}

    with :math:`P` the pairs of maps of which one has a structure, and :math:`C_{ij}` its classes. In [0, 1]; NaN where
    all maps are empty.

    Args:
        maps: of K >= 2 networks, of one shape, values 0 .. classes - 1.
        classes: how many, background (0) included.

    Raises:
        ValueError: fewer than two maps, shapes that differ, values that no class has.
    """
    if len(maps) < 2:
        raise ValueError(f"agreement is between two label maps at least, got {len(maps)}")
    if len({labels.shape for labels in maps}) > 1:
        raise ValueError(f"label maps differ in shape: {', '.join(str(labels.shape) for labels in maps)}")
    for labels in maps:
        if labels.dtype.kind not in "ui" or (labels.size and not 0 <= labels.min() <= labels.max() < classes):
            raise ValueError(f"expected whole numbers 0..{classes - 1} in a label map, got {labels.dtype} from "
                             f"{labels.min()} to {labels.max()}")  # fmt: skip
    found = np.any([labels != 0 for labels in maps], axis=0)  # elsewhere all say background
    inside = [labels[found].astype(np.int64) for labels in maps]
    return mean_of_known(_pair(a, b, classes) for a, b in combinations(inside, 2))


def _pair(a: NDArray[np.int64], b: NDArray[np.int64], classes: int) -> float:
    joint = np.bincount(classes * a + b, minlength=classes**2).reshape(classes, classes)  # (class in a, class in b)
    both = joint.sum(axis=1) + joint.sum(axis=0)
    return mean_of_known(2 * joint[c, c] / both[c] for c in range(1, classes) if both[c])


def predict(held_out: Sequence[ScanFeatures], unlabelled: Sequence[ScanFeatures]) -> Quality:
    """Predict the Dice of scans without a label from agreement and confidence.

    The model is the one of three with the smallest mean absolute error on patients that it was not fitted to: the mean
    (the naive guess), a line through both features (ridge, no slope below 0), or an isotonic regression on the
    agreement. The error that is told is of the whole procedure: the patient who judges takes no part in the choice
    either, because the smallest of three errors is too small an estimate of its own.

    A scan on which the networks agree less than on every labelled one gets no figure: an isotonic regression is level
    there, and where all labelled scans are outlined well it would call the worst ones good.

    Scans in which nothing was found, and scans whose label has none of the structures, teach nothing here and are left
    out.

    Args:
        held_out: scans with a label, of networks that did not train on them.
        unlabelled: the scans to predict.

    Raises:
        ValueError: a name twice; a number outside [0, 1].

    References: Valindria et al. 2017, IEEE TMI 36(8):1597 (quality without ground truth, calibrated on scans
    with a label); Barlow et al. 1972 (isotonic regression); Cawley and Talbot 2010, JMLR 11 (choice and error).
    """
    _check(held_out, "held-out")
    _check(unlabelled, "unlabelled")
    known = [scan for scan in held_out if not (scan.nothing_found or math.isnan(scan.dice))]
    whose, patients = np.unique([scan.patient or scan.name for scan in known], return_inverse=True)
    predicted = {scan.name: math.nan for scan in unlabelled}
    empty = tuple(sorted(scan.name for scan in unlabelled if scan.nothing_found))
    if len(whose) < FEWEST:
        reason = _too_few(len(whose), len(held_out) - len(known))
        return Quality(predicted, _order(unlabelled, predicted), empty, len(known), len(whose), reason=reason)
    features, dice = _features(known), np.array([scan.dice for scan in known])
    model = _choose(features, dice, patients)
    held = _held_out(_chosen, features, dice, patients)
    least = float(features[:, 0].min())
    found = [scan for scan in unlabelled if not scan.nothing_found]
    within = [scan for scan in found if scan.agreement >= least]
    values = MODELS[model](features, dice, patients)(_features(within))
    predicted |= {scan.name: float(value) for scan, value in zip(within, values, strict=True)}
    quality = Quality(
        predicted,
        first=_order(unlabelled, predicted),
        nothing_found=empty,
        scans=len(known),
        patients=len(whose),
        beyond=tuple(sorted(scan.name for scan in found if scan.agreement < least)),
        model=model,
        error=_error(held, dice),
        naive_error=_error(_held_out(_constant, features, dice, patients), dice),
        rank_correlation=math.nan if model == "constant" else _spearman(held, dice),
    )
    # a prediction that is not worth a figure is not worth an order either
    return quality if quality.useful else replace(quality, first=_order(unlabelled, dict.fromkeys(predicted, math.nan)))


def _too_few(patients: int, without: int) -> str:
    left_out = f" ({plural(without, 'scan')} left out: nothing found, or no structure in the label)" if without else ""
    return (
        f"{plural(patients, 'labelled patient')} to learn from, {FEWEST} are needed for a figure{left_out}: scans are "
        "in the order of the networks' agreement"
    )


def _check(scans: Sequence[ScanFeatures], kind: str) -> None:
    twice = [name for name, times in Counter(scan.name for scan in scans).items() if times > 1]
    faults = [f"{name}: twice among the {kind} scans; expected once" for name in twice]
    for scan in scans:
        for field in ("agreement", "confidence", "dice"):
            value = getattr(scan, field)
            if not (0 <= value <= 1 or math.isnan(value)):
                faults.append(f"{scan.name}: {field} is {value:g}; expected a number in [0, 1]")
    if faults:
        raise ValueError("quality cannot be predicted:\n  " + "\n  ".join(faults))


def _features(scans: Sequence[ScanFeatures]) -> Features:
    return np.array([(scan.agreement, scan.confidence) for scan in scans], dtype=float).reshape(-1, 2)


def _order(scans: Sequence[ScanFeatures], predicted: Mapping[str, float]) -> tuple[str, ...]:
    def key(scan: ScanFeatures) -> tuple[bool, float, float, str]:
        if scan.nothing_found:
            return False, 0.0, 0.0, scan.name
        value = predicted[scan.name]
        return True, 0.0 if math.isnan(value) else value, scan.agreement, scan.name

    return tuple(scan.name for scan in sorted(scans, key=key))


# The three models: each is fitted to scans with a label, and returns what predicts


def _constant(features: Features, dice: Values, _patients: Patients) -> Predict:
    mean = float(dice.mean())
    return lambda new: np.full(len(new), mean)


def _line(features: Features, dice: Values, _patients: Patients) -> Predict:
    """Ridge regression on standardised features, slopes >= 0: agreement and confidence never speak against a scan."""
    from scipy.optimize import nnls

    mean, centre, spread = float(dice.mean()), features.mean(axis=0), features.std(axis=0)
    scale = np.where(spread > BETTER, spread, np.inf)  # a feature that is the same everywhere says nothing
    design = np.vstack([(features - centre) / scale, math.sqrt(RIDGE) * np.eye(2)])
    slopes = nnls(design, np.concatenate([dice - mean, np.zeros(2)]))[0]
    return lambda new: np.clip(mean + (new - centre) / scale @ slopes, 0.0, 1.0)


def _isotonic(features: Features, dice: Values, _patients: Patients) -> Predict:
    """The nearest curve that never falls with the agreement; straight between scans, level beyond them."""
    at, which, counts = np.unique(features[:, 0], return_inverse=True, return_counts=True)
    heights = pool_adjacent_violators(np.bincount(which, weights=dice) / counts, counts)
    return lambda new: np.interp(new[:, 0], at, heights)


MODELS: dict[str, Fit] = {"constant": _constant, "line": _line, "isotonic": _isotonic}  # of equals the first is taken


def pool_adjacent_violators(values: NDArray, weights: NDArray) -> Values:
    r"""Return the numbers :math:`m_1 \le ... \le m_n` with the smallest :math:`\sum_i w_i (y_i - m_i)^2`.

    Args:
        values: :math:`y`, ``(n,)``.
        weights: :math:`w > 0`, ``(n,)``.

    Reference: Barlow et al. 1972, Statistical Inference under Order Restrictions.
    """
    blocks: list[tuple[float, float, int]] = []  # mean, weight, how many
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        size = 1
        while blocks and blocks[-1][0] >= value:
            mean, mass, length = blocks.pop()
            value = (mean * mass + value * weight) / (mass + weight)
            weight, size = mass + weight, size + length
        blocks.append((value, weight, size))
    return np.repeat([mean for mean, _, _ in blocks], [size for _, _, size in blocks])


def _choose(features: Features, dice: Values, patients: Patients) -> str:
    errors = {name: _error(_held_out(fit, features, dice, patients), dice) for name, fit in MODELS.items()}
    return next(name for name, error in errors.items() if error <= min(errors.values()) + BETTER)


def _chosen(features: Features, dice: Values, patients: Patients) -> Predict:
    return MODELS[_choose(features, dice, patients)](features, dice, patients)


def _held_out(fit: Fit, features: Features, dice: Values, patients: Patients) -> Values:
    """Each scan's Dice as predicted from the other patients' scans: ``(scans,)``."""
    fold = np.unique(patients, return_inverse=True)[1] % FOLDS
    predicted = np.empty(len(dice))
    for k in range(fold.max() + 1):
        rest = fold != k
        predicted[~rest] = fit(features[rest], dice[rest], patients[rest])(features[~rest])
    return predicted


def _error(predicted: Values, dice: Values) -> float:
    return float(np.abs(predicted - dice).mean())


def _spearman(predicted: Values, dice: Values) -> float:
    from scipy.stats import rankdata

    ranks = rankdata(predicted), rankdata(dice)
    if any(np.ptp(r) == 0 for r in ranks):
        return math.nan
    return float(np.corrcoef(*ranks)[0, 1])
