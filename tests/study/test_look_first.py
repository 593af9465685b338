"""A scan that is outlined worse than anything that labelled scans showed: marked, first, and without a figure."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from finished import study
from page_fixtures import words
from saying import says
from scan_files import write_nifti

from custom.study import handed_over, scans, verdict
from custom.study.quality import ScanFeatures


@pytest.mark.usefixtures("few_pictures")
@pytest.mark.parametrize(("least", "none", "said"), [
    (0.9, ["p08_a", "p06_a", "p07_a"], "No figure for 3 scans, on which the networks agree less"),
    (0.81, ["p08_a"], "No figure for 1 scan, on which"),
    (0.79, [], ""),
])  # fmt: skip
def test_where_the_networks_agree_less_than_on_any_labelled_scan_there_is_no_figure(
    tmp_path, monkeypatch, least, none, said
):
    """They agree by 16 / 20 on p08_a, 14 / 17 on p06_a, 16 / 19 on p07_a, and find nothing on p09_a."""
    at = np.linspace(least, least + 0.08, 9)
    known = [ScanFeatures(f"s{i}", a, 0.9, f"p{i}", a) for i, a in enumerate(at)]
    monkeypatch.setattr(scans, "_held_out", lambda *_: known)
    titles = []
    preview = handed_over.preview.preview
    monkeypatch.setattr(handed_over.preview, "preview", lambda *given: titles.append(given[2]) or preview(*given))
    text = words(verdict.write(study(tmp_path, {"supervised": 0.5, "mean_teacher": 0.75})).read_text(encoding="utf-8"))
    rows = [row for row in csv.DictReader((tmp_path / "scores.csv").open()) if not row["patient"]]
    assert [row["scan"] for row in rows] == ["p09_a", "p08_a", "p06_a", "p07_a"]
    assert [row["scan"] for row in rows if scans.BEYOND in row["remarks"]] == none
    assert [row["scan"] for row in rows if not row["predicted_dice"]] == ["p09_a", *none]
    assert [title.split("\n")[0] for title in titles if "\n" not in title] == ["p09_a", *none], "on the pictures too"
    assert ("No figure for" in text) == bool(none)
    assert said in text


@pytest.mark.usefixtures("few_pictures")
def test_where_no_figure_is_predicted_such_scans_are_marked_too(tmp_path, monkeypatch):
    known = [ScanFeatures(f"s{i}", 0.81, 0.9, f"p{i}", dice) for i, dice in enumerate((0.5, 0.6, 0.8, 0.9))]
    monkeypatch.setattr(scans, "_held_out", lambda *_: known)
    text = words(verdict.write(study(tmp_path, {"supervised": 0.5, "mean_teacher": 0.75})).read_text(encoding="utf-8"))
    assert "So no figure is predicted here" in text
    assert "On 1 scan the networks agree less than on any labelled scan" in text
    rows = [row for row in csv.DictReader((tmp_path / "scores.csv").open()) if scans.BEYOND in row["remarks"]]
    assert [row["scan"] for row in rows] == ["p08_a"]
    assert not rows[0]["predicted_dice"]


def scan(folder: Path, modality: str, name: str, top: int = 100, thickness: float = 1.0) -> str:
    """A scan of values below ``top``."""
    (folder / modality).mkdir(exist_ok=True)
    voxels = np.random.default_rng(0).integers(0, top, (12, 10, 4)).astype(np.int16)
    return str(write_nifti(folder / modality / f"{name}.nii.gz", voxels, np.diag([1.0, 1.0, thickness, 1.0])))


@pytest.mark.parametrize("modalities", [("flair", "t1ce"), ("flair",)])
def test_each_modality_is_compared_with_that_of_the_labelled_scans_and_named_where_there_are_several(
    tmp_path, modalities
):
    """The last modality of x is brighter, all of y are thicker, and z lacks the last."""

    def entry(
        name: str, last: int = 100, thickness: float = 1.0, has: tuple[str, ...] = modalities
    ) -> dict[str, object]:
        files = {m: scan(tmp_path, m, name, last if m == modalities[-1] else 100, thickness) for m in has}
        return {"patient": name, "image": files if len(modalities) > 1 else files["flair"]}

    lists = {
        "labelled": [entry("a"), entry("b")],
        "unlabelled": [entry("x", last=900), entry("y", thickness=3.0), entry("z", has=modalities[:1])],
    }
    (tmp_path / "work").mkdir()
    (tmp_path / "work/final.json").write_text(json.dumps(lists))
    found = scans._unlike(SimpleNamespace(folder=tmp_path, scan_names={}))
    assert set(found) == {"x", "y"}
    (bright,), thick = found["x"], found["y"]
    if len(modalities) > 1:
        assert bright.startswith("t1ce: ")
        assert all(text.startswith("flair, t1ce: ") for text in thick)
    says(bright, "brighter than all labelled scans")
    says(thick[0], "3x coarser along the third axis")
    assert len(thick) == 2, "spacing and field of view, each once"
    assert len(modalities) > 1 or not bright.startswith("flair")
