"""Rounds of training by the app's own methods, in one process of its environment: what needs no server."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from annotation_server import ROOT, TINY
from saying import says

ROUNDS = """
import json, shutil, sys
from pathlib import Path
import nibabel, numpy as np
from annotate.main import AnnotateApp
from annotate.start import prepare
from custom.run.folder import RunFolder

studies, labels, model, work = sys.argv[1:]
app_dir, name = prepare(Path(studies), model, Path(work))
app = AnnotateApp(str(app_dir), studies, {"models": name})
results = {}

def save(image, change=None):
    label = nibabel.load(f"{labels}/{image}.nii.gz")
    voxels, affine = np.asarray(label.dataobj).copy(), label.affine.copy()
    if change:
        change(voxels, affine)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), f"{work}/label.nii.gz")
    app.datastore().save_label(image, f"{work}/label.nii.gz", "final", {})

def train(key, **asked):
    try:
        results[key] = app.train({"model": name, "max_epochs": 1, **asked})
    except Exception as error:
        results[key] = type(error).__name__
    results[f"{key} stats"] = app.info()["train_stats"][name]

train("no label")
save("p001")
train("one label")
train("one label again")
save("p002", lambda voxels, affine: voxels.__setitem__((0, 0, 0), 7))
save("p000", lambda voxels, affine: affine.__setitem__((0, 3), 5.0))
train("bad labels")
for image in ("p000", "p002", "p003"):
    save(image)
with RunFolder(app_dir / "model" / name / "training"):
    train("another trains")
train("all labelled", pretrained=False)
task = app._trainers[name]
for key, ours in (("better", 0.9), ("equal", 0.5), ("worse", 0.4), ("not a number", float("nan"))):
    task.served.dice = lambda cases, weights, ours=ours: ours if "candidate" in str(weights) else 0.5
    before = task.versions.served()
    results[key] = {**task._decide(task.served.networks()["model"]), "before": before}
task.served.dice = lambda cases, weights: float("nan")
for key, ours in (("no alarm", 0), ("as many alarms", 2), ("more alarms", 3)):
    task.served.false_alarms = lambda cases, weights, ours=ours: ours if "candidate" in str(weights) else 2
    before = task.versions.served()
    results[key] = {**task._decide(task.served.networks()["model"]), "before": before}
results["versions"] = {v: app._trainers[name].versions.record(v) for v in results["all labelled stats"]["versions"]}
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def results(
    annotate_python: Path, scans: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What each round came to, on four scans, of which p000 is held out."""
    folder = tmp_path_factory.mktemp("rounds")
    (folder / "studies").mkdir()
    for number in range(4):
        (folder / f"studies/p00{number}.nii.gz").write_bytes((scans[0] / f"p00{number}.nii.gz").read_bytes())
    task = yaml.safe_load((ROOT / "custom/tasks/phantom_2d.yaml").read_text())
    (folder / "tiny.yaml").write_text(yaml.safe_dump({**task, **TINY}))
    done = subprocess.run(
        [annotate_python, "-c", ROUNDS, folder / "studies", scans[1], f"mean_teacher:{folder / 'tiny.yaml'}", folder / "work"],
        cwd=ROOT, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_without_a_label_nothing_is_trained(results: dict[str, Any]) -> None:
    assert results["no label"] == "RoundError"
    assert results["no label stats"]["last"]["message"].startswith("no labelled scan: Train needs labels")
    assert results["no label stats"]["served"] is None


def test_the_first_candidate_serves_at_once(results: dict[str, Any]) -> None:
    assert results["one label"]["replaced"]
    assert results["one label"]["dice"] == {"candidate": None, "served": None}
    assert results["one label"]["scans"] == {"labelled": 1, "validation": 0, "unlabelled": 2}
    assert "no scan to judge by" in results["one label"]["message"]


def test_from_then_on_one_label_is_too_few(results: dict[str, Any]) -> None:
    message = results["one label again stats"]["last"]["message"]
    says(message, "1 labelled scan", "Train needs 2", "one to learn from", "one to judge by")


@pytest.mark.fault("19", "labels with a value of no class and on another grid")
def test_the_check_of_the_scans_is_the_reply(results: dict[str, Any]) -> None:
    last = results["bad labels stats"]["last"]
    assert last["status"] == "ERROR"
    assert "p002" in last["message"]
    assert "Remap 7" in last["message"]
    assert "p000" in last["message"]
    assert "is not on the grid of" in last["message"]
    assert results["bad labels stats"]["weights"] == results["one label stats"]["weights"]


def test_two_processes_do_not_train_in_one_work_folder(results: dict[str, Any]) -> None:
    assert results["another trains"] == "RunFolderError"
    assert results["another trains stats"]["last"] == results["bad labels stats"]["last"]


def test_without_unlabelled_scans_it_trains_supervised_and_says_so(results: dict[str, Any]) -> None:
    result = results["all labelled"]
    assert result["scans"] == {"labelled": 3, "validation": 1, "unlabelled": 0}
    assert "No unlabelled scan is left: training is supervised" in result["message"]
    assert result["replaced"] == (result["dice"]["candidate"] >= result["dice"]["served"])


@pytest.mark.parametrize(
    ("dice", "serves"),
    [("better", True), ("equal", True), ("worse", False), ("not a number", False),
     ("no alarm", True), ("as many alarms", True), ("more alarms", False)],
)  # fmt: skip
def test_a_candidate_serves_only_if_it_is_no_worse(results: dict[str, Any], dice: str, serves: bool) -> None:
    result = results[dice]
    assert result["replaced"] is serves
    assert (result["version"] != result["before"]) is serves
    assert ("The new weights serve" in result["message"]) is serves


def test_where_no_judge_has_a_structure_false_alarms_decide(results: dict[str, Any]) -> None:
    assert results["more alarms"]["dice"] == {"candidate": None, "served": None}
    version = results["more alarms"]["version"]
    found = ("false alarms 3 against 2", "1 validation scan without a structure")
    says(results["more alarms"]["message"], "The new weights are worse", f"version {version} stays", *found)


def test_a_version_remembers_what_it_learnt(results: dict[str, Any]) -> None:
    record = results["versions"]["0001"]
    assert record["labelled"] == ["p001"]
    assert record["unlabelled"] == ["p002", "p003"]  # p000 is kept to judge by
    assert record["dice"] == {"candidate": None, "served": None}
    assert set(record["sha256"]) == {"model.pt", "student.pt"}
