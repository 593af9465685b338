"""A study as annotation takes it: its images, its bundle, its order of scans; labels go where the server reads them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from annotate.models import StartError
from annotate.strategies import Listed
from annotate.study import ORDER, hand_over, read
from custom.study.settings import Settings, copies, digest, write


@pytest.fixture
def folder(tmp_path):
    for name in ("images", "labels", "study/bundle", "work"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("a", "b"):
        (tmp_path / f"labels/{name}.nii.gz").write_text(f"of the study: {name}")
    write(tmp_path / "study", Settings(str(tmp_path / "images"), str(tmp_path / "labels"), "^(.*)$"))
    (tmp_path / "study/scores.csv").write_text("scan,patient,predicted_dice\na,a,\nz,,0.2\nc,,0.5\n")
    return tmp_path


def test_after_a_further_study_the_work_folder_begins_with_its_bundle(folder):
    weights = folder / "study/bundle/models/model.pt"
    weights.parent.mkdir()
    names = []
    for content in (b"first", b"first", b"second"):
        weights.write_bytes(content)
        names.append(read(folder / "study").name)
    assert names[0] == names[1] != names[2]
    assert all(name.startswith("study_") and name.isidentifier() for name in names)


def test_a_study_says_where_its_images_are_what_serves_and_which_scan_comes_next(folder):
    found = read(folder / "study")
    assert (found.images, found.bundle) == (folder / "images", folder / "study/bundle")
    assert found.order == ["z", "c"]  # of the page; a judged


def test_labels_are_copied_once_and_a_corrected_one_stays(folder):
    final = folder / "images/labels/final"
    final.mkdir(parents=True)
    (final / "b.nii.gz").write_text("corrected")
    found = read(folder / "study")
    assert hand_over(found, folder / "work") == 1
    assert hand_over(found, folder / "work") == 0
    assert {path.name: path.read_text() for path in final.iterdir()} == {
        "a.nii.gz": "of the study: a",
        "b.nii.gz": "corrected",
    }
    assert json.loads((folder / "work" / ORDER).read_text()) == ["z", "c"]


def test_a_label_that_was_repaired_in_the_study_is_copied_anew_unless_it_was_corrected(folder):
    final, labels = folder / "images/labels/final", folder / "labels"
    found = read(folder / "study")
    assert hand_over(found, folder / "work") == 2
    for name in ("a", "b"):
        (labels / f"{name}.nii.gz").write_text("repaired")
    (final / "b.nii.gz").write_text("corrected")
    assert hand_over(found, folder / "work") == 1
    assert {path.name: path.read_text() for path in final.iterdir()} == {
        "a.nii.gz": "repaired",
        "b.nii.gz": "corrected",
    }
    (labels / "a.nii.gz").unlink()
    (labels / "a.nrrd").write_text("in another form")
    assert hand_over(found, folder / "work") == 1
    assert sorted(path.name for path in final.iterdir()) == ["a.nrrd", "b.nii.gz"]
    assert hand_over(found, folder / "work") == 0


def test_copies_are_remembered_also_those_of_a_call_that_was_killed_before_it_wrote_them_down(folder):
    found = read(folder / "study")
    hand_over(found, folder / "work")
    known = copies(folder / "images")
    assert known == {f"{name}.nii.gz": digest(folder / f"labels/{name}.nii.gz") for name in ("a", "b")}
    listed = folder / "images/labels/copied.json"
    for text in ("", '{"a.nii'):
        listed.write_text(text)
        assert copies(folder / "images") == {}
        assert hand_over(found, folder / "work") == 0
        assert copies(folder / "images") == known


def test_a_label_of_two_files_is_copied_with_both(folder):
    (folder / "labels/c.mhd").write_text("ElementDataFile = c.raw\n")
    (folder / "labels/c.raw").write_text("voxels")
    found = read(folder / "study")
    hand_over(found, folder / "work")
    assert (folder / "images/labels/final/c.raw").read_text() == "voxels"
    (folder / "labels/c.raw").write_text("repaired")
    assert hand_over(found, folder / "work") == 1
    assert (folder / "images/labels/final/c.raw").read_text() == "repaired"


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda study: (study / "study.yaml").unlink(), "is not a study: it has no study.yaml. Plan one"),
    (lambda study: (study / "scores.csv").unlink(), "is not done: it has no bundle or no scores. Go on"),
    (lambda study: write(study, Settings({"t1": "/a", "t2": "/b"}, "/l", "^(.*)$")), "are not files of one folder"),
])  # fmt: skip
def test_what_cannot_be_annotated_is_told(folder, spoil, message):
    spoil(folder / "study")
    with pytest.raises(StartError, match=message):
        read(folder / "study")


def test_the_next_scan_is_the_first_of_the_list_without_a_label(tmp_path):
    order = tmp_path / "order.json"
    order.write_text('["z", "c", "gone"]')
    listed = Listed(order, then=lambda *_: {"id": "another"})  # type: ignore[arg-type]

    def asked(*unlabelled: str):
        return listed({}, SimpleNamespace(get_unlabeled_images=lambda: [*unlabelled]))  # type: ignore[arg-type]

    assert asked("x", "c", "z") == {"id": "z", "reason": "number 1 of 3 on the study's page"}
    assert asked("x", "c") == {"id": "c", "reason": "number 2 of 3 on the study's page"}
    assert asked("x") == {"id": "another"}
