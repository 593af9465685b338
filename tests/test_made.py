"""The promises of custom/inference/made.py: a killed inference goes on; what other weights made, or somebody drew, is not taken
for its own."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from saying import raises, says
from scan_files import write_nifti
from waiting import until

from custom.errors import UserError
from custom.inference import made as module
from custom.inference.made import FILE, Made
from custom.inference.saving import SavePredictiond
from custom.run.config import RunConfig
from custom.study import jobs

SHAPE = (6, 5, 4)
CONFIG = {"channels": ["image"], "fill_nonfinite": False, "memory_gb": 1, "bundle_root": ".", "network_def": {"widths": [4]},
          "preprocessing": {"reader": {"fill_nonfinite": "@fill_nonfinite"}},
          "inferer": {"roi_size": [4], "sw_batch_size": 4}, "label_map": {"threshold": 0.5},
          "postprocessing": {"transforms": ["@label_map", "@saving"]}, "saving": {"output_dir": "@predictions"}}  # fmt: skip


class Folder:
    """Three images, and inferences of them that find the value of the weights everywhere."""

    def __init__(self, root: Path) -> None:
        self.images, self.out, self.weights = root / "images", root / "out", root / "model.pt"
        self.images.mkdir()
        self.weights.write_bytes(b"1")
        for name in ("p1", "p2", "p3"):
            write_nifti(self.images / f"{name}.nii.gz", np.arange(120, dtype=np.int16).reshape(SHAPE))

    def begin(self, **config: Any) -> tuple[Made, list[str]]:
        """An inference, and the names of the scans that it is to segment."""
        saving = SavePredictiond(self.out, [0, 1, 2])
        again = config.pop("again", False)
        notes = config.pop("notes", ())
        made = Made(saving, self.weights, RunConfig(ConfigParser({**CONFIG, **config})), again, notes)
        entries = [{"image": str(path)} for path in sorted(self.images.iterdir())]
        return made, [Path(entry["image"]).name[:2] for entry in made.missing(entries)]

    def segment(self, made: Made, names: list[str]) -> None:
        value = float(self.weights.read_bytes())
        for name in names:
            meta = {"filename_or_obj": str(self.images / f"{name}.nii.gz"), "spatial_shape": SHAPE}
            made.saving({"pred": MetaTensor(torch.full((1, *SHAPE), value), meta=meta)})
        made.close()

    def run(self, **config: Any) -> list[str]:
        made, names = self.begin(**config)
        self.segment(made, names)
        return names

    def path(self, name: str) -> Path:
        return self.out / f"{name}_pred.nii.gz"


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path)


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "custom.inference.made"]


def test_only_what_is_missing_is_segmented(folder, caplog):
    made, names = folder.begin()
    folder.segment(made, names[:2])
    kept = {name: folder.path(name).stat().st_mtime_ns for name in ("p1", "p2")}
    with caplog.at_level(logging.INFO):
        assert folder.run() == ["p3"]
        assert folder.run() == []
    assert logged(caplog) == [f"Predictions: {n} of 3 scans segmented already and kept." for n in (2, 3)]
    assert {name: folder.path(name).stat().st_mtime_ns for name in kept} == kept


def test_what_else_is_noted_of_a_prediction_is_kept_with_it_and_one_without_is_made_anew(folder, caplog):
    made, names = folder.begin(notes=["confidence"])
    made.noted = {folder.path("p1"): {"confidence": 0.9}, folder.path("p2"): {"confidence": None}}
    folder.segment(made, names)
    with caplog.at_level(logging.INFO):
        made, names = folder.begin(notes=["confidence"])
    assert names == ["p3"]
    assert made.noted == {folder.path("p1"): {"confidence": 0.9}, folder.path("p2"): {"confidence": None}}
    (line,) = logged(caplog)
    says(line, "2 of 3 scans segmented already", "made anew: 1", "without its confidence")
    made.close()
    assert folder.run() == [], "where none is asked for, none is missed"


CHANGES = {
    "by other weights": lambda f: f.weights.write_bytes(b"2"),
    "of an image that has changed": lambda f: [os.utime(path, (0, 0)) for path in f.images.iterdir()],
    "damaged": lambda f: [f.path(n).write_bytes(f.path(n).read_bytes()[:-9]) for n in ("p1", "p2", "p3")],
}


@pytest.mark.parametrize("reason", CHANGES)
def test_what_was_made_otherwise_is_made_anew_and_one_line_says_why(folder, caplog, reason):
    folder.run()
    CHANGES[reason](folder)
    with caplog.at_level(logging.INFO):
        assert folder.run() == ["p1", "p2", "p3"]
        assert folder.run() == []
    assert logged(caplog) == [
        f"Predictions: made anew: 3 {reason}.",
        "Predictions: 3 of 3 scans segmented already and kept.",
    ]


@pytest.mark.parametrize("changed", ["code", "library"])
def test_what_other_code_or_another_version_of_a_library_made_is_made_anew(folder, caplog, monkeypatch, changed):
    """After an update one folder does not hold predictions of two versions, each called whole."""
    folder.run()
    if changed == "code":
        monkeypatch.setattr(module, "CODE", (*module.CODE, folder.weights))
    else:
        monkeypatch.setattr(module, "LIBRARIES", (*module.LIBRARIES, "pip"))
    with caplog.at_level(logging.INFO):
        assert folder.run() == ["p1", "p2", "p3"]
        assert folder.run() == []
    assert logged(caplog)[0] == "Predictions: made anew: 3 by other code or libraries."


def test_the_code_is_what_leads_from_a_file_to_a_label_map():
    there = {path.name for path in module.CODE}
    assert {"reader.py", "nifti.py", "scaling.py", "unet.py", "slabs.py", "label_map.py", "writer.py"} <= there


@pytest.mark.parametrize(
    ("now", "anew"),
    [
        ({"network_def": {"widths": [8]}}, True),
        ({"postprocessing": {"transforms": [{"_target_": "KeepLargestConnectedComponentd"}, "@saving"]}}, True),
        ({"label_map": {"threshold": 0.9}}, True),
        ({"saving": {"output_dir": "elsewhere"}}, False),
        ({"fill_nonfinite": True}, True),
        ({"inferer": {"roi_size": [8], "sw_batch_size": 4}}, True),
        ({"inferer": {"roi_size": [4], "sw_batch_size": 1}, "memory_gb": 8, "bundle_root": "/elsewhere"}, False),
        ({"again": True}, True),
    ],
)
def test_settings_that_decide_a_prediction(folder, now, anew):
    folder.run()
    assert folder.run(**now) == (["p1", "p2", "p3"] if anew else [])


@pytest.mark.fault("45", "predictions into the folder of the images")
def test_predictions_do_not_lie_among_the_images(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder.images)
    for out in (folder.images, tmp_path / "link"):
        folder.out = out
        with raises(UserError, f"output_dir is {out}", "where the images are (p1.nii.gz)", "another --output_dir"):
            folder.begin()
    assert len(list(folder.images.iterdir())) == 3, "nothing was written"
    folder.out = folder.images / "predictions"
    assert folder.begin()[1] == ["p1", "p2", "p3"]


def test_the_weights_before_may_come_back(folder):
    folder.run()
    folder.weights.write_bytes(b"2")
    folder.run()
    folder.weights.write_bytes(b"1")
    assert folder.run() == ["p1", "p2", "p3"]


@pytest.mark.parametrize("whose", ["drawn over it", "there before", "a folder"])
def test_what_is_not_ours_is_never_touched(folder, whose):
    if whose == "drawn over it":
        folder.run()
    if whose == "a folder":
        folder.path("p2").mkdir(parents=True)
    else:
        folder.out.mkdir(exist_ok=True)
        write_nifti(folder.path("p2"), np.full(SHAPE, 2, np.uint8))
    (folder.out / ".notes.1.tmp").write_text("mine")
    before = {path: path.stat().st_mtime_ns for path in folder.out.iterdir()}
    causes = ("drawn", "changed since", "earlier version")
    remedy = ("not overwritten", "move them away", "another --output_dir")
    with raises(UserError, str(folder.out), "1 file", "no inference wrote", "(p2_pred.nii.gz)", *causes, *remedy):
        folder.begin()
    assert {path: path.stat().st_mtime_ns for path in folder.out.iterdir() if path.name != ".lock"} == {
        path: time_ns for path, time_ns in before.items() if path.name != ".lock"
    }


@pytest.mark.fault(
    "44", "killed between the line of the record and the file's name; in the middle of a line and of a file"
)
def test_no_moment_of_a_kill_makes_a_prediction_foreign_or_takes_half_of_one_for_whole(folder, monkeypatch):
    folder.run()
    folder.weights.write_bytes(b"2")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # a killed process clears nothing up
        made, names = folder.begin()
        made.saving({"pred": MetaTensor(torch.full((1, *SHAPE), 2), meta={
            "filename_or_obj": str(folder.images / "p1.nii.gz"), "spatial_shape": SHAPE})})  # fmt: skip
        with pytest.raises(KeyboardInterrupt):
            made.saving.finish()
    with (folder.out / FILE).open("ab") as file:
        file.write(b'{"prediction": "p2_pred.nii.gz", "sha2')
    assert list(folder.out.glob(".p1_pred*.tmp"))
    assert folder.run() == names == ["p1", "p2", "p3"]
    assert not list(folder.out.glob(".*.tmp"))
    assert folder.run() == []
    assert len((folder.out / FILE).read_text().splitlines()) == 3 + 1 + 1 + 3


def test_one_inference_a_folder(folder):
    code = f"from custom.run.folder import RunFolder; RunFolder({str(folder.out)!r}).open(); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(UserError, match="is in use by pid"):
            folder.begin()
        other.communicate(b"\n")
    assert folder.run() == ["p1", "p2", "p3"]


@pytest.mark.fault("45", "SIGKILL in the middle of an inference through the config, then the same command")
def test_a_killed_inference_goes_on_with_the_scans_that_are_missing(finished, run_bundle, phantoms, tmp_path, caplog):
    bundle, images = finished("supervised", tmp_path / "run") / "bundle", tmp_path / "images"
    shutil.copytree(phantoms / "phantom_2d/images", images)
    total = len(list(images.iterdir()))
    settings = {"dataset_dir": str(images), "output_dir": str(tmp_path / "out"), "inferer::overlap": 0.97}
    options = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.yaml", *options]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, cwd=bundle, stdout=log, stderr=log) as child:
        until(lambda: len(list((tmp_path / "out").glob("[!.]*_pred.*"))) >= 2, child, log=tmp_path / "log")
        child.send_signal(signal.SIGKILL)
    done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("[!.]*_pred.*")}
    assert 2 <= len(done) < total, (tmp_path / "log").read_text()
    with caplog.at_level(logging.INFO):
        out = run_bundle(bundle, "run", "configs/inference.yaml", **settings)
    assert f"Predictions: {len(done)} of {total} scans segmented already and kept." in caplog.text
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("[!.]*_pred.*") if path.name in done} == done
    whole = run_bundle(bundle, "run", "configs/inference.yaml", **{**settings, "output_dir": str(tmp_path / "whole")})
    found, expected = (
        {path.name: path.read_bytes() for path in folder.glob("[!.]*_pred.*")} for folder in (out, whole)
    )
    assert found == expected
    assert len(found) == total
    assert len([json.loads(line) for line in (out / FILE).read_text().splitlines()]) == total


def test_the_inference_of_a_study_goes_on_and_its_confidences_are_of_all_scans(
    finished, run_bundle, phantoms, tmp_path, caplog
):
    bundle, extra, out = finished("supervised", tmp_path / "run") / "bundle", tmp_path / "extra.yaml", tmp_path / "out"
    extra.write_text(jobs.CONFIDENCE)
    settings = {"dataset_dir": str(phantoms / "phantom_2d/images"), "output_dir": str(out)}

    def run(missing: str) -> dict[str, float]:
        (out / "confidence.json").unlink(missing_ok=True)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            run_bundle(bundle, "run", ["configs/inference.yaml", str(extra)], **settings)
        assert missing in caplog.text
        return json.loads((out / "confidence.json").read_text())

    first = run("")
    assert len(first) == len(list(out.glob("[!.]*_pred.*")))
    next(out.glob("[!.]*_pred.*")).unlink()
    assert run(f"{len(first) - 1} of {len(first)} scans segmented already and kept") == first
    assert run(f"{len(first)} of {len(first)} scans segmented already and kept") == first, "killed at the very end"
