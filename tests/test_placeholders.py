"""What lies where a scan should be (links that lead nowhere, pointers, notes of macOS) is named as what it is."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from hospital import fill
from saying import raises, says
from scan_files import VOXELS, fault, write_series

from custom.cohort.__main__ import main
from custom.cohort.check import Check
from custom.cohort.data_list import load
from custom.cohort.data_list import read as read_list
from custom.cohort.errors import CohortError
from custom.cohort.facts import read
from custom.cohort.folders import images, images_alone
from custom.cohort.make import make
from custom.inference.weight_files import NoWeights, find, folder, load_weights
from custom.placeholders import placeholder

ANNEX = "../.git/annex/objects/Xq/0f/MD5E-s472--0cc1.nii.gz/MD5E-s472--0cc1.nii.gz"
FETCH = ("`datalad get`", "`git annex get`")
LINK = ("a link of git-annex", "content is not here", *FETCH)
POINTER = ("a pointer of Git LFS", "`git lfs pull`")
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
CONTENTS = {
    "a pointer of Git LFS": (LFS, POINTER),
    "unlocked by git-annex": (b"/annex/objects/MD5E-s472--0cc1.nii.gz\n", ("a pointer of git-annex", *FETCH)),
    "git-annex on Windows": (ANNEX.encode(), ("a pointer of git-annex", *FETCH)),
    "an alias": (b"book\0\0\0\0mark\0\0\0\0" + bytes(40), ("an alias of macOS", "put the file itself there")),
    "AppleDouble": (b"\0\5\x16\7" + bytes(40), ("notes of macOS on another file (AppleDouble)", "delete it")),
    "a page of a login": (b"\n<!DOCTYPE HTML><html>", ("a web page", "download the file again", "a login")),
    "a cloud's empty file": (b"", ("is empty", "copy it again", "a cloud folder must keep it on this machine")),
}
NOWHERE = ("does not exist", "mend the link", "put the file itself there")
LINKS = {
    "of git-annex": (ANNEX, LINK),
    "a disk that is not there": ("/mnt/away/p1.nii.gz", ("a link to /mnt/away/p1.nii.gz,", *NOWHERE)),
    "in a circle": ("p1.nii.gz", ("a link that leads back to itself", "put the file itself there")),
}


def cohort(tmp_path: Path, lost: str = "images/p1.nii.gz") -> tuple[Path, Path]:
    """Images and labels p1, p2 with ``lost`` taken away."""
    for part in ("images", "labels"):
        fill(tmp_path / part, "p1.nii.gz", "p2.nii.gz")
    (tmp_path / lost).unlink()
    return tmp_path / "images", tmp_path / "labels"


def listed(images: Path, labels: Path) -> Path:
    """A list of both scans, from before one of them was lost."""
    entries = [{"image": str(images / f"{p}.nii.gz"), "label": str(labels / f"{p}.nii.gz")} for p in ("p1", "p2")]
    (images.parent / "l.json").write_text(json.dumps({"labelled": entries}))
    return images.parent / "l.json"


# a file


@pytest.mark.fault(
    "8a", "Git LFS, git-annex, an alias, AppleDouble, a web page, a cloud's empty file, in place of a scan"
)
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.mha", "a.png", "a.jpg", "a.dcm"])
@pytest.mark.parametrize(("content", "parts"), CONTENTS.values(), ids=CONTENTS)
def test_a_file_without_its_content_is_named_as_what_it_is(tmp_path, name, content, parts):
    (tmp_path / name).write_bytes(content)
    says(fault(tmp_path / name), name, *parts)


def test_a_good_scan_and_a_list_that_names_objects_of_git_annex_are_no_placeholders(tmp_path):
    (tmp_path / "l.json").write_text(json.dumps({"unlabelled": [{"image": ANNEX}]}))
    for file in (tmp_path / "l.json", fill(tmp_path, "a.nii.gz") / "a.nii.gz", tmp_path, tmp_path / "absent"):
        assert placeholder(file) == ""


def test_a_file_that_may_not_be_read_is_named_with_the_reason(tmp_path, monkeypatch):
    """The tests may run as a user to whom every file is open."""
    fill(tmp_path / "images", "p1.nii.gz")

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    assert fault(tmp_path / "images/p1.nii.gz") == "p1.nii.gz cannot be read (Permission denied); see its permissions."
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(CohortError, match=rf"^the folder {tmp_path}/images cannot be read: Permission denied$"):
        images(tmp_path / "images")


# a slice, without which a series would be read as a shorter one


@pytest.mark.fault("8a", "of a slice")
@pytest.mark.parametrize("number", [0, 2])
def test_a_series_whose_slice_is_not_here_is_refused(tmp_path, number):
    lost = sorted(write_series(tmp_path / "p1", VOXELS).iterdir())[number]
    lost.unlink()
    lost.symlink_to(ANNEX)
    says(fault(tmp_path / "p1"), f"p1 lacks 1 file, the first: {lost.name}", *LINK)
    lost.unlink()
    (tmp_path / "p1/IM0001").write_bytes(LFS)
    says(fault(tmp_path / "p1"), "p1 lacks 1 file, the first: IM0001", *POINTER)


def test_a_text_beside_the_slices_is_none_unless_it_is_a_link_at_which_gdcm_stops(tmp_path):
    write_series(tmp_path / "p1", VOXELS)
    (tmp_path / "p1/README.md").write_bytes(LFS)
    (tmp_path / "p1/._1.2.3.4_0.dcm").write_bytes(b"\0\5\x16\7")
    assert read(tmp_path / "p1").shape == VOXELS.shape
    (tmp_path / "p1/notes.md").symlink_to(ANNEX)
    says(fault(tmp_path / "p1"), "p1 lacks 1 file, the first: notes.md", *LINK)


# make


@pytest.mark.fault("8a", "links that lead nowhere, in make, check and inference (datalad#3513)")
@pytest.mark.parametrize("lost", ["images/p1.nii.gz", "labels/p1.nii.gz"])
@pytest.mark.parametrize(("target", "parts"), LINKS.values(), ids=LINKS)
def test_make_names_a_link_that_leads_nowhere(tmp_path, lost, target, parts):
    folders = cohort(tmp_path, lost)
    (tmp_path / lost).symlink_to(target)
    with raises(CohortError, "1 of 4 files cannot be used:\n  labelled, p1: p1.nii.gz", *parts):
        make(*folders, tmp_path / "l.json")
    assert not (tmp_path / "l.json").exists()


@pytest.mark.parametrize("series", ["a link to nowhere", "a folder of links to nowhere", "a folder of pointers"])
def test_make_names_the_folder_of_a_series_that_is_not_here(tmp_path, series):
    folders = cohort(tmp_path)
    path = tmp_path / "images/p1"
    if series == "a link to nowhere":
        path.symlink_to("/mnt/away/p1")
    else:
        path.mkdir()
        for name in ("1.dcm", "IM2"):
            (path / name).symlink_to(ANNEX) if "links" in series else (path / name).write_bytes(LFS)
    parts = {
        "a link to nowhere": ("p1 is a link to /mnt/away/p1,", *NOWHERE),
        "a folder of links to nowhere": ("p1 lacks 2 files, the first: 1.dcm", *LINK),
        "a folder of pointers": ("p1 lacks 2 files, the first: 1.dcm", *POINTER),
    }[series]
    with raises(CohortError, "1 of 4 files cannot be used:\n  labelled, p1:", *parts):
        make(*folders, tmp_path / "l.json")


def test_make_names_a_folder_that_has_the_name_of_a_file(tmp_path):
    folders = cohort(tmp_path)
    (tmp_path / "images/p1.nii.gz").mkdir()
    with pytest.raises(CohortError, match=r"labelled, p1: p1.nii.gz cannot be read: Is a directory\.$"):
        make(*folders, tmp_path / "l.json")


def test_make_names_a_folder_behind_a_link_that_leads_nowhere(tmp_path):
    folders = cohort(tmp_path)
    shutil.rmtree(tmp_path / "labels")
    (tmp_path / "labels").symlink_to("/mnt/away")
    with pytest.raises(CohortError, match=rf"^{tmp_path}/labels is a link to /mnt/away, which does not exist; mend"):
        make(*folders, tmp_path / "l.json")


def test_files_that_icloud_keeps_away_are_named(tmp_path):
    folders = cohort(tmp_path)
    (tmp_path / "images/.p1.nii.gz.icloud").write_bytes(b"bplist00")
    text = rf"^{folders[0]}: 1 file in iCloud and not on this machine: p1\.nii\.gz\. Download in Finder$"
    with pytest.raises(CohortError, match=text):
        make(*folders, tmp_path / "l.json")
    with pytest.raises(CohortError, match=text):
        images(folders[0])


# check


def test_check_names_what_lies_in_the_place_of_a_listed_file(tmp_path):
    folders = cohort(tmp_path)
    path = listed(*folders)
    (tmp_path / "images/p1.nii.gz").symlink_to(ANNEX)
    (tmp_path / "labels/p2.nii.gz").write_bytes(LFS)
    with pytest.raises(CohortError) as error:
        main(["check", str(path)])
    text = str(error.value)
    says(text, f"\n    labelled, p1: {folders[0]}/p1.nii.gz", *LINK)
    says(text, "\n    labelled, p2: label p2.nii.gz", *POINTER)


def test_check_names_the_link_on_the_way_to_a_file(tmp_path):
    path = listed(*cohort(tmp_path))
    shutil.rmtree(tmp_path / "images")
    (tmp_path / "images").symlink_to("/mnt/away")
    (line, *_) = Check(needs=()).report(load(path)).faults["The list"]
    says(line, f"labelled, p1: {tmp_path}/images/p1.nii.gz", f"link {tmp_path}/images to /mnt/away,", *NOWHERE)


@pytest.mark.parametrize("option", ["list", "--task"])
def test_check_names_a_list_or_a_task_that_was_not_fetched(tmp_path, option):
    path = listed(*cohort(tmp_path))
    called, lost = ("data_list", path) if option == "list" else ("--task", tmp_path / "task.yaml")
    lost.write_bytes(LFS)
    more = [] if option == "list" else ["--task", str(lost)]
    with pytest.raises(CohortError, match=rf"^{called} {lost} is a pointer of Git LFS, not the file; fetch it with"):
        main(["check", str(path), *more])
    path.unlink()
    path.symlink_to(ANNEX)
    with pytest.raises(CohortError, match=rf"^data_list {path} is a link of git-annex whose content is not here"):
        main(["check", str(path)])


@pytest.mark.parametrize(("store", "lies"), [(".git/annex/objects/a/b/l.json", "."), ("elsewhere/l.json", "elsewhere")])
def test_a_list_s_paths_are_relative_to_where_it_lies_and_not_to_the_store_of_git_annex(tmp_path, store, lies):
    (tmp_path / store).parent.mkdir(parents=True)
    (tmp_path / store).write_text('{"unlabelled": [{"image": "images/p1.nii.gz"}]}')
    (tmp_path / "l.json").symlink_to(tmp_path / store)
    assert read_list("l.json", root=tmp_path)["unlabelled"][0]["image"] == str(tmp_path / lies / "images/p1.nii.gz")


# inference


@pytest.mark.parametrize("find_images", [images, images_alone], ids=["all channels", "one modality"])
def test_inference_names_a_link_that_leads_nowhere(tmp_path, find_images):
    folder, _ = cohort(tmp_path)
    (folder / "p1.nii.gz").symlink_to(ANNEX)
    report = Check(needs=()).report({"unlabelled": find_images(folder, ["image"])})
    ((kind, (line,)),) = report.faults.items()
    assert kind == "The list"
    says(line, f"unlabelled, p1: {folder}/p1.nii.gz", *LINK)


def test_inference_names_the_link_to_a_channel_that_leads_nowhere(tmp_path):
    fill(tmp_path / "flair", "p1.nii.gz")
    (tmp_path / "t1ce").symlink_to("/mnt/away")
    with pytest.raises(CohortError) as error:
        images(tmp_path, ["flair", "t1ce"])
    assert f"{tmp_path}/t1ce/p1.nii.gz is behind the link {tmp_path}/t1ce to /mnt/away" in str(error.value)


@pytest.mark.fault("8a", "of weights")
def test_weights_that_were_not_fetched_are_named_and_no_others_serve_in_their_place(tmp_path):
    shipped, trained = tmp_path / "models/model.pt", tmp_path / "eval/bundle/models/model.pt"
    for path in (shipped, trained):
        path.parent.mkdir(parents=True)
    shipped.write_bytes(b"weights")
    trained.symlink_to(ANNEX)
    for called in (lambda: find(tmp_path), lambda: folder(tmp_path, "eval"), lambda: load_weights(None, trained)):
        with raises(NoWeights, f"the weights {trained}", *LINK):
            called()
    os.unlink(trained)
    shipped.write_bytes(LFS)
    with pytest.raises(NoWeights, match=rf"^the weights {shipped}: this is a pointer of Git LFS"):
        find(tmp_path)


# labels that fit no image


@pytest.mark.fault("8b", "a label whose name differs by case, or fits no image, in the first lines of make")
def test_a_label_without_an_image_is_in_the_first_lines(tmp_path, capsys):
    fill(tmp_path / "images", "p1.nii.gz", "p2.nii.gz", "p3.nii.gz")
    fill(tmp_path / "labels", "P1.nii.gz", "p2.nii.gz", "p3 .nii.gz", "p9.nii.gz")
    out = str(tmp_path / "l.json")
    main(["make", "--images", str(tmp_path / "images"), "--labels", str(tmp_path / "labels"), "--out", out])
    where, warning, labelled, *_ = capsys.readouterr().out.splitlines()
    assert (where, labelled) == (out, "  labelled   1 scan of 1 patient")
    found = ("warning", "3 labels without an image", "not used: P1, p3 , p9.")
    says(warning, *found, "case or blanks", "in P1 and p1, p3  and p3: give both one name")
