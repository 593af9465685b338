"""Two folders, nnU-Net's raw form, MSD's form: scans, channels, classes, and what is refused."""

from __future__ import annotations

import pytest
from data_sets import MSD, NNUNET, describe, msd, nnunet
from hospital import fill
from saying import raises, says

from custom.cohort.errors import CohortError
from custom.cohort.found import unmatched
from custom.study.sources import find

# two folders


def test_two_folders_are_read_as_make_reads_them(tmp_path):
    fill(tmp_path / "images", "a.nii", "b.nii", "note.doc")
    fill(tmp_path / "labels", "a.nii.gz")
    found = find(tmp_path / "images", tmp_path / "labels")
    assert [(s.name, s.image, s.label, s.complete) for s in found.scans] == [
        ("a", tmp_path / "images/a.nii", tmp_path / "labels/a.nii.gz", True),
        ("b", tmp_path / "images/b.nii", None, True)]  # fmt: skip
    assert (found.channels, found.classes, found.modality) == (("image",), {}, ("",))
    assert found.notes == ["not read, neither an image nor the folder of a DICOM series: note.doc"]


def test_a_folder_a_modality(tmp_path):
    fill(tmp_path / "flair", "a.nii", "b.nii")
    fill(tmp_path / "t1", "a.nii")
    fill(tmp_path / "labels", "a.nii", "b.nii")
    found = find({name: tmp_path / name for name in ("t1", "flair")}, tmp_path / "labels")
    assert (found.channels, found.modality) == (("t1", "flair"), ("", ""))
    assert [(list(s.image), s.complete) for s in found.scans] == [(["t1", "flair"], True), (["flair"], False)]


def test_a_label_without_an_image_is_told_with_the_nearest_image_that_has_none():
    told = unmatched(["P01", "p02_mask", "zebra"], ["p01", "p02", "p03"])
    found = "P01, p02_mask (did you mean 'p02'?), zebra"
    says(told, "3 labels without an image", "not used", found, "case or blanks", "P01 and p01", "both one name")


def test_without_labels_the_remedy_is_said(tmp_path):
    fill(tmp_path / "images", "a.nii")
    with pytest.raises(
        CohortError, match=r"^no labels: no dataset.json in .*images, and no folder of labels. Give two "
    ):
        find(tmp_path / "images")
    with pytest.raises(
        CohortError, match=r"^no labels: folders of modalities, and no folder of labels. Give two folders"
    ):
        find({"t1": tmp_path / "images"})
    with pytest.raises(CohortError, match=r"^there is no folder .*labels$"):
        find(tmp_path / "images", tmp_path / "labels")


# nnU-Net


def test_nnunet_with_one_channel(tmp_path):
    found = find(nnunet(tmp_path))
    assert [(s.name, s.image, s.label, s.complete) for s in found.scans] == [
        ("a", tmp_path / "imagesTr/a_0000.nii.gz", tmp_path / "labelsTr/a.nii.gz", True),
        ("b", tmp_path / "imagesTr/b_0000.nii.gz", None, True),
        ("c", tmp_path / "imagesTs/c_0000.nii.gz", None, True)]  # fmt: skip
    assert (found.channels, found.modality) == (("image",), ("CT",))
    assert found.classes == {0: "background", 1: "liver", 2: "tumour"}
    assert found.notes == []


def test_nnunet_with_several_channels_in_the_order_of_their_numbers(tmp_path):
    found = find(nnunet(tmp_path, channel_names={"1": "T1", "0": "FLAIR", "10": "T1"}))
    assert found.channels == ("FLAIR", "T1 2", "T1 3")
    assert found.modality == ("FLAIR", "T1", "T1")
    assert found.scans[0].image == {n: tmp_path / f"imagesTr/a_000{k}.nii.gz" for k, n in enumerate(found.channels)}
    (tmp_path / "imagesTr/b_0001.nii.gz").unlink()
    assert [(s.name, s.complete) for s in find(tmp_path).scans] == [("a", True), ("b", False), ("c", True)]


def test_nnunet_with_the_colours_of_a_picture_in_one_file(tmp_path):
    colours = {"channel_names": {"0": "R", "1": "G", "2": "B"}, "file_ending": ".png"}
    nnunet(tmp_path, channel_names={"0": "R"}, file_ending=".png")
    found = find(describe(tmp_path, {**NNUNET, **colours}))
    assert found.channels == ("R", "G", "B")
    assert [(s.image.name, s.complete) for s in found.scans][:1] == [("a_0000.png", True)]


def test_what_else_lies_in_nnunet_s_folders_is_told(tmp_path):
    nnunet(tmp_path)
    fill(tmp_path / "labelsTr", "B.nii.gz", "a.png")
    fill(tmp_path / "imagesTr", "d.nii.gz", "plan.json")
    unused, unread = find(tmp_path).notes
    says(unused, "1 label without an image", "not used: B", "case or blanks", "B and b", "both one name")
    says(unread, "not read", "CASE_0000.nii.gz", "d.nii.gz, plan.json, a.png")


