"""Where a run stands, and what follows from that alone: the weights of the terms and the learning rate.

All positions are fractions of the run's optimiser steps, so that a shorter run keeps the shape of a longer one. Nothing
here has a state: a resumed run computes what an uninterrupted one would have.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import nearest


def ramp_up(position: float) -> float:
    r"""Sigmoid ramp-up :math:`e^{-5 (1 - \min(t, 1))^2}`: 0.0067 at 0, 1 from 1 on.

    Source: Laine and Aila 2017, arXiv:1610.02242.
    """
    return math.exp(-5.0 * (1.0 - min(max(position, 0.0), 1.0)) ** 2)


@dataclass(frozen=True)
class Weight:
    """One term's weight over the run: ``value`` within ``[start, stop)``, rising along the ramp up to ``until``."""

    value: float
    start: float = 0.0
    stop: float = math.inf
    until: float | None = None

    def at(self, fraction: float) -> float:
        if not self.start <= fraction < self.stop:
            return 0.0
        if self.until is None:
            return self.value
        return self.value * ramp_up((fraction - self.start) / (self.until - self.start))


class TermWeights:
    """The weights of a method's named terms, as the config gives them.

    Args:
        spec: ``{term: 1.0}``, or ``{term: {value: 1.0, from: 0.2, to: 0.6}}`` for a window, or
            ``{term: {ramp: 0.1, from: 0.0, until: 1.0}}`` for a sigmoid ramp-up from ``from`` to ``until``. All
            positions are fractions of the run; ``until`` may exceed 1 (the ramp is then not finished at the end).
        terms: the names that the method has.
        absent: terms that cannot be computed in this run (no unlabelled scans): their weight is 0. The others then stay
            on to the end: a term that makes way for one that never comes would leave nothing to train.

    Raises:
        ValueError: a term that the method does not have, or lacks here; an unknown key; a negative or non-finite
            number; an empty window; a time at which no term has a weight.
    """

    KEYS = ("value", "ramp", "from", "to", "until")

    def __init__(self, spec: Mapping[str, Any], terms: Sequence[str], absent: Collection[str] = ()) -> None:
        for name in spec:
            if name not in terms:
                raise ValueError(f"weights::{name}: the method has the terms {list(terms)}{nearest(name, terms)}")
        missing = [name for name in terms if name not in spec]
        if missing:
            raise ValueError(f"weights: no weight for {missing}; write 0 to leave a term out")
        self.weights = {name: self._read(name, entry) for name, entry in spec.items()}
        if absent:
            self.weights = {
                name: Weight(0.0) if name in absent else replace(weight, stop=math.inf)
                for name, weight in self.weights.items()
            }
        self._check_no_gap()

    @classmethod
    def _read(cls, name: str, entry: Any) -> Weight:
        if not isinstance(entry, Mapping):
            entry = {"value": entry}
        for key in entry:
            if key not in cls.KEYS:
                raise ValueError(f"weights::{name}::{key} is not one of {list(cls.KEYS)}{nearest(key, cls.KEYS)}")
        if ("value" in entry) == ("ramp" in entry):
            raise ValueError(f"weights::{name}: give either `value` or `ramp`, got {dict(entry)}")
        if ("ramp" in entry) != ("until" in entry):
            raise ValueError(f"weights::{name}: `ramp` goes with `until`, got {dict(entry)}")
        numbers = {key: float(value) for key, value in entry.items()}
        for key, number in numbers.items():
            if not (math.isfinite(number) and number >= 0):
                raise ValueError(f"weights::{name}::{key} is {number}, expected a finite number >= 0")
        start, stop, until = numbers.get("from", 0.0), numbers.get("to", math.inf), numbers.get("until")
        if stop <= start or (until is not None and until <= start):
            raise ValueError(f"weights::{name}: the window is empty, `from` {start:g} is not below its end")
        return Weight(numbers.get("value", numbers.get("ramp", 0.0)), start, stop, until)

    def _check_no_gap(self) -> None:
        """The set of terms changes only where a window begins or ends."""
        ends = [end for w in self.weights.values() for end in (w.start, w.stop) if end < 1]
        for fraction in sorted({0.0, *ends}):
            if not any(self.at(fraction).values()):
                until = min((end for end in ends if end > fraction), default=1.0)
                raise ValueError(
                    f"weights: no term has a weight from {fraction:g} to {until:g} of the run: nothing to train. Give "
                    f"one of {list(self.weights)} a weight there"
                )

    def at(self, fraction: float) -> dict[str, float]:
        """Every term's weight at that fraction of the run."""
        return {name: weight.at(fraction) for name, weight in self.weights.items()}

    def begins(self, terms: Sequence[str]) -> float:
        """The fraction of the run from which on one of these terms has a weight; infinite where none ever has."""
        return min((w.start for w in (self.weights[term] for term in terms) if w.value > 0), default=math.inf)

    def sometimes_off(self) -> bool:
        """Whether the set of computed terms can change within the run."""
        return any(w.start > 0 or w.stop <= 1 or w.value == 0 for w in self.weights.values())


