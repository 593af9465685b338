"""Length from time: closed forms of small plans."""

from __future__ import annotations

from dataclasses import replace

import pytest
from saying import raises

from custom.study.budget import (
    ENOUGH,
    LEAST,
    ROOMS,
    SLACK,
    Costs,
    Shape,
    Sizes,
    Voxels,
    choose,
    duration,
    fit,
    shapes,
)
from custom.study.settings import StudyError
from custom.study.time_left import minutes

NAMES = ("supervised", "mean_teacher")
COSTS = Costs(
    step={"supervised": 0.1, "mean_teacher": 0.3},
    start={"supervised": 10.0, "mean_teacher": 20.0},
    scan=0.5,
    voxels=Voxels(1000, 5000),
)
SIZES = Sizes(judged=8, unlabelled=30)
VOXELS = {room: Voxels(1000 * room, 5000 * room) for room in ROOMS}


def test_all_of_a_plan_is_counted():
    # a fold: 10 + 100 * .1 and 20 + 100 * .3, each with 4 scans that judge, seen three times; at the end 30 scans each
    fold = (10 + 10) + (20 + 30) + 2 * 3 * 4 * 0.5
    last = (10 + 10) + (20 + 30) + 2 * 30 * 0.5
    assert duration(100, COSTS, SIZES, Shape(2, False, False, 1.0), NAMES, jobs=1) == pytest.approx(2 * fold + last)
    assert duration(100, COSTS, SIZES, Shape(2, True, False, 1.0), NAMES, jobs=1) == pytest.approx(4 * fold + last)
    longer = 10 + 300 * 0.1 + 3 * 4 * 0.5  # three times the steps of the baseline
    assert duration(100, COSTS, SIZES, Shape(2, False, True, 1.0), NAMES, jobs=1) == pytest.approx(
        2 * fold + last + 2 * longer
    )


def test_the_reading_is_counted_once_however_many_trainings_there_are_and_not_again_where_the_probe_has_read():
    """Two hours, half an hour of preprocessing of which the probe's grid has a quarter of the voxels."""
    shape = Shape(4, True, True, 1.0)
    reading = replace(COSTS, reading=450.0)
    finer = Voxels(4000, 20_000)
    with_, without = (duration(100, costs.at(finer), SIZES, shape, NAMES, 2) for costs in (reading, COSTS))
    assert with_ - without == pytest.approx(1800)
    assert with_ > duration(100, replace(COSTS.at(finer), scan=COSTS.scan), SIZES, shape, NAMES, 2) + 1800
    assert reading.at(COSTS.voxels).reading == 0
    assert fit(7200, reading.at(COSTS.voxels), SIZES, shape, NAMES, 1) == fit(7200, COSTS, SIZES, shape, NAMES, 1)


def test_a_larger_patch_on_the_same_grid_makes_a_step_longer_and_nothing_else():
    larger = replace(COSTS, reading=450.0).at(Voxels(7000, 5000))
    assert larger.step == pytest.approx({name: 7 * value for name, value in COSTS.step.items()})
    assert (larger.scan, larger.reading, larger.start) == (COSTS.scan, 0, COSTS.start)
    finer = replace(COSTS, reading=450.0).at(Voxels(1000, 15_000))
    assert (finer.step, finer.scan, finer.reading) == (COSTS.step, 3 * COSTS.scan, 1350)


def test_bundles_beside_the_method_take_their_folds_and_nothing_else():
    costs = Costs({**COSTS.step, "bcp": 0.4}, {**COSTS.start, "bcp": 5.0}, COSTS.scan, COSTS.voxels)
    for shape in (Shape(2, False, False, 1.0), Shape(2, True, True, 1.0)):
        without, with_ = (duration(100, costs, SIZES, shape, names, jobs=1) for names in (NAMES, (*NAMES, "bcp")))
        assert with_ - without == pytest.approx(2 * (5 + 100 * 0.4 + 3 * 4 * 0.5))


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_most_steps_that_fit_are_found_in_whole_epochs(jobs):
    shape = Shape(2, True, False, 1.0)
    found = fit(2000, COSTS, SIZES, shape, NAMES, jobs)
    assert found.steps % 20 == 0
    assert found.seconds == duration(found.steps, COSTS, SIZES, shape, NAMES, jobs) <= SLACK * 2000
    assert duration(found.steps + 20, COSTS, SIZES, shape, NAMES, jobs) > SLACK * 2000
    assert found.steps_at_equal_time == 0


