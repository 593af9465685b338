"""How far reading is, in a log: a line every half minute of a clock that the test turns; and in a command that sets up none."""

from __future__ import annotations

import io
import logging
import sys

import pytest
import tiny
import torch
from monai.inferers import SimpleInferer
from test_bar import Terminal

from custom import pace
from custom.cohort.record import Record
from custom.pace import Pace, say, shown
from custom.training.validation import ServingEvaluator


def read(seconds, count=6):
    """Read items each of which takes so long."""
    now = [50.0]

    def items():
        for item in range(count):
            now[0] += seconds
            yield item

    assert list(shown(items(), "reading scans", count, "scan", clock=lambda: now[0])) == list(range(count))


@pytest.fixture
def lines(monkeypatch, caplog):
    """What was said, where stderr is not a terminal."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with caplog.at_level(logging.INFO, logger="custom.pace"):
        yield lambda: [record.getMessage() for record in caplog.records if record.name == "custom.pace"]


def test_a_log_says_how_far_it_is_every_half_minute(lines):
    read(20.0)
    assert lines() == [
        "reading scans: scan 2 of 6, about 0:01:20 left",
        "reading scans: scan 4 of 6, about 0:00:40 left",
        "reading scans: scan 6 of 6, about 0:00:00 left",
    ]


def test_what_is_done_in_half_a_minute_is_not_spoken_of(lines):
    read(4.9)
    assert lines() == []


def test_a_terminal_gets_the_bar_alone(caplog, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with caplog.at_level(logging.INFO):
        read(3600.0)
    assert caplog.messages == []


def test_without_a_log_it_goes_to_stderr_as_a_bar_would(capsys, monkeypatch):
    monkeypatch.setattr(pace.logger, "hasHandlers", lambda: False)
    say("reading scans: scan 2 of 6")
    found = capsys.readouterr()
    assert (found.out, found.err) == ("", "reading scans: scan 2 of 6\n")


def test_what_was_done_before_the_start_says_nothing_of_the_pace():
    now = [0.0]
    found = Pace(clock=lambda: now[0])
    found.begin(100)
    now[0] = 40.0
    assert found.due()
    assert not found.due()
    assert found.left(102, 104) == "102 of 104, about 0:00:40 left"


@pytest.fixture
def slow(monkeypatch):
    """Half a minute and more passes between two looks at the clock."""
    now = [0.0]

    def clock():
        now[0] += 31.0
        return now[0]

    monkeypatch.setattr(shown, "__defaults__", (clock,))
    return clock


def test_facts_of_files_are_read_so(lines, slow, tmp_path):
    Record().facts([str(tmp_path / f"{number}.nii.gz") for number in range(3)])  # none is there: a fault each
    assert [line.partition(",")[0] for line in lines()] == [f"reading scans: scan {n} of 3" for n in (1, 2, 3)]


def test_a_bank_is_read_so(lines, slow):
    tiny.bank("labelled", 0, 2).load()
    assert [line.partition(",")[0] for line in lines()] == [f"reading labelled: scan {n} of 2" for n in (1, 2)]


def test_a_long_validation_says_its_case(slow, caplog):
    data, method = tiny.bank("validation", 200, 3), tiny.method("supervised")
    evaluator = ServingEvaluator(torch.device("cpu"), data, method, SimpleInferer(), tiny.CLASSES)
    with caplog.at_level(logging.INFO):
        evaluator.run(1)
        assert not any(line.startswith("validation: case") for line in caplog.messages)
        evaluator.pace = Pace(clock=slow)
        evaluator.run(2)
    found = [line.partition(",")[0] for line in caplog.messages if line.startswith("validation: case")]
    assert found == [f"validation: case {n} of 3" for n in (1, 2, 3)]