@dataclass(frozen=True)
class Progress:
    """Where the run stands: ``step`` is the optimiser step under way, counted from 0; ``epoch`` is counted from 1."""

    step: int
    steps: int
    epoch: int
    epochs: int
    weights: TermWeights | None = None

    @property
    def fraction(self) -> float:
        return self.step / self.steps

    def begins(self, terms: Sequence[str]) -> float:
        """The fraction of the run from which on one of these terms has a weight, see :meth:`TermWeights.begins`."""
        return math.inf if self.weights is None else self.weights.begins(terms)

    def wants(self, term: str) -> bool:
        """Whether the term has a weight now; a method does not compute what is not wanted.

        Raises:
            KeyError: a term that the run's weights do not name.
        """
        return self.weights is None or self.weights.weights[term].at(self.fraction) > 0


class PolyDecay:
    r"""Learning-rate factor :math:`(1 - t)^{power}`, after a linear warm-up.

    Args:
        power: 0 is a constant rate.
        by: "step", or "epoch" for a rate that changes between epochs only.
        warmup: fraction of the run over which the rate rises linearly to its full value.
    """

    def __init__(self, power: float = 0.9, by: str = "step", warmup: float = 0.0) -> None:
        if by not in ("step", "epoch"):
            raise ValueError(f"by is 'step' or 'epoch', got {by!r}")
        self.power, self.by, self.warmup = power, by, warmup

    def __call__(self, progress: Progress) -> float:
        done = progress.fraction if self.by == "step" else (progress.epoch - 1) / progress.epochs
        return _warm_up(progress, self.warmup) * max(1.0 - done, 0.0) ** self.power


class Milestones:
    """Learning-rate factor that is multiplied by ``gamma`` at each fraction in ``at``, after a linear warm-up.

    Args:
        at: fractions of the run.
        gamma: what the factor is multiplied by at each.
        warmup: fraction of the run over which the rate rises linearly to its full value.
        restart: the factor of a second stage, whatever ``at`` says; None goes on by ``at``.
        restart_with: the terms of that stage; it begins with the first of them.
        restart_at: fraction of the run at which it begins whatever these weigh: for a control without them, at equal rates.
    """

    def __init__(
        self,
        at: Sequence[float],
        gamma: float = 0.1,
        warmup: float = 0.0,
        restart: float | None = None,
        restart_with: Sequence[str] = (),
        restart_at: float | None = None,
    ) -> None:
        self.at, self.gamma, self.warmup = sorted(at), gamma, warmup
        self.restart, self.restart_with, self.restart_at = restart, list(restart_with), restart_at

    def __call__(self, progress: Progress) -> float:
        begins = progress.begins(self.restart_with) if self.restart_at is None else self.restart_at
        if self.restart is not None and progress.fraction >= begins:
            return self.restart
        passed = sum(progress.fraction >= position for position in self.at)
        return _warm_up(progress, self.warmup) * self.gamma**passed


def _warm_up(progress: Progress, warmup: float) -> float:
    return min(1.0, (progress.step + 1) / (warmup * progress.steps)) if warmup > 0 else 1.0
