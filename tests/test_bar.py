"""Progress in a log: a line every half minute of a clock that the test turns."""

import io
import logging
import sys

import pytest
from ignite.engine import Engine, Events

from custom.training.bar import Bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines_of(seconds, caplog, epochs=1, steps=10, first=0):
    """What is said of a run whose every step takes so long; ``first`` steps were done before it was resumed."""
    now = [100.0]

    def step(engine, batch):
        now[0] += seconds

    engine = Engine(step)
    Bar(clock=lambda: now[0]).attach(engine)
    if first:  # as the trainer does, after the handlers of its config

        @engine.on(Events.STARTED)
        def resume():
            now[0] += 1000.0
            engine.state.epoch, engine.state.iteration = first // steps, first

    with caplog.at_level(logging.INFO):
        engine.run(range(steps), max_epochs=epochs, epoch_length=steps)
    return [record.getMessage() for record in caplog.records if record.name == "custom.training.bar"]


@pytest.fixture
def log(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())


@pytest.mark.usefixtures("log")
def test_a_log_gets_a_line_every_half_minute_with_step_and_time_left(caplog):
    assert lines_of(12.0, caplog, epochs=2) == [  # every third step: 36 s
        "step 3 of 20, about 0:03:24 left",
        "step 6 of 20, about 0:02:48 left",
        "step 9 of 20, about 0:02:12 left",
        "step 12 of 20, about 0:01:36 left",
        "step 15 of 20, about 0:01:00 left",
        "step 18 of 20, about 0:00:24 left",
    ]


@pytest.mark.usefixtures("log")
def test_a_run_shorter_than_half_a_minute_says_nothing(caplog):
    assert lines_of(2.9, caplog) == []


@pytest.mark.usefixtures("log")
def test_a_slow_step_is_one_line(caplog):
    assert lines_of(3600.0, caplog, steps=2) == ["step 1 of 2, about 1:00:00 left", "step 2 of 2, about 0:00:00 left"]


@pytest.mark.usefixtures("log")
def test_the_time_left_of_a_resumed_run_is_by_the_steps_it_took_itself(caplog):
    assert lines_of(40.0, caplog, epochs=2, steps=2, first=2) == [
        "step 3 of 4, about 0:00:40 left",
        "step 4 of 4, about 0:00:00 left",
    ]


@pytest.mark.usefixtures("log")
def test_the_time_left_is_by_the_work_where_scans_differ_in_size(caplog):
    now, work = [0.0], [1, 1, 8]  # megavoxels, a minute each

    def step(engine, megavoxels):
        now[0] += 60.0 * megavoxels

    engine = Engine(step)
    Bar("case", clock=lambda: now[0], work=work, every_s=60).attach(engine)
    with caplog.at_level(logging.INFO):
        engine.run(work, max_epochs=1)
    assert [r.getMessage() for r in caplog.records if r.name == "custom.training.bar"] == [
        "case 1 of 3, about 0:09:00 left",
        "case 2 of 3, about 0:08:00 left",
        "case 3 of 3, about 0:00:00 left",
    ]


def test_a_terminal_gets_the_bar_alone(caplog, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert lines_of(3600.0, caplog) == []


def test_the_handlers_are_those_of_a_log_in_a_log_alone(monkeypatch):
    for stream, expected in ((io.StringIO(), True), (Terminal(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        engine, bar = Engine(lambda *_: None), Bar("case")
        bar.attach(engine)
        assert engine.has_event_handler(bar._say, Events.ITERATION_COMPLETED) is expected


@pytest.mark.usefixtures("log")
def test_a_second_run_of_an_engine_is_counted_from_its_own_start(caplog):
    now = [0.0]
    engine = Engine(lambda *_: now.__setitem__(0, now[0] + 20.0))
    Bar("case", clock=lambda: now[0]).attach(engine)
    with caplog.at_level(logging.INFO):
        for _ in range(2):  # one network, then another
            engine.run(range(3), max_epochs=1)
            now[0] += 500.0
    assert [r.getMessage() for r in caplog.records if r.name == "custom.training.bar"] == [
        "case 2 of 3, about 0:00:20 left"
    ] * 2