def test_at_equal_time_the_baseline_gets_the_steps_that_the_method_s_time_holds():
    found = fit(20_000, COSTS, SIZES, Shape(2, False, True, 1.0), NAMES, 1)
    assert found.steps_at_equal_time == 3 * found.steps


def test_a_long_budget_gives_up_nothing_and_a_short_one_the_grid_first():
    ample = choose(1e6, COSTS, SIZES, VOXELS, NAMES, 1, (4, 3, 2))
    assert ample.shape == Shape(4, True, True, ROOMS[0])
    rooms = [choose(b, COSTS, SIZES, VOXELS, NAMES, 1, (4, 3, 2)).shape for b in (9000, 6000, 3000, 1700)]
    assert [(s.folds, s.half, s.equal_time, s.room) for s in rooms] == [
        (4, True, True, ROOMS[0]), (4, True, True, ROOMS[1]), (4, True, True, ROOMS[2]), (4, True, False, ROOMS[3]),
    ]  # fmt: skip


def test_each_shape_gives_up_more_than_the_one_before_and_the_question_stays():
    assert not any(shape.half for shape in shapes((2,), half=False))
    found = shapes((4, 3, 2))
    seconds = [duration(500, COSTS.at(VOXELS[s.room]), SIZES, s, NAMES, 1) for s in found]
    assert seconds == sorted(seconds, reverse=True)
    assert found[-1] == Shape(2, False, False, ROOMS[-1])


def test_larger_rooms_that_there_is_memory_for_come_first():
    larger = {**VOXELS, 2.0: Voxels(2000, 10_000)}
    rooms = [choose(b, COSTS, SIZES, larger, NAMES, 1, (4, 3, 2)).shape.room for b in (1e6, 9000)]
    assert rooms == [2.0, 1.0]
    assert shapes((2,), larger=(4.0, 2.0))[2:] == shapes((2,))


def test_where_none_leaves_enough_the_one_with_most_steps_is_taken():
    found = choose(300, COSTS, SIZES, VOXELS, NAMES, 1, (4, 3, 2))
    assert found.shape.folds == 2
    assert LEAST <= found.steps < ENOUGH


def test_of_many_labelled_patients_more_judge_than_of_few_where_there_is_time_and_one_fold_is_the_last_to_fall_to():
    sizes = Sizes(judged=15, held_out=6, unlabelled=30)
    ample, short = (choose(budget, COSTS, sizes, VOXELS, NAMES, 1, (4, 3, 2, 1)) for budget in (1e5, 250))
    assert (ample.shape.folds, short.shape.folds) == (4, 1)
    assert short.steps >= LEAST
    one = Shape(1, False, False, 1.0)
    assert duration(0, COSTS, sizes, one, NAMES, 1) == pytest.approx(2 * (10 + 20) + 2 * 3 * 6 * 0.5 + 2 * 30 * 0.5)


def test_too_small_a_budget_says_how_much_would_do():
    with raises(StudyError, "budget of 20 s", "too small", "0 steps", "Allow at least") as error:
        choose(20, COSTS, SIZES, VOXELS, NAMES, 1, (4, 3, 2))
    needed = str(error.value).split("at least ")[1].split(" (")[0]
    number, unit = needed.split()
    allowed = float(number) * {"s": 1, "min": 60}[unit] * 1.1
    assert choose(allowed, COSTS, SIZES, VOXELS, NAMES, 1, (4, 3, 2)).steps >= LEAST


@pytest.mark.parametrize("probe", [7, 181, 240])
def test_who_allows_the_budget_that_is_advised_has_enough_after_the_next_probe_too(probe):
    """Looking and probing are part of what is allowed, each time."""
    for costs in (COSTS, replace(COSTS, step={name: 12 * value for name, value in COSTS.step.items()})):
        with pytest.raises(StudyError) as error:
            choose(20, costs, SIZES, VOXELS, NAMES, 2, (4, 3, 2), spent=probe)
        assert f"A budget of {minutes(20 + probe)} is too small" in str(error.value)
        advice = str(error.value).split("at least ")[1].split(" (")[0].split()
        allowed = sum(
            float(n) * {"s": 1, "min": 60, "h": 3600}[u] for n, u in zip(advice[::2], advice[1::2], strict=True)
        )
        assert choose(allowed - probe, costs, SIZES, VOXELS, NAMES, 2, (4, 3, 2), spent=probe).steps >= LEAST
