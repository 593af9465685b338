"""Lists made from folders: files found by name, attributes of patients, and the command."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import ROOT
from hospital import BY_PATIENT, SPLIT, fill, hospital, made, patients_of, who, write_json
from saying import raises, says

from custom.cohort.__main__ import main, parser_of_make
from custom.cohort.data_list import read, record_path
from custom.cohort.errors import CohortError
from custom.cohort.make import make, read_attributes


def command(folder: Path, *more: str, out: str = "a.json") -> Path:
    folders = folder / "images", folder / "labels"
    main(["make", "--images", str(folders[0]), "--labels", str(folders[1]), "--out", str(folder / out),
                 "--patient", BY_PATIENT, *more])  # fmt: skip
    return folder / out


# folders


def test_of_many_labels_without_an_image_the_nearest_is_looked_for_of_those_that_are_named(monkeypatch):
    from custom.cohort import found

    asked, nearest = [], found.nearest
    monkeypatch.setattr(found, "nearest", lambda name, known: asked.append(name) or nearest(name, known))
    labels = [f"q{number:03d}" for number in range(100)]
    text = found.unmatched(labels, ["q0x1", "Q099"])
    assert asked == labels[:5]
    named = "q000, q001 (did you mean 'q0x1'?), q002, q003, q004, ... (100 in all)"
    says(text, "100 labels without an image", "not used", named, "case or blanks", "q099 and Q099", "both one name")


def test_paths_below_the_list_s_folder_are_relative_to_it_and_others_absolute(tmp_path):
    images, labels = hospital(tmp_path / "data", patients=1, unlabelled=0)
    below, beside = ({}, {})
    for where, found in (("data", below), ("lists", beside)):
        (path,) = make(images, labels, tmp_path / where / "a.json", BY_PATIENT)
        found.update(json.loads(path.read_text())["labelled"][0])
    assert below == {"patient": "p0", "image": "images/p0_ED.nii", "label": "labels/p0_ED.nii"}
    assert beside == {"patient": "p0", "image": str(images / "p0_ED.nii"), "label": str(labels / "p0_ED.nii")}


def test_folders_given_relative_to_where_one_stands_are_found_from_the_list_s(tmp_path, monkeypatch):
    hospital(tmp_path, patients=1, unlabelled=0)
    monkeypatch.chdir(tmp_path)
    (path,) = make(Path("images"), Path("labels"), Path("lists/a.json"), BY_PATIENT)
    monkeypatch.chdir("/")
    assert read(tmp_path / path)["labelled"][0]["image"] == str(tmp_path / "images/p0_ED.nii")


def test_a_label_is_found_by_its_name_whatever_its_suffix(tmp_path):
    fill(tmp_path / "images", "a.nii", "b.nii")
    fill(tmp_path / "labels", "a.nii.gz")
    parts = made(tmp_path / "images", tmp_path / "labels", tmp_path / "l.json")
    assert [Path(e["label"]).name for e in parts["labelled"]] == ["a.nii.gz"]
    assert patients_of(parts["unlabelled"]) == ["b"]


def test_modalities_are_joined_by_name_in_the_order_given(tmp_path):
    for modality in ("t1ce", "flair"):
        fill(tmp_path / modality, "a.nii")
    fill(tmp_path / "labels", "a.nii")
    (path,) = make({m: tmp_path / m for m in ("flair", "t1ce")}, tmp_path / "labels", tmp_path / "l.json")
    (entry,) = json.loads(path.read_text())["labelled"]
    assert list(entry["image"].items()) == [("flair", "flair/a.nii"), ("t1ce", "t1ce/a.nii")]


def test_a_scan_that_lacks_a_modality_keeps_those_it_has_and_trains_only(tmp_path, capsys):
    fill(tmp_path / "flair", "a.nii", "b.nii")
    fill(tmp_path / "t1ce", "a.nii", "b.nii", "c.nii", "d.nii")
    fill(tmp_path / "labels", "a.nii", "b.nii", "c.nii")
    folders = [f"{m}={tmp_path / m}" for m in ("flair", "t1ce")]
    arguments = ["make", "--images", *folders, "--labels", str(tmp_path / "labels"), "--out", str(tmp_path / "l.json")]
    main([*arguments, "--validation", "1", "--test", "1"])
    parts = read(tmp_path / "l.json")
    assert parts["labelled"] == [
        {"patient": "c", "image": {"t1ce": str(tmp_path / "t1ce/c.nii")}, "label": str(tmp_path / "labels/c.nii")}
    ]
    assert [list(e["image"]) for e in parts["unlabelled"]] == [["t1ce"]]
    assert sorted(patients_of(parts["validation"] + parts["test"])) == ["a", "b"]
    printed = capsys.readouterr().out
    assert "  labelled   1 scan of 1 patient, 1 of them lack a modality\n" in printed
    assert "  test       1 scan of 1 patient\n" in printed
    with pytest.raises(CohortError, match="val patients who lack a label or a modality: c"):
        main([*arguments, "--split", write_json(tmp_path / "s.json", {"train": ["a"], "val": ["c"]})])


@pytest.mark.parametrize("images", [["a", "b"], ["a=x", "b"], ["a=x", "a=y"], ["=x", "a=y"], ["a=", "b=y"]])
def test_folders_of_modalities_need_names_of_their_own(tmp_path, images):
    with pytest.raises(CohortError, match=r"^--images takes one folder, or NAME=FOLDER for each modality, got "):
        main(["make", "--images", *images, "--labels", "l", "--out", str(tmp_path / "a.json")])


def dicom_series(folder: Path, slices: int = 3) -> Path:
    import itk

    folder.mkdir(parents=True)
    for z in range(slices):
        image = itk.image_from_array(np.full((1, 4, 4), z, np.int16))
        image.SetSpacing([1.0, 1.0, 2.0])
        image.SetOrigin([0.0, 0.0, 2.0 * z])
        tags = itk.MetaDataDictionary()
        for tag, text in (("0020|000e", "1.2.3.4"), ("0020|000d", "1.2.3"), ("0008|0060", "MR"), ("0020|0013", str(z)),
                          ("0020|0032", f"0\\0\\{2 * z}"), ("0020|0037", "1\\0\\0\\0\\1\\0")):  # fmt: skip
            tags[tag] = text
        image.SetMetaDataDictionary(tags)
        itk.imwrite(image, str(folder / f"slice{z}"), imageio=_gdcm(itk))
    return folder


def _gdcm(itk):
    writer = itk.GDCMImageIO.New()
    writer.KeepOriginalUIDOn()
    return writer


def test_a_folder_with_a_dicom_series_is_a_scan_by_the_folder_s_name(tmp_path):
    """It is one where the name has dots, too; a folder with other files is not."""
    dicom_series(tmp_path / "images/p1.first")
    fill(tmp_path / "images/notes", "read me")
    nib.save(nib.Nifti1Image(np.eye(4, dtype=np.uint8)[..., None].repeat(3, 2), np.eye(4)),
             fill(tmp_path / "labels") / "p1.first.nii.gz")  # fmt: skip
    (path,) = make(tmp_path / "images", tmp_path / "labels", tmp_path / "l.json", r"^(p\d)")
    content = json.loads(path.read_text())
    assert content["labelled"] == [{"patient": "p1", "image": "images/p1.first", "label": "labels/p1.first.nii.gz"}]
    assert content["fingerprint"]["size"]["median"] == [4, 4, 3]


def test_scans_of_visits_below_their_patients_are_counted_without_hidden_files(tmp_path):
    fill(tmp_path / "labels", "a.nii")
    for folder in ("images/p2", "images/p1/later", "images/.hidden"):
        fill(tmp_path / folder, "scan.nii.gz")
    fill(tmp_path / "images/p2", "notes.txt", ".scan.nii.gz")
    with raises(CohortError, "2 images in subfolders", "first: p2/scan.nii.gz", "as p2_scan.nii.gz"):
        make(tmp_path / "images", tmp_path / "labels", tmp_path / "l.json")


def test_folders_that_cannot_be_used_are_refused(tmp_path):
    fill(tmp_path / "labels", "a.nii")
    fill(tmp_path / "images")
    with pytest.raises(CohortError, match=rf"no images in {tmp_path / 'images'}: expected files .*DICOM series"):
        make(tmp_path / "images", tmp_path / "labels", tmp_path / "l.json")
    with pytest.raises(CohortError, match=rf"^there is no folder {tmp_path / 'absent'}$"):
        make(tmp_path / "absent", tmp_path / "labels", tmp_path / "l.json")
    fill(tmp_path / "images", "b.nii")
    with raises(CohortError, f"no label in {tmp_path / 'labels'}", "name of an image", "labels are a", "images are b"):
        make(tmp_path / "images", tmp_path / "labels", tmp_path / "l.json")


def test_two_images_of_one_name_are_refused_by_name(tmp_path):
    fill(tmp_path / "images", "a.nii", "a.nii.gz", "b.nii", "b.png", "c.nii")
    fill(tmp_path / "labels", "c.nii")
    with pytest.raises(
        CohortError, match=r"of one name in .*images: a.nii and a.nii.gz; b.nii and b.png\. Keep one of"
    ):
        make(tmp_path / "images", tmp_path / "labels", tmp_path / "l.json")


def test_labels_without_an_image_are_named(tmp_path):
    fill(tmp_path / "images", "a.nii")
    fill(tmp_path / "labels", "a.nii", "b.nii")
    make(tmp_path / "images", tmp_path / "labels", tmp_path / "l.json")
    warnings = json.loads((tmp_path / "l.json").read_text())["fingerprint"]["warnings"]
    assert warnings == ["1 label without an image, not used: b"]


# files


def test_all_files_that_cannot_be_read_are_named_before_a_list_is_written(tmp_path):
    images, labels = hospital(tmp_path)
    for file in (images / "p1_ES.nii", labels / "p0_ED.nii", images / "p7_ED.nii"):
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CohortError) as error:
        make(images, labels, tmp_path / "a.json", BY_PATIENT, SPLIT, labelled=1)
    first, *lines = str(error.value).split("\n  ")
    assert first == "3 of 18 files cannot be used:"
    where = ("unlabelled, p7_ED: p7_ED.nii ", "unlabelled, p1_ES: p1_ES.nii ", "validation, p0_ED: p0_ED.nii ")
    assert [line[: len(text)] for line, text in zip(lines, where, strict=True)] == list(where)
    assert not (tmp_path / "a.json").exists()


def test_labels_of_unlabelled_scans_are_never_read_and_those_of_the_test_part_are_recorded(tmp_path):
    from custom.cohort.record import Record

    images, labels = hospital(tmp_path)
    (labels / "p2_ED.nii").write_bytes(b"not read")
    (path,) = make(images, labels, tmp_path / "a.json", BY_PATIENT, SPLIT, labelled=1)
    assert "p2" in who(read(path))["unlabelled"]
    record = Record(record_path(path))
    assert record.known(str(images / "p4_ES.nii"))
    assert record.known(str(labels / "p4_ES.nii"))
    assert record.known(str(labels / "p2_ES.nii")) is None


def test_a_list_that_cannot_be_written_leaves_the_earlier_one(tmp_path, monkeypatch):
    """The new one is written beside it and renamed."""
    folders = hospital(tmp_path, patients=2, unlabelled=0)
    (path,) = make(*folders, tmp_path / "a.json", BY_PATIENT)
    before = path.read_text()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(Exception, match=r"Cannot write a.json: no space .*Kept the earlier a.json"):
        make(*folders, path, BY_PATIENT, labelled=1)
    assert path.read_text() == before


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    folders = hospital(tmp_path, patients=1, unlabelled=0)
    with pytest.raises(
        CohortError, match=rf"the folder {tmp_path}/images/readme.txt/x cannot be made: Not a directory"
    ):
        make(*folders, tmp_path / "images/readme.txt/x/a.json", BY_PATIENT)


# attributes


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.json", '{"diagnosis": {"p0": "DCM", "p1": null}, "site": {"p0": 2}, "split": {"train": ["p0"]}, "by": "x"}',
         {"p0": {"diagnosis": "DCM", "site": "2"}}),
        ("a.csv", "patient,sex\np0,f\np1,\nx9,m\n", {"p0": {"sex": "f"}}),
        ("a.csv", "\ufeffsex;patient;site\r\nf;p0;A\r\nm;p1;B\r\n",
         {"p0": {"sex": "f", "site": "A"}, "p1": {"sex": "m", "site": "B"}}),
    ],
)  # fmt: skip
def test_attributes_of_patients_stand_at_their_scans(tmp_path, name, text, expected):
    """Also from a spreadsheet's semicolons; who has no value has no entry, and other patients do not matter."""
    folders = hospital(tmp_path, patients=2, unlabelled=0)
    (tmp_path / name).write_text(text, encoding="utf-8")
    parts = made(*folders, tmp_path / "l.json", BY_PATIENT, attributes=read_attributes(tmp_path / name))
    assert {e["patient"]: e["attributes"] for e in parts["labelled"] if "attributes" in e} == expected


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("a.csv", "name,sex\np0,f\n", r"has the columns \['name', 'sex'\]: expected 'patient' and at least one attribute"),
        ("a.csv", "patient\np0\n", r"has the columns \['patient'\]"),
        ("a.csv", "", r"has the columns \[\]"),
        ("a.csv", "patient,sex\np0,f\np0,m\n", "has several rows of one patient: p0"),
        ("a.json", '{"split": {"train": ["p0"]}}', r'has no attribute: expected {"diagnosis": {"p01": "DCM", \.\.\.}}'),
        ("a.json", '{"group": {}}', "a.json has no attribute"),
        ("a.json", "[]", "expected an object, found list"),
        ("a.json", "{", "is not JSON: "),
    ],
)  # fmt: skip
def test_a_file_without_attributes_is_refused(tmp_path, name, text, fault):
    (tmp_path / name).write_text(text)
    with pytest.raises(CohortError, match=fault):
        read_attributes(tmp_path / name)
    with pytest.raises(CohortError, match=r"absent.csv cannot be read: No such file"):
        read_attributes(tmp_path / "absent.csv")


