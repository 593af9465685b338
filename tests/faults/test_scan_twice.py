"""One scan in two places, and parts whose files training does not open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cohort_files import (
    SIZE,
    assert_says,
    logged,
    noise,
)

from custom.cohort.check import Check


@pytest.mark.fault("6b", "one scan twice in one part")
def test_one_scan_twice_in_a_part_is_a_warning(good, caplog):
    good.write("images/p2.nii.gz", noise("p1"))
    good.check()
    assert_says(logged(caplog), "WARNING labelled, p2: p2.nii.gz ... p1.nii.gz of labelled, p1")


@pytest.mark.fault("6b", "one scan labelled and unlabelled, allowed")
@pytest.mark.parametrize("same_file", [True, False])
def test_a_scan_may_be_labelled_and_unlabelled_where_that_is_allowed(good, caplog, same_file):
    copy = {"image": good.parts["labelled"][0]["image"], "patient": "p1"} if same_file else {}
    good.parts["unlabelled"][0].update(copy)
    if not same_file:
        good.write("images/p3.nii.gz", noise("p1"))
    good.check(shared_scans=True)
    assert caplog.messages == []
    assert len(good.faults()) == 1


@pytest.mark.fault("6b", "a patient's scan in training and in test")
def test_a_scan_that_the_list_names_twice_is_told_once(good):
    good.parts["test"][0] |= good.parts["labelled"][0]
    assert_says(good.faults(), "The list: patient p1: in training and in test. Keep")


@pytest.mark.fault("6b", "one scan in four places")
def test_each_copy_is_told_once_and_a_fault_before_a_warning(good, caplog):
    good.add("validation", "p6")
    for patient in ("p2", "p4", "p6"):
        good.write(f"images/{patient}.nii.gz", noise("p1"))
    assert_says(
        good.faults(),
        *[f"One scan in two places: validation, {p}: ... p1.nii.gz of labelled, p1" for p in ("p4", "p6")],
    )
    assert_says(caplog.messages, "labelled, p2: p2.nii.gz ... p1.nii.gz of labelled, p1")


def test_scans_of_a_part_that_is_not_read_and_never_was_are_counted(good, caplog):
    caplog.set_level("INFO")
    test = good.parts.pop("test")
    good.check(unread={"test": test})
    assert_says(
        caplog.messages[:1], "test: 1 scan never read by a check ... `python -m custom.cohort check LIST` reads them"
    )


def test_blank_images_are_not_copies_of_each_other(good):
    for patient in ("p2", "p4"):
        good.write(f"images/{patient}.nii.gz", np.zeros(SIZE, np.uint8))
    good.check()


@pytest.mark.fault("6b", "a renamed copy in a part that training does not read")
def test_the_test_part_is_compared_by_what_the_record_knows_of_it_and_not_opened(good, tmp_path):
    record = tmp_path / "list.checked.json"
    good.write("images/p5.nii.gz", noise("p2"))
    test = {"test": good.parts.pop("test")}
    good.check(unread=test, record=record)  # nothing is known of it yet
    assert "p5.nii.gz" not in record.read_text()
    Check(**good.task, needs=(), record=record)(test)
    copy = "One scan in two places: test, p5: ... p2.nii.gz of labelled, p2. Remove it from training or from test"
    assert_says(good.faults(unread=test, record=record), copy)


def test_a_patient_of_a_part_that_is_not_read_is_compared_and_its_files_may_be_elsewhere(good):
    test = {"test": [{"patient": "p1", "image": "/nowhere/p1.nii.gz", "label": "/nowhere/label.nii.gz"}]}
    del good.parts["test"]
    assert_says(good.faults(unread=test), "The list: patient p1: in training and in test. Keep")


@pytest.mark.fault("6c", "unlabelled scans with labels that are absent or corrupt")
def test_labels_of_unlabelled_scans_are_never_opened(good, monkeypatch):
    corrupt = good.folder / "corrupt.nii.gz"
    corrupt.write_bytes(b"no scan")
    good.parts["unlabelled"][0]["label"] = str(good.folder / "absent.nii.gz")
    good.add("unlabelled", "p6")["label"] = str(corrupt)
    check, opened = Check(**good.task), []
    facts = check.record.facts
    monkeypatch.setattr(check.record, "facts", lambda files, *more: opened.extend(files) or facts(files, *more))
    check(good.parts)
    assert {Path(file).name for file in opened} == {f"p{i}.nii.gz" for i in range(1, 7)}
    assert sum("/labels/" in file for file in opened) == 4  # p1, p2, p4, p5
