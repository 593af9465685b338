"""The test part is read by evaluation alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY

MEAN_TEACHER = ROOT / "bundles/mean_teacher"


@pytest.fixture
def cohort_copy(phantoms: Path, tmp_path: Path) -> Path:
    shutil.copytree(phantoms / "phantom_2d", tmp_path / "cohort")
    return tmp_path / "cohort" / "list.json"


@pytest.mark.parametrize("removed", [("label",), ("image", "label")], ids=["labels", "images and labels"])
def test_training_without_the_test_part_s_files_gives_the_same_weights(
    run_bundle, finished, cohort_copy, tmp_path, removed
):
    before = finished("mean_teacher", tmp_path / "before")
    entries = json.loads(cohort_copy.read_text())["test"]
    assert entries
    for entry in entries:
        for key in removed:
            (cohort_copy.parent / entry[key]).unlink()
    after = run_bundle(MEAN_TEACHER, output_dir=str(tmp_path / "after"), **TINY, data_list=str(cohort_copy))
    for name in ("model.pt", "model_final.pt", "student.pt"):
        a, b = (torch.load(out / "bundle/models" / name, weights_only=True) for out in (before, after))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), name


def test_training_opens_no_file_of_the_test_part(run_bundle, cohort_copy, tmp_path, monkeypatch):
    """Nor does it hash or measure one: no path of it is opened by Python, by nibabel or by gzip."""
    import builtins
    import io

    opened: list[str] = []

    def spy(original: Callable) -> Callable:
        def act(file, *args, **kwargs):  # type: ignore[no-untyped-def]
            opened.append(str(file))
            return original(file, *args, **kwargs)

        return act

    monkeypatch.setattr(builtins, "open", spy(builtins.open))
    monkeypatch.setattr(io, "open", spy(io.open))
    run_bundle(MEAN_TEACHER, output_dir=str(tmp_path / "out"), data_list=str(cohort_copy), **TINY)
    parts = json.loads(cohort_copy.read_text())
    names = {part: {Path(e[key]).name for e in parts[part] for key in ("image", "label") if key in e} for part in parts
             if part in ("labelled", "validation", "test")}  # fmt: skip
    seen = {Path(file).name for file in opened}
    assert names["labelled"] <= seen
    assert names["validation"] <= seen
    assert not names["test"] & seen
