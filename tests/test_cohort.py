"""The promises of custom/cohort/data_list.py. No image is read, so empty files stand for scans."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from saying import raises, says

from custom.cohort import data_list as cohort
from custom.cohort.data_list import only, read, references
from custom.cohort.errors import CohortError
from custom.cohort.folders import images, images_alone
from custom.cohort.found import not_read, scans_of
from custom.cohort.names import stem
from custom.cohort.overlaps import judge_list


def scan(folder: Path, patient: str, suffix: str = ".nii.gz") -> dict[str, str]:
    """An entry as it stands in a list, and its two files."""
    entry = {"patient": patient, "image": f"images/{patient}{suffix}", "label": f"labels/{patient}{suffix}"}
    for key in ("image", "label"):
        (folder / entry[key]).parent.mkdir(parents=True, exist_ok=True)
        (folder / entry[key]).touch()
    return entry


def write(folder: Path, **parts: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "list.json").write_text(json.dumps(parts))
    return folder / "list.json"


def faults(path: Path) -> list[str]:
    return judge_list(read(path))


# read


def test_every_part_is_read_with_paths_relative_to_the_list(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    parts = {part: [scan(folder, part)] for part in cohort.PARTS}
    write(folder, **parts)
    monkeypatch.chdir(tmp_path / "data/images")  # the working directory has no say
    entries = read("data/list.json", root=tmp_path)
    assert list(entries) == list(cohort.PARTS)
    for part in cohort.PARTS:
        image, label = (str(folder / f"{kind}/{part}.nii.gz") for kind in ("images", "labels"))
        assert entries[part] == [{"patient": part, "image": image, "label": label}]


def test_absolute_paths_stay_and_absent_parts_are_empty(tmp_path):
    entry = scan(tmp_path / "far", "a")
    entry = {key: str(tmp_path / "far" / entry[key]) for key in ("image", "label")}
    entries = read(write(tmp_path / "here", labelled=[entry]))
    assert entries == {"labelled": [{"patient": "a", **entry}], "unlabelled": [], "validation": [], "test": []}


@pytest.mark.parametrize("patient", [{}, {"patient": None}])
def test_the_patient_is_the_file_s_stem_where_none_is_named(tmp_path, patient):
    entry = {**{k: v for k, v in scan(tmp_path, "p1_ED").items() if k != "patient"}, **patient}
    assert read(write(tmp_path, labelled=[entry]))["labelled"][0]["patient"] == "p1_ED"


def test_two_modalities_are_a_path_each_and_one_may_be_missing(tmp_path):
    for name in ("flair.nii.gz", "t1.nii.gz", "label.nii.gz"):
        (tmp_path / name).touch()
    both = {"image": {"flair": "flair.nii.gz", "t1": "t1.nii.gz"}, "label": "label.nii.gz"}
    one = {"patient": "b", "image": {"flair": None, "t1": "t1.nii.gz"}}
    entries = read(write(tmp_path, labelled=[both], unlabelled=[one]))
    flair, t1 = str(tmp_path / "flair.nii.gz"), str(tmp_path / "t1.nii.gz")
    assert entries["labelled"][0]["image"] == {"flair": flair, "t1": t1}
    assert entries["labelled"][0]["patient"] == "flair"
    assert entries["unlabelled"][0]["image"] == {"t1": t1}


def test_a_folder_of_dicom_files_is_an_image(tmp_path):
    (tmp_path / "series").mkdir()
    assert read(write(tmp_path, unlabelled=[{"image": "series"}]))["unlabelled"][0]["patient"] == "series"


def test_a_phantom_is_drawn_once_below_dataset_dir(phantoms):
    before = (phantoms / "phantom_2d/list.json").stat().st_mtime_ns
    entries = read("phantom:2d", phantoms.name, root=phantoms.parent)
    assert [len(entries[part]) > 0 for part in cohort.PARTS] == [True] * 4
    assert Path(entries["test"][0]["image"]).is_relative_to(phantoms / "phantom_2d")
    assert (phantoms / "phantom_2d/list.json").stat().st_mtime_ns == before


def test_an_unknown_phantom_is_refused(tmp_path):
    with pytest.raises(ValueError, match="2d"):
        read("phantom:2", tmp_path)
    assert list(tmp_path.iterdir()) == []


# a data list is data

NASTY = "$__import__('os').mkdir('ran')"


@pytest.mark.fault("12", "a case named as an expression")
def test_a_case_named_as_an_expression_stays_a_string(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entry = {**scan(tmp_path, "a"), "patient": NASTY, "note": "%run", "other": "@labelled"}
    found = read(write(tmp_path, labelled=[entry]))["labelled"][0]
    assert (found["patient"], found["note"], found["other"]) == (NASTY, "%run", "@labelled")
    assert not (tmp_path / "ran").exists()


@pytest.mark.fault("12", "a case named as an expression")
def test_a_case_named_as_an_expression_stays_a_string_in_a_bundle(tmp_path, monkeypatch, bundle_cwd):
    """MONAI's parser evaluates such strings where they stand in a config."""
    from monai.bundle import ConfigParser

    bundle_cwd(ROOT / "bundles/supervised")
    path = write(tmp_path, labelled=[{**scan(tmp_path, NASTY), "patient": NASTY}])
    monkeypatch.chdir(tmp_path)
    parser = ConfigParser({"data": {"_target_": "scripts.cohort.data_list.read", "data_list": str(path)},
                           "labelled": "$@data['labelled']"})  # fmt: skip
    assert parser.get_parsed_content("labelled")[0]["patient"] == NASTY
    assert parser.get_parsed_content("labelled")[0]["image"] == str(tmp_path / f"images/{NASTY}.nii.gz")
    assert not (tmp_path / "ran").exists()


