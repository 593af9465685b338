"""The page of a study of which parts are missing, failed or judge nothing: told is what can be compared."""

from __future__ import annotations

import json
import math
import shutil
from types import SimpleNamespace

import pytest
from finished import BETTER, study
from page_fixtures import words
from saying import says

from custom.evaluation.compare import Difference
from custom.study import labels_worth, more_labels, verdict
from custom.study.__main__ import main
from custom.study.parts import entries_of
from custom.study.plan import cohort_of
from custom.study.state import State


@pytest.mark.usefixtures("few_pictures")
def test_scores_of_a_job_that_began_anew_and_failed_are_not_told(tmp_path):
    """It removes the summary before the training starts; the table of cases stays until it is written anew."""
    made = study(tmp_path, BETTER)
    (made.table(made.trainings.parts[1], "mean_teacher").with_name("summary.json")).unlink()
    failed = State(tmp_path, made.settings, made.task, made.trainings, {"fold2_mean_teacher": "why"})
    text = words(verdict.write(failed).read_text(encoding="utf-8"))
    assert "(2 folds of 3)" in text
    assert "fold2_mean_teacher: why" in text


@pytest.mark.usefixtures("few_pictures")
def test_a_report_says_why_a_fold_failed_in_the_run_before_it(tmp_path):
    made = study(tmp_path, BETTER)
    run = made.runs / "fold2_mean_teacher"
    (run / "evaluation/test/summary.json").unlink()
    (run / "job").mkdir()
    (job,) = (job for job in made.trainings.jobs if job.name == run.name)
    (run / "job/settings.json").write_text(json.dumps(job.settings()))
    (run / "job/failed.txt").write_text("it ended with 3")
    assert main(["report", str(tmp_path)]) == 1
    text = words((tmp_path / "verdict.html").read_text(encoding="utf-8"))
    says(text, "(2 folds of 3)", "fold2_mean_teacher: it ended with 3")


@pytest.mark.usefixtures("few_pictures")
def test_where_one_part_judges_the_page_says_how_many_of_the_labelled_patients_do(tmp_path):
    text = words(verdict.write(study(tmp_path, BETTER, folds=1)).read_text(encoding="utf-8"))
    says(text, "Each was trained once", "over patients alone", "another seed in study.yaml")
    says(text, "2 of 6 labelled patients judged", "had not seen any scan of theirs (1 fold of 1)")
    assert "Every scan that judged" in text
    assert "Every labelled scan" not in text


@pytest.mark.usefixtures("few_pictures")
def test_with_folds_too_the_page_says_that_the_interval_holds_no_other_training(tmp_path):
    text = words(verdict.write(study(tmp_path, BETTER)).read_text(encoding="utf-8"))
    says(text, "Each fold is one training of each", "its patients share", "over patients alone", "another seed in study.yaml",
         "Dice of supervised", "Beside the verdict")  # fmt: skip
    assert "trained once" not in text


def failed(name: str, missed: int, false_alarms: int, dice: float) -> dict[str, object]:
    return {"case": name, "missed": missed, "false_alarms": false_alarms, "dice_mean": dice}


def test_up_to_three_failures_are_shown_a_missed_structure_first_and_the_lowest_dice_first():
    ours = [failed("a", 0, 1, 0.1), failed("b", 1, 0, 0.5), failed("c", 2, 1, 0.3), failed("d", 0, 0, 0.0)]
    both = SimpleNamespace(ours=ours, baseline=[failed("e", 0, 2, math.nan), failed("f", 0, 1, 0.9)])
    assert list(verdict._failures(both, ours=True).items()) == [
        ("c", "Missed structure and false alarm"), ("b", "Missed structure"), ("a", "False alarm"),
    ]  # fmt: skip
    assert list(verdict._failures(both, ours=False)) == ["f", "e"]
    many = SimpleNamespace(ours=[failed(str(k), 1, 0, k / 10) for k in range(5)])
    assert list(verdict._failures(many, ours=True)) == ["0", "1", "2"]


@pytest.mark.usefixtures("few_pictures")
def test_failures_of_the_bundle_that_is_handed_over_are_shown_unless_they_are_among_the_three(tmp_path, monkeypatch):
    made = study(tmp_path, BETTER)
    monkeypatch.setattr(verdict, "_failures", lambda *_: {"p03_a": "Missed structure", "p05_a": "False alarm"})
    text = words(verdict.write(made).read_text(encoding="utf-8"))
    says(text, "Largest loss: p03_a", "Largest gain", "False alarm: p05_a, +")
    assert "Missed structure: p03_a" not in text
    assert "One slice of each scan" in text
    flat = State(tmp_path, made.settings, {**made.task, "dimensions": 2}, made.trainings)
    assert "One slice of each scan" not in words(verdict.write(flat).read_text(encoding="utf-8")), (
        "a picture has no other"
    )


