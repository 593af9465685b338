"""What MONAI Label is given to show of a study, and which of the labels that it keeps the study takes."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from data_sets import contents, describe, msd, nnunet
from hospital import fill
from saying import raises, says

from annotate import start
from custom.files import link_or_copy
from custom.study.annotation import (
    CORRECTED,
    FOLDER,
    LINKED,
    SHOWN,
    digest,
    link,
    linked,
    links,
    not_shown,
    shown,
)
from custom.study.label_maps import link_folder
from custom.study.plan import cohort_of
from custom.study.settings import Settings, StudyError
from custom.study.sources import find

NAMES = ["a.nii.gz", "b.nii.gz", "c.nii.gz"]  # of the scans of nnunet()


def settings(images: Path | dict[str, str], labels: str = "") -> Settings:
    return Settings(images if isinstance(images, dict) else str(images), labels, "^(.*)$")


@pytest.fixture
def no_links(monkeypatch):
    """A file system that knows no links."""

    def refuse(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.setattr(os, "link", refuse)


def test_the_kinds_of_images_are_those_that_the_server_is_started_with():
    assert set(SHOWN) == {*start.VOLUMES, *start.PICTURES}


# which folder, and whether it can be shown


def test_the_user_s_own_folder_is_shown_and_of_a_data_set_one_below_the_study():
    images = Path("/data/images")
    assert shown(Path("/study"), images, Path("/data/labels")) == images
    assert shown(Path("/study"), images, None) == Path("/study/annotation")
    assert shown(Path("/study"), {"t1": images}, None) is None


@pytest.mark.parametrize(
    ("image", "can"), [("a.nii.gz", True), ("a.png", True), ("a.tif", False), ("series/1.dcm", False)]
)
def test_a_folder_is_shown_if_it_has_an_image_of_the_kinds_that_monai_label_shows(tmp_path, image, can):
    (tmp_path / image).parent.mkdir(exist_ok=True)
    (tmp_path / image).touch()
    reason = not_shown(settings(tmp_path, labels="/data/labels"))
    assert (reason == "") is can
    if not can:
        says(reason, ".nii.gz", ".png", "no image is such a file")
    assert not_shown(settings(tmp_path / "gone", labels="/data/labels"))


@pytest.mark.parametrize("make", [nnunet, msd])
def test_a_data_set_of_one_channel_is_shown(tmp_path, make):
    assert not_shown(settings(make(tmp_path))) == ""


@pytest.mark.parametrize(("make", "said", "parts"), [
    (nnunet, {"channel_names": {"0": "T1", "1": "T2"}}, ("2 channels", "T1, T2", "scans of one")),
    (msd, {"modality": {"0": "FLAIR", "1": "T1w"}}, ("2 channels", "FLAIR, T1w", "scans of one")),
    (nnunet, {"file_ending": ".mhd"}, (".nii.gz", ".png", "no image is such a file")),
])  # fmt: skip
def test_why_a_data_set_is_not_shown(tmp_path, make, said, parts):
    says(not_shown(settings(make(tmp_path, **said))), *parts)


def test_why_folders_of_modalities_are_not_shown():
    says(not_shown(settings({"t1": "/t1", "t2": "/t2"})), "2 folders of modalities", "files of one folder")


def test_pictures_are_shown_whose_colours_nnunet_names_as_channels(tmp_path):
    nnunet(tmp_path, channel_names={"0": "R"}, file_ending=".png")
    said = json.loads((tmp_path / "dataset.json").read_text(encoding="utf-8"))
    describe(tmp_path, {**said, "channel_names": {"0": "R", "1": "G", "2": "B"}})
    assert not_shown(settings(tmp_path)) == ""
    assert list(links(find(tmp_path))) == ["a.png", "b.png", "c.png"]


# the links


def test_links_have_the_scan_s_name_and_an_ending_in_small_letters(tmp_path):
    found = links(find(nnunet(tmp_path, file_ending=".NII.GZ")))
    assert {name: path.name for name, path in found.items()} == {
        f"{case}.nii.gz": f"{case}_0000.NII.GZ" for case in "abc"
    }


def test_an_image_that_monai_label_does_not_show_has_no_link(tmp_path):
    fill(tmp_path / "imagesTr", "h_3.mhd")
    pair = {"image": "./imagesTr/h_3.mhd", "label": "./labelsTr/h_1.nii.gz"}
    assert list(links(find(msd(tmp_path, training=[pair])))) == ["h_2.nii.gz"]


def test_links_are_made_and_nothing_is_written_into_the_data_set(tmp_path):
    data_set, where = nnunet(tmp_path / "set"), tmp_path / FOLDER
    before = contents(data_set)
    link(where, data_set, links(find(data_set)))
    assert sorted(path.name for path in where.iterdir() if path.is_symlink()) == NAMES
    assert (where / "a.nii.gz").resolve() == data_set / "imagesTr/a_0000.nii.gz"
    assert (where / "c.nii.gz").resolve() == data_set / "imagesTs/c_0000.nii.gz"
    assert contents(data_set) == before
    assert linked(where) == (str(data_set), NAMES)


def test_a_second_start_leaves_links_that_are_right_mends_others_and_removes_those_to_scans_that_are_gone(tmp_path):
    data_set, where = nnunet(tmp_path / "set"), tmp_path / FOLDER
    link(where, data_set, links(find(data_set)))
    fill(where / CORRECTED, "c.nii.gz")
    fill(where, "sent.nii.gz")  # by an annotator
    kept = (where / "a.nii.gz").lstat().st_ino
    (where / "b.nii.gz").unlink()
    (where / "b.nii.gz").symlink_to("/gone/b.nii.gz")
    (data_set / "imagesTs/c_0000.nii.gz").unlink()
    link(where, data_set, links(find(data_set)))
    assert (where / "a.nii.gz").lstat().st_ino == kept
    assert (where / "b.nii.gz").resolve() == data_set / "imagesTr/b_0000.nii.gz"
    assert not os.path.lexists(where / "c.nii.gz")
    assert (where / CORRECTED / "c.nii.gz").is_file()
    assert (where / "sent.nii.gz").is_file()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"data_set": "/x"}'])
def test_a_damaged_list_of_links_is_made_anew(tmp_path, text):
    data_set, where = nnunet(tmp_path / "set"), tmp_path / FOLDER
    for _ in range(2):
        link(where, data_set, links(find(data_set)))
        assert linked(where)[1] == NAMES
        (where / LINKED).write_text(text)
        assert linked(where) == ("", [])


@pytest.mark.usefixtures("no_links")
def test_where_there_are_no_links_the_images_are_copied_and_copied_again_if_they_change(tmp_path):
    data_set, where = nnunet(tmp_path / "set"), tmp_path / FOLDER
    before = contents(data_set)
    link(where, data_set, links(find(data_set)))
    image, copy = data_set / "imagesTr/a_0000.nii.gz", where / "a.nii.gz"
    assert not copy.is_symlink()
    assert copy.read_bytes() == image.read_bytes()
    kept = copy.stat()
    assert kept.st_ino != image.stat().st_ino
    link(where, data_set, links(find(data_set)))
    assert copy.stat() == kept  # not copied again
    assert contents(data_set) == before
    image.write_bytes(b"another")
    (data_set / "imagesTs/c_0000.nii.gz").unlink()
    fill(where, "sent.nii.gz")
    link(where, data_set, links(find(data_set)))
    assert copy.read_bytes() == b"another"
    assert sorted(path.name for path in where.glob("*.gz")) == ["a.nii.gz", "b.nii.gz", "sent.nii.gz"]
    (where / LINKED).unlink()
    link(where, data_set, links(find(data_set)))  # copies that are right are known without the list


@pytest.mark.usefixtures("no_links")
def test_where_there_are_no_links_the_scans_that_a_study_segments_are_copied_too(tmp_path):
    data_set = nnunet(tmp_path / "set")
    folder = link_folder(tmp_path / "images", find(data_set).scans)
    assert folder is not None
    assert [path.name for path in sorted(folder.iterdir())] == NAMES
    assert (folder / "a.nii.gz").read_bytes() == (data_set / "imagesTr/a_0000.nii.gz").read_bytes()


def test_what_lies_there_is_never_replaced(tmp_path, no_links):
    (tmp_path / "file").write_bytes(b"new")
    (tmp_path / "there").write_bytes(b"old")
    with pytest.raises(OSError, match="not permitted"):
        link_or_copy(tmp_path / "there", tmp_path / "file")
    assert (tmp_path / "there").read_bytes() == b"old"


def test_an_image_that_an_annotator_has_sent_under_the_name_of_a_scan_is_refused(tmp_path):
    data_set, where = nnunet(tmp_path / "set"), tmp_path / FOLDER
    where.mkdir()
    (where / "b.nii.gz").write_bytes(b"another scan")
    with raises(StudyError, str(where), "images that are not those of", str(data_set), "b.nii.gz", "Move them away"):
        link(where, data_set, links(find(data_set)))
    assert (where / "b.nii.gz").read_bytes() == b"another scan"
    assert not os.path.lexists(where / "a.nii.gz")


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    data_set, where = nnunet(tmp_path / "set"), tmp_path / FOLDER
    where.touch()
    with raises(StudyError, f"{where} cannot be written: File exists", str(data_set), "Make it writable"):
        link(where, data_set, links(find(data_set)))


# labels


def test_labels_that_were_corrected_below_the_study_take_the_place_of_the_data_set_s(tmp_path):
    data_set, final = nnunet(tmp_path / "set"), tmp_path / "study" / FOLDER / CORRECTED
    fill(final, "a.nii.gz", "c.nii.gz")
    (final / "a.nii.gz").write_bytes(b"still the copy")
    (final.parent / "copied.json").write_text(json.dumps({"a.nii.gz": digest(final / "a.nii.gz")}))
    fill(data_set / CORRECTED, "b.nii.gz")  # somebody else's
    source = cohort_of(tmp_path / "study", data_set, None, "^(.*)$").source
    assert {scan.name: scan.label for scan in source.scans} == {
        "a": data_set / "labelsTr/a.nii.gz", "b": None, "c": final / "c.nii.gz",
    }  # fmt: skip
    (note,) = source.notes
    says(note, f"1 label taken from {final}", "MONAI Label", "1 of them new: c")


def test_labels_that_were_corrected_on_another_data_set_are_refused_where_scans_have_its_names(tmp_path):
    first, second, study = nnunet(tmp_path / "first"), nnunet(tmp_path / "second"), tmp_path / "study"
    where = study / FOLDER
    study.mkdir()
    link(where, first, links(find(first)))
    fill(where / CORRECTED, "a.nii.gz")
    (where / "labels/copied.json").write_text(json.dumps({"a.nii.gz": digest(where / CORRECTED / "a.nii.gz")}))
    cohort_of(study, second, None, "^(.*)$")  # nobody has corrected the copy
    fill(where / CORRECTED, "b.nii.gz")
    cohort_of(study, first, None, "^(.*)$")
    parts = (str(where / CORRECTED), f"of {first}", f"is of {second}", f"Move {where} away", f"remove {where / LINKED}")
    with raises(StudyError, *parts):
        cohort_of(study, second, None, "^(.*)$")
    with raises(StudyError, *parts):
        link(where, second, links(find(second)))
    assert (where / "a.nii.gz").resolve() == first / "imagesTr/a_0000.nii.gz"
    (where / LINKED).unlink()
    link(where, second, links(find(second)))
    assert (where / "a.nii.gz").resolve() == second / "imagesTr/a_0000.nii.gz"
    assert cohort_of(study, second, None, "^(.*)$").scans["b"][0].label == where / CORRECTED / "b.nii.gz"