# the command line


@pytest.mark.parametrize("wrap", [lambda split: split, lambda split: {"split": split, "group": {"p0": "NOR"}}])
def test_the_command_makes_a_list_and_says_what_it_found(tmp_path, capsys, wrap):
    hospital(tmp_path)
    out = command(tmp_path, "--split", write_json(tmp_path / "split.json", wrap(SPLIT)), "--labelled", "1")
    assert patients_of(read(out)["labelled"]) == ["p3"]
    assert capsys.readouterr().out.splitlines()[:8] == [
        str(out),
        "  warning    not named by the split, left out: p5, p6",
        "  labelled   2 scans of 1 patient",
        "  unlabelled 6 scans of 3 patients",
        "  validation 2 scans of 1 patient",
        "  test       2 scans of 1 patient",
        "  spacing    1 x 1 x 1 mm",
        "  size       2 x 2 x 2 voxels",
    ]


def test_the_command_draws_by_its_seed(tmp_path):
    folders = hospital(tmp_path)
    out = command(tmp_path, "--labelled", "1", "--validation", "1", "--test", "2", "--seed", "5")
    (other,) = make(*folders, tmp_path / "b.json", BY_PATIENT, labelled=1, validation=1, test=2, seed=5)
    assert out.read_text() == other.read_text()


