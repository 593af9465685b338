"""nnU-Net against our bundles: scans to nnU-Net and back, the time plan, the table. nnU-Net itself is not needed."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nibabel
import numpy as np
import pytest
import yaml
from benchmark_fixtures import lines_of
from conftest import ROOT
from monai.transforms import Compose, LoadImaged, Orientationd
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from PIL import Image
from saying import raises, says

from benchmarks.peers import __main__ as command
from benchmarks.peers import cohort, nnunet, ours, table
from custom.cohort.reader import ScanReader
from custom.errors import UserError
from custom.evaluation.case_report import CaseReport
from custom.evaluation.case_table import read_cases


@pytest.fixture
def scans(phantoms, tmp_path):
    """``scans(form, axes)``: a small phantom of its own, its files turned to ``axes``, as :func:`cohort.read` finds it."""

    def make(form, axes=""):
        shutil.copytree(phantoms / f"phantom_{form}", tmp_path / f"phantom_{form}")
        for path in (tmp_path / f"phantom_{form}").glob("*/*.nii.gz") if axes else ():
            image = nibabel.load(path)
            image = image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(axes)))
            nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine), path)
        (tmp_path / "run").mkdir()
        return cohort.read(f"phantom_{form}", tmp_path, tmp_path / "run")

    return make


def perfect(scans, folder):
    """The test labels as nnU-Net would predict them: written as labels of training are."""
    raw = cohort.write_raw(replace(scans, parts={**scans.parts, "labelled": scans.parts["test"]}), folder)
    for path in (raw / "labelsTr").iterdir():
        path.rename(path.with_name(path.name.replace("labelled", "test")))
    return raw / "labelsTr"


@pytest.mark.parametrize(
    ("form", "axes"), [("2d", ""), ("2d", "PIR"), ("3d", "LPS"), ("two_channels", ""), ("rgb", "")]
)
def test_predictions_come_back_on_the_grid_of_the_files(scans, tmp_path, form, axes):
    found = scans(form, axes)
    cohort.bring_back(found, perfect(found, tmp_path / "raw"), tmp_path / "maps")
    cases = found.cases("test")
    assert len(cases) == len(list((tmp_path / "maps").iterdir())) == 3
    for case in cases:
        label = Path(case["reference"])
        [written] = (tmp_path / "maps").glob(f"{case['case']}_pred.*")
        if form == "rgb":
            assert np.array_equal(np.asarray(Image.open(written)), np.asarray(Image.open(label)))
        else:
            there, back = nibabel.load(label), nibabel.load(written)
            assert np.array_equal(np.asarray(back.dataobj), np.asarray(there.dataobj))
            assert np.array_equal(back.affine, there.affine)
    unit = table.score(found, tmp_path / "maps", tmp_path / "scores", "perfect")
    assert unit == ("pixels" if form == "rgb" else "mm")
    for row in read_cases(tmp_path / "scores/perfect.csv"):
        assert (row["dice_mean"], row["hd95_mm_mean"], row["missed"], row["false_alarms"]) == (1, 0, 0, 0)


def test_nnunet_gets_the_voxels_that_our_preprocessing_sees_and_consecutive_labels(scans, tmp_path):
    found = scans("2d", "PIR")
    for part in cohort.JUDGED:  # values as masks have them
        for entry in found.parts[part]:
            image = nibabel.load(entry["label"])
            values = np.array([0, 50, 100, 255], np.uint8)[np.asarray(image.dataobj)]
            nibabel.save(nibabel.Nifti1Image(values, image.affine), entry["label"])
    found = replace(found, task={**found.task, "label_values": [0, 50, 100, 255]})
    raw = cohort.write_raw(found, tmp_path / "raw")
    about = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))
    assert about["labels"] == {"background": 0, "right ventricle": 1, "myocardium": 2, "left ventricle": 3}
    assert (about["channel_names"], about["numTraining"]) == ({"0": "image"}, 2)
    assert sorted(path.name for path in (raw / "imagesTs").iterdir()) == [f"test_{k:04d}_0000.nii.gz" for k in range(3)]
    keys = ("image", "label")
    turn = Compose([LoadImaged(keys, reader=ScanReader, ensure_channel_first=True),
                    Orientationd(keys, axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))])  # fmt: skip
    for k, entry in enumerate(found.parts["labelled"]):
        ours_ = turn({key: entry[key] for key in keys})
        image, label = (nibabel.load(raw / f"{place}/labelled_{k:04d}{end}.nii.gz") for place, end in
                        (("imagesTr", "_0000"), ("labelsTr", "")))  # fmt: skip
        assert np.array_equal(image.get_fdata(), ours_["image"][0])
        assert np.array_equal(np.array([0, 50, 100, 255])[np.asarray(label.dataobj)], ours_["label"][0])
        for written in (image, label):
            np.testing.assert_allclose(written.header.get_zooms(), ours_["image"].pixdim, rtol=1e-6)


def test_sizes_of_voxels_that_contradict_an_affine_are_kept(scans, tmp_path):
    """Copies of ACDC exist whose affines say 1 mm."""
    found = scans("2d")
    for entry in found.parts["labelled"]:
        for key in ("image", "label"):
            image = nibabel.load(entry[key])
            image.set_sform(np.eye(4), code=1)
            image.set_qform(None, code=0)
            image.header.set_zooms((1.25, 1.25, 8))
            nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), None, image.header), entry[key])
    raw = cohort.write_raw(found, tmp_path / "raw")
    zooms = nibabel.load(raw / "imagesTr/labelled_0000_0000.nii.gz").header.get_zooms()
    np.testing.assert_allclose(zooms, (1.25, 1.25, 8))


def test_our_trainings_see_neither_test_nor_validation(scans):
    found = scans("two_channels")
    parts = json.loads(found.own_list.read_text(encoding="utf-8"))
    assert parts["test"] == parts["validation"] == []
    assert parts["labelled"] == found.parts["labelled"]
    images = cohort.links(found, found.own_list.parent / "images")
    assert sorted(path.name for path in (images / "second").iterdir()) == [
        f"{c['case']}.nii.gz" for c in found.cases("test")
    ]


# faults of the user


def spoil(folder, form, change):
    path = folder / f"phantom_{form}/list.json"
    parts = json.loads(path.read_text(encoding="utf-8"))
    change(parts)
    path.write_text(json.dumps(parts))


def test_a_list_without_a_test_part_ends_with_a_plain_line(phantoms, tmp_path, monkeypatch, capsys):
    shutil.copytree(phantoms / "phantom_2d", tmp_path / "phantom_2d")
    spoil(tmp_path, "2d", lambda parts: parts.update(test=[]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match=r"^phantom:2d has no scans under 'test': nothing to score$") as error:
        command.main(["--task", "phantom_2d", "--lists", str(tmp_path), "--output", str(tmp_path / "runs")])
    sys.excepthook(error.type, error.value, error.tb)
    assert capsys.readouterr().err == f"\nerror: {error.value}\n"


@pytest.mark.parametrize("part", cohort.JUDGED)
def test_a_scan_that_lacks_a_channel_is_named(scans, tmp_path, part):
    found = scans("two_channels")
    case = found.cases(part)[0]["case"]
    spoil(tmp_path, "two_channels", lambda parts: parts[part][0]["image"].pop("second"))
    found = (f"{part}, {case} lacks second,", "channels (first, second)")
    with raises(cohort.PeersError, *found, "Add the file", "remove the entry"):
        cohort.read("phantom_two_channels", tmp_path, tmp_path / "run")


def test_a_test_scan_without_a_label_is_named(scans, tmp_path):
    scans("2d")
    spoil(tmp_path, "2d", lambda parts: parts["test"][1].pop("label"))
    with pytest.raises(UserError, match=r"test, p\d+.* label"):
        cohort.read("phantom_2d", tmp_path, tmp_path / "run")


def test_an_unknown_task_is_told_with_those_that_there_are(tmp_path):
    with pytest.raises(cohort.PeersError, match=r"there is no task acdcc. There are acdc, .*phantom_2d"):
        cohort.read("acdcc:3", tmp_path, tmp_path)


def test_an_environment_without_nnunet_is_told(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    for venv in (tmp_path / "nothing", tmp_path / "venv"):
        with pytest.raises(cohort.PeersError, match=f"there is no nnU-Net in {venv}: .* Leave --nnunet out"):
            nnunet.environment(venv, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_command_that_fails_is_told_with_the_end_of_its_log(tmp_path):
    with pytest.raises(cohort.PeersError, match=r"-c import sys.* ended with 1; the end of .*log.txt:\n  no room"):
        nnunet.command([sys.executable, "-c", "import sys; sys.exit('no room')"], tmp_path / "log.txt")


def test_a_size_is_refused_that_does_not_name_the_task():
    assert command._overrides("screen", "acdc:3")["patch"] == [80, 80]
    assert not {"steps", "epoch_steps", "val_interval"} & command._overrides("screen", "acdc:3").keys()
    assert command._overrides("", "acdc:3") == {}
    with pytest.raises(cohort.PeersError, match="--size short: of the sizes screen, full names the task hippocampus"):
        command._overrides("short", "hippocampus:5")


def test_a_comparison_goes_on_under_its_own_settings_alone(tmp_path):
    command._same(tmp_path / "settings.json", {"threads": 1, "bundles": ["supervised"]})
    command._same(tmp_path / "settings.json", {"threads": 1, "bundles": ["supervised"]})
    with pytest.raises(cohort.PeersError, match="was begun with threads 1, now 2"):
        command._same(tmp_path / "settings.json", {"threads": 2, "bundles": ["supervised"]})


# time


def test_steps_fill_what_the_start_leaves_of_the_budget():
    pace = ours.Pace(start=10, step=0.5)
    assert pace.steps(70, "supervised") == 120  # (70 - 10) / 0.5
    assert pace.steps(74.9, "supervised") == 126  # 129.8, in whole epochs of 6, a twentieth
    assert pace.steps(26.6, "supervised") == 32
    assert pace.steps(11, "supervised") == 2
    found = ("budget of 10 s", "too small for supervised", "start takes 10 s", "a step 0.5 s")
    with raises(cohort.PeersError, *found, "at least 20 s"):
        pace.steps(10, "supervised")


def test_a_bundle_is_timed_once_and_trained_for_what_fits(scans, tmp_path, monkeypatch):
    found, jobs = scans("2d"), []

    def finish(folder, threads, job):
        """A start of 5 s, steps of 0.5 s, and half as fast in the first epoch; the very first of 0.25 s."""
        jobs.append(job)
        step = 0.25 if len(jobs) == 1 else 0.5
        run = folder / job.bundle
        (run / "job").mkdir(parents=True)
        each = step * job.overrides.get("epoch_steps", job.steps / 2)
        (run / "metrics.csv").write_text(f"step,seconds\n1,{2 * each}\n2,{each}\n")
        took = {"imports": 2.0, str(job.task): 3.0 + 3 * each, "maps": 12.0}
        (run / "job/seconds.json").write_text(json.dumps(took))

    monkeypatch.setattr(ours, "_finish", finish)
    got = ours.run(found, "mean_teacher", tmp_path / "mt", 605.0, 1, 3, {"patch": [64, 64]})
    probe, longer, training = jobs
    assert (probe.steps, probe.maps_of, probe.judged) == (12, None, False)
    assert (longer.steps, longer.maps_of, longer.judged) == (
        120,
        None,
        False,
    )  # 30 s of 605, at what the first few took
    assert (training.steps, training.seed, training.judged) == (1200, 3, False)
    assert training.overrides == {"patch": [64, 64]}
    assert len(list(training.maps_of.iterdir())) == 3
    assert (got["steps"], got["inference_seconds"], got["training_seconds"]) == (1200, 12.0, 5 + 1.5 * 600)
    shutil.rmtree(tmp_path / "mt/run")
    ours.run(found, "mean_teacher", tmp_path / "mt", 605.0, 1, 3, {"patch": [64, 64]})
    assert len(jobs) == 4  # not timed again


class Trainer:
    """Those parts of nnU-Net's trainer that are called: a step takes 2 s, a start 10 s."""

    def __init__(self, plans, configuration, fold, dataset_json, device):
        self.output_folder, self.num_iterations_per_epoch, self.current_epoch, self.rates = plans["folder"], 250, 0, []
        self.lr_scheduler = SimpleNamespace(max_steps=1000)
        self.dataloader_train, self.losses = iter(range(10**6)), []

    def on_train_start(self):
        CLOCK[0] += 10

    def on_train_epoch_start(self):
        self.rates.append(0.01 * (1 - self.current_epoch / self.lr_scheduler.max_steps) ** 0.9)

    def train_step(self, batch):
        CLOCK[0] += 2
        return {"loss": 1.0}

    def on_train_epoch_end(self, losses):
        self.losses += losses

    def save_checkpoint(self, filename):
        Path(filename).write_text(str(self.current_epoch + 1))

    def print_to_log_file(self, *_):
        pass

    def on_train_end(self):
        self.save_checkpoint(Path(self.output_folder, "checkpoint_final.pth"))


