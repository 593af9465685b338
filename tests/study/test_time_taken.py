"""How long a study took: what went into the trainings that its page tells of, over all calls."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from finished import AFFINE, BETTER, study

from custom.study import __main__ as module
from custom.study.durations import Taken, study_seconds, valid
from custom.study.jobs import Stopped
from custom.study.settings import Settings, write
from custom.study.state import State


@pytest.fixture
def made(tmp_path: Path) -> State:
    """A study whose trainings have begun as its settings are: eight of 60 seconds each, 600 seconds in all."""
    state = study(tmp_path, BETTER)
    for job in state.trainings.jobs:
        (state.runs / job.name / "job").mkdir()
        (state.runs / job.name / "job/settings.json").write_text(json.dumps(job.settings()))
        (state.runs / job.name / "metrics.csv").write_text("step,seconds\n400,60\n")
    Taken(600.0, tuple(valid(state.runs, state.trainings.jobs))).write(tmp_path)
    return state


def correct(folder: Path) -> None:
    """A label that was corrected touches every training: it trains or judges in each."""
    nib.save(nib.Nifti1Image(np.full((24, 24, 4), 5, np.uint8), AFFINE), folder / "data/labels/p01_a.nii.gz")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that each page is given; each call takes 100, and trains nothing."""
    pages: list[float] = []
    ticks = iter(range(1000))
    monkeypatch.setattr(module.time, "monotonic", lambda: 100.0 * next(ticks))
    monkeypatch.setattr(module, "check", lambda *_: None)
    monkeypatch.setattr(module.Runner, "run", lambda *_: {})
    monkeypatch.setattr(module.verdict, "write", lambda state: pages.append(state.seconds) or Path("page"))
    return pages


def test_a_study_of_other_labels_in_the_same_folder_does_not_count_what_the_earlier_one_took(made, told):
    correct(made.folder)
    module.main(["run", str(made.folder)])
    assert told == [100.0]


def test_a_call_that_goes_on_counts_what_was_before_it(made, told, monkeypatch):
    def stopped(*_: object) -> None:
        raise Stopped

    with monkeypatch.context() as once:
        once.setattr(module.Runner, "run", stopped)
        assert module.main(["run", str(made.folder)]) == 130
    module.main([str(made.folder)])
    module.main(["report", str(made.folder)])
    assert told == [800.0, 800.0], "a page that is written again took no longer"


def test_a_corrected_study_that_is_killed_on_the_way_goes_on_counting(made, told, monkeypatch):
    """Of the second round one training is done, in 100 seconds, when it is stopped."""

    def first_alone(runner, jobs):
        (made.runs / jobs[0].name / "job/settings.json").write_text(json.dumps(jobs[0].settings()))
        raise Stopped

    correct(made.folder)
    with monkeypatch.context() as once:
        once.setattr(module.Runner, "run", first_alone)
        module.main(["run", str(made.folder)])
    assert Taken.read(made.folder) == Taken(100.0, ("fold1_supervised",))
    module.main(["run", str(made.folder)])
    assert told == [200.0]


def test_a_second_plan_counts_for_the_study_that_follows_it(made, told, monkeypatch):
    monkeypatch.setattr(module, "plan", lambda *_: made.settings)
    module.main(["plan", str(made.folder)])
    assert Taken.read(made.folder).before == 100
    correct(made.folder)
    module.main(["run", str(made.folder)])
    assert told == [200.0]


def test_of_trainings_of_which_some_are_made_anew_those_that_stay_count(made):
    taken, jobs = Taken.read(made.folder), made.trainings.jobs
    assert taken.of(made.runs, jobs) == 600
    assert taken.of(made.runs, [job for job in jobs if job.bundle == "supervised"]) == 300
    (made.runs / "fold1_supervised/metrics.csv").write_text("step,seconds\n400,180\n")  # 180 of 600
    assert taken.of(made.runs, [job for job in jobs if job.name != "fold1_supervised"]) == pytest.approx(420)


def test_what_an_earlier_version_wrote_counts_for_all_trainings_that_there_are(made):
    (made.folder / "work/seconds").write_text("600\n")
    assert Taken.read(made.folder) == Taken(600.0, None)
    assert Taken.read(made.folder).of(made.runs, made.trainings.jobs) == 600
    Taken(600.0, None, 20.0).write(made.folder)
    correct(made.folder)
    now = State(made.folder, made.settings, made.task, made.trainings)
    assert Taken.read(made.folder).of(now.runs, now.trainings.jobs) == 20


def test_more_steps_take_as_much_longer_as_the_trainings_of_this_study_did(made):
    """Eight of 60 s, two at a time, are 240 of 600 s: with twice the steps 240 s more."""
    made.seconds = Taken.read(made.folder).of(made.runs, made.trainings.jobs)
    assert study_seconds(made, 800) == 840


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"seconds": 1, "runs": 2, "before": 0}', "soon"])
def test_a_file_of_seconds_that_cannot_be_read_withholds_no_page(tmp_path, text):
    write(tmp_path, Settings("/data", "", ""))
    (tmp_path / "work").mkdir()
    (tmp_path / "work/seconds").write_text(text)
    assert Taken.read(tmp_path) == Taken()
