"""The page of a study, from files whose figures are known."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from finished import BETTER, UNLABELLED, differ_in_unlabelled_alone, record, study
from page_fixtures import words
from saying import says

from custom.cohort.split import FoundScan
from custom.evaluation.case_table import read_cases
from custom.study import labels_worth, more_labels, scans, verdict
from custom.study.parts import Part
from custom.study.pooled import pool
from custom.study.settings import StudyError
from custom.study.state import State


def dice(share: float, side: int) -> float:
    part = round(share * side) / side
    return 2 * part / (1 + part)


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    made = study(folder, BETTER, half=True, steps_at_equal_time=1000)
    verdict.write(made)
    return made


@pytest.fixture(scope="module")
def page(state) -> str:
    return words((state.folder / "verdict.html").read_text(encoding="utf-8"))


def test_the_verdict_is_over_all_labelled_patients_each_judged_once(state, page):
    without, with_ = ([dice(share, 8 + k) for k in range(6)] for share in BETTER.values())
    gain = 100 * float(np.mean(np.subtract(with_, without)))
    assert f"mean_teacher is better than supervised by {gain:.1f} Dice points (95 % interval " in page
    figures = f"Dice {np.mean(with_):.3f} of mean_teacher, {np.mean(without):.3f} of supervised."
    assert f"6 patients). {figures}{verdict.CAUSE_UNKNOWN}" in page
    assert "scans helped" not in page
    assert "; Wilcoxon signed-rank test over patients p = 0.031 Judged 6 scans" in page
    assert "Mind: These are short trainings, of 400 steps" in page
    assert "6 labelled patients, 4 unlabelled scans" in page
    assert f"{np.mean(with_):.3f}" in page
    assert "What it would take" not in page


def test_the_page_begins_with_the_verdict_its_figures_and_one_chart_and_all_else_is_a_section(page):
    says(page, "Mind: These are short", "mean_teacher is better than", "Judged 6 scans", "A bar a scan", "band: its 95 %",
         "Beside the verdict What more labels", "What to do next Beside the verdict", "That is by Dice alone",
         "supervised trained as long in time", "What more labels would bring")  # fmt: skip
    top = page[: page.index("Beside the verdict")]
    assert not [text for text in ("by Dice alone", "as long in time", "Not judged") if text in top]


def test_at_equal_time_the_baseline_is_the_longer_one(page):
    longer = [dice(0.625, 8 + k) for k in range(6)]
    gain = 100 * float(np.mean([dice(0.75, 8 + k) - longer[k] for k in range(6)]))
    says(page, "(1000 steps, 3 min against 3 min)", f"mean_teacher minus supervised +{gain:.1f} points")


@pytest.mark.usefixtures("few_pictures")
def test_as_long_in_time_is_said_only_where_the_runs_took_as_long(tmp_path):
    """An edit of the steps alone makes the longer training the shorter one."""
    made = study(tmp_path, BETTER, steps_at_equal_time=200)
    for part in made.trainings.parts:
        run = made.table(part, "supervised", "equal_time").parents[2]
        (run / "metrics.csv").write_text("step,seconds\n100,10\n200,10\n")
    fewer = ("fewer steps than the 400", "steps_at_equal_time in study.yaml", "mean_teacher minus")
    for time in ("60 s against 3 min", "in a time that is not known"):
        text = words(verdict.write(made).read_text(encoding="utf-8"))
        says(text, f"supervised trained longer or shorter (200 steps, {time})", *fewer)
        (run / "metrics.csv").unlink(missing_ok=True)


def test_more_labels_and_unlabelled_scans_in_labels_worth(page):
    gain = r"\+\d+\.\d Dice points \(95 % interval \d+\.\d to \d+\.\d\)"
    assert re.search(rf"5 more labelled patients: {gain} of mean_teacher; {gain} of supervised \(", page)
    assert "In labels' worth: mean_teacher with 4 labelled patients does as well as supervised with" in page


def test_each_line_of_more_patients_than_were_tried_says_so_once(state, page):
    """The folds train with 4 of the 6; 16 is the most that the curve does not call a guess."""
    found = more_labels.worth(state, state.trainings.parts)
    for line in found.lines[:2]:
        says(line, "of supervised (extrapolated: beyond the 4 labelled patients that were tried).")
        assert "a guess" not in line
    says(found.lines[2], "20 more", "of supervised (a guess: more than 4 times the 4 labelled patients")
    assert "extrapolated" not in found.lines[2]
    says(found.lines[3], "In labels' worth", "(95 % interval", "(a guess")
    says(
        page,
        "only how much the gain varies between the labelled patients at hand",
        "few or alike",
        "truth may lie above",
    )


def test_a_number_of_labels_that_was_tried_is_no_extrapolation():
    amount = labels_worth.Amount(4.0, 3.0, 5.0)
    assert more_labels._extrapolated(4.0, 4, amount) == ""
    says(more_labels._extrapolated(4.1, 4, amount), "extrapolated", "the 4 labelled patients")


@pytest.mark.usefixtures("few_pictures")
def test_with_and_without_are_said_only_where_the_runs_differ_in_nothing_else(tmp_path, monkeypatch):
    """Both may read the unlabelled scans, or one of them has settings of its own."""
    made = study(tmp_path, BETTER, half=True, steps_at_equal_time=1000)
    (tmp_path / "work/history.json").write_text('[{"labelled": 4, "steps": 400, "without": 0.5, "with": 0.6}]')
    compared: list[tuple[str, str]] = []
    monkeypatch.setattr(verdict.pair, "compare_report", lambda *given, **_: compared.append(given[2]))
    for cause in (False, True):
        if cause:
            differ_in_unlabelled_alone(made)
        now = State(tmp_path, made.settings, made.task, made.trainings)
        text = words(verdict.write(now).read_text(encoding="utf-8"))
        head = (tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()[0]
        alone = [
            "Did the unlabelled scans help?",
            "With: mean_teacher; without: supervised; 400 steps each.",
            "Dice without the unlabelled scans 0.",
            "Dice with the unlabelled scans 0.",
            "with minus without",
            "with the unlabelled scans;",
            "labelled patients with the unlabelled scans do as well as",
            "Dice 0.600 with the unlabelled scans, 0.500 without the unlabelled scans.",
        ]
        assert [phrase for phrase in alone if (phrase in text) != cause] == []
        named = [
            "mean_teacher against supervised, 400 steps each.",
            "Dice of supervised 0.",
            "Dice of mean_teacher 0.",
            "mean_teacher minus supervised",
            "does as well as supervised with",
            "Dice 0.600 of mean_teacher, 0.500 of supervised.",
        ]
        assert [phrase for phrase in named if (phrase in text) == cause] == []
        assert text.startswith("Did the unlabelled" if cause else "mean_teacher against supervised")
        assert compared[-1] == (("without", "with") if cause else ("supervised", "mean_teacher"))
        assert head.startswith(
            "scan,patient,dice_without,dice_with," if cause else "scan,patient,dice_supervised,dice_mean_teacher,"
        )


def test_the_scan_on_which_nothing_was_found_comes_first_and_all_have_a_picture(state):
    rows = list(csv.DictReader((state.folder / "scores.csv").open()))
    later = [row for row in rows if not row["patient"]]
    assert later[0]["scan"] == "p09_a"
    assert later[0]["remarks"].startswith("nothing found")
    assert len(later) == UNLABELLED
    assert [float(row["dice_mean_teacher"]) for row in rows if row["patient"] == "p02"] == [
        pytest.approx(dice(0.75, 10), abs=1e-4)
    ]
    names = {f"p0{k}_a" for k in range(6, 10)}
    assert {path.stem for path in (state.folder / "predictions/pictures").iterdir()} == names
    for name in names:
        assert np.unique(nib.load(state.folder / f"predictions/{name}_pred.nii.gz").dataobj).max() in (0, 5)


@pytest.mark.usefixtures("few_pictures")
def test_further_bundles_stand_beside_the_verdict_and_do_not_change_it(tmp_path):
    two, three = (
        study(tmp_path / name, BETTER | more, others=tuple(more)) for name, more in (("a", {}), ("b", {"bcp": 0.625}))
    )
    pages = [words(verdict.write(state).read_text(encoding="utf-8")) for state in (two, three)]
    found, before, ours = (np.array([dice(share, 8 + k) for k in range(6)]) for share in (0.625, *BETTER.values()))
    number = r"[+-]\d+\.\d"
    gains = [f"{100 * (found - of).mean():+.1f}".replace("+", r"\+") for of in (before, ours)]
    row = rf"bcp {found.mean():.3f} {gains[0]} \({number} to {number}\) {gains[1]} "
    assert re.search(row, pages[1])
    assert "Further bundles" not in pages[0]
    sentence = pages[0][pages[0].index("mean_teacher is better") : pages[0].index("named as the cause")]
    assert sentence in pages[1]
    names = [job.name for job in three.trainings.jobs]
    assert [name for name in names if "bcp" in name] == ["fold1_bcp", "fold2_bcp", "fold3_bcp"]
    assert names.index("fold1_bcp") > names.index("final_mean_teacher")


@pytest.mark.usefixtures("few_pictures")
def test_missed_structures_and_false_alarms_stand_beside_each_dice(tmp_path):
    """The baseline finds nothing at equal time either, a further bundle misses all."""
    made = study(
        tmp_path, {"supervised": -0.125, "mean_teacher": 0.75, "bcp": 0.0}, others=("bcp",), steps_at_equal_time=1000
    )
    text = words(verdict.write(made).read_text(encoding="utf-8"))
    says(text, "mean_teacher minus supervised +", "points (95 % interval",
         "Missed structures and false alarms: supervised: missed 6 of 6, false alarms 0 of 0; "
         "mean_teacher: missed 0 of 6, false alarms 0 of 0.", "Further bundles")  # fmt: skip
    assert re.search(r"missed false alarms bcp 0\.000 .* 6 of 6 0 of 0 What more labels would bring", text)


@pytest.mark.usefixtures("few_pictures")
@pytest.mark.parametrize(("shares", "missed"), [((0.0, 0.75), "0"), ((0.75, 0.0), "0"), ((0.0, 0.0), "1")])
def test_scores_csv_counts_the_faults_of_the_bundle_that_serves(tmp_path, shares, missed):
    verdict.write(study(tmp_path, dict(zip(BETTER, shares, strict=True))))
    rows = list(csv.DictReader((tmp_path / "scores.csv").open()))
    assert list(rows[0])[-3:] == ["remarks", "missed", "false_alarms"], "after those that there were before"
    assert {(row["missed"], row["false_alarms"]) for row in rows if row["patient"]} == {(missed, "0")}
    assert {(row["missed"], row["false_alarms"]) for row in rows if not row["patient"]} == {("", "")}


@pytest.mark.parametrize("serving", ["supervised", "mean_teacher"])
def test_the_cases_in_which_the_bundle_that_serves_fails_are_named(serving):
    def row(case: str, missed: int, false_alarms: int) -> dict[str, object]:
        return {"case": case, "missed": missed, "false_alarms": false_alarms}

    ours = [row("p03", 1, 0), row("p07", 0, 2), row("p11", 2, 0)]
    both = SimpleNamespace(ours=ours, baseline=[row(each["case"], 0, 0) for each in ours])
    made = SimpleNamespace(settings=SimpleNamespace(method="mean_teacher"))
    missed, false_alarms = ("p03, p11", "p07") if serving == "mean_teacher" else ("none", "none")
    text = verdict._faulty(made, both, serving)
    says(text, f"of {serving}", f"missed structure in {missed};", f"false alarm in {false_alarms}.")


def test_the_page_names_the_failures_where_it_shows_cases(page):
    says(page, "Largest loss, median, largest gain Failures of mean_teacher", "structure in none;", "alarm in none.",
         "Largest loss: p03_a")  # fmt: skip


@pytest.mark.usefixtures("few_pictures")
def test_more_labels_are_counted_from_all_that_there_are(state, monkeypatch):
    asked = []
    gain = labels_worth.Curve.gain
    monkeypatch.setattr(labels_worth.Curve, "gain", lambda curve, *given: asked.append(given) or gain(curve, *given))
    more_labels.worth(state, state.trainings.parts)
    assert asked == [(more, 6) for more in more_labels.MORE for _ in range(2)]  # folds train with 4


@pytest.mark.parametrize("serving", ["supervised", "mean_teacher"])
def test_the_confidence_of_a_later_scan_is_that_of_the_network_which_serves(tmp_path, serving):
    made = study(tmp_path, BETTER)
    for bundle, sure in (("supervised", 0.3), ("mean_teacher", 0.6)):
        file = made.runs / f"final_{bundle}/label_maps/confidence.json"
        file.write_text(json.dumps(dict.fromkeys(json.loads(file.read_text()), sure)))
    found = {scan.confidence for scan in scans._later(made, serving)}
    assert found == {{"supervised": 0.3, "mean_teacher": 0.6}[serving]}


@pytest.mark.parametrize(
    ("images", "names", "cases"),
    [
        (["b_0000.nii.gz", "a_b_0000.nii.gz"], ["b", "a_b"], ["b_0000", "a_b_0000"]),  # as nnU-Net has them
        (["a_b.nii.gz", "b.nii.gz"], ["a_b", "b"], ["a_b", "b"]),
    ],
)
def test_scans_that_judged_have_their_own_names_on_the_page(tmp_path, images, names, cases):
    entries = [{"patient": name, "image": str(tmp_path / image)} for name, image in zip(names, images, strict=True)]
    (tmp_path / "work").mkdir()
    (tmp_path / "work/fold1.json").write_text(json.dumps({"test": entries}))
    found = [FoundScan(name, Path(entry["image"]), None, True) for name, entry in zip(names, entries, strict=True)]
    trainings = SimpleNamespace(parts=[Part("fold1", ())], scans=found)
    made = State(tmp_path, None, {"channels": ["image"]}, trainings)
    assert [made.scan_of_case(case) for case in cases] == names
    assert list(made.judges) == cases


def test_the_bundle_is_that_of_the_better_one(state, tmp_path):
    assert json.loads((state.folder / "bundle/run.json").read_text(encoding="utf-8")) == {"of": "mean_teacher"}
    worse = study(tmp_path, {"supervised": 0.75, "mean_teacher": 0.5})
    text = words(verdict.write(worse).read_text(encoding="utf-8"))
    assert json.loads((tmp_path / "bundle/run.json").read_text(encoding="utf-8")) == {"of": "supervised"}
    assert "mean_teacher is worse than supervised by " in text
    assert "so these are not named as the cause" in text
    assert "This was left out: it takes trainings with half of the labels" in text


@pytest.mark.usefixtures("few_pictures")
@pytest.mark.parametrize(("shares", "how"), [((0.5, 0.75), "helped"), ((0.75, 0.5), "harmed")])
def test_the_unlabelled_scans_are_the_cause_only_where_every_fold_says_so(tmp_path, shares, how):
    made = study(tmp_path, dict(zip(BETTER, shares, strict=True)))
    differ_in_unlabelled_alone(made)
    text = words(verdict.write(made).read_text(encoding="utf-8"))
    with_, without = (f"{np.mean([dice(share, 8 + k) for k in range(6)]):.3f}" for share in reversed(shares))
    assert f"The unlabelled scans {how}: Dice {with_} with them, {without} without, a difference of" in text
    record(made.table(made.trainings.parts[1], "supervised").parents[2] / "bundle", {"supervised": 1.0}, seed=1)
    now = State(tmp_path, made.settings, made.task, made.trainings)
    assert "so these are not named as the cause" in words(verdict.write(now).read_text(encoding="utf-8"))


@pytest.mark.usefixtures("few_pictures")
def test_a_page_with_more_labels_says_what_there_was_before(tmp_path):
    made = study(tmp_path, BETTER)
    (tmp_path / "work/history.json").write_text('[{"labelled": 4, "steps": 400, "without": 0.5, "with": 0.6}]')
    for _ in range(2):  # the same labels again: one line
        text = words(verdict.write(made).read_text(encoding="utf-8"))
    assert text.count("Before, with ") == 1
    assert "Before, with 4 labelled patients (400 steps): Dice 0.600 of mean_teacher, 0.500 of supervised." in text
    assert [row["labelled"] for row in json.loads((tmp_path / "work/history.json").read_text(encoding="utf-8"))] == [
        4,
        6,
    ]


@pytest.mark.usefixtures("few_pictures")
def test_only_pages_of_the_same_bundles_and_task_are_compared_and_corrected_labels_count(tmp_path):
    made = study(tmp_path, BETTER)
    verdict.write(made)
    path = tmp_path / "work/history.json"
    (now,) = json.loads(path.read_text(encoding="utf-8"))
    for change, count in (({"labels": "others"}, 1), ({"labels": "others", "method": "unimatch"}, 0),
                         ({"labels": "others", "task": "another"}, 0), ({}, 0)):  # fmt: skip
        path.write_text(json.dumps([{**now, **change}]))
        text = words(verdict.write(made).read_text(encoding="utf-8"))
        assert text.count("Before, with 6 labelled patients") == count, change
        assert text.count("With labels corrected, on the 6 patients who judged both times") == count, change
        assert len(json.loads(path.read_text(encoding="utf-8"))) == (2 if change else 1)


@pytest.mark.usefixtures("few_pictures")
def test_runs_of_other_settings_or_labels_are_in_no_figure(tmp_path):
    made = study(tmp_path, BETTER)
    for job in made.trainings.jobs:
        (made.runs / job.name / "job").mkdir()
        settings = job.settings() if job.name != "fold2_mean_teacher" else {**job.settings(), "steps": 200}
        (made.runs / job.name / "job/settings.json").write_text(json.dumps(settings))
    text = words(verdict.write(made).read_text(encoding="utf-8"))
    assert "(2 folds of 3)" in text
    assert "trained once" not in text
    assert "made under other settings, labels or images, and not run again yet: fold2_mean_teacher." in text
    label = tmp_path / "data/labels/p01_a.nii.gz"
    nib.save(nib.Nifti1Image(np.full((24, 24, 4), 5, np.uint8), np.eye(4)), label)
    changed = State(tmp_path, made.settings, made.task, made.trainings)
    with pytest.raises(StudyError, match="no fold is done with"):
        verdict.write(changed)


@pytest.mark.usefixtures("few_pictures")
def test_scans_that_were_not_segmented_are_named(tmp_path):
    made = study(tmp_path, BETTER)
    (made.runs / "final_mean_teacher/label_maps/p07_a_pred.nii.gz").unlink()
    text = words(verdict.write(made).read_text(encoding="utf-8"))
    says(text, "Not segmented", "inference refused it", "modality is missing", "in no list below: p07_a.")
    assert "All 3 unlabelled scans" in text


@pytest.mark.usefixtures("few_pictures")
def test_few_patients_are_told_how_many_it_would_take_even_where_the_interval_is_clear_of_zero(tmp_path):
    made = study(tmp_path, BETTER)
    shutil.rmtree(made.runs / "fold2_mean_teacher")
    text = words(verdict.write(made).read_text(encoding="utf-8"))
    assert "mean_teacher is better" not in text
    assert re.search(r"labelled patients would have to judge; 4 do", text)


@pytest.mark.usefixtures("few_pictures")
def test_what_new_labels_brought_is_told_on_the_patients_who_judged_both_times(tmp_path):
    made = study(tmp_path, BETTER)
    verdict.write(made)
    path = tmp_path / "work/history.json"
    (now,) = json.loads(path.read_text(encoding="utf-8"))
    assert len(now["dice"]) == 6
    kept = list(now["dice"].items())[:5]
    earlier = {case: [patient, without - 0.02, with_ - 0.1, label] for case, (patient, without, with_, label) in kept}
    path.write_text(json.dumps([{**now, "labels": "fewer", "labelled": 5, "steps": 300, "dice": earlier}]))
    text = words(verdict.write(made).read_text(encoding="utf-8"))
    gains = ("+10.0 Dice points (95 % interval 10.0 to 10.0) of mean_teacher",
             "+2.0 Dice points (95 % interval 2.0 to 2.0) of supervised")  # fmt: skip
    says(text, "With 1 more and 400 steps", "the 5 patients who judged both times", *gains, "too few patients to tell")
    case = kept[0][0]
    earlier[case][3] = "another label"
    path.write_text(json.dumps([{**now, "labels": "fewer", "labelled": 5, "dice": earlier}]))
    text = words(verdict.write(made).read_text(encoding="utf-8"))
    says(text, "the 4 patients who judged both times", "1 scan left out", "label was corrected since", "+10.0")
    of_a_version_before = {name: row[:3] for name, row in earlier.items()}
    path.write_text(json.dumps([{**now, "labels": "fewer", "labelled": 5, "dice": of_a_version_before}]))
    assert "on the 5 patients who judged both times: +10.0" in words(verdict.write(made).read_text(encoding="utf-8"))
    path.write_text(json.dumps([{**now, "labels": "fewer", "labelled": 5, "folds": 2, "dice": earlier}]))
    assert "who judged both times" not in words(verdict.write(made).read_text(encoding="utf-8"))


@pytest.mark.usefixtures("few_pictures")
def test_where_there_is_no_evidence_it_says_what_it_would_take(tmp_path):
    text = words(verdict.write(study(tmp_path, {"supervised": 0.5, "mean_teacher": 0.5})).read_text(encoding="utf-8"))
    assert "No evidence either way" in text
    assert re.search(r"a difference of 1\.0 points .* some \d+ labelled patients .* judge; 6 do", text)


@pytest.mark.usefixtures("few_pictures")
def test_folds_that_failed_are_named_and_those_that_are_done_are_told(tmp_path):
    made = study(tmp_path, BETTER)
    shutil.rmtree(made.runs / "fold2_mean_teacher")
    made.failed = {"fold2_mean_teacher": "it ended with 1"}
    text = words(verdict.write(made).read_text(encoding="utf-8"))
    assert "(2 folds of 3)" in text
    assert "trained once" not in text
    assert "Not in these figures, as they failed: fold2_mean_teacher: it ended with 1" in text


@pytest.mark.usefixtures("few_pictures")
def test_the_page_of_both_bundles_has_the_warnings_of_the_verdict(tmp_path, monkeypatch):
    warnings: list[list[str]] = []
    monkeypatch.setattr(verdict.pair, "compare_report", lambda *given: warnings.append(given[4]))
    made = study(tmp_path, BETTER)
    shutil.rmtree(made.runs / "fold2_mean_teacher")
    (made.runs / "fold3_mean_teacher/job").mkdir()
    (made.runs / "fold3_mean_teacher/job/settings.json").write_text("{}")
    made.failed = {"fold2_mean_teacher": "it ended with 1"}
    text = words(verdict.write(made).read_text(encoding="utf-8"))
    (short,) = (line for line in warnings[0] if line.startswith("These are short trainings, of 400 steps"))
    assert f"Mind: {short}" in text
    of_study, second, failed, stale = warnings[0]
    assert second == short
    says(of_study, "supervised and mean_teacher", "400 steps each", "1 fold of 3")
    says(failed, "Not in these figures", "failed", "fold2_mean_teacher: it ended with 1")
    says(stale, "Not in these figures", "other settings, labels or images", "not run again yet: fold3_mean_teacher.")
    differ_in_unlabelled_alone(made)
    now = State(tmp_path, made.settings, made.task, made.trainings)
    verdict.write(now)
    assert "supervised (without the unlabelled scans) and mean_teacher (with the unlabelled scans)" in warnings[1][0]


@pytest.mark.usefixtures("few_pictures")
def test_where_the_baseline_of_all_labels_failed_no_scan_is_said_to_be_empty(tmp_path):
    made = study(tmp_path, BETTER)
    shutil.rmtree(made.runs / "final_supervised")
    made.failed = {"final_supervised": "it ended with 1"}
    verdict.write(made)
    assert "nothing found" not in (tmp_path / "verdict.html").read_text(encoding="utf-8")


def test_without_a_fold_that_is_done_there_is_nothing_to_tell(tmp_path):
    made = study(tmp_path, {"supervised": 0.5})
    with pytest.raises(
        StudyError, match="no fold is done with supervised and mean_teacher, there is nothing to tell yet"
    ):
        verdict.write(made)


WEAK = "consistency was at most 0.5 % of the loss"


@pytest.mark.usefixtures("few_pictures")
@pytest.mark.parametrize(("steps", "length"), [
    (400, ("short trainings, of 400 steps", "some 1500 steps and more (about 1 h 25 min for the whole study at its pace).")),
    (1500, ("Length is not what is missing", "from some 1500 steps on", "these trainings have 1500.")),
])  # fmt: skip
def test_where_the_unlabelled_term_was_weak_the_length_it_needs_stands_with_it(tmp_path, monkeypatch, steps, length):
    """Six trainings of 60 s and two of 1,000 s, two at a time: 1,180 s of the 1,840 s that all of it took."""
    made = study(tmp_path, BETTER, steps=steps)
    for bundle in BETTER:
        (made.runs / f"final_{bundle}/metrics.csv").write_text("step,seconds\n400,1000\n")
    monkeypatch.setattr(verdict, "_curves", lambda _: [])
    monkeypatch.setattr(verdict, "notes", lambda _, name: [f"{name}: {WEAK}."])
    made.seconds = 1840.0
    text = words(verdict.write(made).read_text(encoding="utf-8"))
    assert text.count("Mind:") == 3, "one a fold"
    says(text, f"Mind: fold1: {WEAK}. Mind: fold2: {WEAK}. Mind: fold3: {WEAK}.", *length)
    assert text.index(length[0]) < text.index("mean_teacher is better"), "it comes first"


@pytest.mark.usefixtures("few_pictures")
def test_where_the_pace_is_not_known_the_length_is_in_steps_alone(tmp_path):
    text = words(verdict.write(study(tmp_path, BETTER)).read_text(encoding="utf-8"))
    says(text, "Mind: These are short trainings", "for some 1500 steps and more.")


def test_the_page_of_both_bundles_shows_its_warnings(state):
    text = words((state.folder / "compare.html").read_text(encoding="utf-8"))
    assert "Mind: Of a study: supervised and mean_teacher, 400 steps each" in text
    assert "Mind: These are short trainings, of 400 steps" in text


def test_the_page_fetches_nothing_and_names_the_user_s_own_paths(state):
    text = (state.folder / "verdict.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    assert f"make annotate STUDY={state.folder}" in text


def test_folds_are_pooled_with_what_lies_beside_them(state, tmp_path):
    tables = [state.table(part, "mean_teacher") for part in state.trainings.parts]
    pooled = pool(tables, tmp_path, "both")
    assert [row["case"] for row in read_cases(pooled)] == [row["case"] for path in tables for row in read_cases(path)]
    with np.load(tmp_path / "both.slices.npz") as arrays:
        assert len(arrays["cases"]) == 6
        assert f"image_{5}" in arrays
    pool(tables, tmp_path, "called", lambda case: f"scan {case}")
    with np.load(tmp_path / "called.slices.npz") as arrays:
        named = {str(case) for case in arrays["cases"]}
    of = [row["case"] for row in read_cases(tmp_path / "called.csv")]
    assert of == [f"scan {row['case']}" for row in read_cases(pooled)]
    assert named == set(of)
    assert "scan " in (tmp_path / "called.compat.csv").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="every case is judged once"):
        pool([tables[0], tables[0]], tmp_path, "twice")


@pytest.mark.usefixtures("few_pictures")
def test_a_final_training_whose_confidence_was_never_written_leaves_a_page(tmp_path):
    made = study(tmp_path, BETTER)
    (made.runs / "final_mean_teacher/label_maps/confidence.json").unlink()
    assert verdict.write(made).is_file()