CLOCK = [0.0]


@pytest.fixture
def in_nnunet(monkeypatch):
    """The module that runs in nnU-Net's environment, with stand-ins for nnU-Net, and a clock of its own."""
    for name in ("nnunetv2", "nnunetv2.inference", "nnunetv2.training", "nnunetv2.training.nnUNetTrainer"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    for name, content in {"nnunetv2.inference.predict_from_raw_data": {"nnUNetPredictor": object},
                          "nnunetv2.training.nnUNetTrainer.nnUNetTrainer": {"nnUNetTrainer": Trainer}}.items():  # fmt: skip
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "benchmarks.peers.in_nnunet", raising=False)
    module = importlib.import_module("benchmarks.peers.in_nnunet")
    CLOCK[0] = 1000.0
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: CLOCK[0]))
    return module


def timed(module, folder, budget=1000.0, spent=0.0):
    trainer = module.TimedTrainer({"folder": str(folder)}, "2d", "all", {}, "cpu")
    trainer.budget, trainer.started, trainer.spent = budget, CLOCK[0], spent
    return trainer


def test_nnunet_s_schedule_ends_with_the_time(in_nnunet, tmp_path):
    trainer = timed(in_nnunet, tmp_path)
    trainer.run_training()
    assert trainer.iterations == len(trainer.losses) == (1000 - 10) / 2
    assert 1000 <= trainer.seconds() <= 1002
    times = 10 + 20 * np.arange(50)  # epochs of a fiftieth of the time begin behind the start
    np.testing.assert_allclose(trainer.rates[1:], 0.01 * (1 - times[1:] / 1000) ** 0.9)
    assert trainer.rates[0] == 0.01
    assert trainer.rates[-1] < 0.0005
    assert trainer.__class__.__name__ == "Trainer"  # nnU-Net's own name, by which the predictor finds it


