"""What every folder in ``bundles/`` does: a run from start to end, and what is refused before it."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import itk
import numpy as np
import pytest
import torch
import yaml
from conftest import BUNDLES, ROOT, TINY, default_task, each_bundle, tiny
from test_bundles import load

from custom.cohort.names import stem

TASKS = sorted((ROOT / "custom/tasks").glob("*.yaml"))
BASE = ROOT / "bundles/supervised"

# runs, in this process


@each_bundle(
    "contrastive_mutual"
)  # two networks and folders of modalities; of the others the release unpacks and runs one
def test_a_run_is_complete_by_itself(bundle, run_bundle, phantoms, tmp_path, caplog):
    """Train and evaluate; then infer, evaluate and go on training from ``output_dir/bundle`` alone, with no overlay."""
    both = ["configs/train.yaml", "configs/evaluate.yaml"]
    out = run_bundle(bundle, drawn=True, **tiny(bundle), learning_rate=0.002)
    assert sorted(p.name for p in out.iterdir()) == [
        ".lock", "bundle", "last_0001.pt", "last_0002.pt", "learning_curves.png", "metrics.csv", "tensorboard",
        "validation.png"]  # fmt: skip
    finished = out / "bundle"
    text = (finished / "configs/train.yaml").read_text(encoding="utf-8")
    assert re.search(r"^learning_rate: 0.002 +# ", text, re.MULTILINE), "comments are kept"
    assert not (finished / "scripts").is_symlink()

    images = copy_images(phantoms / default_task(bundle).stem, tmp_path / "images", 2)
    run_bundle(finished, "run", "configs/inference.yaml", dataset_dir=str(images), output_dir=str(tmp_path / "preds"))
    classes = len(load(bundle, "train.yaml")["classes"])
    for path in sorted(path for path in images.rglob("*") if path.is_file()):
        found = [p for p in (tmp_path / "preds").iterdir() if p.name.startswith(stem(path) + "_pred.")]
        assert len(found) == 1, path
        pred, image = itk.imread(found[0]), itk.imread(path)
        assert itk.size(pred) == itk.size(image)
        assert itk.spacing(pred) == pytest.approx(list(itk.spacing(image)), abs=1e-4)
        assert set(np.unique(itk.array_from_image(pred))) <= set(range(classes))

    run_bundle(bundle, "run", both, drawn=True, **tiny(bundle), learning_rate=0.002)
    assert (out / "evaluation/test/report.html").exists()
    scored = sorted(p.stem for p in (out / "evaluation/test").glob("*.json") if p.stem != "summary")
    networks = json.loads((finished / "run.json").read_text(encoding="utf-8"))["networks"]
    assert scored == sorted([*networks, *[f"{name}_final" for name in networks]])

    own = {"output_dir": str(tmp_path / "eval"), "models_dir": str(finished / "models")}
    run_bundle(finished, "run", both, **own)
    rows = (tmp_path / "eval/evaluation/test/model.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1 + 3
    assert "hd95_mm_mean" in rows[0]

    with caplog.at_level(logging.INFO):
        again = run_bundle(finished, output_dir=str(tmp_path / "again"))
    assert (again / "bundle/models/model.pt").exists()
    started_from = torch.load(finished / "models/model.pt", weights_only=True)
    assert started_from.keys() == torch.load(again / "bundle/models/model.pt", weights_only=True).keys()


def copy_images(phantom: Path, folder: Path, count: int) -> Path:
    """The first test cases of a phantom, in a folder a channel where it has several files a case."""
    for entry in json.loads((phantom / "list.json").read_text(encoding="utf-8"))["test"][:count]:
        files = entry["image"] if isinstance(entry["image"], dict) else {"": entry["image"]}
        for channel, file in files.items():
            (folder / channel).mkdir(parents=True, exist_ok=True)
            shutil.copy(phantom / file, folder / channel / f"{entry['patient']}{''.join(Path(file).suffixes)}")
    return folder


# Every pair except one: two networks, each for one modality, need two channels (refused: test_contrastive_mutual.py).
FORMS = [(bundle, task) for bundle in BUNDLES for task in TASKS if task.stem.startswith("phantom")
         and (bundle.name != "contrastive_mutual" or task.stem == "phantom_two_channels")]  # fmt: skip
# Not slow: every form once, and a network of its own in another dimension.
QUICK = (
    "mean_teacher-phantom_rgb",
    "mean_teacher-phantom_two_channels",
    "task_affinity-phantom_2d",
)


@pytest.mark.parametrize(("bundle", "task"), [
    pytest.param(bundle, task, id=name, marks=() if name in QUICK else pytest.mark.slow)
    for bundle, task in FORMS for name in [f"{bundle.name}-{task.stem}"]
])  # fmt: skip
def test_every_form_of_the_phantom_trains_and_infers(bundle, task, run_bundle, phantoms, tmp_path):
    """2D slices, 3D, two channels, RGB: the task file alone makes the difference."""
    own = yaml.safe_load(task.read_text(encoding="utf-8"))
    small = {**TINY, "patch": [16] * len(own["patch"])}
    out = run_bundle(bundle, "training", ["configs/train.yaml", f"scripts/tasks/{task.name}"], **small)
    formats = json.loads((out / "bundle/configs/metadata.json").read_text(encoding="utf-8"))["network_data_format"]
    assert formats["inputs"]["image"]["num_channels"] == len(own["channels"])
    images = copy_images(phantoms / task.stem, tmp_path / "images", 1)
    preds = tmp_path / "preds"
    where = {"dataset_dir": str(images), "output_dir": str(preds)}
    run_bundle(out / "bundle", "run", "configs/inference.yaml", drawn=True, pictures=True, **where)
    [written] = [path.name.partition("_pred.")[0] for path in preds.glob("*_pred.*")]
    assert sorted(path.name for path in (preds / "pictures").iterdir()) == ["all.png", f"{written}.png"]


def test_lists_in_memory_train_without_validation(run_bundle, phantoms, tmp_path):
    """What MONAI Label does: scans by path, no validation, weights by a handler, its own number of epochs."""
    parts = json.loads((phantoms / "phantom_2d/list.json").read_text(encoding="utf-8"))
    data = [{k: str(phantoms / "phantom_2d" / e[k]) for k in ("image", "label")} for e in parts["labelled"]]
    pool = [{"image": str(phantoms / "phantom_2d" / e["image"])} for e in parts["unlabelled"]]
    overrides = {"train::dataset::data": data, "train::unlabelled_dataset::data": pool, "validate::dataset::data": [],
            "train::trainer::max_epochs": 1}  # fmt: skip
    out = run_bundle(ROOT / "bundles/mean_teacher", "run", **TINY, **overrides)
    assert [p.name for p in out.glob("last_*")] == ["last_0001.pt"]
    assert (out / "bundle/models/model.pt").exists()


@pytest.mark.fault("2", "resumed through the config")
def test_resume_through_the_config_is_exact(run_bundle, finished, tmp_path, caplog):
    straight, killed = (finished("mean_teacher", tmp_path / name) for name in ("straight", "killed"))
    (killed / "last_0002.pt").unlink()
    with caplog.at_level(logging.INFO):
        run_bundle(ROOT / "bundles/mean_teacher", **{**TINY, "workers": 2}, output_dir=str(killed), resume=True)
    assert "Resumed from last_0001.pt: epoch 2 of 2." in caplog.text
    a, b = (torch.load(f / "last_0002.pt", weights_only=True)["state"] for f in (straight, killed))
    from test_resume import assert_same_state

    assert_same_state(a, b)


@pytest.mark.fault("2c", "one setting changed")
def test_resume_with_other_settings_is_refused_and_touches_nothing(run_bundle, finished, tmp_path):
    out = finished("supervised", tmp_path / "out")
    before = {p: p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file() and p.name != ".lock"}
    with pytest.raises(RuntimeError) as error:
        run_bundle(ROOT / "bundles/supervised", **{**TINY, "learning_rate": 0.5}, resume=True)
    assert "written with learning_rate=0.03, this config has 0.5" in str(error.value.__cause__)
    assert {p: p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file() and p.name != ".lock"} == before


def test_a_finished_bundle_keeps_no_device_address_or_handler_of_the_run(run_bundle, tmp_path):
    handler = {"_target_": "StatsHandler", "name": "annotator", "output_transform": "$lambda x: None"}
    handlers = [*load(ROOT / "bundles/supervised", "train.yaml")["train"]["handlers"], handler]
    overrides = {"device": "cpu", "mlflow_uri": f"sqlite:///{tmp_path}/m.db", "train::handlers": handlers}
    out = run_bundle(ROOT / "bundles/supervised", **TINY, **overrides)
    for name in ("train.yaml", "inference.yaml"):
        text = (out / "bundle/configs" / name).read_text(encoding="utf-8")
        assert "scripts.distributed.local_device" in text
        assert "m.db" not in text
        assert "annotator" not in text


def test_weights_to_start_from_cannot_lie_in_the_folder_that_is_moved_aside(run_bundle, finished, tmp_path):
    out = finished("supervised", tmp_path / "out")
    with pytest.raises(RuntimeError) as error:
        run_bundle(ROOT / "bundles/supervised", **TINY, initial_weights=str(out / "bundle/models/model.pt"))
    assert "Choose another --output_dir" in str(error.value.__cause__)
    assert (out / "bundle/models/model.pt").exists()


def test_lists_in_memory_are_judged(run_bundle, phantoms):
    entry = json.loads((phantoms / "phantom_2d/list.json").read_text(encoding="utf-8"))["labelled"][0]
    data = [{k: str(phantoms / "phantom_2d" / entry[k]) for k in ("image", "label")}]
    overrides = {"train::dataset::data": data, "validate::dataset::data": data}
    with pytest.raises(RuntimeError) as error:
        run_bundle(ROOT / "bundles/supervised", **TINY, **overrides)
    assert "in training and in validation. Keep all scans of a patient in one part" in str(error.value.__cause__)


@pytest.mark.slow  # test_release does so with what comes out of a zip
@each_bundle("mean_teacher")
def test_a_copy_with_real_files_works_alone(bundle, tmp_path, phantoms):
    """The copy is like a released zip: no link, no repository round it; run by the command line, as a user would."""
    alone = tmp_path / "alone"
    shutil.copytree(bundle, alone, ignore=shutil.ignore_patterns("data", "eval", "__pycache__"))
    assert not (alone / "scripts").is_symlink()
    overrides = [f"--{key}={value}" for key, value in {**tiny(bundle), "dataset_dir": phantoms}.items()]
    command = [
        sys.executable,
        "-m",
        "monai.bundle",
        "run",
        "training",
        "--config_file",
        "configs/train.yaml",
        *overrides,
    ]
    done = subprocess.run(command, cwd=alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (alone / "eval/bundle/models/model.pt").exists()
    assert "steps = 4 (bundle: " in done.stdout, "the run says what differs"
    assert "epoch 2/2" in done.stdout
    noise = [line for line in done.stderr.splitlines() if "arn" in line and "parsing config_file" not in line]
    assert noise == [], "no wall of warnings"


@pytest.mark.fault("12", "misspelt override")
@each_bundle("mean_teacher")
def test_a_misspelt_override_stops_the_run(bundle, run_bundle, tmp_path):
    with pytest.raises(RuntimeError) as error:
        run_bundle(bundle, **tiny(bundle), learning_rat=0.1)
    assert "--learning_rat: the config has no such id (did you mean 'learning_rate'?)" in str(error.value.__cause__)
    assert not (tmp_path / "out").exists(), "nothing was started"


def test_true_and_false_in_small_letters_are_no_texts(run_bundle):
    """``--push false`` reaches MONAI as the text "false", which Python holds for true."""
    bundle = ROOT / "bundles/low_confidence"
    out = run_bundle(bundle, **TINY, push="false", shared_scans="true", **{"train::optimizer::nesterov": "False"})
    train = yaml.safe_load((out / "bundle/configs/train.yaml").read_text(encoding="utf-8"))
    assert (train["push"], train["shared_scans"], train["train"]["optimizer"]["nesterov"]) == (False, True, False)


@pytest.mark.fault("18", "a path below a regular file")
def test_an_output_folder_that_cannot_be_written_is_found_before_any_scan_is_read(run_bundle, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.INFO), pytest.raises(RuntimeError) as error:
        run_bundle(ROOT / "bundles/supervised", **TINY, output_dir=str(tmp_path / "file/out"))
    assert "cannot be written" in str(error.value.__cause__)
    assert "in memory" not in caplog.text


def test_two_processes_train_through_the_command_line(tmp_path, phantoms):
    """``torchrun`` with the overlay, on CPUs over Gloo."""
    overrides = [
        f"--{key}={value}" for key, value in {**TINY, "dataset_dir": phantoms, "output_dir": tmp_path / "out"}.items()
    ]
    files = "['configs/train.yaml','configs/multi_gpu_train.yaml']"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "monai.bundle",
               "run", "training", "--config_file", files, *overrides]  # fmt: skip
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib/__init__.py").write_text("raise ImportError('figures are drawn in other tests')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT / "bundles/mean_teacher", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(p.name for p in (tmp_path / "out").glob("last_*")) == ["last_0001.pt", "last_0002.pt"]
    assert done.stdout.count("epoch 2/2") == 1, "one rank reports"
    assert done.stdout.count("settings") == 1


@pytest.mark.fault("5a", "in one report with faults of the list, at the start of a training")
def test_a_training_begins_with_one_report_of_all_faults_of_list_and_files(run_bundle, phantoms, tmp_path):
    shutil.copytree(phantoms / "phantom_2d", tmp_path / "cohort")
    path = tmp_path / "cohort/list.json"
    parts = json.loads(path.read_text(encoding="utf-8"))
    cut, lost = parts["labelled"][0]["image"], parts["validation"][0]["label"]
    (path.parent / cut).write_bytes((path.parent / cut).read_bytes()[:-40])
    (path.parent / lost).unlink()
    del parts["labelled"][1]["label"]
    path.write_text(json.dumps(parts))
    with pytest.raises(RuntimeError) as error:
        run_bundle(BASE, **TINY, data_list=str(path))
    text = str(error.value.__cause__)
    assert all(part in text for part in ("no label; only unlabelled", f"{lost} does not exist", "is truncated"))
    assert not (tmp_path / "out").exists()


def test_label_values_that_do_not_fit_the_classes_are_told_in_one_sentence(run_bundle):
    with pytest.raises(RuntimeError) as error:
        run_bundle(BASE, **TINY, label_values=[0, 255])
    assert "label_values [0, 255]: expected one value for each of ['background'" in str(error.value.__cause__)
