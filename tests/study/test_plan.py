"""What a plan decides by itself: folds, overrides, names of classes, labels that MONAI Label keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from saying import raises, says

from annotate.study import Study, hand_over
from custom.cohort.errors import CohortError
from custom.cohort.split import FoundScan
from custom.study import plan
from custom.study.budget import ROOMS
from custom.study.seen import Seen
from custom.study.settings import StudyError


def cohort(labelled: int) -> dict[str, list[FoundScan]]:
    return {f"p{k}": [FoundScan(f"p{k}", Path("i"), Path("l"), True)] for k in range(labelled)}


@pytest.mark.parametrize(
    ("labelled", "folds"),
    [(2, [2]), (3, [3, 2]), (5, [4, 3, 2]), (14, [4, 3, 2]), (15, [4, 3, 2, 1]), (40, [4, 3, 2, 1])],
)
def test_labelled_patients_judge_in_turn_and_many_may_be_held_out_where_time_is_short(labelled, folds):
    assert plan._folds(cohort(labelled)) == folds


def test_labels_of_monai_label_take_the_place_of_the_folder_s(tmp_path):
    for folder in ("images", "labels", "images/labels/final"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("a", "b", "c"):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / f"images/{name}.png")
    for where, names in (("labels", "ab"), ("images/labels/final", "bc")):
        for name in names:
            Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / where / f"{name}.png")
    found = plan.cohort_of(tmp_path, tmp_path / "images", tmp_path / "labels", "")
    labels = {scan.name: scan.label for scan in found.source.scans}
    assert labels == {
        "a": tmp_path / "labels/a.png",
        "b": tmp_path / "images/labels/final/b.png",
        "c": tmp_path / "images/labels/final/c.png",
    }
    (note,) = (note for note in found.source.notes if "MONAI Label" in note)
    says(note, f"2 labels taken from {tmp_path / 'images/labels/final'}", "1 of them new: c")


def test_a_copy_that_nobody_corrected_does_not_outrank_the_label_in_the_folder(tmp_path):
    for name in ("images", "labels", "work"):
        (tmp_path / name).mkdir()

    def save(name, value):
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(tmp_path / name)

    for name in "abcd":
        save(f"images/{name}.png", 0)
    for name in "abc":
        save(f"labels/{name}.png", 1)
    labels = {path.name: path for path in (tmp_path / "labels").iterdir()}
    hand_over(Study(tmp_path / "images", labels, tmp_path, []), tmp_path / "work")
    final = tmp_path / "images/labels/final"
    save("labels/a.png", 2)  # repaired
    (tmp_path / "labels/b.png").unlink()  # taken out
    for name in "cd":
        save(f"images/labels/final/{name}.png", 3)  # corrected, drawn
    found = plan.cohort_of(tmp_path, tmp_path / "images", tmp_path / "labels", "").source
    assert {scan.name: scan.label for scan in found.scans} == {
        "a": tmp_path / "labels/a.png", "b": None, "c": final / "c.png", "d": final / "d.png",
    }  # fmt: skip
    taken, unused = found.notes
    says(taken, f"2 labels taken from {final}", "MONAI Label", "1 of them new: d")
    says(unused, f"{final}: 1 label", "nobody corrected", "not used", "no longer has one: b")


def test_corrected_labels_that_fit_no_image_are_named_and_two_of_one_name_refused(tmp_path):
    for folder in ("images", "labels", "images/labels/final"):
        (tmp_path / folder).mkdir(parents=True)

    def save(*names):
        for name in names:
            Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name)

    composed, apart = "\u00fc", "u\u0308"  # one letter, and a letter with its mark: macOS writes the second
    save(f"images/{composed}.png", "images/p1.png", "images/p3.png", "labels/p1.png")
    save(f"images/labels/final/{apart}.png", "images/labels/final/P3.png", "images/labels/final/stranger.png")
    found = plan.cohort_of(tmp_path, tmp_path / "images", tmp_path / "labels", "")
    final = tmp_path / "images/labels/final"
    assert {scan.name for scan in found.source.scans if scan.label} == {composed, "p1"}
    taken, unused = found.source.notes
    says(taken, f"1 label taken from {final}", "MONAI Label", f"1 of them new: {composed}")
    says(
        unused,
        f"{final}: 2 labels without an image",
        "not used: P3, stranger.",
        "case or blanks",
        "P3 and p3",
        "one name",
    )
    (final / "stranger.nrrd").write_bytes(b"no image")
    with pytest.raises(
        CohortError, match=r"several images of one name in .*final: stranger\.nrrd and stranger\.png\. Keep one"
    ):
        plan.cohort_of(tmp_path, tmp_path / "images", tmp_path / "labels", "")


@pytest.mark.parametrize(("size", "rooms"), [
    ((500, 400, 300), (2.0, 4.0)), ((600, 600, 6), (2.0, 4.0)), ((260, 240, 8), (2.0,)), ((35, 51, 36), ()),
    ((200, 200, 8), ()),
])  # fmt: skip
def test_larger_rooms_are_planned_on_a_gpu_as_far_as_a_patch_sees_more_with_them(size, rooms):
    seen = Seen(size, (1, 1, 1), ("image",), ("",), {0: "background", 1: "spot"}, smallest=1e6)
    assert tuple(plan._planned(seen, gpu=True)) == (*ROOMS, *rooms)
    assert plan._planned(seen, gpu=False) == {room: plan.rules.numbers(seen, room=room) for room in ROOMS}


def test_names_of_classes_are_as_many_as_there_are_values(tmp_path):
    seen = Seen((4, 4), (1, 1), ("image",), ("",), {0: "background", 5: "label 5"})
    assert plan._named(seen, ["spot"]).classes == {0: "background", 5: "spot"}
    with raises(StudyError, "--classes has 2 names (a, b)", "labels have the values [5]", "Give one a value"):
        plan._named(seen, ["a", "b"])