def test_a_slow_step_is_an_epoch_of_its_own(in_nnunet, tmp_path):
    trainer = timed(in_nnunet, tmp_path, budget=16)
    trainer.run_training()
    assert trainer.rates == pytest.approx([0.01] + [0.01 * (1 - t / 16) ** 0.9 for t in (12, 14)])


def test_a_killed_training_goes_on_where_it_was_saved(in_nnunet, tmp_path):
    first, steps = timed(in_nnunet, tmp_path), iter(range(300))

    def killed(batch):
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return Trainer.train_step(first, batch)

    first.train_step = killed
    with pytest.raises(KeyboardInterrupt):
        first.run_training()
    spent, iterations = json.loads((tmp_path / "spent.json").read_text(encoding="utf-8"))
    assert 500 < spent <= 610
    assert iterations == (spent - 10) / 2
    second = timed(in_nnunet, tmp_path, spent=spent)
    second.current_epoch = int((tmp_path / "checkpoint_latest.pth").read_text(encoding="utf-8"))
    second.run_training()
    assert 1000 <= second.seconds() <= 1002
    assert second.rates[0] == pytest.approx(0.01 * (1 - (spent + 10) / 1000) ** 0.9)


def test_what_is_done_of_nnunet_is_not_done_again(scans, tmp_path, monkeypatch):
    found, calls = scans("rgb"), []
    answers = perfect(found, tmp_path / "perfect")
    python, folder = tmp_path / "venv/bin/python", tmp_path / "nnunet"
    folder.mkdir()

    def command_(words, log, around):
        what = "plan" if words[0].endswith("nnUNetv2_plan_and_preprocess") else words[2]
        calls.append((what, around["nnUNet_n_proc_DA"]))
        if what == fails:
            raise cohort.PeersError("stopped")
        if what != "plan":
            spec = json.loads(Path(words[3]).read_text(encoding="utf-8"))
            assert (spec["configuration"], spec["threads"]) == ("2d", 1)
            assert 0 < 60 - spec["budget"] < 10  # planning counts
            if what == "predict":
                shutil.copytree(answers, spec["predicted"], dirs_exist_ok=True)
            Path(spec["answer"]).write_text(json.dumps({"seconds": 30.0, "steps": 7}))

    monkeypatch.setattr(nnunet, "command", command_)
    for fails in ("train", "predict", ""):
        if fails:
            with pytest.raises(cohort.PeersError, match="stopped"):
                nnunet.run(found, python, folder, 60.0, 1, 0)
        else:
            got = nnunet.run(found, python, folder, 60.0, 1, 0)
    assert calls == [("plan", "1"), ("train", "0"), ("train", "0"), ("predict", "0"), ("predict", "0")]
    assert got["steps"] == 7
    assert 30 < got["training_seconds"] < 40
    assert nnunet.run(found, python, folder, 60.0, 1, 0) == got
    assert len(calls) == 5
    table.score(found, folder / "label_maps", tmp_path, "nnU-Net")
    assert {row["dice_mean"] for row in read_cases(tmp_path / "nnU-Net.csv")} == {1.0}


