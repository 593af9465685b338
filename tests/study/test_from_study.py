"""The bundle of a study passed on: a card that says how its figures came about, an archive without names and paths."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from saying import raises, says

from custom.cohort.intensities import FILE
from custom.evaluation.case_report import CaseReport
from custom.study.settings import Settings, StudyError, write
from distribution import build, cards, from_study, publish
from distribution.cards import MAX_FILE, CardError
from distribution.download import download
from distribution.packing import digest

PATIENTS = ("Jane Doe", "John Doe", "Ann", "Bob")


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
    for patient in PATIENTS:
        report.add(f"{patient}_a", patient, found, wanted, (1, 1))
    for bundle in ("supervised", "mean_teacher"):
        report.write(folder / "work/scores", bundle)
    trained(folder, "final_mean_teacher", PATIENTS, ())
    for k, patient in enumerate(PATIENTS):
        trained(folder, f"fold{k + 1}_mean_teacher", [each for each in PATIENTS if each != patient], [patient])
    return folder


def trained(folder: Path, name: str, train: Sequence[str], judges: Sequence[str], **changed: object) -> None:
    """What a study says of a training when it begins."""
    scans = {"labelled": train, "unlabelled": ["Eve"] * 7, "validation": [], "test": judges}
    data = json.dumps({part: [{"patient": patient} for patient in found] for part, found in scans.items()})
    task = (folder / "task.yaml").read_text(encoding="utf-8")
    settings = {"name": name, "steps": 4, "seed": 3, "overrides": {}, "task": task, "data": data} | changed
    path = folder / "work/runs" / name / "job/settings.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings))


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
    """Folds of an earlier division lie there still."""
    trained(study, "fold1_mean_teacher", [], PATIENTS)
    card = from_study.card_of(study, "heart", "Hearts", "CC0-1.0")
    assert card.figures["test"]["judged"].startswith("held out: judged by a network of the same settings")
    assert card.data["split"] == "a part of the labelled patients held out, drawn with seed 3"


def test_the_card_is_of_what_was_trained_whatever_the_study_plans_since(study):
    task = (study / "task.yaml").read_text(encoding="utf-8")
    write(study, Settings("/data/images", "", "", folds=2, steps=9, seed=8))
    (study / "task.yaml").write_text(task.replace("right ventricle", "another class"))
    (study / "work/final.json").write_text('{"labelled": [], "unlabelled": []}')
    card = from_study.card_of(study, "heart", "Hearts", "CC0-1.0")
    assert (card.data["labelled"], card.data["unlabelled"], card.training["seed"]) == (4, 7, 3)
    assert card.data["split"] == "4 folds of the labelled patients, drawn with seed 3"
    assert "one of 4 networks" in card.figures["test"]["judged"]
    assert "right ventricle" in card.intended_use
    assert card.task_file.read_text(encoding="utf-8") == f"data_list: list.json\n{task}"


def test_figures_of_folds_that_were_trained_otherwise_than_the_bundle_are_refused(study):
    trained(study, "fold3_mean_teacher", PATIENTS[:2], PATIENTS[2:3], steps=9)
    with raises(CardError, "figures of its page", "settings of its bundle", "changed since", "Go on with"):
        from_study.card_of(study, "heart", "Hearts", "CC0-1.0")
    (study / "work/scores/supervised.json").unlink()
    with pytest.raises(CardError, match=r"scores/supervised\.json does not exist\. Let the study write its page"):
        from_study.card_of(study, "heart", "Hearts", "CC0-1.0")
    (study / "work/runs/final_mean_teacher/job/settings.json").unlink()
    with pytest.raises(CardError, match=r"job/settings\.json does not exist\. Let the study train it"):
        from_study.card_of(study, "heart", "Hearts", "CC0-1.0")


def test_a_bundle_or_folds_that_were_trained_anew_with_the_same_words_are_refused(study):
    """run.json holds no steps and no overrides: the weights say it."""
    weights = study / "work/runs/final_mean_teacher/bundle/models/model.pt"
    (study / "bundle/.made.json").write_text(json.dumps({"models/model.pt": digest(weights)}))
    scored = study / "work/runs/fold1_mean_teacher/evaluation/test"
    scored.mkdir(parents=True)
    lines = (study / "work/scores/mean_teacher.csv").read_text(encoding="utf-8").splitlines()
    (scored / "model.csv").write_text("\n".join(lines[:2]) + "\n")
    assert from_study.card_of(study, "heart", "Hearts", "CC0-1.0").data["test"] == 4
    (scored / "model.csv").write_text("\n".join(lines[:2]).replace("0.8", "0.7") + "\n")
    with raises(CardError, "figures of its page", "folds with the settings of its bundle"):
        from_study.card_of(study, "heart", "Hearts", "CC0-1.0")
    (scored / "model.csv").unlink()
    weights.write_bytes(weights.read_bytes() + b"longer")
    with pytest.raises(CardError, match="has no bundle yet, or another one than its runs have"):
        from_study.card_of(study, "heart", "Hearts", "CC0-1.0")


def no_git(*_: str) -> str:
    raise FileNotFoundError("git")


def no_clone(*_: str) -> str:
    raise subprocess.CalledProcessError(128, "git")


@pytest.mark.parametrize("git", [no_git, no_clone])
def test_without_git_the_card_says_that_the_commit_is_unknown(study, monkeypatch, git):
    monkeypatch.setattr(from_study.runs, "git", git)
    monkeypatch.setattr(build, "export", lambda folders: None)
    from_study.main([str(study), "heart", "--data", "Hearts", "--licence", "CC-BY-4.0"])
    readme = readme_of(study)
    assert "`scripts/` is code of an unknown commit (there was no git). Task and numbers" in readme
    assert "0" * 40 not in readme


def readme_of(study: Path) -> str:
    with zipfile.ZipFile(study / "release/dist/heart_mean_teacher_v0.1.0.zip") as archive:
        return archive.read("heart_mean_teacher/docs/README.md").decode()


def test_weights_of_any_size_may_be_passed_on(study):
    card = from_study.card_of(study, "heart", "Hearts", "CC0-1.0")
    card.files[0].write_bytes(bytes(MAX_FILE + 1))
    with pytest.raises(CardError, match="sha256 is"):
        cards.verify(card)


def test_a_task_that_is_no_word_and_a_study_without_a_bundle(study):
    with pytest.raises(CardError, match="task 'my heart': expected one word of letters, digits and _, as in breast"):
        from_study.card_of(study, "my heart", "Hearts", "CC0-1.0")
    shutil.rmtree(study / "bundle")
    with raises(CardError, "no bundle yet", "another one than its runs", "Go on with python -m custom"):
        from_study.card_of(study, "heart", "Hearts", "CC0-1.0")
    with pytest.raises(StudyError, match="is not a study"):
        from_study.card_of(study / "work", "heart", "Hearts", "CC0-1.0")


def test_what_is_built_is_fetched_and_holds_no_name_and_no_path(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "export", lambda folders: None)  # tested with the release
    from_study.main([str(study), "heart", "--data", "Hearts", "--licence", "CC-BY-4.0"])
    dist = study / "release/dist"
    assert f"python -m distribution.download heart_mean_teacher --from {dist}" in capsys.readouterr().out
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
    says(readme, "7 unlabelled scans, the labelled ones all", "`models/model.pt`", "4 of them judged other networks")
    assert "for testing" not in readme
    command = "python -m monai.bundle run training --config_file configs/train.yaml --data_list /data/list.json"
    where = "merged into `configs/train.yaml`: from nothing, in the unpacked folder"
    assert f"{where}:\n\n    {command} --initial_weights ''\n" in readme
    assert "/data/task.yaml" not in readme
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
    header = yaml.safe_load(page.split("---")[1])
    assert header["license"] == "cc-by-4.0"
    (result,) = header["model-index"][0]["results"]
    assert "split" not in result["dataset"]
    assert result["metrics"][0]["name"] == "Dice (cross-validated, of other networks)"
    assert "Cross-validated Dice of other networks 0.800" in readme
    assert "Test Dice" not in readme
    metadata = json.loads(texts["heart_mean_teacher/configs/metadata.json"])
    assert metadata["eval_metrics"]["dice_of_other_networks"] == pytest.approx(0.8)
    assert "dice" not in metadata["eval_metrics"]
