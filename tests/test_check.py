"""The promises of custom/cohort/check.py, case.py and grids.py that need no file; what files hold is made up
here, and judged through real files in faults/test_cohort_faults.py."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from saying import raises, says

from custom.cohort.check import Check, Report
from custom.cohort.errors import CohortError
from custom.cohort.facts import Facts
from custom.cohort.grids import difference, times
from custom.cohort.words import span, value_list, value_text

TASK = {"channels": ["image"], "classes": ["background", "tumour"], "dimensions": 3}


def facts(content: str, values: Sequence[tuple[float, int]] | None = None, **other: object) -> Facts:
    """Facts of a good volume of 8 x 8 x 4 voxels of 1 x 1 x 2 mm, told from others by ``content``."""
    spacing = (1.0, 1.0, 2.0)
    good = Facts(
        sha256=content, voxels=content, shape=(8, 8, 4), channels=1, spacing_mm=spacing, affine=rows(np.diag([*spacing, 1])),
        dtype="int16", low=0.0, high=9.0, percentiles=((0.0, 4.0, 9.0),), nonfinite=0,
        values=None if values is None else tuple(values),
    )  # fmt: skip
    return replace(good, **other)


def rows(affine: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in affine.tolist())


class Known:
    """Stands for the record: what every file holds."""

    def __init__(self, facts: dict[str, Facts]) -> None:
        self._facts = facts

    def facts(self, paths: Sequence[str], *_: object) -> dict[str, Facts]:
        return {path: self._facts[path] for path in paths}

    def known(self, path: str, label: bool = False) -> Facts | None:
        return self._facts.get(path)


def cohort(folder: Path, labels: Sequence[Sequence[tuple[float, int]]], **task: object) -> tuple[Check, dict]:
    """A check, and labelled cases p0, p1, ... whose labels have these values."""
    entries, known = [], {}
    for index, values in enumerate(labels):
        image, label = folder / f"p{index}.nii", folder / f"p{index}_label.nii"
        for file in (image, label):
            file.touch()
        entries.append({"patient": f"p{index}", "image": str(image), "label": str(label)})
        known |= {str(image): facts(f"p{index}"), str(label): facts("label", values)}
    check = Check(**{**TASK, **task})
    check.record = Known(known)
    return check, {"labelled": entries}


GOOD = [(0.0, 200), (1.0, 56)]


# one grid


def moved(change: np.ndarray, spacing: tuple[float, ...] = (1.0, 1.0, 2.0)) -> Facts:
    return facts("a", affine=rows(change @ np.diag([1.0, 1.0, 2.0, 1.0])), spacing_mm=spacing)


def rotation(degrees: float) -> np.ndarray:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


def shift(mm: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[2, 3] = mm
    return matrix


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (facts("a"), ""),
        (moved(shift(0.0009)), ""),
        (moved(shift(0.0011)), "origin (0.0, 0.0, 0.001) against (0.0, 0.0, 0.0) mm"),
        (moved(rotation(0.05)), ""),  # sin 0.05 degrees = 0.00087
        (moved(rotation(0.06)), "direction turned by 0.06 degrees"),  # 0.00105
        (moved(rotation(90)), "orientation ALS against RAS"),
        (facts("a", spacing_mm=(1.0, 1.0, 2.0009)), ""),
        (facts("a", spacing_mm=(1.0, 1.0, 2.0011)), "spacing 1.0x1.0x2.001 against 1.0x1.0x2.0 mm"),
        (facts("a", shape=(8, 8, 5)), "shape 8x8x5 against 8x8x4 voxels"),
        (facts("a", shape=(8, 8), spacing_mm=(5.0, 5.0)), "shape 8x8 against 8x8x4 voxels"),
        (replace(moved(shift(3)), shape=(4, 8, 4)),
         "shape 4x8x4 against 8x8x4 voxels, origin (0.0, 0.0, 3.0) against (0.0, 0.0, 0.0) mm"),
    ],
)  # fmt: skip
def test_what_differs_between_two_grids_is_named_beyond_a_thousandth(found, text):
    assert difference(found, facts("b")) == text


def test_pictures_differ_in_shape_alone():
    other = facts("a", spacing_mm=(3.0, 3.0, 3.0), affine=rows(shift(9)))
    assert difference(other, facts("b"), pictures=True) == ""
    assert difference(replace(other, shape=(1, 2, 3)), facts("b"), pictures=True) == "shape 1x2x3 against 8x8x4 voxels"


# words


def test_numbers_as_a_reader_writes_them():
    assert times((1, 20, 3)) == "1x20x3"
    assert times((1.3671875, 2.0)) == "1.367x2.0"
    assert [value_text(value) for value in (3.0, -1.0, 1.5, 1000000.0)] == ["3", "-1", "1.5", "1000000"]
    assert value_list([0, 1.5, 255]) == "0, 1.5, 255"
    assert value_list(range(8)) == "0, 1, 2, 3, 4, 5, 6, 7"
    assert value_list(range(64)) == "0, 1, 2, 3, 4, 5, 6, ..., 63"
    assert [span(values) for values in ((0, 1), (0, 1, 2, 3), (0, 255), (1,))] == ["0..1", "0..3", "{0, 255}", "{1}"]


# the report


def test_of_many_faults_of_a_kind_twelve_are_told_in_full_and_of_the_next_the_cases(tmp_path):
    check, parts = cohort(tmp_path, [[(9.0, 256)]] * 15)
    with pytest.raises(CohortError) as error:
        check(parts)
    first, kind, *lines = str(error.value).split("\n")
    assert (first, kind, len(lines)) == ("The scans cannot be used.", "  Labels:", 13)
    assert lines[11].startswith(
        "    labelled, p11: label p11_label.nii has the values {9}, the task names 0..1. Remap 9"
    )
    assert lines[12] == "    and 3 more: labelled, p12; labelled, p13; labelled, p14"


def test_a_report_stays_readable_however_many_faults_there_are():
    report = Report([], {}, 0)
    report.faults["Labels"] += [f"test, p{index}: wrong" for index in range(1000)]
    *_, last = report.text().split("\n")
    assert last.startswith("    and 988 more: test, p12; test, p13; ")
    assert last.endswith("; test, p58; test, p59; ...")


def test_kinds_stand_in_the_order_list_files_cases_copies(tmp_path):
    check, parts = cohort(tmp_path, [GOOD, [(9.0, 256)]])
    parts["test"] = [{"patient": "p9", "image": parts["labelled"][0]["image"], "label": str(tmp_path / "absent.nii")}]
    faults = check.report(parts).faults
    assert list(faults) == ["The list", "Labels", "One scan in two places"]


def test_a_warning_names_how_many_and_the_first_three(tmp_path, caplog):
    check, parts = cohort(tmp_path, [GOOD] * 5)
    for index, entry in enumerate(parts["labelled"][1:], 1):
        check.record._facts[entry["image"]] = facts(f"p{index}", warnings=(f"odd spacing: {index} mm",))
    check(parts)
    (text,) = caplog.messages
    says(text, "4 scans", "(labelled, p1; labelled, p2; labelled, p3; ...)", "p1.nii: odd spacing: 1 mm")


def test_kinds_of_warnings_are_told_apart_and_files_of_a_case_count_once(tmp_path, caplog):
    check, parts = cohort(tmp_path, [GOOD])
    entry = parts["labelled"][0]
    check.record._facts[entry["image"]] = facts("p0", warnings=("spacing: 1", "affine: 2"))
    check.record._facts[entry["label"]] = facts("label", GOOD, warnings=("spacing: 3",))
    check(parts)
    assert caplog.messages == ["labelled, p0: p0.nii: spacing: 1", "labelled, p0: p0.nii: affine: 2"]


def test_empty_labels_are_counted_in_the_log_and_the_background_may_be_another_number(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    check, parts = cohort(tmp_path, [[(255.0, 256)], [(0.0, 9), (255.0, 247)], [(255.0, 256)]], label_values=[255, 0])
    assert check(parts) == {"labelled": 3}
    assert caplog.messages[0] == "labelled: 2 of 3 labels are empty (p0; p2)"
    assert caplog.messages[1] == "No faults in 3 scans (0 files read, 6 unchanged since an earlier check)."


def test_where_nothing_is_left_to_check_nothing_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    check, _ = cohort(tmp_path, [GOOD])
    assert check({"unlabelled": []}) == {"unlabelled": 0}
    assert caplog.messages == []


def test_no_class_is_missed_where_one_label_has_it_and_none_where_labels_are_wrong(tmp_path):
    check, parts = cohort(tmp_path, [[(0.0, 256)], GOOD])
    assert check.report(parts).warnings() == []
    check, parts = cohort(tmp_path, [[(0.0, 128), (255.0, 128)]])
    assert check.report(parts).warnings() == []


@pytest.mark.parametrize("values", [[0], [0, 1, 2], [1, 1]])
def test_a_value_for_each_class(values):
    with pytest.raises(CohortError, match=r"expected one value for each of \['background', 'tumour'\], none twice"):
        Check(**TASK, label_values=values)


@pytest.mark.fault("30", "fractions, beyond what float32 holds")
@pytest.mark.parametrize("values", [[0, 1.5], [0, 2**24 + 1], [-(2**24) - 1, 0]])
def test_label_values_are_whole_numbers_that_a_scan_holds_when_it_is_read(values):
    with pytest.raises(CohortError, match=r"^label_values \[.*\]: expected whole numbers from -16777216 to 16777216$"):
        Check(**TASK, label_values=values)
    Check(**TASK, label_values=[-(2**24), 2**24])


@pytest.mark.fault("30", "of pictures, beyond what PNG holds")
@pytest.mark.parametrize(("values", "refused"), [([0, 65535], False), ([0, 65536], True), ([-1, 0], True)])
def test_values_that_no_picture_holds_are_refused_where_images_are_pictures(tmp_path, values, refused):
    check, parts = cohort(tmp_path, [[(float(value), 128) for value in values]], label_values=values)
    assert check.report(parts).faults == {}
    picture = tmp_path / "p0.png"
    picture.touch()
    check.record._facts[str(picture)] = facts("p0")
    parts["labelled"][0]["image"] = str(picture)
    (*lines,) = check.report(parts).faults["The task"]
    assert len(lines) == refused
    for line in lines:
        says(line, f"label_values {span(values)}", "PNG", "whole numbers from 0 to 65535", "such values", "as NIfTI")


def test_without_classes_labels_are_whole_numbers_from_0(tmp_path):
    check, parts = cohort(tmp_path, [[(0.0, 1), (77.0, 1)], [(-1.0, 1)], [(0.5, 1)]], classes=[])
    lines = check.report(parts).faults["Labels"]
    assert [line.split(": label ")[1] for line in lines] == [
        "p1_label.nii has the values {-1}, labels are whole numbers from 0. Remap -1",
        "p2_label.nii has the values {0.5}, labels are whole numbers from 0. Remap 0.5",
    ]


def test_a_jpeg_label_is_told_why_its_values_are_odd(tmp_path):
    check, parts = cohort(tmp_path, [GOOD])
    label = tmp_path / "p0_mask.jpg"
    label.touch()
    parts["labelled"][0]["label"] = str(label)
    check.record._facts[str(label)] = facts("label", [(0.0, 1), (3.0, 1), (252.0, 1)])
    (line,) = check.report(parts).faults["Labels"]
    says(line, "{0, 3, 252}", "the task names 0..1", "JPEG changes values", "save labels as PNG")


def test_an_empty_part_is_a_fault_where_it_is_needed_and_given(tmp_path):
    check, parts = cohort(tmp_path, [GOOD], needs=("labelled", "unlabelled", "validation"))
    (line,) = check.report({**parts, "unlabelled": []}).faults["The list"]
    says(line, "no unlabelled scans", "at least one", "Add entries under 'unlabelled'")


def test_entries_without_a_patient_are_told_apart_by_their_files(tmp_path):
    check, parts = cohort(tmp_path, [GOOD, GOOD])
    for entry in parts["labelled"]:
        del entry["patient"]
    assert [(case.patient, case.name) for case in check.report(parts).cases] == [("p0", "p0"), ("p1", "p1")]


@pytest.mark.parametrize("key", ["image", "label"])
def test_a_picture_has_no_place_that_its_label_could_miss(tmp_path, key):
    check, parts = cohort(tmp_path, [GOOD])
    picture = tmp_path / "p0.PNG"
    picture.touch()
    parts["labelled"][0][key] = str(picture)
    check.record._facts[str(picture)] = facts("p0", GOOD, affine=rows(shift(9)))
    assert check.report(parts).faults == {}


# orientation


LPS = rows(np.diag([-1.0, -1.0, 2.0, 1.0]))


@pytest.mark.parametrize(
    ("orientation", "notes", "warnings"),
    [
        ("RAS", [("orientation of the volumes", "2 RAS, 1 LPS (labelled, p1)", "turned to RAS")], []),
        ("LPS", [("orientation of the volumes", "2 RAS, 1 LPS (labelled, p1)", "turned to LPS")], []),
        ("", [], [("labelled, p1", "axes run to LPS", "2 scans to RAS", "no orientation in the task")]),
    ],
)
def test_a_cohort_of_two_orientations_is_named_and_whether_it_is_turned(tmp_path, orientation, notes, warnings):
    check, parts = cohort(tmp_path, [GOOD] * 3, orientation=orientation)
    known = check.record._facts
    for file in known:
        if "p1" in Path(file).name:
            known[file] = replace(known[file], affine=LPS)
    report = check.report(parts)
    assert report.faults == {}
    for lines, found in ((report.notes, notes), (report.warnings(), warnings)):
        for line, parts_of_it in zip(lines, found, strict=True):
            says(line, *parts_of_it)


@pytest.mark.parametrize("orientation", ["RA", "RAA", "RAX", "ras", "RASL"])
def test_an_orientation_names_each_axis_of_the_body_once(orientation):
    with raises(CohortError, f"orientation '{orientation}'", "expected", "L or R, P or A", "I or S", "as in RAS"):
        Check(**TASK, orientation=orientation)


def test_of_one_orientation_a_run_says_nothing(tmp_path):
    check, parts = cohort(tmp_path, [GOOD] * 2, orientation="RAS")
    report = check.report(parts)
    assert (report.notes, report.orientations) == ([], "2 RAS")


@pytest.mark.parametrize(
    ("orientation", "affine", "spacing", "said"),
    [
        ("RAS", np.diag([1.0, 1, 1.49, 1]), (1.0, 1.0, 1.49), ()),
        ("RAS", np.diag([1.5, 1, 1, 1]), (1.5, 1.0, 1.0), ("left-right (1.5 mm)", "foot-head (1 mm)", "orientation to ASR")),
        ("", np.diag([1, 4.0, 1, 1]), (1.0, 4.0, 1.0), ("back-front (4 mm)", "foot-head (1 mm)", "orientation to RSA")),
        ("ASR", np.diag([4.0, 1, 1, 1]), (4.0, 1.0, 1.0), ()),  # its thick axis is turned to the end
        ("LSP", np.diag([1, 1, 4.0, 1]), (1.0, 1.0, 4.0), ("foot-head (4 mm)", "back-front (1 mm)", "orientation to LPS")),
    ],
)  # fmt: skip
def test_slices_lie_across_the_thick_axis(tmp_path, orientation, affine, spacing, said):
    check, parts = cohort(tmp_path, [GOOD], orientation=orientation, slices=True, dimensions=2)
    known = check.record._facts
    for file in known:
        known[file] = replace(known[file], affine=rows(affine), spacing_mm=spacing)
    faults = check.report(parts).faults
    assert {kind: len(lines) for kind, lines in faults.items()} == ({"Slices": 1} if said else {})
    for line in faults.get("Slices", []):
        thick, across, remedy = said
        found = ("labelled, p0: p0.nii", f"thick along {thick}", f"across {across}")
        says(line, *found, "Remove the entry", f"set {remedy}")


@pytest.mark.parametrize("names", [["tumour", "tumour"], ["mean", "tumour"]])
def test_names_of_classes_under_which_results_would_be_told_twice_are_refused(names):
    with pytest.raises(
        CohortError, match=r"expected different names, none of them 'mean', under which results are reported"
    ):
        Check(**{**TASK, "classes": ["background", *names]}, label_values=[0, 1, 2])


@pytest.mark.parametrize("name", ["t1/gd", "t1\\gd", "/", ""])
def test_a_channel_that_cannot_be_the_name_of_a_file_is_refused(name):
    """Networks that read one modality are written as models/CHANNEL.pt, hours after the scans were checked."""
    found = (f"channels {['flair', name]}", f"{name!r} cannot be the name of a file")
    with raises(CohortError, *found, "expected names without / and \\", "Rename the channel", "data list"):
        Check(**{**TASK, "channels": ["flair", name]})
    Check(**{**TASK, "channels": ["flair", "t1 (gd), 3.0 T"], "classes": ["background", "scar/no-reflow"]})