def test_a_number_of_labels_at_which_only_an_empty_label_was_judged_leaves_a_figure():
    """Folds of 3, 3 and 4 patients: the only one whom the last network judges has none of the structures."""
    empty = labels_worth.Point(2, "p9", math.nan)
    points = [empty, *(labels_worth.Point(n, f"p{k}", 0.5 + n / 20) for n in (3, 4) for k in range(4))]
    assert more_labels._curve_chart({"with": (labels_worth.fit(points), points)}, 20)


@pytest.mark.usefixtures("few_pictures")
def test_curves_are_of_trainings_that_both_bundles_have(tmp_path):
    """Where one bundle lacks the half of a fold, the other's does not count either: the folds left are reported."""
    made = study(tmp_path, BETTER, half=True)
    part = made.trainings.parts[0]
    shutil.rmtree(made.table(part, "mean_teacher", "half").parents[2])
    one = words(verdict.write(made).read_text(encoding="utf-8"))
    shutil.rmtree(made.table(part, "supervised", "half").parents[2])
    both = words(verdict.write(made).read_text(encoding="utf-8"))
    start, end = "What more labels would bring", "Which scans to look at first"
    assert one[one.rindex(start) : one.rindex(end)] == both[both.rindex(start) : both.rindex(end)]


@pytest.mark.usefixtures("few_pictures")
def test_halves_of_an_earlier_version_are_stale_and_in_no_curve(tmp_path):
    """It took the first patients of every fold: the first fold's half is the same today, the others are not."""
    made = study(tmp_path, BETTER, half=True)
    scans = cohort_of(tmp_path, tmp_path / "data/images", tmp_path / "data/labels", made.settings.patient).scans
    for job in made.trainings.jobs:
        settings = job.settings()
        part = next((part for part in made.trainings.parts if job.name.startswith(part.name)), None)
        if part and job.name.endswith("half"):
            settings["data"] = json.dumps(entries_of(part, scans, part.train[: len(part.train) // 2]), indent=1) + "\n"
        (made.runs / job.name / "job").mkdir()
        (made.runs / job.name / "job/settings.json").write_text(json.dumps(settings))
    assert made.stale == {f"fold{k}_{bundle}_half" for k in (2, 3) for bundle in BETTER}
    curves = more_labels.curves_of(made, made.trainings.parts)
    assert isinstance(curves, labels_worth.NoCurve)
    says(curves.reason, "3 patients", "found 2")
    text = words(verdict.write(made).read_text(encoding="utf-8"))
    says(text, "(3 folds of 3)", "not run again yet: fold2_mean_teacher_half")


@pytest.mark.usefixtures("few_pictures")
def test_at_equal_time_is_told_when_all_folds_are_done(tmp_path):
    made = study(tmp_path, BETTER, steps_at_equal_time=1000)
    assert "as long in time (1000 steps, 3 min against 3 min)" in words(verdict.write(made).read_text(encoding="utf-8"))
    shutil.rmtree(made.table(made.trainings.parts[0], "supervised", "equal_time").parents[2])
    assert "as long in time (1000 steps, 3 min against 3 min)" not in words(
        verdict.write(made).read_text(encoding="utf-8")
    )


@pytest.mark.usefixtures("few_pictures")
def test_a_bundle_that_is_not_trained_with_all_labels_is_not_said_to_be_there(tmp_path):
    made = study(tmp_path, BETTER)
    assert "bundle/ (mean_teacher, trained with all labels), predictions/" in words(
        verdict.write(made).read_text(encoding="utf-8")
    )
    shutil.rmtree(made.runs / "final_mean_teacher")
    text = words(verdict.write(made).read_text(encoding="utf-8"))
    says(text, "mean_teacher is not trained with all labels yet", "a bundle/ that is there", "earlier")
    assert "predictions/ (of every" not in text


def test_a_difference_of_one_patient_has_no_interval_and_none_has_a_negative_zero():
    one = Difference(-0.0001, math.nan, math.nan, 1, 1, math.nan)
    assert verdict._difference(one) == "0.0 (one patient)"
    assert verdict._difference(None) == "\N{EN DASH}"
    few = Difference(0.03, -0.01, 0.07, 4, 4, 0.3)
    assert verdict._difference(few) == "+3.0 (-1.0 to +7.0; too few patients to tell)"