def test_the_command_takes_percent_folds_and_attributes(tmp_path, capsys):
    hospital(tmp_path)
    attributes = write_json(tmp_path / "g.json", {"group": {"p0": "NOR", "p1": "DCM"}})
    command(tmp_path, "--labelled", "25%", "--folds", "2", "--attributes", attributes)
    printed = capsys.readouterr().out
    assert printed.count("  attribute  group of 2 of 8 patients: DCM, NOR\n") == 2
    assert [len(patients_of(read(tmp_path / f"a_fold{k}.json")["labelled"])) for k in range(2)] == [1, 1]


@pytest.mark.parametrize("number", ["-1", "1.5", "a%", "5%%"])
def test_a_number_that_is_none_is_refused_with_what_was_expected(tmp_path, capsys, number):
    with pytest.raises(SystemExit):
        command(tmp_path, f"--labelled={number}")
    says(capsys.readouterr().err, "--labelled: expected a number >= 0", "percentage such as 10%", f"got '{number}'")


def test_a_split_file_that_is_none_is_refused(tmp_path):
    hospital(tmp_path)
    with pytest.raises(CohortError, match=r"no.json cannot be read: No such file or directory"):
        command(tmp_path, "--split", str(tmp_path / "no.json"))
    with pytest.raises(CohortError, match=r"expected an object, found list"):
        command(tmp_path, "--split", write_json(tmp_path / "s.json", [1]))


def test_the_commands_of_the_page_on_data_are_such():
    page = ROOT / "docs/data.md"
    lines = re.findall(r"^ +python -m custom.cohort make (.*)$", page.read_text(encoding="utf-8"), re.M)
    assert lines
    for line in lines:
        options = parser_of_make().parse_args(shlex.split(line))
        assert re.compile(options.patient).groups == 1
        assert options.out.suffix == ".json"
