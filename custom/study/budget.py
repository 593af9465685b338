"""Length from time: how many steps each training gets so that all of a study fits into what the user allows."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .jobs import whole_epochs
from .settings import StudyError
from .time_left import minutes, side_by_side

ENOUGH = 1500  # steps from which unlabelled scans were seen to help (docs/results.md); a longer plan gives up nothing for more
LEAST = 100  # steps below which no network is worth a comparison
MOST = 12_000
ROOMS = (
    1.0,
    0.5,
    0.25,
    0.13,
)  # of the voxels of a patch that two processor cores carry: the grid becomes as coarse as it takes
LARGER = (4.0, 2.0)  # of these voxels, which a GPU carries
SLACK = 0.92  # of the budget is planned with: a probe of seconds does not foresee everything


@dataclass(frozen=True)
class Voxels:
    """What the time of a step, and of all else, goes with.

    Args:
        batch: voxels of a training batch.
        scan: of a scan on its grid.
    """

    batch: float
    scan: float


@dataclass(frozen=True)
class Costs:
    """What a short probe measured, in seconds.

    Args:
        step: of one optimiser step of each bundle.
        start: of a training, of each bundle: what passes besides its steps.
        scan: of one scan and one network, in evaluation and inference; it goes with the voxels of the scan.
        voxels: in the probe.
        reading: of all scans, preprocessed once: the trainings share them.
    """

    step: Mapping[str, float]
    start: Mapping[str, float]
    scan: float
    voxels: Voxels
    reading: float = 0.0

    def at(self, voxels: Voxels) -> Costs:
        """The costs with so many voxels: what the probe has read on its own grid is not read again."""
        longer, finer = voxels.batch / self.voxels.batch, voxels.scan / self.voxels.scan
        step = {name: longer * value for name, value in self.step.items()}
        return replace(
            self,
            voxels=voxels,
            step=step,
            scan=finer * self.scan,
            reading=0.0 if finer == 1 else finer * self.reading,
        )


@dataclass(frozen=True)
class Shape:
    """What a plan runs, without its length."""

    folds: int
    half: bool
    equal_time: bool
    room: float  # one of ROOMS or of LARGER


@dataclass(frozen=True)
class Length:
    """A plan with its length; ``seconds`` that all of it is expected to take."""

    shape: Shape
    steps: int
    steps_at_equal_time: int
    seconds: float


@dataclass(frozen=True)
class Sizes:
    """How much there is to do: scans that judge (in all of several folds together, or in the only one) and unlabelled scans to
    segment."""

    judged: int
    unlabelled: int
    held_out: int = 0


def shapes(folds: Sequence[int], half: bool = True, larger: Sequence[float] = ()) -> list[Shape]:
    """What may be given up, in the order in which it is: a fine grid before parts of the answer, the answer last.

    Args:
        folds: how many there may be, most first.
        half: whether half of the patients who train are fewer of them.
        larger: those of :data:`LARGER` that are worth a try, largest first.
    """
    most, *fewer = folds
    kept = [Shape(most, half, True, room) for room in (*larger, *ROOMS[:3])]
    kept += [Shape(most, half, False, ROOMS[2]), Shape(most, half, False, ROOMS[3])]
    kept += [Shape(most, False, False, ROOMS[3])]
    return kept + [Shape(count, False, False, ROOMS[3]) for count in fewer]


def choose(
    budget: float,
    costs: Costs,
    sizes: Sizes,
    voxels: Mapping[float, Voxels],
    names: Sequence[str],
    jobs: int,
    folds: Sequence[int],
    half: bool = True,
    spent: float = 0.0,
) -> Length:
    """The first of :func:`shapes` that leaves :data:`ENOUGH` steps, else the one that leaves most.

    Args:
        budget: seconds for all that is still to come.
        costs: measured.
        sizes: of the cohort.
        voxels: with each of those of :data:`ROOMS` and :data:`LARGER` that there is memory for.
        names: of the baseline, of the method, and of those beside it, as in ``costs``.
        jobs: trainings side by side.
        folds, half: see :func:`shapes`.
        spent: seconds that looking and the probe took before, and will take again.

    Raises:
        StudyError: not even :data:`LEAST` steps fit; the text says which budget would do.
    """
    found = [
        fit(budget, costs.at(voxels[shape.room]), sizes, shape, names, jobs)
        for shape in shapes(folds, half, [room for room in LARGER if room in voxels])
        if shape.room in voxels
    ]
    for length in found:
        if length.steps >= ENOUGH:
            return length
    best = max(found, key=lambda length: length.steps)
    if best.steps < LEAST:
        last = shapes(folds, half)[-1]
        needed = spent + duration(LEAST, costs.at(voxels[last.room]), sizes, last, names, jobs) / SLACK
        raise StudyError(
            f"A budget of {minutes(budget + spent)} is too small: {best.steps} steps a training fit into it, and below {LEAST} "
            f"no network is worth a comparison. Allow at least {minutes(_rounded_up(needed))} (--budget), or use a faster "
            "machine"
        )
    return best


def fit(budget: float, costs: Costs, sizes: Sizes, shape: Shape, names: Sequence[str], jobs: int) -> Length:
    """The most steps with which a plan stays within the budget; 0 where none does."""
    low, high = 0, MOST
    while low < high:
        middle = (low + high + 1) // 2
        if duration(middle, costs, sizes, shape, names, jobs) <= SLACK * budget:
            low = middle
        else:
            high = middle - 1
    steps = whole_epochs(low) if low else 0
    longer = whole_epochs(steps * _ratio(costs, names)) if shape.equal_time and steps else 0
    return Length(shape, steps, longer, duration(steps, costs, sizes, shape, names, jobs))


def duration(steps: int, costs: Costs, sizes: Sizes, shape: Shape, names: Sequence[str], jobs: int) -> float:
    """Seconds of the reading, which those that begin first wait for, and of all trainings of so many steps with their
    evaluations and predictions, ``jobs`` at a time."""
    judged = sizes.judged / shape.folds if shape.folds > 1 else sizes.held_out
    # two networks of each run are scored, and one makes label maps
    after = 3 * judged * costs.scan
    each = [costs.start[name] + steps * costs.step[name] + after for name in names]
    times: list[float] = []
    for _ in range(shape.folds):
        times += each
        times += each[:2] if shape.half else []
        if shape.equal_time:
            times.append(costs.start[names[0]] + steps * _ratio(costs, names) * costs.step[names[0]] + after)
    final = sizes.unlabelled * costs.scan
    times += [costs.start[name] + steps * costs.step[name] + final for name in names[:2]]
    return costs.reading + side_by_side(times, jobs)


def _ratio(costs: Costs, names: Sequence[str]) -> float:
    """How many steps of the baseline take the time of one of the method; at least 1."""
    return max(1.0, costs.step[names[1]] / costs.step[names[0]])


def _rounded_up(seconds: float) -> float:
    """Seconds, rounded up to what :func:`minutes` prints, that are enough even if a second probe is slower."""
    longer = 1.05 * seconds
    return float(math.ceil(longer)) if longer < 89 else 60.0 * math.ceil(longer / 60)


def seconds(text: str) -> float:
    """``90s``, ``150m``, ``2h``; a number alone is minutes.

    Raises:
        ArgumentTypeError: it is none of these.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time: write 90s, 150m or 2h")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600, "": 60}[found[2]]
