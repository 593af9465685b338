"""Was a study right? Its figures against labels that were hidden from it, and against a study that has more of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from finished import AFFINE, BETTER, LABELLED, TASK, UNLABELLED, cube, prediction, study
from scipy.stats import spearmanr

from benchmarks import study_labels, study_task
from benchmarks.study import HEADS, truth
from custom.dice import class_dice
from custom.study import verdict
from custom.study.jobs import Runner

HIDDEN = [f"p{k:02}_a" for k in range(LABELLED, LABELLED + UNLABELLED)]


@pytest.fixture
def hidden(tmp_path: Path) -> Path:
    """Labels of the scans that have none."""
    folder = tmp_path / "hidden"
    folder.mkdir()
    for name in HIDDEN:
        nib.save(nib.Nifti1Image(cube(8 + int(name[1:3])) * 5, AFFINE), folder / f"{name}.nii.gz")
    return folder


def dice(name: str, share: float) -> float:
    found, wanted = prediction(8 + int(name[1:3]), share), cube(8 + int(name[1:3]))
    return class_dice(int((found & wanted).sum()), int(found.sum()), int(wanted.sum()))


@pytest.mark.usefixtures("few_pictures")
def test_the_true_difference_is_over_the_hidden_labels(tmp_path, hidden):
    state = study(tmp_path / "study", BETTER)
    verdict.write(state)
    row = truth(state.folder, hidden)
    each = [0.0 if name == "p09_a" else dice(name, 0.75) - dice(name, 0.5) for name in HIDDEN]  # empty of both
    assert row[2].startswith(f"{100 * np.mean(each):+.1f} (")
    assert row[3] == "4"


@pytest.mark.usefixtures("few_pictures")
def test_the_naive_guess_is_what_a_user_knows_and_the_order_is_that_of_the_page(tmp_path, hidden):
    """The hidden scans are larger than all that judged: their own median, which nobody knows, would be the closer guess."""
    state = study(tmp_path / "study", BETTER)
    verdict.write(state)
    row = dict(zip(HEADS, truth(state.folder, hidden), strict=True))
    page = [line for line in csv.DictReader((state.folder / "scores.csv").open()) if not line["patient"]]
    true = {name: 0.0 if name == "p09_a" else dice(name, 0.75) for name in HIDDEN}
    known = np.mean([dice(f"p{k:02}_a", 0.75) for k in range(LABELLED)])
    told = [line["scan"] for line in page if line["predicted_dice"]] or [
        line["scan"] for line in page if line["agreement"]
    ]
    of = np.array([true[name] for name in told])
    assert row["of the labelled scans' mean"] == f"{100 * np.abs(of - known).mean():.1f}"
    assert (
        row["of the best constant"]
        == f"{100 * np.abs(of - np.median(of)).mean():.1f}"
        != row["of the labelled scans' mean"]
    )
    order = spearmanr(range(len(page)), [true[line["scan"]] for line in page]).statistic
    assert row["rank correlation of the page's order"] == f"{order:.2f}"
    # p09_a, on which nothing was found, is the first of the page and has no agreement
    agreed = [line for line in page if line["agreement"]]
    of_agreement = spearmanr(
        [float(line["agreement"]) for line in agreed], [true[line["scan"]] for line in agreed]
    ).statistic
    assert row["of agreement"] == f"{of_agreement:.2f}" != f"{order:.2f}"


def labelled(folder: Path, hidden: Path, name: str) -> None:
    """What a study leaves whose last networks knew one label more."""
    data = folder / "work/final.json"
    lists = json.loads(data.read_text())
    lists["labelled"].append({"patient": name[:3], "image": name, "label": str(hidden / f"{name}.nii.gz")})
    data.write_text(json.dumps(lists))


@pytest.mark.usefixtures("few_pictures")
def test_more_labels_are_judged_by_what_no_training_saw(tmp_path, hidden):
    """The second study finds more of each scan, and has the label of one that is hidden from the first."""
    before = study(tmp_path / "before", BETTER, half=True).folder
    after = study(tmp_path / "after", {"supervised": 0.75, "mean_teacher": 0.75}).folder
    with pytest.raises(SystemExit, match=r"6 labelled patients, .*before 6: expected more"):
        study_labels.rows(before, after, hidden)
    labelled(after, hidden, "p06_a")
    plain, method = study_labels.rows(before, after, hidden)
    each = [dice(name, 0.75) - dice(name, 0.5) for name in ("p07_a", "p08_a")] + [0.0]
    assert plain[:2] == ["supervised", "6 to 7"]
    assert plain[4].startswith(f"{100 * np.mean(each):+.1f} (")
    assert method[4] == "+0.0 (0.0 to 0.0)"
    assert (plain[5], method[5]) == ("3", "3")
    assert float(plain[3].split()[0]) > 0  # of the curve: half of the labels found less


@pytest.mark.usefixtures("few_pictures")
def test_without_a_curve_there_is_nothing_that_could_come_true(tmp_path, hidden):
    folder = study(tmp_path / "before", BETTER).folder
    with pytest.raises(SystemExit, match="says nothing of more labels: "):
        study_labels.rows(folder, folder, hidden)


def test_the_task_by_hand_gets_the_time_of_the_planned_one(tmp_path, hidden, monkeypatch):
    """Its probe takes half a second a step, the planned training took 60 seconds."""
    folder, asked = study(tmp_path / "study", BETTER).folder, []
    for bundle in BETTER:
        (folder / f"work/runs/final_{bundle}/metrics.csv").write_text("step,seconds\n200,30\n400,30\n")
    by_hand = tmp_path / "by_hand.yaml"
    by_hand.write_text(yaml.safe_dump({**TASK, "label_values": [0, 5]}))

    def run(self, jobs):
        for job in jobs:
            asked.append((job.name, job.steps, job.task))
            out = self.folder / job.name
            out.mkdir(parents=True)
            epochs = [["step", "seconds"], *([str(k), str(job.steps / 20 * 0.5)] for k in range(20))]
            with (out / "metrics.csv").open("w", newline="") as file:
                csv.writer(file).writerows(epochs)
            if job.maps_of:
                (out / "label_maps").mkdir()
                for name in HIDDEN:
                    found = prediction(8 + int(name[1:3]), 0.5)
                    nib.save(nib.Nifti1Image(found * 5, AFFINE), out / f"label_maps/{name}_pred.nii.gz")
        return {}

    monkeypatch.setattr(Runner, "run", run)
    plain, method = study_task.rows(folder, by_hand, hidden)
    assert asked == [
        ("probe_supervised", 60, by_hand), ("probe_mean_teacher", 60, by_hand), ("supervised", 120, by_hand),
        ("mean_teacher", 120, by_hand),
    ]  # fmt: skip
    assert plain[:3] == ["supervised", "400, 120", "60, 60"]
    missed = dice("p09_a", 0.5)  # of the planned task's networks alone nothing is found there
    assert plain[4].startswith(f"{-100 * missed / 4:+.1f} (")
    known = [dice(name, 0.75) - dice(name, 0.5) for name in HIDDEN[:3]]
    assert method[4].startswith(f"{100 * (sum(known) - missed) / 4:+.1f} (")


def test_a_failed_training_ends_it_and_is_named(tmp_path, hidden, monkeypatch):
    folder = study(tmp_path / "study", BETTER).folder
    monkeypatch.setattr(Runner, "run", lambda *_: {"probe_supervised": "out of memory"})
    with pytest.raises(SystemExit, match="probe_supervised: out of memory"):
        study_task.rows(folder, folder / "task.yaml", hidden)