# what is not a data list


def test_a_list_that_does_not_exist_says_which_and_what_to_give(tmp_path):
    found = f"data_list {tmp_path / 'acdc.json'} does not exist"
    with raises(CohortError, found, "--data_list", "README", "'Your own scans'"):
        read("acdc.json", root=tmp_path)


@pytest.mark.parametrize("content", [b'{"labelled": [', b"", b"\xef\xbb\xbf{"])
def test_broken_json_is_named(tmp_path, content):
    (tmp_path / "list.json").write_bytes(content)
    with pytest.raises(CohortError, match=rf"data_list {tmp_path}/list.json is not JSON: ."):
        read(tmp_path / "list.json")


@pytest.mark.fault("12", "a key twice")
@pytest.mark.parametrize("content", ['{"labelled": [], "labelled": []}', '{"test": [{"image": "a", "image": "b"}]}'])
def test_a_key_that_stands_twice_is_refused_for_one_would_be_lost(tmp_path, content):
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(CohortError, match=r"list\.json is not JSON: the key '(labelled|image)' is there twice"):
        read(tmp_path / "list.json")


@pytest.mark.parametrize("image", [["t1.nii", "flair.nii"], 5, [[]]])
def test_an_image_that_is_no_path_is_told_as_it_stands(tmp_path, image):
    a = scan(tmp_path, "a")
    assert faults(write(tmp_path, labelled=[{"patient": "a", "image": image, "label": a["label"]}])) == [
        f"labelled, a: image is {image!r}; expected a path, or a path for each modality"
    ]


def test_a_patient_is_one_however_its_letters_are_coded(tmp_path):
    a, b = (
        {**scan(tmp_path, name), "patient": patient} for name, patient in (("a", "J\u00e4ger"), ("b", "Ja\u0308ger"))
    )
    line = "patient J\u00e4ger: in training and in test. Keep all scans of a patient in one part"
    assert faults(write(tmp_path, labelled=[a], test=[b])) == [line]


@pytest.mark.parametrize("content", ["[]", '{"labelled": {}}', '{"test": null}'])
def test_another_json_is_refused_with_what_was_expected(tmp_path, content):
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(CohortError, match=r"expected an object with lists under \['labelled', 'unlabelled', 'valid"):
        read(tmp_path / "list.json")


def test_a_misspelt_part_is_refused_with_the_nearest(tmp_path):
    found = (f"data_list {tmp_path / 'list.json'}", "part 'labeled' (did you mean 'labelled'?)")
    with raises(CohortError, *found, "['labelled', 'unlabelled', 'validation', 'test']"):
        read(write(tmp_path, labeled=[scan(tmp_path, "a")], comment="ours", author={"name": "x"}))


# judge


