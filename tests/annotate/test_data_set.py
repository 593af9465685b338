"""A study of a data set from its plan to a corrected label, for real: trainings of four steps, a server, plain HTTP."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml
from annotation_server import ROOT, Server
from data_sets import contents
from saying import says

from custom import phantom

CLASSES = {"background": 0, "RV": 1, "Myo": 2, "LV": 3}
LABELLED, UNLABELLED = 4, 4


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """Phantom scans, each with a label."""
    folder = tmp_path_factory.mktemp("drawn")
    phantom.draw(
        "2d", folder, patients={"labelled": LABELLED + UNLABELLED, "unlabelled": 0, "validation": 0, "test": 0}
    )
    return folder


@pytest.fixture(scope="module")
def data_set(drawn, tmp_path_factory) -> Path:
    """The scans in nnU-Net's raw form, half of them with a label; two for testing."""
    folder = tmp_path_factory.mktemp("set")
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / name).mkdir()
    for k, image in enumerate(sorted((drawn / "images").iterdir())):
        part = "imagesTr" if k < LABELLED + UNLABELLED - 2 else "imagesTs"
        shutil.copy(image, folder / part / image.name.replace(".nii.gz", "_0000.nii.gz"))
        if k < LABELLED:
            shutil.copy(drawn / "labels" / image.name, folder / "labelsTr")
    said = {"channel_names": {"0": "MRI"}, "labels": CLASSES, "file_ending": ".nii.gz", "numTraining": LABELLED}
    (folder / "dataset.json").write_text(json.dumps(said))
    return folder


def study(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "custom.study", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")


@pytest.fixture(scope="module")
def out(data_set, tmp_path_factory) -> Path:
    """A study that is done."""
    folder = tmp_path_factory.mktemp("study")
    planned = study("plan", folder, "--images", data_set, "--budget", "60m")
    assert planned.returncode == 0, planned.stdout + planned.stderr
    text = (folder / "study.yaml").read_text(encoding="utf-8")
    for name, value in {"steps": 4, "steps_at_equal_time": 0, "half": "false", "folds": 2}.items():
        text = re.sub(rf"(?m)^{name}: \w+", f"{name}: {value}", text)
    (folder / "study.yaml").write_text(text)
    done = study("run", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def server(annotate_python, out, drawn, tmp_path_factory) -> Iterator[Server]:
    work = tmp_path_factory.mktemp("work") / "work"
    started = Server(annotate_python, "", out / "annotation", work, drawn / "labels", study=out)
    yield started.launch().ready()
    started.stop()


@pytest.mark.slow
def test_a_data_set_is_annotated_and_its_study_takes_what_was_corrected(data_set, out, server):
    before = contents(data_set)
    with (out / "scores.csv").open(newline="", encoding="utf-8") as file:
        order = [row["scan"] for row in csv.DictReader(file) if not row["patient"]]
    assert len(order) == UNLABELLED

    images = requests.get(f"{server.url}/datastore/?output=all", timeout=60).json()["objects"]
    assert len(images) == LABELLED + UNLABELLED
    labelled = {name for name, of in images.items() if "final" in of["labels"]}
    assert labelled == set(images) - set(order)
    for part, name in (("imagesTr", min(labelled)), ("imagesTs", max(images))):
        found = requests.get(f"{server.url}/datastore/image?image={name}", timeout=60).content
        assert found == (data_set / part / f"{name}_0000.nii.gz").read_bytes()

    def next_sample() -> dict:
        return requests.post(f"{server.url}/activelearning/study", json={}, timeout=60).json()

    assert next_sample()["id"] == order[0]
    assert server.infer(order[0]).json()["model"] == server.name
    for name in (order[0], min(labelled)):
        assert server.save_label(name).status_code == 200
    assert next_sample()["id"] == order[1]
    version = json.loads((server.bundle / "versions/0001/version.json").read_text(encoding="utf-8"))
    assert version["labelled"] == sorted(labelled)  # learnt, so that none of them judges new weights

    # reads the scans and writes the lists as a run does, without its trainings, all of which the new label makes stale
    found = study("report", out)
    says(found.stderr, "no fold is done")
    final = out / "annotation/labels/final"
    # the other label was saved as it was
    says(found.stdout, f"1 label taken from {final}", "1 of them new", order[0])
    learns = json.loads((out / "work/final.json").read_text(encoding="utf-8"))["labelled"]
    label_of = {Path(entry["image"]).name: entry["label"] for entry in learns}
    assert label_of[f"{order[0]}_0000.nii.gz"] == str(final / f"{order[0]}.nii.gz")
    assert label_of[f"{min(labelled)}_0000.nii.gz"] == str(data_set / f"labelsTr/{min(labelled)}.nii.gz")
    assert contents(data_set) == before
    assert yaml.safe_load((out / "study.yaml").read_text(encoding="utf-8"))["images"] == str(data_set)
