"""Who trains and who judges."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from custom.cohort.split import FoundScan
from custom.study.parts import divide, entries_of, halves, write_list
from custom.study.settings import StudyError


def scan(name: str, labelled: bool, complete: bool = True) -> FoundScan:
    return FoundScan(name, Path(f"/i/{name}.nii.gz"), Path(f"/l/{name}.nii.gz") if labelled else None, complete)


def cohort(labelled: int, unlabelled: int = 3) -> dict[str, list[FoundScan]]:
    scans = {f"p{k}": [scan(f"p{k}_a", True), scan(f"p{k}_b", True)] for k in range(labelled)}
    return scans | {f"u{k}": [scan(f"u{k}", False)] for k in range(unlabelled)}


@given(labelled=st.integers(2, 12), folds=st.integers(1, 4), seed=st.integers(0, 5))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_no_patient_who_judges_is_among_those_that_train(labelled, folds, seed):
    scans = cohort(labelled)
    if folds > labelled:
        with pytest.raises(StudyError):
            divide(scans, folds, seed)
        return
    parts = divide(scans, folds, seed)
    assert len(parts) == folds
    for part in parts:
        lists = entries_of(part, scans)
        training = {entry["patient"] for name in ("labelled", "unlabelled") for entry in lists[name]}
        assert training.isdisjoint(part.judges)
        assert {entry["patient"] for entry in lists["test"]} == set(part.judges)
        assert training | set(part.judges) == set(scans)
        assert not any("label" in entry for entry in lists["unlabelled"])
    if folds > 1:
        judged = [patient for part in parts for patient in part.judges]
        assert sorted(judged) == sorted(f"p{k}" for k in range(labelled))


def test_one_fold_holds_out_three_in_ten():
    (part,) = divide(cohort(20), 1, 0)
    assert len(part.judges) == 6
    assert len(part.train) == 14


def test_of_fifteen_as_many_judge_as_a_verdict_asks_for():
    """Three in ten would be four, who never can have a verdict."""
    assert [len(divide(cohort(count), 1, 0)[0].judges) for count in (14, 15, 18, 23)] == [4, 6, 6, 7]


def test_the_other_half_of_the_labelled_patients_is_unlabelled():
    scans = cohort(6)
    part = divide(scans, 3, 0)[0]
    lists = entries_of(part, scans, part.half)
    assert {entry["patient"] for entry in lists["labelled"]} == set(part.half)
    assert {entry["patient"] for entry in lists["unlabelled"]} == {*part.train, "u0", "u1", "u2"} - set(part.half)


@given(labelled=st.integers(2, 24), partial=st.integers(0, 4), folds=st.integers(1, 4), seed=st.integers(0, 5))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_patient_trains_in_as_many_halves_as_any_other_or_in_one_more(labelled, partial, folds, seed):
    """Those who never judge, as a scan of theirs lacks its label, train in every fold and are in no more halves for it."""
    folds = min(folds, labelled)
    scans = cohort(labelled) | {f"n{k}": [scan(f"n{k}_a", True), scan(f"n{k}_b", False)] for k in range(partial)}
    parts = divide(scans, folds, seed)
    assert parts == divide(scans, folds, seed)
    times = Counter({patient: 0 for part in parts for patient in part.train})
    for part in parts:
        assert set(part.half) <= set(part.train)
        times.update(part.half)
    assert max(times.values()) - min(times.values()) <= 1


def test_eight_patients_in_four_folds_take_turns_in_the_halves():
    """Three of six in each: the same three or four, in all of them, would stand for what half of the labels do."""
    everyone = range(8)
    found = halves([[str(p) for p in everyone if p % 4 != fold] for fold in range(4)])
    assert found == [("1", "2", "3"), ("0", "6", "7"), ("3", "4", "5"), ("0", "1", "2")]


@pytest.mark.parametrize(("labelled", "can"), [(2, False), (3, False), (4, True), (5, True)])
def test_half_of_those_that_train_is_fewer_wherever_two_train(labelled, can):
    parts = divide(cohort(labelled), 2, 0)
    assert all(part.can_halve for part in parts) is can  # of three, one trains alone in a fold
    for part in parts:
        assert part.can_halve == (len(part.train) > 1)
        assert len(part.half) == max(1, len(part.train) // 2)


def test_a_patient_with_a_scan_that_lacks_its_label_trains_and_never_judges():
    scans = {**cohort(3, 0), "half": [scan("half_a", True), scan("half_b", False)]}
    for part in divide(scans, 3, 0):
        assert "half" not in part.judges
        lists = entries_of(part, scans)
        assert "/i/half_b.nii.gz" in {entry["image"] for entry in lists["unlabelled"]}
        assert "/i/half_a.nii.gz" in {entry["image"] for entry in lists["labelled"]}


@pytest.mark.parametrize("labelled", [0, 1])
def test_fewer_than_two_labelled_patients_are_told(labelled):
    with pytest.raises(
        StudyError, match=rf"^{labelled} labelled patients? found: one must train and another judge\. Label at"
    ):
        divide(cohort(labelled), 2, 0)


def test_a_list_that_says_the_same_is_left_alone_and_files_are_not_examined_again(tmp_path):
    record = tmp_path / "scans.checked.json"
    record.write_text("{}")
    entries = entries_of(divide(cohort(4), 2, 0)[0], cohort(4))
    path = write_list(tmp_path / "lists/fold1.json", entries, record)
    before = path.stat().st_mtime_ns
    write_list(path, entries, record)
    assert path.stat().st_mtime_ns == before
    assert json.loads(path.read_text(encoding="utf-8")) == entries
    assert (tmp_path / "lists/fold1.checked.json").read_text(encoding="utf-8") == "{}"