def test_a_good_list_has_no_faults(tmp_path):
    """Several scans of a patient are one part's; only unlabelled scans lack a label."""
    a, b = scan(tmp_path, "a_ED"), scan(tmp_path, "a_ES")
    unlabelled = {key: value for key, value in scan(tmp_path, "b").items() if key != "label"}
    parts = {"labelled": [{**a, "patient": "a"}, {**b, "patient": "a"}], "unlabelled": [unlabelled]}
    assert faults(write(tmp_path, **parts, validation=[scan(tmp_path, "c")], test=[scan(tmp_path, "d")])) == []


def test_entries_that_lack_something_are_named_by_part_and_case(tmp_path):
    a = scan(tmp_path, "a")
    found = faults(write(tmp_path, labelled=[{"label": a["label"], "patient": "a"}], unlabelled=["b.nii.gz", {}],
                         validation=[{"image": a["image"], "patient": "c"}], test=[{"image": {"t1": ""}}]))  # fmt: skip
    assert found == [
        "labelled, a: no image; expected a path, or a path for each modality",
        "unlabelled, entry 0: expected an object with image and label, found 'b.nii.gz'",
        "unlabelled, entry 1: no image; expected a path, or a path for each modality",
        "validation, c_a: no label; only unlabelled scans may lack one",
        "test, entry 0: no image; expected a path, or a path for each modality",
        "test, entry 0: no label; only unlabelled scans may lack one",
    ]


def test_every_file_that_does_not_exist_is_named(tmp_path):
    found = faults(write(tmp_path, labelled=[{"image": {"flair": "f.nii", "t1": "t.nii"}, "label": "l.nii"}],
                         unlabelled=[{"image": "u.nii", "label": "never read.nii"}]))  # fmt: skip
    assert found == [*[f"labelled, f: {tmp_path / name} does not exist" for name in ("f.nii", "t.nii", "l.nii")],
                     f"unlabelled, u: {tmp_path / 'u.nii'} does not exist"]  # fmt: skip


@pytest.mark.parametrize(
    ("a", "b", "fault"),
    [
        ("labelled", "validation", "in training and in validation"),
        ("labelled", "test", "in training and in test"),
        ("unlabelled", "validation", "in training and in validation"),
        ("unlabelled", "test", "in training and in test"),
        ("validation", "test", "in validation and in test"),
    ],
)
def test_a_patient_in_training_and_in_evaluation_is_refused(tmp_path, a, b, fault):
    """Other scans of the same patient, too; and the same file where it has another patient's name."""
    entries = [scan(tmp_path, name) for name in ("x_ED", "x_ES", "y_ED", "y_ES")]
    patients = [{**entry, "patient": entry["image"][7]} for entry in entries]
    line = f"patient x, y: {fault}. Keep all scans of a patient in one part"
    assert faults(write(tmp_path, **{a: patients[::2], b: patients[1::2]})) == [line]
    renamed = {**entries[0], "patient": "nobody else"}
    line = f"x_ED: {fault} under two patients' names. Remove one entry"
    assert faults(write(tmp_path, **{a: entries[:1], b: [renamed]})) == [line]


def test_a_patient_may_be_labelled_and_unlabelled_but_not_a_scan(tmp_path):
    a, b = ({**scan(tmp_path, name), "patient": "a"} for name in ("a_ED", "a_ES"))
    read(write(tmp_path, labelled=[a], unlabelled=[b]))
    line = "a_ED: labelled and unlabelled at once. Remove one entry, or set shared_scans to true"
    assert faults(write(tmp_path, labelled=[a], unlabelled=[a, b])) == [line]


def test_lists_in_memory_without_patients_are_judged_too(tmp_path):
    """MONAI Label gives such lists; patients that nobody named are not one patient."""
    label = scan(tmp_path, "a")["label"]
    a, b = ({"image": str(tmp_path / scan(tmp_path, name)["image"]), "label": str(tmp_path / label)} for name in "ab")
    assert judge_list({"labelled": [a], "validation": [b]}) == []
    assert judge_list({"labelled": [a, {**b, "label": str(tmp_path / "gone.nii")}]}) == [
        f"labelled, b: {tmp_path / 'gone.nii'} does not exist"
    ]


# names