@pytest.mark.parametrize(("said", "text"), [
    ({"labels": {"background": 0, "whole": [1, 2], "core": [2]}},
     r"labels that are regions .*: whole, core. Give each value a name"),
    ({"labels": {"background": 0, "liver": 1, "ignore": 2}}, r"an ignore label \(value 2\) cannot be used, .* Remove it"),
    ({"labels": {"liver": 1}}, r"labels are '?1'?, expected whole numbers from 0, the background. Correct it$"),
    ({"labels": {"background": 0, "liver": -1}}, r"labels are -1, expected whole numbers from 0"),
    ({"labels": {}}, r"labels are none, expected whole numbers"),
    ({"labels": ["background"]}, r"expected channel_names and labels as objects and file_ending as a text"),
    ({"file_ending": ".tif"}, r"file_ending is '.tif', expected one of .*\.png.*\. Convert the files$"),
    ({"channel_names": {"one": "CT"}}, r"channel_names has 'one', expected numbers 0, 1, ... Correct it$"),
    ({"dataset": {}}, r"lists its files under 'dataset'. Put them into imagesTr and labelsTr, and remove it$"),
])  # fmt: skip
def test_what_nnunet_can_say_and_is_not_understood_is_refused_by_name(tmp_path, said, text):
    nnunet(tmp_path)
    describe(tmp_path, {**NNUNET, **said})
    with pytest.raises(CohortError, match=rf"^{tmp_path / 'dataset.json'}:? {text}"):
        find(tmp_path)


def test_cases_of_nnunet_that_cannot_be_told_apart_or_have_a_channel_too_many(tmp_path):
    nnunet(tmp_path)
    fill(tmp_path / "imagesTr", "a_0001.nii.gz", "b_0002.nii.gz")
    with raises(CohortError, str(tmp_path), "Name the channel", "remove the file") as error:
        find(tmp_path)
    _, *lines, _ = str(error.value).splitlines()
    for line, found in zip(lines, ("a: a file of channel 0001", "b: a file of channel 0002"), strict=True):
        says(line, found, "channel_names has 1")
    fill(tmp_path / "imagesTs", "b_0000.nii.gz")
    with pytest.raises(CohortError, match=r"in imagesTr and in imagesTs lies b\. Rename or remove one of each$"):
        find(tmp_path)


def test_a_folder_of_nnunet_that_is_missing_or_without_a_label(tmp_path):
    nnunet(tmp_path)
    (tmp_path / "labelsTr/a.nii.gz").unlink()
    with raises(CohortError, "no labels", "none of 3 scans", str(tmp_path), "Add labels", "two patients"):
        find(tmp_path)
    (tmp_path / "labelsTr").rmdir()
    with pytest.raises(
        CohortError, match=r"^there is no folder .*labelsTr\. Give two folders, of images and of labels"
    ):
        find(tmp_path)


# Medical Segmentation Decathlon


def test_msd(tmp_path):
    found = find(msd(tmp_path))
    assert [(s.name, s.image, s.label) for s in found.scans] == [
        ("h_1", tmp_path / "imagesTr/h_1.nii.gz", tmp_path / "labelsTr/h_1.nii.gz"),
        ("h_2", tmp_path / "imagesTs/h_2.nii.gz", None)]  # fmt: skip
    assert (found.channels, found.modality) == (("image",), ("MRI",))
    assert found.classes == {0: "background", 1: "anterior", 2: "posterior"}
    assert found.notes == []


def test_the_channels_of_a_file_with_four_axes_have_msd_s_names(tmp_path):
    found = find(msd(tmp_path, modality={"0": "FLAIR", "1": "T1w"}))
    assert (found.channels, found.scans[0].image) == (("FLAIR", "T1w"), tmp_path / "imagesTr/h_1.nii.gz")


def test_files_of_macos_that_msd_lists_are_ignored_and_files_it_does_not_list_are_told(tmp_path):
    hidden = {"image": "./imagesTr/._h_1.nii.gz", "label": "./labelsTr/._h_1.nii.gz"}
    msd(tmp_path, training=[*MSD["training"], hidden])
    fill(tmp_path / "imagesTr", "h_3.nii.gz")
    found = find(tmp_path)
    assert [scan.name for scan in found.scans] == ["h_1", "h_2"]
    assert found.notes == ["not read, dataset.json does not list them: h_3.nii.gz"]


def test_all_files_that_msd_lists_and_are_not_there_are_in_one_report(tmp_path):
    msd(tmp_path)
    (tmp_path / "labelsTr/h_1.nii.gz").unlink()
    (tmp_path / "imagesTs/h_2.nii.gz").unlink()
    absent = "not there: ./labelsTr/h_1.nii.gz, ./imagesTs/h_2.nii.gz."
    with raises(CohortError, absent, "Unpack the data set anew", "remove"):
        find(tmp_path)


def test_a_raw_folder_of_nnu_net_version_1_is_named_with_what_converts_it(tmp_path):
    msd(tmp_path)
    for path in (tmp_path / "imagesTr").iterdir():
        path.rename(path.with_name(path.name.replace(".nii", "_0000.nii")))
    found = ("nnU-Net version 1", "lists ./imagesTr/h_1.nii.gz", "has h_1_0000.nii.gz")
    remedy = ("Convert", "nnUNetv2_convert_old_nnUNet_dataset", "give the copy")
    with raises(CohortError, str(tmp_path / "dataset.json"), *found, *remedy):
        find(tmp_path)


@pytest.mark.parametrize("said", [{"name": "x"}, {**MSD, "training": ["a.nii"]}, {**MSD, "labels": 3}, {}])
def test_a_description_of_neither_form_is_refused_with_what_it_has(tmp_path, said):
    describe(tmp_path, said)
    found = ", ".join(said) or "nothing"
    with pytest.raises(
        CohortError, match=rf"is neither nnU-Net's \(.*\) nor MSD's \(.*\): it has {found}. Give two folders"
    ):
        find(tmp_path)


def test_one_name_twice_in_msd(tmp_path):
    with pytest.raises(CohortError, match=r"lists several images of one name: h_1. Keep one of each$"):
        find(msd(tmp_path, test=["./imagesTr/h_1.nii.gz"]))