# the table


def prepared(rows, shifts, missed=""):
    """A finished comparison of eight patients: a square of 8 x 8 pixels, of which a method misses so many columns."""
    folder = rows / "acdc_3_60m_seed0"
    for name, columns in shifts.items():
        report = CaseReport(["lump"])
        for k in range(8):
            label = np.zeros((12, 12), np.uint8)
            label[2:10, 2:10] = 1
            pred = label.copy()
            pred[:, 10 - columns - k % 2 : 10] = 0
            report.add(f"c{k}", f"p{k}", pred * (name != missed or k > 0), label, (1.0, 1.0))
        report.write(folder, name)
    method = {"training_seconds": 3600.0, "inference_seconds": 16.0, "steps": 120}
    own = {"configuration": "2d", "patch": [256, 224], "batch": 12, "parameters": 20e6, "epochs": 50}
    about = {"task": "acdc", "labels": "3", "budget": "60m", "seed": 0, "threads": 1, "unit": "mm", "nnunet": "2.8.1",
             "torch": "2.13.0", "machine": "2 cores", "date": "2026-11-29", "commit": "abc",
             "command": "python -m benchmarks.peers --task acdc:3",
             "methods": {name: {**method, **own} for name in shifts}}  # fmt: skip
    (folder / "about.json").write_text(json.dumps(about))