@pytest.mark.parametrize(
    ("file", "name"),
    [("a/p01_ED.nii.gz", "p01_ED"), ("P.NII.GZ", "P"), ("p.1.nii", "p.1"), ("x.jpeg", "x"), ("v1.2.mha", "v1.2"),
     ("no suffix", "no suffix"), ("p01.gipl", "p01"), ("", "")],
)  # fmt: skip
def test_a_stem_is_the_name_without_its_image_suffix(file, name):
    assert stem(file) == stem(Path(file)) == name


# folders, for inference and evaluation


def fill(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def test_the_images_of_a_folder_are_its_image_files_by_name(tmp_path):
    fill(tmp_path, "b.nii.gz", "a.png", "c.JPG", "notes.txt")
    assert images(tmp_path) == [{"image": str(tmp_path / name)} for name in ("a.png", "b.nii.gz", "c.JPG")]


def test_the_channels_of_a_case_are_one_file_name_in_a_folder_each_in_the_network_s_order(tmp_path):
    for channel in ("t1", "flair"):
        fill(tmp_path / channel, "p1.nii.gz", "p2.nii.gz")
    found = [
        {"image": [str(tmp_path / channel / f"{name}.nii.gz") for channel in ("t1", "flair")]} for name in ("p1", "p2")
    ]
    assert images(tmp_path, ["t1", "flair"]) == found


def test_a_dicom_series_is_an_image_and_keeps_its_whole_name(tmp_path):
    for series in ("1.2.3", "1.2.4"):
        (tmp_path / series).mkdir()
        (tmp_path / series / "IM0").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").touch()
    assert [entry["image"] for entry in images(tmp_path)] == [str(tmp_path / "1.2.3"), str(tmp_path / "1.2.4")]
    assert [stem(tmp_path / series) for series in ("1.2.3", "1.2.4")] == ["1.2.3", "1.2.4"]


def test_a_case_that_lacks_a_channel_is_refused_by_path(tmp_path):
    fill(tmp_path / "t1", "p1.nii", "p2.nii")
    fill(tmp_path / "flair", "p2.nii", "p3.nii")
    lacking = f"lack a channel: {tmp_path / 'flair/p1.nii'}, {tmp_path / 't1/p3.nii'}."
    with raises(CohortError, lacking, "Add these files", "move their cases away"):
        images(tmp_path, ["t1", "flair"])


@pytest.mark.fault("43", "files of two kinds in the folders of modalities")
def test_the_modalities_of_a_case_may_be_of_different_kinds(tmp_path):
    fill(tmp_path / "t1", "p1.nii", "p2.mha")
    fill(tmp_path / "flair", "p1.nrrd", "p2.nii.gz")
    files = [[Path(file).name for file in entry["image"]] for entry in images(tmp_path, ["t1", "flair"])]
    assert files == [["p1.nii", "p1.nrrd"], ["p2.mha", "p2.nii.gz"]]


def test_two_images_of_one_name_are_refused_for_their_results_would_overwrite_each_other(tmp_path):
    fill(tmp_path, "a.mha", "a.nii.gz", "b.nii.gz")
    with pytest.raises(
        CohortError, match=r"several images of one name in \S+: a\.mha and a\.nii\.gz\. Keep one of each"
    ):
        images(tmp_path)


def test_what_is_no_image_in_a_folder_is_named_texts_beside_images_are_not(tmp_path, caplog):
    fill(tmp_path, "a.nii.gz", "a.json", "b.tif", "c.nii.gz.part", ".hidden")
    (tmp_path / "study").mkdir()
    assert [stem(entry["image"]) for entry in images(tmp_path)] == ["a"]
    (text,) = caplog.messages
    says(text, f"Not read in {tmp_path}", ": b.tif, c.nii.gz.part, study")
    assert text.endswith("study")


def test_modalities_of_one_scan_whose_names_differ_by_letter_case_are_named(tmp_path):
    fill(tmp_path / "a", "p1.nii.gz", "p2.nii.gz", "q.nii.gz", "Q.nii.gz")
    fill(tmp_path / "b", "P1.nii.gz", "p2.nii.gz", "q.nii.gz")
    fill(tmp_path / "labels", "p2.nii.gz")
    _, notes = scans_of({"a": tmp_path / "a", "b": tmp_path / "b"}, tmp_path / "labels")
    (note,) = notes
    says(note, "modalities of one scan", "case or blanks", "in P1 and p1: give both one name")


def test_a_folder_without_images_is_refused_with_what_was_expected(tmp_path):
    fill(tmp_path, "notes.txt")
    with pytest.raises(CohortError, match=rf"no images in {tmp_path}: expected files \.nii\.gz, .*--dataset_dir\."):
        images(tmp_path)
    with pytest.raises(CohortError, match=r"in a subfolder for each of \['t1', 'flair'\]\. Give"):
        images(tmp_path / "absent", ["t1", "flair"])


@pytest.mark.parametrize("find", [images, partial(images_alone, channels=["t1"])])
def test_an_image_in_place_of_its_folder_is_told_as_what_it_is(tmp_path, find):
    fill(tmp_path, "p1.nii.gz")
    found = (f"dataset_dir {tmp_path}/p1.nii.gz is a file", "expected a folder of images")
    with raises(CohortError, *found, f"--dataset_dir {tmp_path},", "another one for this image alone"):
        find(tmp_path / "p1.nii.gz")


def test_the_voxels_that_a_mhd_names_are_a_part_of_it(tmp_path, caplog):
    for name, voxels in (("c", "c.raw"), ("d", "sub.zraw"), ("e", "gone.raw")):
        (tmp_path / f"{name}.mhd").write_text(f"ObjectType = Image\nElementDataFile = {voxels}\n")
    fill(tmp_path, "c.raw", "sub.zraw", "other.raw")
    assert [Path(entry["image"]).name for entry in images(tmp_path)] == ["c.mhd", "d.mhd", "e.mhd"]
    assert caplog.messages == [f"Not read in {tmp_path}, neither an image nor the folder of a DICOM series: other.raw"]
    assert not_read([tmp_path]) == ["not read, neither an image nor the folder of a DICOM series: other.raw"]


def test_references_put_the_label_aside_and_the_channels_in_order():
    entries = [{"patient": "a", "image": {"x": "ax", "y": "ay"}, "label": "al"}]
    assert references(entries, ["y", "x"]) == [
        {"image": ["ay", "ax"], "reference": "al", "patient": "a", "case": "a_ay", "attributes": {},
         "present": {"y": True, "x": True}}]  # fmt: skip
    single = [{"patient": "b", "image": "b", "label": "bl", "site": "1"}]
    assert references(single) == [{"image": "b", "reference": "bl", "patient": "b", "case": "b", "attributes": {}}]


def test_of_a_case_that_lacks_channels_the_others_are_referred_to():
    (found,) = references([{"patient": "a", "image": {"y": "ay"}, "label": "al"}], ["x", "y", "z"])
    assert found["image"] == ["ay"]
    assert found["present"] == {"x": False, "y": True, "z": False}


def test_one_part_is_taken_by_its_name_and_must_have_scans():
    parts = {"labelled": [{"patient": "a"}], "test": []}
    assert only(parts, "labelled") == {"labelled": [{"patient": "a"}]}
    with pytest.raises(
        CohortError, match=r"evaluate::part is 'tset' \(did you mean 'test'\?\); the parts are labelled, test"
    ):
        only(parts, "tset")
    with pytest.raises(CohortError, match="there are no scans under 'test' in the data list: nothing to evaluate"):
        only(parts, "test")


def test_parts_that_a_run_does_not_open_are_those_of_the_list_if_there_is_one(tmp_path):
    path = write(tmp_path, test=[scan(tmp_path, "a")])
    assert [entry["patient"] for entry in cohort.listed(path)["test"]] == ["a"]
    assert cohort.listed(tmp_path / "absent.json") == {}
    assert cohort.listed("phantom:2d", tmp_path) == {}


def test_the_record_lies_beside_the_list_or_where_that_cannot_be_in_the_run_s_folder(tmp_path, monkeypatch):
    path = write(tmp_path, test=[])
    assert cohort.record(path, tmp_path / "run") == tmp_path / "list.checked.json"
    assert cohort.record(tmp_path / "absent.json", tmp_path / "run") == tmp_path / "run/checked.json"
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    assert cohort.record(path, tmp_path / "run") == tmp_path / "run/checked.json"
