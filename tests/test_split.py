"""Who is in which part of a list made from folders: numbers, seeds, splits, folds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hospital import BY_PATIENT, SPLIT, hospital, made, patients_of, who
from saying import says

from custom.cohort.data_list import read, record_path
from custom.cohort.errors import CohortError
from custom.cohort.make import make
from custom.cohort.names import stem

# who is where


def test_counts_split_by_patient_and_leave_nobody_out(tmp_path):
    parts = made(*hospital(tmp_path), tmp_path / "lists/a.json", BY_PATIENT, labelled=2, validation=1, test=1)
    where = who(parts)
    assert {part: len(names) for part, names in where.items()} == {
        "labelled": 2, "unlabelled": 4, "validation": 1, "test": 1}  # fmt: skip
    assert sorted(name for names in where.values() for name in names) == [f"p{i}" for i in range(8)]
    assert set(where["unlabelled"]) >= {"p5", "p6", "p7"}, "only those with labels are labelled or evaluated"


@pytest.mark.parametrize("seed", range(3))
def test_both_phases_of_a_patient_are_in_one_part(tmp_path, seed):
    folders = hospital(tmp_path)
    parts = made(*folders, tmp_path / "a.json", BY_PATIENT, labelled=1, validation=2, test=1, seed=seed)
    for entries in parts.values():
        for name in patients_of(entries):
            phases = [stem(entry["image"]) for entry in entries if entry["patient"] == name]
            assert phases == [f"{name}_ED", f"{name}_ES"]
            assert all(Path(e["label"]).name == Path(e["image"]).name for e in entries if "label" in e)


def test_unlabelled_entries_have_no_label_key_even_where_there_is_a_label(tmp_path):
    parts = made(*hospital(tmp_path, unlabelled=0), tmp_path / "a.json", BY_PATIENT, labelled=3)
    assert len(patients_of(parts["unlabelled"])) == 5
    assert all("label" not in entry for entry in parts["unlabelled"])


def test_the_split_is_a_function_of_the_seed(tmp_path):
    folders = hospital(tmp_path)

    def drawn(seed: int) -> str:
        (path,) = make(*folders, tmp_path / "a.json", BY_PATIENT, labelled=2, validation=1, test=1, seed=seed)
        return path.read_text()

    assert drawn(3) == drawn(3)
    assert len({drawn(seed) for seed in range(8)}) > 4


def test_a_longer_list_of_labelled_patients_holds_the_shorter_one(tmp_path):
    folders, found = hospital(tmp_path), []
    for labelled in (1, 2, 3):
        parts = made(*folders, tmp_path / "a.json", BY_PATIENT, labelled=labelled, validation=1, test=1, seed=4)
        found.append((patients_of(parts["labelled"]), parts["validation"], parts["test"]))
    assert found[2][0][:2] == found[1][0]
    assert found[1][0][:1] == found[0][0]
    assert found[0][1:] == found[1][1:] == found[2][1:]


def test_zero_labelled_takes_all_that_have_a_label(tmp_path):
    parts = made(*hospital(tmp_path), tmp_path / "a.json", BY_PATIENT)
    assert sorted(patients_of(parts["labelled"])) == ["p0", "p1", "p2", "p3", "p4"]
    assert patients_of(parts["unlabelled"]) == ["p5", "p6", "p7"]


@pytest.mark.parametrize(("percent", "expected"), [("30%", 2), ("37.5%", 3), ("1%", 1)])
def test_a_percentage_is_of_all_training_patients_rounded_down_but_one_at_least(tmp_path, percent, expected):
    """8 patients: 30 % are 2.4, 37.5 % are 3, 1 % is 0.08."""
    parts = made(*hospital(tmp_path), tmp_path / "a.json", BY_PATIENT, labelled=percent)
    assert len(patients_of(parts["labelled"])) == expected


def test_a_labelled_patient_s_scans_without_a_label_are_unlabelled(tmp_path):
    """Cine MRI has them: two phases of many have a label. Such a patient cannot evaluate: no scan would be left out."""
    folders = hospital(tmp_path, patients=3, unlabelled=0)
    (folders[1] / "p0_ES.nii").unlink()
    parts = made(*folders, tmp_path / "a.json", BY_PATIENT, validation=1, test=1)
    assert [stem(e["image"]) for e in parts["labelled"]] == ["p0_ED"]
    assert [stem(e["image"]) for e in parts["unlabelled"]] == ["p0_ES"]
    with pytest.raises(CohortError, match="2 of 3 patients have all labels and modalities"):
        make(*folders, tmp_path / "a.json", BY_PATIENT, validation=2, test=1)


# splits


def test_a_split_s_order_decides_who_is_labelled_and_who_is_not_named_is_left_out(tmp_path, capsys):
    folders = hospital(tmp_path)
    assert who(made(*folders, tmp_path / "a.json", BY_PATIENT, SPLIT, labelled=2, seed=9)) == {
        "labelled": ["p3", "p1"], "unlabelled": ["p7", "p2"], "validation": ["p0"], "test": ["p4"]}  # fmt: skip
    warnings = json.loads((tmp_path / "a.json").read_text())["fingerprint"]["warnings"]
    assert warnings == ["not named by the split, left out: p5, p6"]


def test_a_split_may_be_of_training_patients_alone(tmp_path):
    assert who(made(*hospital(tmp_path), tmp_path / "a.json", BY_PATIENT, {"train": ["p0", "p1"]}, labelled=1)) == {
        "labelled": ["p0"], "unlabelled": ["p1"], "validation": [], "test": []}  # fmt: skip


def test_a_split_of_training_patients_gives_its_last_to_test_and_those_before_to_validation(tmp_path):
    split = {"train": ["p4", "p3", "p2", "p1", "p0"]}
    parts = made(*hospital(tmp_path), tmp_path / "a.json", BY_PATIENT, split, labelled=1, validation=1, test=2)
    assert who(parts) == {"labelled": ["p4"], "unlabelled": ["p3"], "validation": ["p2"], "test": ["p1", "p0"]}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"patient": r"^(q\d)"}, r"--patient '\^\(q\\\\d\)' does not match, or .* p0_ED, .*, \.\.\. \(16 in all\)$"),
        ({"patient": "^p"}, "has no group in brackets that does: p0_ED"),
        ({"patient": "(p"}, r"--patient '\(p' is not a regular expression: missing \)"),
        ({"labelled": 4, "validation": 1, "test": 1}, "asked for 4 labelled patients; 3 of 6 for training have a label"),
        ({"validation": 3, "test": 3}, "asked for 3 validation and 3 test patients; 5 of 8 patients have"),
        ({"split": SPLIT, "labelled": 4}, "asked for 4 labelled patients; 3 of 4 for training have a label"),
        ({"split": SPLIT, "test": 1}, "the split names its test patients: leave out --test"),
        ({"split": {"train": ["p0"]}, "validation": 2}, r"asked for --validation 2; 1 patients of train are left"),
        ({"split": {**SPLIT, "train": ["p3", "P1", "x"]}}, r"without an image: P1, x\. The images are of p0, p1"),
        ({"split": {**SPLIT, "val": ["p6", "p0", "p5"]}}, "val patients who lack a label or a modality: p6, p5"),
        ({"split": {**SPLIT, "test": ["p1"]}}, r"patient p1: in train and in test\. Keep all scans"),
        ({"split": {"train": ["p1", "p1"]}}, "patient p1: in train and in train"),
        ({"split": {"training": ["p0"]}}, r"lists under train, val and test, this one has 'training' \(did you mean 'tr"),
        ({"split": {}}, "this one has none"),
        ({"folds": 1}, "asked for 1 folds; expected 2 to 5, as many as patients can validate"),
        ({"folds": 6}, "asked for 6 folds; expected 2 to 5"),
        ({"folds": 2, "validation": 1}, "each fold has validation patients of its own: leave out --validation"),
        ({"attributes": {"group": {"x1": "a"}}}, "no patient of --attributes has images: it names x1; .* p0, p1"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_is_refused_and_nothing_is_written(tmp_path, options, text):
    folders = hospital(tmp_path)
    with pytest.raises(CohortError, match=text):
        make(*folders, tmp_path / "out/a.json", **{"patient": BY_PATIENT, **options})
    assert not (tmp_path / "out").exists()


def test_all_faults_of_a_split_are_in_one_report(tmp_path):
    split = {"train": ["p1", "x"], "val": ["p1"], "test": ["p7"]}
    with pytest.raises(CohortError) as error:
        make(*hospital(tmp_path), tmp_path / "a.json", BY_PATIENT, split)
    _, twice, unknown, lacking = str(error.value).split("\n  ")
    says(twice, "patient p1: in train and in val.", "Keep all scans", "in one part")
    says(unknown, "patients without an image: x.", "images are of p0, p1, p2, p3, p4, ... (8 in all)")
    says(lacking, "test patients", "lack a label", ": p7")


# folds


def test_every_labelled_patient_validates_in_exactly_one_fold(tmp_path):
    """5 patients with a label in 2 folds: 3 and 2. Those without train in both, in the part that takes no labels."""
    paths = make(*hospital(tmp_path), tmp_path / "a.json", BY_PATIENT, labelled=1, folds=2, seed=3)
    assert [path.name for path in paths] == ["a_fold0.json", "a_fold1.json"]
    found = [who(read(path)) for path in paths]
    assert sorted(name for fold in found for name in fold["validation"]) == ["p0", "p1", "p2", "p3", "p4"]
    assert sorted(len(fold["validation"]) for fold in found) == [2, 3]
    for fold in found:
        assert len(fold["labelled"]) == 1
        assert set(fold["unlabelled"]) >= {"p5", "p6", "p7"}
        assert len({name for names in fold.values() for name in names}) == 8


def test_folds_are_a_function_of_the_seed(tmp_path):
    folders = hospital(tmp_path)

    def dealt(seed: int) -> str:
        return str([who(read(p)) for p in make(*folders, tmp_path / "a.json", BY_PATIENT, SPLIT, folds=2, seed=seed)])

    assert dealt(1) == dealt(1)
    assert len({dealt(seed) for seed in range(6)}) > 2


def test_folds_keep_the_test_part_and_the_split_s_order_of_labelled_patients(tmp_path):
    paths = make(*hospital(tmp_path), tmp_path / "a.json", BY_PATIENT, SPLIT, labelled=1, folds=4)
    pool = ["p3", "p1", "p2", "p0"]  # of train and val with a label, in order
    for path in paths:
        fold = who(read(path))
        assert fold["test"] == ["p4"]
        assert fold["labelled"] == [name for name in pool if name not in fold["validation"]][:1]
        assert "p7" in fold["unlabelled"]


def test_the_files_of_all_folds_are_read_once_and_recorded_beside_each(tmp_path, monkeypatch):
    from custom.cohort import record as scans

    read_file, times = scans.read, []
    monkeypatch.setattr(scans, "read", lambda path, **more: times.append(path) or read_file(path, **more))
    paths = make(*hospital(tmp_path), tmp_path / "a.json", BY_PATIENT, folds=5)
    assert len(times) == len(set(times)) == 16 + 10
    for path in paths:
        record = scans.Record(record_path(path))
        assert all(record.known(entry["image"]) for entries in read(path).values() for entry in entries)