def test_the_table_says_who_is_better_and_what_everything_took(tmp_path, capsys):
    prepared(tmp_path / "rows", {"nnU-Net": 3, "supervised": 3, "mean_teacher": 0}, missed="nnU-Net")
    assert command.main(["--table", "--rows", str(tmp_path / "rows"), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "peers.md").read_text(encoding="utf-8")
    assert "## acdc, 3 labelled, 60m each, seed 0" in text
    models = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    assert models[2:5] == ["nnU-Net", "supervised", "mean_teacher"]
    [scores, times] = lines_of(text, "nnU-Net")
    assert scores[-3:] == ["1 of 8", "0 of 0", "8"]
    assert times == ["nnU-Net", "60.0", "120", "2.00"]
    assert "mean_teacher is better than nnU-Net by" in text
    says(text, "nnU-Net: missed 1 of 8, false alarms 0 of 0", "mean_teacher: missed 0 of 8")
    sizes = ("patch 256 x 224", "batch 12", "20.0 million parameters", "50 epochs", "2 cores", "1 thread(s)")
    says(text, "nnU-Net 2.8.1, 2d", *sizes)
    assert "    python -m benchmarks.peers --task acdc:3\n" in text
    header, *lines = (tmp_path / "peers.csv").read_text(encoding="utf-8").splitlines()
    by_method = {
        row["method"]: row for row in (dict(zip(header.split(","), line.split(","), strict=True)) for line in lines)
    }
    full, cut = 1.0, 2 * 56 / (56 + 64)  # 64 pixels found, or 56 of them
    assert float(by_method["mean_teacher"]["dice"]) == pytest.approx((full + cut) / 2)
    assert float(by_method["supervised"]["difference"]) == pytest.approx(
        2 * 40 / (40 + 64) / 8
    )  # the case that nnU-Net missed
    assert by_method["nnU-Net"]["missed"] == "1"
    assert by_method["mean_teacher"]["inference_seconds_a_scan"] == "2.0"
    assert "peers.md" in capsys.readouterr().out


def test_every_task_says_what_a_comparison_needs():
    for path in (ROOT / "custom/tasks").glob("*.yaml"):
        assert {"channels", "classes", "label_values", "dimensions"} <= yaml.safe_load(
            path.read_text(encoding="utf-8")
        ).keys(), path


def test_a_comparison_is_run_scored_and_kept(scans, tmp_path, monkeypatch, capsys):
    """The methods answer with the labels themselves."""
    found = scans("2d")
    predicted, asked = perfect(found, tmp_path / "perfect"), []
    method = {"training_seconds": 60.0, "inference_seconds": 3.0, "steps": 20}

    def theirs(scans, python, folder, budget, threads, seed):
        cohort.bring_back(scans, predicted, folder / "label_maps")
        asked.append((budget, threads, seed))
        return {**method, "configuration": "2d", "patch": [64, 64], "batch": 8, "parameters": 1, "epochs": 20}

    def our(scans, bundle, folder, budget, threads, seed, overrides):
        cohort.bring_back(scans, predicted, ours.maps_of(folder, bundle))
        asked.append((budget, threads, seed))
        return method

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(nnunet, "environment", lambda *_: (Path("python"), "2.8.1"))
    monkeypatch.setattr(nnunet, "run", theirs)
    monkeypatch.setattr(ours, "run", our)
    words = ["--task", "phantom_2d", "--lists", tmp_path, "--output", tmp_path / "runs", "--rows", tmp_path / "rows", "--out",
             tmp_path, "--budget", "90s", "--threads", "1", "--seed", "4"]  # fmt: skip
    assert command.main([str(word) for word in words]) == 0
    assert asked == [(90, 1, 4)] * 3
    rows = tmp_path / "rows/phantom_2d_90s_seed4"
    assert {path.name for path in rows.iterdir()} == {"about.json", "nnU-Net.csv", "supervised.csv", "mean_teacher.csv"}
    text = (tmp_path / "peers.md").read_text(encoding="utf-8")
    assert "## phantom_2d, 90s each, seed 4" in text
    assert str(tmp_path) not in text
    assert "--budget 90s --task phantom_2d --lists LISTS --bundles supervised mean_teacher --threads 1 --seed 4" in text
    assert [line.split(",")[5] for line in (tmp_path / "peers.csv").read_text(encoding="utf-8").splitlines()[1:]] == [
        "1.0"
    ] * 3
    about = json.loads((rows / "about.json").read_text(encoding="utf-8"))
    (rows / "about.json").write_text(json.dumps({**about, "commit": "earlier"}))
    assert command.main([str(word) for word in words]) == 0
    assert "commit earlier" in (tmp_path / "peers.md").read_text(encoding="utf-8")
    spoil(tmp_path, "2d", lambda parts: parts["labelled"].pop())
    with pytest.raises(cohort.PeersError, match="was begun with scans"):
        command.main([str(word) for word in words])
