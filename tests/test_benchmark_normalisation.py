"""The benchmark of re-estimated statistics: what the run itself validated, and the same weights as they were trained."""

from __future__ import annotations

import csv

import pytest

from benchmarks import normalisation
from custom.errors import UserError


def test_re_estimated_is_what_the_run_validated_with(finished, tmp_path, monkeypatch, capsys):
    run = finished("mean_teacher", tmp_path / "run")
    monkeypatch.syspath_prepend(str(normalisation.ROOT))
    assert normalisation.main([str(run), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "normalisation.md").read_text(encoding="utf-8")
    assert text == capsys.readouterr().out.rstrip("\n") + "\n"
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    last = list(csv.DictReader((run / "metrics.csv").read_text(encoding="utf-8").splitlines()))[-1]
    assert [row[:3] for row in lines[2:]] == [["run", name, "4"] for name in ("teacher", "student")]
    for row in lines[2:]:
        assert float(row[4]) == pytest.approx(float(last[f"val/{row[1]}/dice_mean"]), abs=6e-4)
        assert row[3] != row[4]  # four steps after the start nothing is as it was trained


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match=r"holds no bundle/configs/train\.yaml\. Give the output_dir of a run"):
        normalisation.measure(tmp_path)
