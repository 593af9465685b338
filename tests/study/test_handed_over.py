"""What a study hands over: predictions and bundle, in which nothing that somebody else wrote is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from finished import BETTER, UNLABELLED, study
from page_fixtures import words
from saying import says

from custom.study import handed_over, verdict
from custom.study.state import State


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def aside(folder: Path) -> dict[str, bytes]:
    place = folder / "predictions_edited"
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in files(place)}


def bundle_of(folder: Path) -> dict[str, str]:
    found = {path.relative_to(folder / "bundle").as_posix(): path.read_text() for path in files(folder / "bundle")}
    return {name: text for name, text in found.items() if name != handed_over.MADE}


@pytest.mark.usefixtures("few_pictures")
def test_what_somebody_drew_in_the_predictions_is_set_aside_and_stays(tmp_path):
    made = study(tmp_path, BETTER)
    verdict.write(made)
    drawn = tmp_path / "predictions/p07_a_pred.nii.gz"
    for content in (b"mine", b"mine again"):
        drawn.write_bytes(content)
        (tmp_path / "predictions/notes.txt").write_text("look at p08")
        verdict.write(made)
        assert drawn.read_bytes() != content
    assert aside(tmp_path) == {
        "p07_a_pred.nii.gz": b"mine", "p07_a_pred.nii.gz.1": b"mine again",
        "notes.txt": b"look at p08", "notes.txt.1": b"look at p08",
    }  # fmt: skip


@pytest.mark.usefixtures("few_pictures")
def test_what_a_bundle_has_written_for_its_user_stays_beside_a_new_one(tmp_path):
    made = study(tmp_path, BETTER)
    verdict.write(made)
    for name in ("eval/metrics.csv", "data/images/p1.nii.gz", "models/old.pt"):
        (tmp_path / "bundle" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bundle" / name).write_text("of the user")
    trained = made.runs / "final_mean_teacher/bundle"
    for name in ("models/model.pt", "eval/of_the_run"):
        (trained / name).parent.mkdir()
        (trained / name).write_text("new")
    (trained / "run.json").write_text('{"of": "a new one"}')
    verdict.write(made)
    assert bundle_of(tmp_path) == {
        "data/images/p1.nii.gz": "of the user", "eval/metrics.csv": "of the user", "models/model.pt": "new",
        "run.json": '{"of": "a new one"}',
    }  # fmt: skip
    assert {path.name: path.read_text() for path in files(tmp_path / "bundle_edited")} == {"old.pt": "of the user"}


@pytest.mark.usefixtures("few_pictures")
def test_what_somebody_changed_in_the_bundle_stays_and_is_set_aside_when_another_one_comes(tmp_path):
    made = study(tmp_path, BETTER)
    trained = made.runs / "final_mean_teacher/bundle"
    for name in ("models/model.pt", "configs/inference.yaml", "scripts/deep/code.py", "scripts/__pycache__/old.pyc"):
        (trained / name).parent.mkdir(parents=True, exist_ok=True)
        (trained / name).write_text("first")
    verdict.write(made)
    own = {"configs/inference.yaml": "mine", "models/finetuned.pt": "mine", "NOTES.txt": "mine"}
    cached = tmp_path / "bundle/scripts/__pycache__/code.pyc"
    for name, text in own.items():
        (tmp_path / "bundle" / name).write_text(text)
    cached.parent.mkdir()
    cached.write_text("of Python")
    (tmp_path / "bundle/models/model.pt").unlink()
    ours = {"models/model.pt": "first", "scripts/deep/code.py": "first", "run.json": '{"of": "mean_teacher"}'}
    for _ in range(2):  # what is missing comes back
        verdict.write(made)
        assert bundle_of(tmp_path) == {**ours, **own, "scripts/__pycache__/code.pyc": "of Python"}
        assert not (tmp_path / "bundle_edited").exists()
    (trained / "models/model.pt").write_text("second")
    (trained / "run.json").write_text("another")
    verdict.write(made)
    new = {**ours, "models/model.pt": "second", "run.json": "another", "configs/inference.yaml": "first"}
    assert bundle_of(tmp_path) == new
    aside = tmp_path / "bundle_edited"
    assert {path.relative_to(aside).as_posix(): path.read_text() for path in files(aside)} == own


@pytest.mark.usefixtures("few_pictures")
def test_predictions_stay_where_the_last_network_failed(tmp_path):
    made = study(tmp_path, BETTER)
    verdict.write(made)
    (made.runs / "final_mean_teacher/label_maps/confidence.json").unlink()
    failed = State(tmp_path, made.settings, made.task, made.trainings, {"final_mean_teacher": "out of memory"})
    text = words(verdict.write(failed).read_text(encoding="utf-8"))
    assert len(list((tmp_path / "predictions").glob("*_pred.nii.gz"))) == UNLABELLED
    says(text, "unlabelled scans are not segmented yet", "predictions/ that are there", "earlier page")
    assert "predictions/ (of every" not in text


@pytest.mark.usefixtures("few_pictures")
def test_what_somebody_put_into_folders_of_the_predictions_is_set_aside_below_them(tmp_path):
    made = study(tmp_path, BETTER)
    verdict.write(made)
    corrected = tmp_path / "predictions/corrected"
    for content in (b"first", b"second"):
        (corrected / "deep").mkdir(parents=True)
        (corrected / "deep/p[1]_pred.nii.gz").write_bytes(content)
        (corrected / "link").symlink_to(made.runs)
        verdict.write(made)
        assert not corrected.exists()
    assert aside(tmp_path) == {
        "corrected/deep/p[1]_pred.nii.gz": b"first", "corrected/deep/p[1]_pred.nii.gz.1": b"second",
    }  # fmt: skip
    assert (tmp_path / "predictions_edited/corrected/link").is_symlink()
    assert files(made.runs)
    (tmp_path / "predictions/corrected").write_bytes(b"a file now")
    verdict.write(made)
    (corrected / "deep").mkdir(parents=True)
    (corrected / "deep/notes.txt").write_bytes(b"a folder again")
    verdict.write(made)
    assert aside(tmp_path)["corrected.1"] == b"a file now"
    assert aside(tmp_path)["corrected/deep/notes.txt"] == b"a folder again"


def test_a_picture_that_somebody_changed_is_set_aside_and_those_made_are_made_anew(tmp_path):
    state = study(tmp_path, BETTER)
    verdict.write(state)
    changed = state.folder / "predictions/pictures/p07_a.png"
    changed.write_bytes(b"an arrow on it")
    verdict.write(state)
    assert aside(state.folder) == {"pictures/p07_a.png": b"an arrow on it"}
    assert changed.read_bytes().startswith(b"\x89PNG")
    made = json.loads((state.folder / "predictions/.made.json").read_text(encoding="utf-8"))
    found = {path.relative_to(state.folder / "predictions").as_posix() for path in files(state.folder / "predictions")}
    assert set(made) == found - {".made.json"}


@pytest.mark.usefixtures("few_pictures")
@pytest.mark.parametrize("text", [None, '{"p07_a_pr'], ids=["none", "damaged"])
def test_without_a_list_of_what_was_made_all_predictions_stay(tmp_path, text):
    made = study(tmp_path, BETTER)
    verdict.write(made)
    (tmp_path / "predictions/p07_a_pred.nii.gz").write_bytes(b"mine")
    listed = tmp_path / "predictions/.made.json"
    listed.unlink()
    if text:
        listed.write_text(text)
    verdict.write(made)
    assert aside(tmp_path)["p07_a_pred.nii.gz"] == b"mine"
    assert len(aside(tmp_path)) == UNLABELLED


@pytest.mark.usefixtures("few_pictures")
def test_a_list_of_before_pictures_were_in_it_sets_none_of_them_aside(tmp_path):
    made = study(tmp_path, BETTER)
    verdict.write(made)
    (tmp_path / "predictions/look_at_first.png").write_bytes(b"sheet")
    for name in ("p07_a.png", "mine.png"):
        (tmp_path / "predictions/pictures").mkdir(exist_ok=True)
        (tmp_path / "predictions/pictures" / name).write_bytes(b"picture")
    verdict.write(made)
    assert aside(tmp_path) == {"pictures/mine.png": b"picture"}


@pytest.mark.usefixtures("few_pictures")
@pytest.mark.parametrize(
    ("at", "count"), [("a picture", 2), ("a removal", 2), ("a move", 2), ("a move", 4)]
)  # two are set aside, then what was made is moved
def test_a_page_that_is_killed_loses_nothing_of_the_predictions(tmp_path, monkeypatch, at, count):
    """Killed: nothing behind it is done, and the next call goes on from what lies there."""
    made = study(tmp_path, BETTER)
    verdict.write(made)
    out = tmp_path / "predictions"
    (out / "p07_a_pred.nii.gz").write_bytes(b"mine")
    (out / "corrected").mkdir()
    (out / "corrected/p08.nii.gz").write_bytes(b"mine too")
    calls = []

    def killed(*given: object, **_: object) -> None:
        calls.append(given)
        if len(calls) == count:
            raise KeyboardInterrupt
        before(*given)

    place, name = {
        "a picture": (handed_over.preview, "write"), "a removal": (Path, "unlink"), "a move": (handed_over.shutil, "move"),
    }[at]  # fmt: skip
    before = getattr(place, name)
    with monkeypatch.context() as patch:
        patch.setattr(place, name, killed)
        with pytest.raises(KeyboardInterrupt):
            verdict.write(made)
    kept = [path.read_bytes() for path in (*files(tmp_path / "predictions_edited"), *files(out))]
    assert {b"mine", b"mine too"} <= set(kept)
    verdict.write(made)
    assert aside(tmp_path) == {"p07_a_pred.nii.gz": b"mine", "corrected/p08.nii.gz": b"mine too"}
    assert len(list(out.glob("*_pred.nii.gz"))) == UNLABELLED
