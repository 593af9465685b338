"""The table of several processes: by hand, and what is refused. No time is asserted."""

from __future__ import annotations

import pytest

from benchmarks import scaling
from benchmarks.scaling import ScalingError, page, seconds_of_steps


def test_seconds_of_a_step_are_without_the_first_epoch_and_without_validation():
    table = "epoch,step,seconds,validation_seconds\n1,10,99,\n2,20,5.0,\n3,30,8.0,2.0\n"
    assert seconds_of_steps(table) == [0.5, 0.6]


def test_two_processes_that_take_as_long_for_twice_the_patches_are_efficient():
    text = page({1: [0.1, 0.1, 0.3], 2: [0.125, 0.1, 0.2]}, "supervised", 10, "COMMAND", [0.5, 2.5])
    assert "| 1 | 100 | 100 to 300 | 1.00 | 100 % |" in squeezed(text)
    assert "| 2 | 125 | 100 to 200 | 1.60 | 80 % |" in squeezed(text)
    assert "load average before and between the runs 0.5 to 2.5" in text
    assert "    COMMAND\n" in text


def squeezed(text: str) -> str:
    return " ".join(text.split(" ")).replace("  ", " ") if "  " not in text else squeezed(text.replace("  ", " "))


def test_more_processes_than_cores_are_refused(monkeypatch):
    monkeypatch.setattr(scaling.cores, "count", lambda: 2)
    with pytest.raises(ScalingError, match="--processes 3: there are 2 cores, one for each process"):
        scaling.main(["--processes", "1", "3"])


def test_a_run_that_fails_shows_the_end_of_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "RUN", ["sh", "-c", "echo broken; exit 3"])
    with pytest.raises(ScalingError, match=r"2 process\(es\) ended with 3:\nbroken"):
        scaling.measure("supervised", 2, {}, tmp_path / "out", tmp_path)


def test_the_table_of_this_repository_is_one_of_this_command():
    text = scaling.OUT.read_text(encoding="utf-8")
    assert text.startswith("# What a second process brings")
    assert "python -m benchmarks.scaling" in text
