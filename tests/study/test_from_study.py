"""The bundle of a study passed on: a card that says how its figures came about, an archive without names and paths."""

from __future__ import annotations

import json
import re
import shutil
import zipfile

import pytest
import yaml
from conftest import ROOT

from custom.cohort.intensities import FILE
from custom.evaluation.case_report import CaseReport
from custom.study.settings import Settings, StudyError, write
from distribution import build, cards, from_study, publish
from distribution.cards import MAX_FILE, CardError
from distribution.download import download


@pytest.fixture
def study(finished, tmp_path):
    """A study of four patients whose bundle is a tiny run; its page says Dice 0.8."""
    import numpy as np

    folder = tmp_path / "secret_place"
    folder.mkdir()
    write(folder, Settings("/data/images", "", "", folds=4, steps=4, seed=3))
    task = (ROOT / "custom/tasks/phantom_2d.yaml").read_text(encoding="utf-8")
    (folder / "task.yaml").write_text(re.sub(r"(?m)^data_list:.*\n", "", task))  # as a plan writes it
    run = finished("mean_teacher", folder / "work/runs/final_mean_teacher")
    shutil.copytree(run / "bundle", folder / "bundle")
    wanted = np.zeros((6, 6), np.uint8)
    wanted[:, :3] = 1
    found = wanted.copy()
    found[:2] = 0
    report = CaseReport(["right ventricle", "myocardium", "left ventricle"])
    for patient in ("Jane Doe", "John Doe", "Ann", "Bob"):
        report.add(f"{patient}_a", patient, found, wanted, (1, 1))
    report.write(folder / "work/scores", "mean_teacher")
    lists = {"labelled": [{"patient": "Jane Doe"}] * 4, "unlabelled": [{"patient": "Eve"}] * 7}
    (folder / "work/final.json").write_text(json.dumps(lists))
    return folder


def test_the_card_says_who_judged_and_of_what_terms_the_weights_are(study):
    card = from_study.card_of(study, "heart", "Hearts of clinic X", "CC-BY-4.0", version="1.2.0")
    assert (card.release, card.method, card.training["seed"]) == ("heart_mean_teacher_v1.2.0", "mean_teacher", 3)
    assert card.path == study / "release/cards/heart_mean_teacher/card.yaml"
    assert (card.models / FILE).is_file()
    assert list(card.weights) == ["model.pt"]
    assert (card.data["labelled"], card.data["unlabelled"], card.data["test"]) == (4, 7, 4)
    assert card.figures["test"]["classes"]["right ventricle"]["dice"]["mean"] == pytest.approx(0.8)
    assert card.figures["test"]["judged"].startswith(
        "cross-validated: each judged by one of 4 networks of the same settings"
    )
    assert "no scan of the study can judge it. Of supervised and mean_teacher the one" in card.figures["test"]["judged"]
    assert "first draft of right ventricle and myocardium and left ventricle for" in card.intended_use
    text = card.path.read_text(encoding="utf-8")
    assert not [word for word in ("Doe", "Ann", "Eve", "secret_place") if word in text]


def test_one_part_that_is_held_out_is_called_so(study):
    write(study, Settings("/data/images", "", "", folds=1, steps=4))
    card = from_study.card_of(study, "heart", "Hearts", "CC0-1.0")
    assert card.figures["test"]["judged"].startswith("held out: judged by a network of the same settings")
    assert card.data["split"] == "a part of the labelled patients held out, drawn with seed 0"


def test_weights_of_any_size_may_be_passed_on(study):
    card = from_study.card_of(study, "heart", "Hearts", "CC0-1.0")
    card.files[0].write_bytes(bytes(MAX_FILE + 1))
    with pytest.raises(CardError, match="sha256 is"):
        cards.verify(card)


def test_a_task_that_is_no_word_and_a_study_without_a_bundle(study):
    with pytest.raises(CardError, match="task 'my heart': expected one word of letters, digits and _, as in breast"):
        from_study.card_of(study, "my heart", "Hearts", "CC0-1.0")
    shutil.rmtree(study / "bundle")
    with pytest.raises(
        CardError, match=r"has no bundle yet, or another one than its runs have\. Go on with python -m custom"
    ):
        from_study.card_of(study, "heart", "Hearts", "CC0-1.0")
    with pytest.raises(StudyError, match="is no study"):
        from_study.card_of(study / "work", "heart", "Hearts", "CC0-1.0")


def test_what_is_built_is_fetched_and_holds_no_name_and_no_path(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "export", lambda folders: None)  # tested with the release
    from_study.main([str(study), "heart", "--data", "Hearts", "--licence", "CC-BY-4.0"])
    dist = study / "release/dist"
    assert f"python -m distribution.download heart_mean_teacher --from file://{dist}" in capsys.readouterr().out
    with zipfile.ZipFile(dist / "heart_mean_teacher_v0.1.0.zip") as archive:
        texts = {name: archive.read(name) for name in archive.namelist()}
    for name, content in texts.items():
        for word in (b"Jane Doe", b"secret_place", str(tmp_path).encode()):
            assert word not in content, name
    download("heart_mean_teacher", f"file://{dist}", tmp_path / "fetched")
    readme = (tmp_path / "fetched/heart_mean_teacher/docs/README.md").read_text(encoding="utf-8")
    assert "4 scans of 4 patients, cross-validated: each judged by one of 4 networks" in readme
    assert "phantom" not in readme.partition("## Method")[0]
    assert "that neither training nor any choice has seen" not in readme
    words = [
        "heart_mean_teacher",
        "--to",
        "hf:a/b",
        "--dry-run",
        "--dist",
        str(dist),
        "--cards",
        str(study / "release/cards"),
    ]
    assert publish.main([*words, "--pages", str(tmp_path / "pages")]) == 0
    page = (tmp_path / "pages/heart_mean_teacher/README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(page.split("---")[1])["license"] == "cc-by-4.0"
