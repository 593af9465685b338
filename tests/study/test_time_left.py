"""How long the trainings of a study still take: closed forms."""

from __future__ import annotations

from dataclasses import replace

import pytest

from custom.study import measured
from custom.study.measured import Measured
from custom.study.space import Disk
from custom.study.time_left import Speed, Work, minutes, side_by_side, time_left

SPEED = Speed(step={"slow": 3.0, "fast": 1.0}, start={"slow": 20.0, "fast": 10.0}, scan=0.5, reading=600.0)


def test_a_training_takes_its_start_its_steps_and_its_scans():
    assert Work("slow", 100, scans=8).seconds(SPEED) == 20 + 300 + 4
    assert Work("fast", 40, scans=8, begun=True).seconds(SPEED) == 40 + 4


def test_the_running_ones_come_first_and_the_waiting_ones_as_workers_become_free():
    running = [Work("slow", 10, begun=True), Work("fast", 100, begun=True)]  # 30 s, 100 s
    waiting = [Work("fast", 20), Work("slow", 30)]  # 10 + 20 s, 20 + 90 s
    # the first worker: 30 + 30 + 110
    assert time_left(running, waiting, SPEED, 2) == 170
    assert time_left(running, waiting, SPEED, 1) == 30 + 100 + 30 + 110
    assert time_left([], [], SPEED, 2) == 0


def test_without_the_pace_of_a_bundle_nothing_is_said_unless_its_steps_are_done():
    assert time_left([], [Work("other", 10)], SPEED, 1) is None
    assert time_left([Work("other", 0, scans=4, begun=True)], [], SPEED, 1) == 2
    assert time_left([], [Work("fast", 10)], replace(SPEED, start={}), 1) == 10


def test_trainings_side_by_side_end_with_the_last():
    assert side_by_side([3, 3, 2], 1) == 8
    assert side_by_side([3, 3, 2], 2) == 5
    assert side_by_side([1, 1, 1], 3) == 1


@pytest.mark.parametrize(("seconds", "text"), [(50, "50 s"), (720, "12 min"), (7500, "2 h 5 min"), (7200, "2 h")])
def test_times_are_told_as_people_say_them(seconds, text):
    assert minutes(seconds) == text


def test_what_the_plan_measured_is_read_again_and_a_damaged_file_is_none(tmp_path):
    assert measured.read(tmp_path) is None
    (tmp_path / "work").mkdir()
    found = Measured(Disk(1.0, 2.0, 3.0), SPEED)
    measured.write(tmp_path, found)
    assert measured.read(tmp_path) == found
    for damaged in ("", "[]", "{}", '{"disk": {"run": 1}, "speed": {}}'):
        (tmp_path / measured.FILE).write_text(damaged)
        assert measured.read(tmp_path) is None
