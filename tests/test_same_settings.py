"""Unlabelled scans are named as a cause only by two runs that say that they differ in nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

from custom.evaluation.same_settings import only_unlabelled_differs

CONFIG: dict[str, Any] = {
    "seed": 0, "steps": 600, "output_dir": "/a", "weights": {"supervised": 1.0, "consistency": {"value": 1.0}},
    "train": {"method": {"_target_": "scripts.methods.MeanTeacher", "ema_decay": 0.99}},
}  # fmt: skip
ABOUT: dict[str, Any] = {
    "amp": "off", "initial_weights": "", "terms that read unlabelled scans": ["consistency"],
    "sha256 of the scans, names and voxels": {"labelled": "1", "unlabelled": "2", "validation": "3"},
}  # fmt: skip
NOTHING: dict[str, Any] = {"weights": {"supervised": 1.0, "consistency": 0}}  # learnt from unlabelled scans


def table(
    folder: Path, config: dict[str, Any] | None = None, about: dict[str, Any] | None = None, name: str = "model"
) -> Path:
    (folder / "bundle/configs").mkdir(parents=True)
    (folder / "bundle/configs/train.yaml").write_text(yaml.safe_dump({**CONFIG, **(config or {})}))
    (folder / "bundle/run.json").write_text(json.dumps({**ABOUT, **(about or {})}))
    (folder / "evaluation/test").mkdir(parents=True)
    return folder / f"evaluation/test/{name}.csv"


@pytest.mark.parametrize("zero", [0, 0.0, {"value": 0.0}, {"ramp": 0.0, "until": 1.0}])
def test_the_same_run_with_the_unlabelled_terms_at_zero(tmp_path, zero):
    baseline = table(tmp_path / "a", {"output_dir": "/b", "weights": {"supervised": 1.0, "consistency": zero}})
    ours = table(tmp_path / "b")
    assert only_unlabelled_differs(baseline, ours)
    assert not only_unlabelled_differs(ours, baseline), "the baseline is the one without"


@pytest.mark.parametrize(
    ("config", "about"),
    [
        ({"seed": 1}, {}),
        ({"steps": 900}, {}),
        ({"train": {"method": {"_target_": "scripts.methods.Supervised", "ema_decay": 0.9}}}, {}),
        ({"train": {"method": {"_target_": "scripts.methods.UniMatch", "ema_decay": 0.99}}}, {}),
        ({"weights": {"supervised": 0.5, "consistency": 0}}, {}),
        ({"weights": CONFIG["weights"]}, {}),  # both learnt from them
        ({}, {"amp": "bf16"}),
        ({}, {"initial_weights": "/runs/c/bundle/models/model.pt"}),
        ({}, {"sha256 of the scans, names and voxels": {"labelled": "9", "unlabelled": "2", "validation": "3"}}),
        ({}, {"sha256 of the scans, names and voxels": {"labelled": "1", "unlabelled": "2", "validation": "9"}}),
    ],
)  # fmt: skip
def test_what_differs_besides_could_be_the_cause(tmp_path, config, about):
    assert not only_unlabelled_differs(table(tmp_path / "a", {**NOTHING, **config}, about), table(tmp_path / "b"))


OF_BUNDLES = {"mean_teacher": True, "low_confidence": False, "unimatch": False, "cps": False, "task_affinity": False}


@pytest.mark.parametrize(("bundle", "expected"), OF_BUNDLES.items(), ids=OF_BUNDLES)
def test_supervised_is_mean_teacher_without_its_term_and_no_other_method(tmp_path, bundle, expected):
    tables = []
    for folder, name in (("a", "supervised"), ("b", bundle)):
        own = yaml.safe_load((ROOT / f"bundles/{name}/configs/train.yaml").read_text(encoding="utf-8"))
        tables.append(table(tmp_path / folder, own))
    assert only_unlabelled_differs(*tables) is expected
    if expected:
        longer = yaml.safe_load((tmp_path / "a/bundle/configs/train.yaml").read_text()) | {"steps": 1500}
        assert not only_unlabelled_differs(table(tmp_path / "c", longer), tables[1]), "at equal time"


def test_what_reads_unlabelled_scans_is_what_our_own_run_says(tmp_path):
    """The baseline may be a method that has no such term; a run of before it was said is no evidence."""
    plain = table(tmp_path / "a", NOTHING, {"terms that read unlabelled scans": []})
    assert only_unlabelled_differs(plain, table(tmp_path / "b"))
    assert not only_unlabelled_differs(plain, table(tmp_path / "c", about={"terms that read unlabelled scans": []}))


def test_another_network_of_the_run_is_another_thing(tmp_path):
    assert not only_unlabelled_differs(table(tmp_path / "a", NOTHING, name="student"), table(tmp_path / "b"))


def test_tables_alone_say_nothing(tmp_path):
    ours = table(tmp_path / "b")
    assert not only_unlabelled_differs(tmp_path / "a/evaluation/test/model.csv", ours)
    older = {name: value for name, value in ABOUT.items() if name != "amp"}  # of a run before it was told
    baseline = table(tmp_path / "c", NOTHING)
    (tmp_path / "c/bundle/run.json").write_text(json.dumps(older))
    assert not only_unlabelled_differs(baseline, ours)
