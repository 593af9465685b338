"""A planned task as a file, and a bundle that runs it."""

from __future__ import annotations

import pytest
import yaml
from conftest import ROOT, TINY

from custom.cohort.data_list import load
from custom.cohort.errors import CohortError
from custom.cohort.record import Record
from custom.study.rules import Number, numbers
from custom.study.seen import see
from custom.study.sources import Source
from custom.study.task_file import text, write

COMPOSE = {"_target_": "Compose", "transforms": [{"_target_": "A", "keys": ["image", "label"], "mode": "@patch"},
                                                 {"_target_": "B", "a_max": 240.5, "clip": True}]}  # fmt: skip


def test_each_number_stands_in_a_line_with_its_reason_beside_or_above_it():
    long = "why " * 40
    assert text({"steps": Number(40, "all that fits"), "patch": Number([160, 160], "a  whole\nfield"),
                 "norm": Number("batch"), "orientation": Number("", "pictures"), "spacing_mm": Number([1.5, -1], long),
                 "preprocessing": Number(COMPOSE, "by scan")}, "A title").splitlines() == [
        "# A title",
        "steps: 40                  # all that fits",
        "patch: [160, 160]          # a whole field",
        "norm: batch",
        "orientation: ''            # pictures",
        "# " + ("why " * 29).strip(),
        "# " + ("why " * 11).strip(),
        "spacing_mm: [1.5, -1]",
        "preprocessing:             # by scan",
        "  _target_: Compose",
        "  transforms:",
        "  - {_target_: A, keys: [image, label], mode: '@patch'}",
        "  - {_target_: B, a_max: 240.5, clip: true}",
    ]  # fmt: skip


@pytest.mark.parametrize("value", [
    0.5, 1e-5, 1e6, -1, True, None, "", "no", "1e3", "@patch", "a: b", "# hash", "größer", [1, [2.5, "x"]], "l" * 300,
    {"_target_": "X", "f": "$list(range(len(@classes)))"},
])  # fmt: skip
def test_yaml_gives_back_every_value(value):
    assert yaml.safe_load(text({"a": Number(value, "because"), "b": Number([value])})) == {"a": value, "b": [value]}


def test_comments_end_within_120_columns():
    found = text({"roi": Number(list(range(30)), "why " * 99), "n": Number(1, "x" * 91)}, "title " * 50)
    assert max(len(line) for line in found.splitlines()) == 120
    assert yaml.safe_load(found) == {"roi": list(range(30)), "n": 1}


@pytest.mark.parametrize("name", ["a,b", "o'neil", 'say "x"'])
def test_a_path_that_monai_takes_apart_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(CohortError, match=r"has a comma or a quote, .* Rename the folder$"):
        write(tmp_path / name / "task.yaml", {})


@pytest.mark.parametrize("bundle", ["mean_teacher", pytest.param("supervised", marks=pytest.mark.slow)])
def test_a_bundle_trains_by_a_planned_task_alone(bundle, run_bundle, phantoms, tmp_path):
    path = phantoms / "phantom_2d/list.json"
    seen = see(load(path), Source([], ("image",), {0: "background", 1: "right", 2: "muscle", 3: "left"}), Record())
    budget = {"data_list": Number(str(path)), "steps": Number(2), "val_interval": Number(1)}
    small = {name: Number(TINY[name]) for name in ("epoch_steps", "labelled_batch", "unlabelled_batch")}
    planned = numbers(seen, room=0.1)
    task = write(tmp_path / "task.yaml", {**budget, **planned, **small}, "The phantom")
    folder = ROOT / "bundles" / bundle
    out = run_bundle(folder, "training", ["configs/train.yaml", str(task)], workers=0, amp="off")
    kept = yaml.safe_load((out / "bundle/configs/train.yaml").read_text(encoding="utf-8"))
    for name in ("patch", "widths", "classes", "spacing_mm", "orientation", "rotate_degrees", "flip_prob"):
        assert kept[name] == planned[name].value, name
    assert kept["patch"] != yaml.safe_load((folder / "configs/train.yaml").read_text(encoding="utf-8"))["patch"]
    assert (out / "bundle/models/model.pt").is_file()
