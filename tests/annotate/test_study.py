"""A study as annotation takes it: its images, its bundle, its order of scans; labels go where the server reads them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from data_sets import contents, msd, nnunet
from hospital import fill
from ports import free_port

from annotate import start
from annotate.models import StartError
from annotate.strategies import Listed
from annotate.study import ORDER, hand_over, link_images, read
from custom.study.annotation import copies, digest
from custom.study.settings import Settings, write


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
    found = read(folder / "study")
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
    (lambda study: write(study, Settings({"t1": "/a", "t2": "/b"}, "/l", "^(.*)$")),
     "cannot be annotated: its images lie in 2 folders of modalities, .* Annotate a folder with --studies and --model"),
    (lambda study: write(study, Settings(str(nnunet(study / "set", channel_names={"0": "T1", "1": "T2"})), "", "^(.*)$")),
     r"cannot be annotated: its scans have 2 channels \(T1, T2\), and MONAI Label shows scans of one"),
])  # fmt: skip
def test_what_cannot_be_annotated_is_told(folder, spoil, message):
    spoil(folder / "study")
    with pytest.raises(StartError, match=message):
        read(folder / "study")


@pytest.fixture
def data_set(tmp_path):
    """Of nnU-Net: scans a (with a label), b and c; beside it a study of it."""
    for name in ("study/bundle", "work"):
        (tmp_path / name).mkdir(parents=True)
    found = nnunet(tmp_path / "set")
    write(tmp_path / "study", Settings(str(found), "", "^(.*)$"))
    (tmp_path / "study/scores.csv").write_text("scan,patient,predicted_dice\na,a,\nc,,0.2\nb,,0.5\n")
    return found


def test_of_a_data_set_links_below_the_study_are_shown_and_labels_copied_there(data_set, tmp_path):
    before = contents(data_set)
    found = read(tmp_path / "study")
    link_images(found)
    assert hand_over(found, tmp_path / "work") == 1
    where = tmp_path / "study/annotation"
    assert (found.images, found.order) == (where, ["c", "b"])
    assert sorted(path.name for path in where.glob("*.nii.gz")) == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    label = data_set / "labelsTr/a.nii.gz"
    assert (where / "labels/final/a.nii.gz").read_bytes() == label.read_bytes()
    assert not (where / "labels/final/a.nii.gz").is_symlink()
    assert copies(where) == {"a.nii.gz": digest(label)}
    assert contents(data_set) == before


def test_images_of_nnunet_are_called_by_the_scan_where_a_bundle_s_list_names_their_files(data_set, tmp_path):
    assert read(tmp_path / "study").names == {
        data_set / "imagesTr/a_0000.nii.gz": "a",
        data_set / "imagesTr/b_0000.nii.gz": "b",
        data_set / "imagesTs/c_0000.nii.gz": "c",
    }


def test_a_label_is_never_written_through_a_link_into_the_data_set(data_set, tmp_path):
    final, label = tmp_path / "study/annotation/labels/final", data_set / "labelsTr/a.nii.gz"
    final.mkdir(parents=True)
    (final / "a.nii.gz").symlink_to(label)
    found = read(tmp_path / "study")
    hand_over(found, tmp_path / "work")
    copies_before, repaired = copies(found.images), b"repaired"
    label.unlink()
    label.write_bytes(repaired)
    precious = tmp_path / "precious"
    precious.write_bytes(b"a label of somebody else's")
    (final / "a.nii.gz").unlink()
    (final / "a.nii.gz").symlink_to(precious)
    (found.images / "labels/copied.json").write_text(json.dumps({"a.nii.gz": digest(precious)}))
    assert copies_before
    assert hand_over(read(tmp_path / "study"), tmp_path / "work") == 1
    assert (final / "a.nii.gz").read_bytes() == repaired
    assert precious.read_bytes() == b"a label of somebody else's"


def test_a_label_of_msd_gets_the_name_of_its_image_and_keeps_its_own_form(tmp_path):
    for name in ("study/bundle", "work"):
        (tmp_path / name).mkdir(parents=True)
    pair = {"image": "./imagesTr/h_1.nii.gz", "label": "./labelsTr/h_1_by_hand.nii"}
    fill(tmp_path / "set/labelsTr", "h_1_by_hand.nii")
    write(tmp_path / "study", Settings(str(msd(tmp_path / "set", training=[pair])), "", "^(.*)$"))
    (tmp_path / "study/scores.csv").write_text("scan,patient,predicted_dice\n")
    found = read(tmp_path / "study")
    assert sorted(found.links) == ["h_1.nii.gz", "h_2.nii.gz"]
    assert hand_over(found, tmp_path / "work") == 1
    assert [path.name for path in (found.images / "labels/final").iterdir()] == ["h_1.nii"]
    (found.images / "labels/final/h_1.nii").rename(found.images / "labels/final/h_1.nii.gz")  # MONAI Label saves it so
    (found.images / "labels/final/h_1.nii.gz").write_bytes(b"corrected")
    assert hand_over(found, tmp_path / "work") == 0
    assert [path.name for path in (found.images / "labels/final").iterdir()] == ["h_1.nii.gz"]


def test_the_start_shows_the_links_and_names_the_work_folder_after_the_study(data_set, tmp_path, monkeypatch):
    asked = []

    def prepare(*given):
        asked.extend(given)
        raise StartError("far enough")

    monkeypatch.setattr(start, "judge_environment", lambda: None)
    monkeypatch.setattr(start, "prepare", prepare)
    with pytest.raises(StartError, match="far enough"):
        start.main(["--study", str(tmp_path / "study"), "--port", str(free_port()), "--model", "any"])
    studies, model, work, _, names = asked
    assert (studies / "b.nii.gz").resolve() == data_set / "imagesTr/b_0000.nii.gz"
    assert model == "any"
    assert work == start.default_work(tmp_path / "study")
    assert names[data_set / "imagesTr/a_0000.nii.gz"] == "a"


def test_the_next_scan_is_the_first_of_the_list_without_a_label(tmp_path):
    order = tmp_path / "order.json"
    order.write_text('["z", "c", "gone"]')
    listed = Listed(order, then=lambda *_: {"id": "another"})  # type: ignore[arg-type]

    def asked(*unlabelled: str):
        return listed({}, SimpleNamespace(get_unlabeled_images=lambda: [*unlabelled]))  # type: ignore[arg-type]

    assert asked("x", "c", "z") == {"id": "z", "reason": "number 1 of 3 on the study's page"}
    assert asked("x", "c") == {"id": "c", "reason": "number 2 of 3 on the study's page"}
    assert asked("x") == {"id": "another"}
